"""NumPy's matrix products on one thread, and functions of many numbers whose results do not depend on a number's place."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

Floats = NDArray[np.float64]

Solve = Callable[[Floats], Floats]
"""A linear function of each row [P, d]."""


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


def row_sums(z: Floats) -> Floats:
    """Sums over the last axis, of few numbers each: NumPy's own sums take several times as long."""
    return product(z.reshape(len(z), -1, z.shape[-1]), np.ones((z.shape[-1], 1))).reshape(z.shape[:-1])


def exp(z: Floats) -> Floats:
    """e^z, in place. torch takes a third of NumPy's time, and its results do not depend on the position of a number."""
    torch.from_numpy(z).exp_()
    return z


def log1p(z: Floats) -> Floats:
    """log(1 + z), of a new array; see ``exp``."""
    found: Floats = torch.log1p(torch.from_numpy(z)).numpy()
    return found


def scatter(weight: Floats, X: Floats) -> Floats:
    """sum_k w_k X_k X_k' [P, p, p] of weights [P|1, M] and rows X [P, M, p]. To multiply short rows, einsum takes less time than ``*``."""
    weighted: Floats = np.einsum("pm,pmj->pmj", np.broadcast_to(weight, X.shape[:2]), X)
    return product(weighted.swapaxes(1, 2), X)


def dot(x: Floats, y: Floats) -> Floats:
    """The products of the rows of x and y [P, d]: [P]."""
    found: Floats = np.einsum("pd,pd->p", x, y)
    return found


def norm(x: Floats) -> Floats:
    """The length of the rows of x [..., d]: [...]."""
    length: Floats = np.sqrt((x * x).sum(-1))
    return length


def conjugate_gradients(times: Solve, g: Floats, exact: Floats, about: Solve | None = None) -> Floats:
    """H^-1 g [P, d] to the accuracy ``exact`` [P], relative to g.

    ``times`` multiplies by H. ``about`` multiplies by an estimate of H^-1, the preconditioner: the better it is, the fewer products.
    """
    x, r = np.zeros_like(g), g
    p = z = about(r) if about else r
    rr = dot(r, r)
    rz, goal = dot(r, z), exact * exact * rr
    for _ in range(4 * g.shape[-1]):
        live = rr > goal
        if not live.any():
            break
        hp = times(p)
        curvature = dot(p, hp)
        live &= curvature > 0
        a = np.where(live, rz / np.where(curvature > 0, curvature, 1.0), 0.0)[:, None]
        x, r = x + a * p, r - a * hp
        z = about(r) if about else r
        rr, before, rz = dot(r, r), rz, dot(r, z)
        p = z + np.where(live, rz / np.where(before > 0, before, 1.0), 0.0)[:, None] * p
    return np.where((x == 0).all(-1, keepdims=True), g, x)
