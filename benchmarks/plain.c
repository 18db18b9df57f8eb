/* GTAdam as one writes it down in C without thinking of the machine: what speed targets refer to.
 *
 * Nested loops over agents, neighbours and coordinates; new x and s go to a second buffer, and the buffers change places.
 * Built with gcc -O3 -march=native and nothing else that bears on arithmetic. Arguments as in loops.c, without its layouts.
 */
#include <math.h>

typedef struct {
    double lr, b1, b2, eps, cap;
} Adam;

static void ring_round(long N, long d, const double *restrict x, const double *restrict s, double *restrict xn, double *restrict sn,
                       double *restrict m, double *restrict v, double *restrict g, const double *restrict a, const double *restrict c,
                       const double *restrict p, Adam o)
{
    const double w = 1.0 / 3;
    for (long i = 0; i < N; i++) {
        long left = (i + N - 1) % N * d, own = i * d, right = (i + 1) % N * d;
        for (long k = 0; k < d; k++) {
            double gk = a[own + k] * (x[own + k] - c[own + k] - p[k]);
            double sk = w * (s[left + k] + s[own + k] + s[right + k]) + gk - g[own + k];
            double mk = o.b1 * m[own + k] + (1 - o.b1) * sk;
            double vk = o.b2 * v[own + k] + (1 - o.b2) * sk * sk;
            if (vk > o.cap) vk = o.cap;
            xn[own + k] = w * (x[left + k] + x[own + k] + x[right + k]) - o.lr * mk / sqrt(vk + o.eps);
            g[own + k] = gk;
            sn[own + k] = sk;
            m[own + k] = mk;
            v[own + k] = vk;
        }
    }
}

/* x, s: two buffers of N d each, the start in the first; the result is in buffer rounds mod 2. m, v, g: N d, zero. p: P d. */
void plain_ring(long rounds, long N, long d, double *x, double *s, double *m, double *v, double *g, const double *a, const double *c,
                const double *p, long P, const Adam *adam)
{
    double *xn = x + N * d, *sn = s + N * d, *swap;
    for (long t = 0; t < rounds; t++) {
        ring_round(N, d, x, s, xn, sn, m, v, g, a, c, p + t % P * d, *adam);
        swap = x, x = xn, xn = swap;
        swap = s, s = sn, sn = swap;
    }
}

static void graph_round(long N, long d, long S, const double *restrict x, const double *restrict s, double *restrict xn,
                        double *restrict sn, double *restrict m, double *restrict v, double *restrict g, double *restrict gn,
                        const int *restrict begin, const int *restrict column, const double *restrict weight,
                        const double *restrict A, const double *restrict y, double l2, Adam o)
{
    for (long i = 0; i < N; i++) {
        long own = i * d;
        for (long k = 0; k < d; k++) gn[k] = l2 * x[own + k];
        for (long j = 0; j < S; j++) {
            const double *row = A + (i * S + j) * d;
            double z = 0;
            for (long k = 0; k < d; k++) z += row[k] * x[own + k];
            double pull = -y[i * S + j] / (S * (1 + exp(y[i * S + j] * z)));
            for (long k = 0; k < d; k++) gn[k] += pull * row[k];
        }
        for (long k = 0; k < d; k++) xn[own + k] = 0, sn[own + k] = gn[k] - g[own + k], g[own + k] = gn[k];
        for (int e = begin[i]; e < begin[i + 1]; e++)
            for (long k = 0; k < d; k++) {
                xn[own + k] += weight[e] * x[column[e] * d + k];
                sn[own + k] += weight[e] * s[column[e] * d + k];
            }
        for (long k = 0; k < d; k++) {
            double sk = sn[own + k];
            double mk = o.b1 * m[own + k] + (1 - o.b1) * sk;
            double vk = o.b2 * v[own + k] + (1 - o.b2) * sk * sk;
            if (vk > o.cap) vk = o.cap;
            xn[own + k] -= o.lr * mk / sqrt(vk + o.eps);
            m[own + k] = mk;
            v[own + k] = vk;
        }
    }
}

/* As above; gn: d. A: [K, N, S, d], y: [K, N, S], round t takes data t mod K. */
void plain_graph(long rounds, long N, long d, long S, double *x, double *s, double *m, double *v, double *g, double *gn,
                 const int *begin, const int *column, const double *weight, const double *A, const double *y, long K, double l2,
                 const Adam *adam)
{
    double *xn = x + N * d, *sn = s + N * d, *swap;
    for (long t = 0; t < rounds; t++) {
        long at = t % K * N * S;
        graph_round(N, d, S, x, s, xn, sn, m, v, g, gn, begin, column, weight, A + at * d, y + at, l2, *adam);
        swap = x, x = xn, xn = swap;
        swap = s, s = sn, sn = swap;
    }
}
