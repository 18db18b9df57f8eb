"""Newton's method on rows (see ``distopt.costs.linear``): a piece of problems at once, each step by a dense Hessian or conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distopt.costs.linear import DENSE, Rows, Scored
from distopt.costs.products import Floats, Solve, conjugate_gradients, norm, one_thread, product, scatter

DONE, NOISE = 1e-15, 1e-13
"""Relative gradient norms: nothing is left to gain below the first; below the second, a gradient that no longer shrinks is rounding."""

SEEN = 4
"""Rows of a problem for each feature, from which on they tell how features vary together."""


@dataclass(frozen=True)
class Spread:
    """How rows lie: the mean of sum_k w_k X_k X_k' over some problems, V diag(values) V', with values [p] and V [p, p].

    Each class has a block of the Hessian. It is about a multiple of this matrix, plus N l2 I.
    """

    values: Floats
    V: Floats

    @classmethod
    def of(cls, rows: Rows) -> Spread | None:
        """That of these rows; None if there are too few of them.

        A tenth of what n rows in p directions show by chance is added, p / n of the mean: where others vary, the first rows may not.
        """
        P, M, p = rows.pooled.shape
        if SEEN * p > M:
            return None
        weight = np.broadcast_to(rows.weight, (P, M)).reshape(1, -1)
        with one_thread:
            values, V = np.linalg.eigh(scatter(weight, rows.pooled.reshape(1, -1, p))[0] / P)
        return cls(np.maximum(values, 0.0) + 0.1 * values.mean() * p / (P * M), V)

    def solve(self, at: Scored) -> Solve:
        """The function from r [P, d] to an estimate of H^-1 r, where H is the Hessian at a point."""
        bends = at.bent() * self.values + at.rows.agents * at.rows.l2
        if not bends.min() > 0:
            return lambda r: r
        near, p = product(self.V / bends, self.V.T), len(self.V)
        return lambda r: product(r.reshape(-1, p), near).reshape(r.shape)


def minimise(
    rows: Rows, x: Floats, scale: float, spread: Spread | None = None, iterations: int = 60
) -> tuple[Floats, Floats]:
    """Newton's method from x [P, d]: the minimisers, and how far from minimal each is [P].

    The measure is the larger of the gradient norm, relative to ``scale``, and of the last step, relative to 1 + |x|. A Hessian is
    kept while its steps make the gradient 1000 times smaller: another one would cost more than it gains.
    """
    first = rows.at(x)
    at: Scored | None = first
    g, step, size = first.gradient(), None, np.zeros(len(rows))
    flat = norm(g) / scale
    for _ in range(iterations):
        if (flat < DONE).all():
            break
        try:
            step = step or _step(at or rows.at(x), flat, spread)
            s = step(g)
        except np.linalg.LinAlgError:  # no curvature in some direction
            return x, np.full(len(rows), np.inf)
        before, size = flat, norm(s) / (1 + norm(x))
        y = x - s
        ahead = rows.at(y)
        h = ahead.gradient()
        flat = norm(h) / scale
        if (late := ~(flat <= 0.5 * before) & (before > NOISE)).any():
            y = x - _length(rows, x, g, s, late)[:, None] * s
            ahead = rows.at(y)
            h = ahead.gradient()
            flat = norm(h) / scale
        if not np.isfinite(flat).all():
            return x, np.full(len(rows), np.inf)
        better = ((flat < before) | late)[:, None]
        at = ahead if better.all() else None
        x, g, flat = np.where(better, y, x), np.where(better, h, g), np.where(better[:, 0], flat, before)
        if ((flat < NOISE) & (flat > 0.5 * before)).all():
            break
        if not (flat <= np.maximum(1e-3 * before, NOISE)).all() or x.shape[-1] > DENSE:
            step = None
    return x, np.maximum(flat, 1e-3 * size)


def _step(at: Scored, flat: Floats, spread: Spread | None) -> Solve:
    """The function from a gradient, of relative norm ``flat`` [P], to Newton's step."""
    if at.x.shape[-1] > DENSE:
        times, about = at.curvature(), None if spread is None else spread.solve(at)
        exact = np.clip(np.maximum(np.sqrt(flat), 0.1 * DONE / np.maximum(flat, DONE)), 1e-8, 0.1)
        return lambda g: conjugate_gradients(times, g, exact, about)
    H = at.hessian()

    def solved(g: Floats) -> Floats:
        with one_thread:
            s: Floats = np.asarray(np.linalg.solve(H, g[..., None])[..., 0], dtype=np.float64)
            return s

    return solved


def _length(rows: Rows, x: Floats, g: Floats, s: Floats, late: NDArray[np.bool_]) -> Floats:
    """The length of the step -s [P, d]: 1, except for problems in ``late``, whose steps are halved until their costs fall enough."""
    size, slope, value = np.ones(len(rows)), (g * s).sum(-1), rows.at(x).value()
    for _ in range(40):
        after = rows.at(x - size[:, None] * s).value()
        failed = late & ~(after <= value - 1e-4 * size * slope + 1e-12 * np.abs(value))
        if not failed.any():
            break
        size = np.where(failed, size / 2, size)
    return size
