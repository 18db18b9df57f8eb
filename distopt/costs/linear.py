"""Logistic and softmax costs of all agents at the same points: the rows of all agents are in one matrix, for NumPy's matrix products.

A scenario whose costs have this form defines ``linear_rows(b)``. It returns features X [K|1, R|1, n|1, m, p], labels y, row
weights w [K|1, R|1, n|1, m] and the ridge parameter l2, such that

    f_i(x) = sum_k w_k loss(X_k x, y_k) + l2/2 |x|^2,

where loss is log(1 + exp(-y z)) for labels -1.0 and +1.0 (d = p), and log sum_c exp(z_c) - z_y for int64 classes y (d = C p).

Only the comparator computes like this. It belongs to no agent, so its last bits may depend on how NumPy's products add.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt.costs.products import Floats, Solve, exp, log1p, norm, one_thread, product, row_sums, scatter
from distopt.errors import InputError

CACHE_BYTES, CACHE_SCORES = 2**20, 2**15
"""Rows of a piece: they and their scores should stay in the processor's cache over all iterations."""

DENSE = 100
"""Up to this dimension Newton's matrix is formed; beyond it, conjugate gradients use products with it."""


def check(who: str, rows: Any, dim: int) -> None:
    """Refuse a result of ``linear_rows`` that does not have the right form."""
    form = "X float64 [K|1, R|1, n|1, m, p], y float64 or int64 and w float64 [K|1, R|1, n|1, m], and the number l2"
    fits = isinstance(rows, tuple) and len(rows) == 4 and all(isinstance(each, Tensor) for each in rows[:3])
    if fits:
        X, y, w, l2 = rows
        fits = (X.dim(), y.dim(), w.dim()) == (5, 4, 4) and y.shape[-1] == w.shape[-1] == X.shape[-2]
        fits = fits and X.dtype == w.dtype == torch.float64 and y.dtype in (torch.float64, torch.int64)
        fits = fits and isinstance(l2, int | float)
    if not fits:
        raise InputError(f"scenario {who}: linear_rows must give {form}")
    if (
        X.shape[-1] != dim
        if y.is_floating_point()
        else dim % X.shape[-1] or bool((y < 0).any() | (y >= dim // X.shape[-1]).any())
    ):
        raise InputError(
            f"scenario {who}: linear_rows gives {X.shape[-1]} features, which do not fit dim={dim}: labels -1.0 and 1.0 need as many, int64 "
            f"classes 0 .. C-1 need dim = C features"
        )


@dataclass(frozen=True)
class Rows:
    """The rows of P problems (rounds and trials), N agents each: X [P, N, m, p], y and w [P|1, N, m]."""

    X: Floats
    y: NDArray[Any]
    w: Floats
    l2: float

    @classmethod
    def pieces(
        cls, rows: tuple[Tensor, Tensor, Tensor, float], rounds: int, trials: int, agents: int, columns: int
    ) -> Iterator[tuple[slice, Rows]]:
        """The rows of a few rounds after the other, with the places of their problems: what fits the processor's cache.

        ``columns`` says how many scores a row has at once: one for each point and, beyond two, for each class.
        """
        X, y, w, l2 = rows
        m, p = X.shape[-2:]
        own = max(1, trials * agents * m)  # of a round
        step = max(1, min(CACHE_BYTES // (8 * own * p), CACHE_SCORES // (own * columns)))

        def piece(leaf: Tensor, rounds: int, trials: int) -> NDArray[Any]:
            shape = (rounds, trials, agents, m, *leaf.shape[4:])
            array: NDArray[Any] = leaf.expand(shape).contiguous().numpy()
            return array.reshape(-1, *shape[2:])

        shared = [piece(leaf, 1, 1) if leaf.shape[0] == leaf.shape[1] == 1 else None for leaf in (y, w)]
        for start in range(0, rounds, step):
            count = min(step, rounds - start)
            X_, y_, w_ = (leaf[start : start + count] if leaf.shape[0] > 1 else leaf for leaf in (X, y, w))
            labels, weights = (
                piece(leaf, count, trials) if same is None else same
                for same, leaf in zip(shared, (y_, w_), strict=True)
            )
            yield slice(start * trials, (start + count) * trials), cls(piece(X_, count, trials), labels, weights, l2)

    def __len__(self) -> int:
        return len(self.X)

    @property
    def agents(self) -> int:
        """N."""
        return int(self.X.shape[1])

    @cached_property
    def pooled(self) -> Floats:
        """The features of all agents [P, N m, p]."""
        return self.X.reshape(len(self), -1, self.X.shape[-1])

    @cached_property
    def weight(self) -> Floats:
        """The weights of all rows [P|1, N m]."""
        return self.w.reshape(len(self.w), -1)

    @cached_property
    def label(self) -> NDArray[Any]:
        """The labels of all rows [P|1, N m]."""
        return self.y.reshape(len(self.y), -1)

    @cached_property
    def down(self) -> Floats:
        """-w y [P|1, N m]."""
        found: Floats = -self.weight * self.label
        return found

    @cached_property
    def binary(self) -> bool:
        """Whether it is logistic regression."""
        return self.y.dtype.kind == "f"

    def scores(self, x: Floats) -> Floats:
        """X_k x [P, N m, Q, C] at Q points x [P|1, Q, C p]; C is 1 for two classes."""
        columns = x.reshape(len(x), -1, self.X.shape[-1]).swapaxes(1, 2)
        z = product(self.pooled, np.ascontiguousarray(columns))  # columns that lie apart take several times as long
        return z.reshape(*z.shape[:2], x.shape[1], -1)

    def back(self, pull: Floats) -> Floats:
        """sum_k pull_kc X_k [P, d], laid out like x, of pull [P, N m, C]."""
        return product(pull.swapaxes(1, 2), self.pooled).reshape(len(self), -1)

    def exponentials(self, z: Floats) -> tuple[Floats, Floats]:
        """What losses and derivatives at scores z [P, N m, Q, C] have in common: (s, e) = (y z, exp(-|y z|)) [P, N m, Q] of two classes, else
        (z - max z, exp(z - max z)) [P, N m, Q, C]. It writes over z."""
        if self.binary:
            s = z[..., 0]
            s *= self.label[..., None]
            e = np.abs(s)
            return s, exp(np.negative(e, out=e))
        z -= z.max(-1, keepdims=True)
        return z, exp(z.copy())

    def row_losses(self, s: Floats, e: Floats) -> Floats:
        """The loss of each row, without its weight [P, N m, Q]."""
        if self.binary:
            each = log1p(e)  # log(1 + exp(-s)), without overflow
            each -= np.minimum(s, 0.0)
        else:
            each = np.log(row_sums(e))
            each -= np.take_along_axis(s, self.label[..., None, None], -1)[..., 0]
        return each

    def values(self, x: Floats) -> Floats:
        """sum_i f_i [P, Q] at Q points of each problem, x [P, Q, d]."""
        Q, d = x.shape[1:]
        together, found = points_at_once(self.pooled.shape[1] * d // self.X.shape[-1], Q), []
        for k in range(0, Q, together):
            each = self.row_losses(*self.exponentials(self.scores(x[:, k : k + together])))
            found.append(product(self.weight[:, None], each)[:, 0])
        total: Floats = np.concatenate(found, -1) + 0.5 * self.agents * self.l2 * (x * x).sum(-1)
        return total

    def at(self, x: Floats) -> Scored:
        """The rows at x [P, d], or [1, d]."""
        return Scored(self, x, *self.exponentials(self.scores(x[:, None])))

    def at_zero(self, dim: int) -> Scored:
        """The rows at 0 [1, d], where all scores are 0: no product is needed."""
        classes = () if self.binary else (dim // self.X.shape[-1],)
        shape = (*self.pooled.shape[:2], 1, *classes)
        return Scored(self, np.zeros((1, dim)), np.zeros(shape), np.ones(shape))


@dataclass(frozen=True)
class Scored:
    """Rows at a point of each problem, x [P|1, d]: costs and derivatives, all from the same scores and exponentials (s, e)."""

    rows: Rows
    x: Floats
    s: Floats
    e: Floats

    def losses(self) -> Floats:
        """f_i [P, N]."""
        rows = self.rows
        each = rows.row_losses(self.s, self.e)[..., 0]
        each *= rows.weight
        own: Floats = each.reshape(*rows.X.shape[:-1]).sum(-1)
        own += 0.5 * rows.l2 * (self.x * self.x).sum(-1, keepdims=True)
        return own

    def value(self) -> Floats:
        """sum_i f_i [P]."""
        rows = self.rows
        total: Floats = product(rows.weight[:, None], rows.row_losses(self.s, self.e))[:, 0, 0]
        total += 0.5 * rows.agents * rows.l2 * (self.x * self.x).sum(-1)
        return total

    def both(self) -> Floats:
        """sum_i f_i and its gradient, side by side [P, 1 + d]."""
        return np.concatenate([self.value()[:, None], self.gradient()], -1)

    def gradient(self) -> Floats:
        """sum_i grad f_i [P, d]."""
        return self.rows.back(self._pull()) + self.rows.agents * self.rows.l2 * self.x

    def gradients(self) -> Floats:
        """grad f_i [P, N, d]."""
        rows = self.rows
        pull = self._pull().reshape(*rows.X.shape[:-1], -1)
        return product(pull.swapaxes(-1, -2), rows.X).reshape(*rows.X.shape[:2], -1) + rows.l2 * self.x[:, None]

    def length(self) -> Floats:
        """sum_i |grad f_i| [P]."""
        total: Floats = norm(self.gradients()).sum(-1)
        return total

    def _pull(self) -> Floats:
        """The derivatives by the scores, times the weights: [P, N m, C]."""
        if self.rows.binary:
            away = np.maximum(self.e, self.s <= 0)  # e or 1
            away /= 1.0 + self.e  # 1 / (1 + exp(s)), without overflow
            away *= self.rows.down[..., None]
            return away
        P, label = self._shares(), self.rows.label[..., None]
        np.put_along_axis(P, label, np.take_along_axis(P, label, -1) - 1.0, -1)
        P *= self.rows.weight[..., None]
        return P

    def _shares(self) -> Floats:
        """The probabilities of the classes [P, N m, C]."""
        e = self.e[:, :, 0]
        shares: Floats = e / row_sums(e)[..., None]
        return shares

    def curvature(self) -> Solve:
        """The function that multiplies v [P, d] by the Hessian of sum_i f_i."""
        rows, ridge = self.rows, self.rows.agents * self.rows.l2
        if rows.binary:
            bend = self._bend()
            return lambda v: rows.back(bend * rows.scores(v[:, None])[:, :, 0]) + ridge * v
        P = self._shares()
        weighted = rows.weight[..., None] * P

        def times(v: Floats) -> Floats:
            t = rows.scores(v[:, None])[:, :, 0]
            t -= np.einsum("pmc,pmc->pm", P, t)[..., None]
            t *= weighted
            return rows.back(t) + ridge * v

        return times

    def bent(self) -> float:
        """The mean over problems, rows and classes of a loss's second derivative by a score."""
        if self.rows.binary:
            return float((self.e / np.square(1.0 + self.e)).mean())
        P = self._shares()
        return float((P - P * P).mean())

    def _bend(self) -> Floats:
        """The second derivative of log(1 + exp(z)), times the weights: [P, N m, 1]."""
        bend: Floats = self.e / np.square(1.0 + self.e)
        bend *= self.rows.weight[..., None]
        return bend

    def hessian(self) -> Floats:
        """The Hessian of sum_i f_i [P, d, d]."""
        rows, d = self.rows, self.x.shape[-1]
        if rows.binary:
            H = scatter(self._bend()[..., 0], rows.pooled)
        else:
            times = self.curvature()
            H = np.stack([times(np.broadcast_to(e, (len(rows), d))) for e in np.eye(d)], -1)
            return (H + H.swapaxes(1, 2)) / 2
        H[:, range(d), range(d)] += rows.agents * rows.l2
        return H


def points_at_once(scores: int, points: int) -> int:
    """How many of a problem's points to take together, where each has so many scores: what fits the cache."""
    return max(1, min(points, CACHE_SCORES // max(1, scores)))


def costs_of_all(rows: tuple[Tensor, Tensor, Tensor, float], points: Tensor) -> Tensor:
    """f_t = sum_i f_{i,t} at each agent's point [K, R, N, d]: [K, R, N]."""
    K, R, N, d = points.shape
    m, p = rows[0].shape[-2:]
    at, classes = points.reshape(K * R, N, d).numpy(), d // p
    together = points_at_once(N * m * classes, N)
    with one_thread:
        found = [piece.values(at[where]) for where, piece in Rows.pieces(rows, K, R, N, together * classes)]
    return torch.from_numpy(np.concatenate(found)).reshape(K, R, N)


def at_minimisers(before: Rows, pieces: list[tuple[slice, Rows]], x: Floats, stale: Floats) -> tuple[Floats, Floats]:
    """Sums over agents at x*_t [P, d], [P, 4 + d]: f_t, f_{t-1}, f_t at ``stale``, sum_i ||grad f_{i,t}||, grad f_t; and the largest change
    of an agent's gradient from the round before, [P].

    ``before`` are the rows of the round before the first. What a round's rows say at the next minimiser is found while they are at hand.
    """
    trials = len(before)
    ahead = np.concatenate([x[trials:], x[-trials:]])
    then = before.at(x[:trials])
    old, turned = (
        then.losses().sum(-1),
        then.gradients(),
    )  # by the last round before a piece, at the piece's first minimisers
    found, largest = [], []
    for where, rows in pieces:
        now, then = rows.at(x[where]), rows.at(ahead[where])
        g = now.gradients()
        old = np.concatenate([old, then.losses().sum(-1)])
        turned = np.concatenate([turned, then.gradients()])
        costs = np.stack([now.losses().sum(-1), old[:-trials], rows.at(stale[where]).losses().sum(-1)], -1)
        found.append(np.concatenate([costs, norm(g).sum(-1, keepdims=True), g.sum(1)], -1))
        largest.append(norm(g - turned[:-trials]).max(-1))
        old, turned = old[-trials:], turned[-trials:]
    return np.concatenate(found), np.concatenate(largest)
