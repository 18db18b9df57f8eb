"""The README's example as a script in NumPy alone: GTAdam on a ring of 16 airlines, with the same figures in the end.

Usage: python benchmarks/flights_numpy.py ROWS.npz    which benchmarks/startup.py makes: the rows that each agent holds in each round

It prints the average dynamic regret, the average regret at the worst agent's points and that against the best fixed point, the accuracy,
the consensus error and the largest deviation of the trackers. It draws nothing, writes nothing and checks nothing.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LR, B1, B2, EPS, CAP, L2 = 0.01, 0.9, 0.999, 1e-8, 1e6, 1e-2


def losses(z: Floats, weights: Floats, x: Floats) -> Floats:
    """Of each agent, from the margins z [n, m] at x [n, d]."""
    each = np.maximum(-z, 0) + np.log1p(np.exp(-np.abs(z)))
    total: Floats = (weights * each).sum(-1) + 0.5 * L2 * (x * x).sum(-1)
    return total


def pull(z: Floats, y: Floats, weights: Floats) -> Floats:
    """The factor of each row in the gradient."""
    factor: Floats = weights * y * (0.5 * np.tanh(0.5 * z) - 0.5)
    return factor


def minimum(A: Floats, weights: Floats, n: int, x: Floats) -> Floats:
    """argmin of sum w log(1 + exp(-A x)) + n L2/2 |x|^2 by Newton's method; A are rows times their labels."""
    for _ in range(50):
        z = A @ x
        s = 0.5 - 0.5 * np.tanh(0.5 * z)
        g = n * L2 * x - A.T @ (weights * s)
        if np.abs(g).max() < 1e-13 * n:
            break
        x = x - np.linalg.solve((A * (weights * s * (1 - s))[:, None]).T @ A + n * L2 * np.eye(len(x)), g)
    return x


def main() -> None:
    """Run it and print one line."""
    with np.load(sys.argv[1]) as rows:
        X, y, w, fresh = (rows[name] for name in ("X", "y", "w", "fresh"))
    T, n, m, d = X.shape
    W = (np.eye(n) + np.roll(np.eye(n), 1, 0) + np.roll(np.eye(n), -1, 0)) / 3
    x, s, first, second, g = (np.zeros((n, d)) for _ in range(5))
    best, fixed, spent, worst, right, apart, off = np.zeros(d), 0.0, 0.0, np.zeros(n), [], [], 0.0
    points, optima = np.empty((T, n, d)), np.empty(T)
    for t in range(T):
        A = X[t] * y[t][..., None]
        flat, weights = A.reshape(-1, d), w[t].ravel()
        best = minimum(flat, weights, n, best)
        optima[t] = losses((flat @ best).reshape(n, m), w[t], np.broadcast_to(best, (n, d))).sum()
        mean, points[t] = x.mean(0), x
        spent += losses((flat @ mean).reshape(n, m), w[t], np.broadcast_to(mean, (n, d))).sum() - optima[t]
        z = flat @ x.T  # every row at every agent's point
        each = np.maximum(-z, 0) + np.log1p(np.exp(-np.abs(z)))
        worst += weights @ each + 0.5 * n * L2 * (x * x).sum(-1) - optima[t]
        hit = ((X[t] @ mean >= 0) == (y[t] > 0)) & fresh[t]
        seen = fresh[t].sum(-1)
        right.append((hit.sum(-1)[seen > 0] / seen[seen > 0]).mean())
        apart.append(np.sqrt(np.square(x - mean).sum(-1).mean()))
        own = (A @ x[..., None])[..., 0]
        new = (pull(own, y[t], w[t])[..., None] * X[t]).sum(1) + L2 * x
        s, g = W @ s + new - g, new
        off = max(off, np.abs((s - g).mean(0)).max())
        first = B1 * first + (1 - B1) * s
        second = np.minimum(B2 * second + (1 - B2) * s * s, CAP)
        x = W @ x - LR * first / np.sqrt(second + EPS)
    every, weights = (X * y[..., None]).reshape(-1, d), w.ravel()
    one = minimum(every, weights, n * T, best)
    fixed = sum(losses((X[t] @ one) * y[t], w[t], np.broadcast_to(one, (n, d))).sum() - optima[t] for t in range(T))
    names = (
        "dynamic_regret",
        "dynamic_regret_worst",
        "regret_best_fixed",
        "accuracy",
        "consensus_error",
        "tracker_invariant",
    )
    figures = (spent / T, worst.max() / T, fixed / T, np.mean(right), apart[-1], off)
    print(json.dumps({name: float(figure) for name, figure in zip(names, figures, strict=True)}))


if __name__ == "__main__":
    main()
