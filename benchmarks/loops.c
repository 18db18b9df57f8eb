/* GTAdam by hand: what the compiled engine is measured against.
 *
 *     s  <- W s + g - g_prev
 *     m  <- b1 m + (1 - b1) s
 *     v  <- min(b2 v + (1 - b2) s^2, cap)
 *     x  <- W x - lr m / sqrt(v + eps)
 *
 * All arrays are row-major double [N, d], one row per agent. A round is finished before the next one begins: f_t is revealed
 * only after x_t is fixed, so no tiling over rounds, although the data here would allow it. One thread.
 *
 * Built with -fno-math-errno (sqrt becomes an instruction) and no other licence: every operation is rounded as IEEE 754 says,
 * a product and a sum may fuse, and no sum is reordered by the compiler. Where order costs speed (the margins), the source
 * says which partial sums it keeps.
 */
#include <math.h>

enum { LANES = 8 };

typedef struct {
    double lr, b1, b2, eps, cap;
} Adam;

/* ---- ring, quadratics ------------------------------------------------------------------------------------------------- *
 *
 * f_i(x) = 1/2 sum_k a_ik (x_k - c_ik - p_tk)^2, W = 1/3 of oneself and of both neighbours.
 *
 * Bytes. A round reads a, c, x, s, m, v, g_prev and writes x, s, m, v, g: 12 doubles = 96 bytes per coordinate and agent, and
 * this loop moves no more than that to or from memory (p and two halo rows apart). A second buffer for x and s would make
 * it 112, because a cache line that is to be overwritten is read first. Hence the slide below. (Quadratics alone would also allow
 * g - g_prev = a (x - x_prev - p + p_prev), which needs neither c nor g; that is a different recursion, not used.)
 *
 * Slide. x and s lie in buffers of N + 3 rows. A forward round reads rows i-1, i, i+1 and writes the new row i where the old
 * row i-1 was, which nobody needs any more; the next round runs backward and writes it where the old row i+1 was. Nothing
 * is copied but the two halo rows that close the ring. Turning round also finds in cache what the last round touched last.
 *
 * Where the arrays fit in cache the divider sets the pace: one root and one quotient, correctly rounded, per coordinate.
 */

/* One vector of coordinates; all loads precede all stores, so the slide is safe for every d >= 1. */
static inline __attribute__((always_inline)) void ring_vector(
    long n, long d, long shift, double *x, double *s, double *restrict m, double *restrict v, double *restrict g,
    const double *restrict a, const double *restrict c, const double *restrict p, Adam o)
{
    const double third = 1.0 / 3.0;
    double xn[LANES], sn[LANES];
    for (long j = 0; j < n; j++) {
        double gj = a[j] * (x[j] - c[j] - p[j]);
        double sj = (s[j - d] + s[j] + s[j + d]) * third + gj - g[j];
        double mj = o.b1 * m[j] + (1 - o.b1) * sj;
        double vj = o.b2 * v[j] + (1 - o.b2) * sj * sj;
        vj = o.cap < vj ? o.cap : vj;
        g[j] = gj;
        m[j] = mj;
        v[j] = vj;
        sn[j] = sj;
        xn[j] = (x[j - d] + x[j] + x[j + d]) * third - o.lr * mj / sqrt(vj + o.eps);
    }
    for (long j = 0; j < n; j++) s[j + shift] = sn[j];
    for (long j = 0; j < n; j++) x[j + shift] = xn[j];
}

static inline __attribute__((always_inline)) void ring_span(
    long n, long d, int forward, double *x, double *s, double *m, double *v, double *g, const double *a, const double *c,
    const double *p, Adam o)
{
    long whole = n / LANES * LANES, shift = forward ? -d : d;
#define AT(k, count) ring_vector(count, d, shift, x + (k), s + (k), m + (k), v + (k), g + (k), a + (k), c + (k), p + (k), o)
    if (forward) {
        for (long k = 0; k < whole; k += LANES) AT(k, LANES);
        if (whole < n) AT(whole, n - whole);
    } else {
        if (whole < n) AT(whole, n - whole);
        for (long k = whole - LANES; k >= 0; k -= LANES) AT(k, LANES);
    }
#undef AT
}

/* x, s: (N + 3) d; the start lies in rows 2 .. N + 1; on return the rows begin at the number returned. m, v, g: N d, zero at
 * the start. p: P d, round t takes row t mod P. tile: room for 512 + 8 d doubles. */
long ring_quadratic(long rounds, long N, long d, double *x, double *s, double *m, double *v, double *g, const double *a,
                    const double *c, const double *p, long P, double *tile, const Adam *adam)
{
    /* Rows shorter than a few vectors are taken several at a time, with p repeated to match. */
    Adam o = *adam;
    long group = 1;
    if (d < 512)
        while (group < N && (group * d < 512 || group * d % LANES)) group++;
    long width = group * d, rows = (N + group - 1) / group, total = N * d;
    for (long t = 0; t < rounds; t++) {
        int forward = t % 2 == 0;
        double *X = x + (forward ? 2 * d : d), *S = s + (forward ? 2 * d : d);
        const double *now = p + t % P * d;
        for (long k = 0; k < d; k++) {
            X[k - d] = X[total - d + k], X[total + k] = X[k];
            S[k - d] = S[total - d + k], S[total + k] = S[k];
        }
        if (group > 1) {
            for (long i = 0; i < group; i++)
                for (long k = 0; k < d; k++) tile[i * d + k] = now[k];
            now = tile;
        }
        for (long r = 0; r < rows; r++) {
            long k = (forward ? r : rows - 1 - r) * width, n = k + width < total ? width : total - k;
            if (forward)
                ring_span(n, d, 1, X + k, S + k, m + k, v + k, g + k, a + k, c + k, now, o);
            else
                ring_span(n, d, 0, X + k, S + k, m + k, v + k, g + k, a + k, c + k, now, o);
        }
    }
    return rounds % 2 ? 1 : 2;
}

/* ---- any graph, logistic regression ------------------------------------------------------------------------------------ *
 *
 * f_i(x) = 1/S sum_k log(1 + exp(-y_k A_k . x)) + l2/2 |x|^2 over the agent's S rows A_k. W comes as sorted neighbour lists.
 *
 * Bytes. The data, N S (d + 1) doubles, cross the memory bus once a round: an agent's margins, their logistic factors and
 * the gradient are made while its S rows are in the first-level cache. The state is small beside it (2/S of it for x and s
 * alone) and stays in cache.
 *
 * State rows have ld = d rounded up to LANES doubles, zero in the excess, so that mixing knows no remainders.
 */
typedef double vec __attribute__((vector_size(LANES * sizeof(double)), may_alias));

#if defined __GLIBC__ && defined __x86_64__
#pragma omp declare simd notinbranch
extern double exp(double); /* glibc's vector exp, within 4 ulp */
#endif

/* change <- gradient - g, g <- gradient, of one agent. The rows at next, S d doubles, are called to the second-level cache
 * meanwhile, a few lines at a time: the processor alone starts too late on runs as short as one agent's. */
static void logistic_gradient(long S, long d, const double *restrict A, const double *restrict y, double l2, const double *next,
                              const double *restrict x, double *restrict g, double *restrict change, double *restrict pull)
{
    long k = 0;
    for (; k + 4 <= S; k += 4) { /* four rows share the loads of x */
        const double *A0 = A + k * d, *A1 = A0 + d, *A2 = A1 + d, *A3 = A2 + d;
        double z0 = 0, z1 = 0, z2 = 0, z3 = 0;
        for (long j = 0; j < 2 * d; j += LANES) __builtin_prefetch(next + k * d + j, 0, 2);
#pragma omp simd reduction(+ : z0, z1, z2, z3)
        for (long j = 0; j < d; j++) z0 += A0[j] * x[j], z1 += A1[j] * x[j], z2 += A2[j] * x[j], z3 += A3[j] * x[j];
        pull[k] = z0, pull[k + 1] = z1, pull[k + 2] = z2, pull[k + 3] = z3;
    }
    for (; k < S; k++) {
        double z = 0;
#pragma omp simd reduction(+ : z)
        for (long j = 0; j < d; j++) z += A[k * d + j] * x[j];
        pull[k] = z;
    }
#pragma omp simd
    for (long i = 0; i < S; i++) pull[i] = -y[i] / ((double)S * (1 + exp(y[i] * pull[i])));
    for (long j = 0; j < d; j++) change[j] = l2 * x[j];
    for (k = 0; k + 4 <= S; k += 4) {
        const double *A0 = A + k * d, *A1 = A0 + d, *A2 = A1 + d, *A3 = A2 + d;
        for (long j = 2 * d; j < 4 * d; j += LANES) __builtin_prefetch(next + k * d + j, 0, 2);
        const double p0 = pull[k], p1 = pull[k + 1], p2 = pull[k + 2], p3 = pull[k + 3];
        for (long j = 0; j < d; j++) change[j] += (p0 * A0[j] + p1 * A1[j]) + (p2 * A2[j] + p3 * A3[j]);
    }
    for (; k < S; k++)
        for (long j = 0; j < d; j++) change[j] += pull[k] * A[k * d + j];
    for (long j = 0; j < d; j++) {
        double gj = change[j];
        change[j] = gj - g[j];
        g[j] = gj;
    }
}

/* Mixing and Adam for WIDE vectors of columns of all agents: the columns of x and s fit in the first-level cache. */
enum { WIDE = 2 };
static inline __attribute__((always_inline)) void mix_columns(
    const long wide, long N, long ld, const int *begin, const int *column, const double *weight, const double *x, const double *s,
    double *restrict xn, double *restrict sn, double *restrict m, double *restrict v, const double *restrict change, Adam o)
{
    for (long i = 0; i < N; i++) {
        vec wx[WIDE] = {}, ws[WIDE] = {};
        for (int e = begin[i]; e < begin[i + 1]; e++) {
            const double w = weight[e];
            const vec *xe = (const vec *)(x + column[e] * ld), *se = (const vec *)(s + column[e] * ld);
            for (long b = 0; b < wide; b++) wx[b] += w * xe[b], ws[b] += w * se[b];
        }
        for (long b = 0; b < wide; b++)
            for (long j = 0; j < LANES; j++) {
                long k = i * ld + b * LANES + j;
                double sj = ws[b][j] + change[k];
                double mj = o.b1 * m[k] + (1 - o.b1) * sj;
                double vj = o.b2 * v[k] + (1 - o.b2) * sj * sj;
                vj = o.cap < vj ? o.cap : vj;
                sn[k] = sj;
                m[k] = mj;
                v[k] = vj;
                xn[k] = wx[b][j] - o.lr * mj / sqrt(vj + o.eps);
            }
    }
}

/* x, s: two buffers of N ld each, 64-byte aligned, the start in the first; on return the result is in buffer rounds mod 2.
 * m, v, g, change: N ld, zero at the start. A: [K, N, S, d], y: [K, N, S], round t takes data t mod K. pull: S. */
void csr_logistic(long rounds, long N, long d, long ld, long S, double *x, double *s, double *m, double *v, double *g,
                  double *change, const int *begin, const int *column, const double *weight, const double *A, const double *y,
                  long K, double l2, double *pull, const Adam *adam)
{
    Adam o = *adam;
    for (long t = 0; t < rounds; t++) {
        const double *xt = x + t % 2 * N * ld, *st = s + t % 2 * N * ld;
        double *xn = x + (t + 1) % 2 * N * ld, *sn = s + (t + 1) % 2 * N * ld;
        for (long i = 0; i < N; i++) {
            const long at = (t % K * N + i) * S, next = i + 1 < N ? at + S : (t + 1) % K * N * S;
            logistic_gradient(S, d, A + at * d, y + at, l2, A + next * d, xt + i * ld, g + i * ld, change + i * ld, pull);
        }
        long k = 0;
#define COLUMNS(w) mix_columns(w, N, ld, begin, column, weight, xt + k, st + k, xn + k, sn + k, m + k, v + k, change + k, o)
        for (; k + WIDE * LANES <= ld; k += WIDE * LANES) COLUMNS(WIDE);
        for (; k < ld; k += LANES) COLUMNS(1);
#undef COLUMNS
    }
}

/* ---- the bus ----------------------------------------------------------------------------------------------------------- *
 *
 * The bytes of a round on the ring and next to no arithmetic: seven arrays are read, five of them are written in place.
 */
void stream(long passes, long n, double *restrict x, double *restrict s, double *restrict m, double *restrict v, double *restrict g,
            const double *restrict a, const double *restrict c)
{
    for (long t = 0; t < passes; t++) {
        __asm__ volatile("" ::: "memory"); /* one pass is finished before the next, as rounds are */
        for (long k = 0; k < n; k++) {
            double z = a[k] + c[k];
            x[k] += z;
            s[k] += z;
            m[k] += z;
            v[k] += z;
            g[k] += z;
        }
    }
}
