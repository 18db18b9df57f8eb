"""The problems whose rounds are timed, as plain arrays: quadratics with a moving target on a ring, logistic regression on a random graph."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Run = Callable[[int], tuple[Array, float]]  # rounds -> (x, seconds inside the loop)

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PJRT_NPROC": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}
TOLERANCE = 1e-9
SHORTEST, REPEATS = 0.01, 25  # a timed run lasts at least this many seconds; the best of so many runs counts


@dataclass(frozen=True)
class Adam:
    """Step size and Adam's constants."""

    lr: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    cap: float = 1e6


@dataclass(frozen=True)
class Ring:
    """f_{i,t}(x) = 1/2 sum_k a_ik (x_k - c_ik - p_{t,k})^2 on a ring of N >= 3 agents, each of the three weights 1/3.

    Attributes:
        a: curvatures [N, d].
        c: offsets [N, d].
        p: the path of the target [P, d]; round t takes row t mod P.
        rounds: how many rounds.
        adam: constants.
    """

    a: Array
    c: Array
    p: Array
    rounds: int = 50
    adam: Adam = Adam()


@dataclass(frozen=True)
class Logistic:
    """f_{i,t}(x) = 1/S sum_k log(1 + exp(-y_k A_k . x)) + l2/2 |x|^2 on a graph with doubly stochastic weights.

    Attributes:
        A: features [K, N, S, d]; round t takes A[t mod K], so K = 1 is static data.
        y: labels [K, N, S], -1 or +1.
        begin: row starts [N + 1] int32 of W's compressed rows.
        column: neighbours, oneself among them, ascending in each row, int32.
        weight: their weights.
        l2: ridge parameter.
        rounds: how many rounds.
        adam: constants.
    """

    A: Array
    y: Array
    begin: NDArray[np.int32]
    column: NDArray[np.int32]
    weight: Array
    l2: float = 0.01
    rounds: int = 50
    adam: Adam = Adam()

    def dense(self) -> Array:
        """W [N, N]."""
        W = np.zeros((len(self.begin) - 1,) * 2)
        W[np.repeat(np.arange(len(W)), np.diff(self.begin)), self.column] = self.weight
        return W


Problem = Ring | Logistic


def ring(N: int, d: int, seed: int = 0) -> Ring:
    """Curvatures in [0.5, 1.5], normal offsets, and a target that walks 50 steps of standard deviation 0.01 per coordinate."""
    rng = np.random.default_rng(seed)
    return Ring(rng.uniform(0.5, 1.5, (N, d)), rng.normal(size=(N, d)), 0.01 * rng.normal(size=(50, d)).cumsum(0))


def logistic(N: int = 100, d: int = 100, S: int = 20, K: int = 1, edge: float = 0.1, seed: int = 0) -> Logistic:
    """Normal features, labels of one hidden direction with 10 % flipped, Erdos-Renyi graph with Metropolis weights."""
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((N, N)) < edge, 1)
    linked = upper | upper.T
    degree = linked.sum(0)
    W = np.where(linked, 1 / (1 + np.maximum(degree[:, None], degree)), 0.0)
    np.fill_diagonal(W, 1 - W.sum(1))
    rows, columns = np.nonzero(linked | np.eye(N, dtype=bool))
    A = rng.normal(size=(K, N, S, d))
    y = np.sign(A @ rng.normal(size=d)) * np.where(rng.random((K, N, S)) < 0.1, -1.0, 1.0)
    begin = np.searchsorted(rows, np.arange(N + 1)).astype(np.int32)
    return Logistic(A, y, begin, columns.astype(np.int32), W[rows, columns])


def clocked(run: Run, rounds: int) -> tuple[Array, float]:
    """Final x after ``rounds``, and the best seconds per round of ``REPEATS`` runs of at least ``SHORTEST`` seconds each."""
    x, seconds = run(rounds)
    while seconds < SHORTEST:
        rounds = int(rounds * max(2.0, 1.2 * SHORTEST / max(seconds, 1e-9)))
        seconds = run(rounds)[1]
    return x, min(run(rounds)[1] for _ in range(REPEATS)) / rounds


def arrays(*shapes: tuple[int, ...]) -> list[Array]:
    """Zeros whose pages exist already (fresh zeros cost their faults inside the loop), at well chosen addresses.

    Each begins on a cache line, and no two at the same offset in a page. Loads and stores with the same last 12 bits of
    their addresses wait for each other, which costs up to a third.
    """
    counts = [int(np.prod(shape)) for shape in shapes]
    room = np.zeros(sum(-(-count // 512) * 512 + 512 for count in counts) + 8)
    room.fill(0.0)
    out, page = [], -room.ctypes.data % 64 // 8
    for i, (shape, count) in enumerate(zip(shapes, counts, strict=True)):
        start = page + i * 72 % 512  # nine cache lines further into its page than the one before
        out.append(room[start : start + count].reshape(shape))
        page += -(-count // 512) * 512 + 512
    return out


def difference(x: Array, y: Array) -> float:
    """Greatest |x - y|, relative to the greatest |y|."""
    return float(np.abs(x - y).max() / np.abs(y).max())


PROBLEMS: dict[str, Callable[[], Problem]] = {
    **{
        f"ring {N} x {d}": functools.partial(ring, N, d)
        for N, d in ((16, 2), (16, 100), (1000, 10), (100, 7850), (100_000, 10))
    },
    "logistic 100 x 100, static": logistic,
    "logistic 100 x 100, fresh": functools.partial(logistic, K=50),
}
