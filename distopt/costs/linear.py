"""Logistic and softmax costs of all agents at one point: the rows of all agents are in one matrix, for NumPy's matrix products.

A scenario whose costs have this form defines ``linear_rows(b)``. It returns features X [K|1, R|1, n|1, m, p], labels y, row
weights w [K|1, R|1, n|1, m] and the ridge parameter l2, such that

    f_i(x) = sum_k w_k loss(X_k x, y_k) + l2/2 |x|^2,

where loss is log(1 + exp(-y z)) for labels -1.0 and +1.0 (d = p), and log sum_c exp(z_c) - z_y for int64 classes y (d = C p).

Only the comparator computes like this. It belongs to no agent, so its last bits may depend on how NumPy's products add.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

from distopt.errors import InputError

Floats = NDArray[np.float64]

CACHE_BYTES, CACHE_SCORES = 2**22, 2**15
"""Rows of a piece: they and their scores should stay in the processor's cache over all iterations."""

DENSE = 100
"""Up to this dimension Newton's matrix is formed; beyond it, conjugate gradients use products with it."""

DONE, NOISE = 1e-15, 1e-13
"""Relative gradient norms: nothing is left to gain below the first; below the second, a gradient that no longer shrinks is rounding."""


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


class _OneThread:
    """Inside this context NumPy's products use one thread.
    On several threads a library may split a sum, and the last bits would depend on their number. Entering takes as long
    as a small product, so enter it once around many products.
    """

    def __init__(self) -> None:
        self._inside, self._limit = 0, ExitStack()
        self.after_fork()
        os.register_at_fork(after_in_child=self.after_fork)

    def after_fork(self) -> None:
        """A lock that another thread held at the fork would stay locked for ever, since a fork has no such thread."""
        self._lock = threading.Lock()

    @cached_property
    def _libraries(self) -> ThreadpoolController:
        return ThreadpoolController()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._limit.enter_context(self._libraries.limit(limits=1, user_api="blas"))
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._limit.close()


one_thread = _OneThread()


def product(a: Floats, b: Floats) -> Floats:
    """a b, on one thread."""
    with one_thread:
        found: Floats = np.matmul(a, b)
        return found


def _exp(z: Floats) -> Floats:
    """e^z, in place. torch takes a third of NumPy's time, and its results do not depend on the position of a number."""
    torch.from_numpy(z).exp_()
    return z


def _log1p(z: Floats) -> Floats:
    """log(1 + z); see ``_exp``."""
    found: Floats = torch.log1p(torch.from_numpy(z)).numpy()
    return found


@dataclass(frozen=True)
class Rows:
    """The rows of P problems (rounds and trials), N agents each: X [P, N, m, p], y and w [P, N, m]."""

    X: Floats
    y: NDArray[Any]
    w: Floats
    l2: float

    @classmethod
    def pieces(
        cls, rows: tuple[Tensor, Tensor, Tensor, float], rounds: int, trials: int, agents: int
    ) -> Iterator[tuple[slice, Rows]]:
        """The rows of a few rounds after the other, with the places of their problems: what fits the processor's cache."""
        X, y, w, l2 = rows
        m, p = X.shape[-2:]
        own = max(1, trials * agents * m)  # of a round
        step = max(1, min(CACHE_BYTES // (8 * own * p), CACHE_SCORES // own))
        for start in range(0, rounds, step):
            count = min(step, rounds - start)

            def piece(leaf: Tensor, start: int = start, count: int = count) -> NDArray[Any]:
                own = leaf[start : start + count] if leaf.shape[0] > 1 else leaf
                shape = (count, trials, agents, m, *leaf.shape[4:])
                array: NDArray[Any] = np.ascontiguousarray(np.broadcast_to(own.numpy(), shape)).reshape(-1, *shape[2:])
                return array

            yield slice(start * trials, (start + count) * trials), cls(piece(X), piece(y), piece(w), l2)

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
        """The weights of all rows [P, N m]."""
        return self.w.reshape(len(self), -1)

    @cached_property
    def label(self) -> NDArray[Any]:
        """The labels of all rows [P, N m]."""
        return self.y.reshape(len(self), -1)

    @property
    def binary(self) -> bool:
        """Whether it is logistic regression."""
        return self.y.dtype.kind == "f"

    def scores(self, x: Floats) -> Floats:
        """X_k x [P, N m, C] at x [P, C p], or [1, C p]; C is 1 for two classes."""
        p = self.X.shape[-1]
        return product(self.pooled, x.reshape(len(x), -1, p).swapaxes(1, 2))

    def _of_agents(self, rows: Floats) -> Floats:
        """Sums over each agent's rows: of [P, N m] to [P, N]."""
        total: Floats = rows.reshape(*self.w.shape).sum(-1)
        return total

    def _exponentials(self, z: Floats) -> tuple[Floats, Floats]:
        """What losses and derivatives at scores z [P, N m, C] have in common: (s, e) = (y z, exp(-|y z|)) [P, N m] of two classes, else
        (z - max z, exp(z - max z)) [P, N m, C]."""
        if self.binary:
            s = self.label * z[..., 0]
            return s, _exp(-np.abs(s))
        s = z - z.max(-1, keepdims=True)
        return s, _exp(s.copy())

    def _losses(self, s: Floats, e: Floats, x: Floats) -> Floats:
        if self.binary:
            each = _log1p(e)  # log(1 + exp(-s)), without overflow
            each -= np.minimum(s, 0.0)
        else:
            each = np.log(e.sum(-1))
            each -= np.take_along_axis(s, self.label[..., None], -1)[..., 0]
        each *= self.weight
        losses: Floats = self._of_agents(each) + 0.5 * self.l2 * (x * x).sum(-1, keepdims=True)
        return losses

    def losses(self, x: Floats) -> Floats:
        """f_i(x) [P, N] at x [P, d]."""
        return self._losses(*self._exponentials(self.scores(x)), x)

    def values(self, x: Floats) -> Floats:
        """sum_i f_i [P, Q] at Q points of each problem, x [P, Q, d]."""
        return np.stack([self.losses(x[:, k]).sum(-1) for k in range(x.shape[1])], -1)

    def both(self, x: Floats) -> Floats:
        """sum_i f_i and its gradient, side by side [P, 1 + d], at x [P, d]."""
        s, e = self._exponentials(self.scores(x))
        return np.concatenate([self._losses(s, e, x).sum(-1, keepdims=True), self._gradient(s, e, x)], -1)

    def _pull(self, s: Floats, e: Floats) -> Floats:
        """The derivatives by the scores, times the weights: [P, N m, C]."""
        if self.binary:
            away: Floats = np.where(s > 0, e, 1.0) / (1.0 + e)  # 1 / (1 + exp(s)), without overflow
            away *= self._down
            return away[..., None]
        P = self._shares(e)
        np.put_along_axis(P, self.label[..., None], np.take_along_axis(P, self.label[..., None], -1) - 1.0, -1)
        return self.weight[..., None] * P

    @cached_property
    def _down(self) -> Floats:
        """-w y [P, N m]."""
        down: Floats = -self.weight * self.label
        return down

    @staticmethod
    def _shares(e: Floats) -> Floats:
        shares: Floats = e / e.sum(-1, keepdims=True)
        return shares

    def _back(self, pull: Floats) -> Floats:
        """sum_k pull_kc X_k, laid out like x: [P, d]."""
        return product(pull.swapaxes(1, 2), self.pooled).reshape(len(self), -1)

    def gradient(self, x: Floats) -> Floats:
        """sum_i grad f_i [P, d] at x [P, d]."""
        return self._gradient(*self._exponentials(self.scores(x)), x)

    def _gradient(self, s: Floats, e: Floats, x: Floats) -> Floats:
        return self._back(self._pull(s, e)) + self.agents * self.l2 * x

    def gradients(self, x: Floats) -> Floats:
        """grad f_i [P, N, d] at x [P, d]."""
        pull = self._pull(*self._exponentials(self.scores(x))).reshape(*self.w.shape, -1)
        return product(pull.swapaxes(-1, -2), self.X).reshape(len(self), self.agents, -1) + self.l2 * x[:, None]

    def curvature(self, x: Floats) -> Callable[[Floats], Floats]:
        """The function that multiplies v [P, d] by the Hessian of sum_i f_i at x."""
        (_, e), ridge = self._exponentials(self.scores(x)), self.agents * self.l2
        if self.binary:
            bend = self._bend(e)
            return lambda v: self._back(bend * self.scores(v)) + ridge * v
        P = self._shares(e)
        weighted = self.weight[..., None] * P

        def times(v: Floats) -> Floats:
            t = self.scores(v)
            return self._back(weighted * (t - (P * t).sum(-1, keepdims=True))) + ridge * v

        return times

    def _bend(self, e: Floats) -> Floats:
        """The second derivative of log(1 + exp(z)), times the weights: [P, N m, 1]."""
        bend: Floats = e / np.square(1.0 + e)
        bend *= self.weight
        return bend[..., None]

    def hessian(self, x: Floats) -> Floats:
        """The Hessian of sum_i f_i [P, d, d] at x [P, d]."""
        d = x.shape[-1]
        if self.binary:
            bend = self._bend(self._exponentials(self.scores(x))[1])
            H = product((bend * self.pooled).swapaxes(1, 2), self.pooled)
        else:
            times = self.curvature(x)
            H = np.stack([times(np.broadcast_to(e, x.shape)) for e in np.eye(d)], -1)
            return (H + H.swapaxes(1, 2)) / 2
        H[:, range(d), range(d)] += self.agents * self.l2
        return H

    def minimise(self, x: Floats, scale: float, iterations: int = 60) -> tuple[Floats, Floats]:
        """Newton's method from x [P, d]: the minimisers, and how far from minimal each is [P].

        The measure is the larger of the gradient norm, relative to ``scale``, and of the last step, relative to 1 + |x|. A Hessian is
        kept while its steps make the gradient 1000 times smaller: another one would cost more than it gains.
        """
        g, step, size = self.gradient(x), None, np.zeros(len(self))
        flat = norm(g) / scale
        for _ in range(iterations):
            if (flat < DONE).all():
                break
            try:
                step = step or self._step(x, flat)
                s = step(g)
            except np.linalg.LinAlgError:  # no curvature in some direction
                return x, np.full(len(self), np.inf)
            before, size = flat, norm(s) / (1 + norm(x))
            y = x - s
            h = self.gradient(y)
            flat = norm(h) / scale
            if (late := ~(flat <= 0.5 * before) & (before > NOISE)).any():
                y = x - self._length(x, g, s, late)[:, None] * s
                h = self.gradient(y)
                flat = norm(h) / scale
            if not np.isfinite(flat).all():
                return x, np.full(len(self), np.inf)
            better = ((flat < before) | late)[:, None]
            x, g, flat = np.where(better, y, x), np.where(better, h, g), np.where(better[:, 0], flat, before)
            if ((flat < NOISE) & (flat > 0.5 * before)).all():
                break
            if not (flat <= np.maximum(1e-3 * before, NOISE)).all() or x.shape[-1] > DENSE:
                step = None
        return x, np.maximum(flat, 1e-3 * size)

    def _step(self, x: Floats, flat: Floats) -> Callable[[Floats], Floats]:
        """The function from a gradient to Newton's step at x."""
        if x.shape[-1] > DENSE:
            times, exact = self.curvature(x), np.clip(np.sqrt(flat), 1e-8, 0.1)
            return lambda g: conjugate_gradients(times, g, exact)
        H = self.hessian(x)

        def solved(g: Floats) -> Floats:
            with one_thread:
                s: Floats = np.asarray(np.linalg.solve(H, g[..., None])[..., 0], dtype=np.float64)
                return s

        return solved

    def _length(self, x: Floats, g: Floats, s: Floats, late: NDArray[np.bool_]) -> Floats:
        """The length of the step -s [P, d]: 1, except for problems in ``late``, whose steps are halved until their costs fall enough."""
        size, slope, value = np.ones(len(self)), (g * s).sum(-1), self.losses(x).sum(-1)
        for _ in range(40):
            after = self.losses(x - size[:, None] * s).sum(-1)
            failed = late & ~(after <= value - 1e-4 * size * slope + 1e-12 * np.abs(value))
            if not failed.any():
                break
            size = np.where(failed, size / 2, size)
        return size


def costs_of_all(rows: tuple[Tensor, Tensor, Tensor, float], points: Tensor) -> Tensor:
    """f_t = sum_i f_{i,t} at each agent's point [K, R, N, d]: [K, R, N]."""
    K, R, N, d = points.shape
    at = points.reshape(K * R, N, d).numpy()
    with one_thread:
        found = [piece.values(at[where]) for where, piece in Rows.pieces(rows, K, R, N)]
    return torch.from_numpy(np.concatenate(found)).reshape(K, R, N)


def norm(x: Floats) -> Floats:
    """The length of the rows of x [..., d]: [...]."""
    length: Floats = np.sqrt((x * x).sum(-1))
    return length


def conjugate_gradients(times: Callable[[Floats], Floats], g: Floats, exact: Floats) -> Floats:
    """H^-1 g [P, d] to the accuracy ``exact`` [P], relative to g."""
    x, r = np.zeros_like(g), g
    p, rr = r, (r * r).sum(-1)
    goal = exact * exact * rr
    for _ in range(4 * g.shape[-1]):
        live = rr > goal
        if not live.any():
            break
        hp = times(p)
        curvature = (p * hp).sum(-1)
        live &= curvature > 0
        a = np.where(live, rr / np.where(curvature > 0, curvature, 1.0), 0.0)[:, None]
        x, r = x + a * p, r - a * hp
        new = (r * r).sum(-1)
        p, rr = r + np.where(live, new / np.where(rr > 0, rr, 1.0), 0.0)[:, None] * p, new
    return np.where((x == 0).all(-1, keepdims=True), g, x)
