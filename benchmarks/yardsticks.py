"""GTAdam written out for one machine in C, NumPy and JAX: what a compiled round of distopt is compared with.

Two problems, as plain arrays: quadratics with a moving target on a ring, and logistic regression on a random graph. For each,
``in_c``, ``in_numpy`` and ``in_jax`` run ``problem.rounds`` rounds of the recursion of ``distopt.algorithms.gtadam`` from
x_0 = 0 and return (final x [N, d], seconds per round), so that a time counts only next to an iterate that agrees.

Usage: python benchmarks/yardsticks.py    checks that all agree after 50 rounds and prints the table of times

One thread each: start Python with the variables of ``ONE_THREAD``. Nothing of distopt is imported here.
"""

# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-call"

from __future__ import annotations

import ctypes
import dataclasses
import functools
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Array = NDArray[np.float64]
Run = Callable[[int], tuple[Array, float]]  # rounds -> (x, seconds inside the loop)

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PJRT_NPROC": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}
TOLERANCE = 1e-9
SHORTEST, REPEATS = 0.02, 5  # a timed run lasts at least this many seconds; the best of so many runs counts


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


# C -----------------------------------------------------------------------------------------------------------------------


class CAdam(ctypes.Structure):
    """The C side's struct of constants."""

    _fields_ = [(name, ctypes.c_double) for name in ("lr", "b1", "b2", "eps", "cap")]


FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp-simd", "-shared", "-fPIC")


@functools.cache
def compiled(compiler: str = "gcc") -> ctypes.CDLL:
    """loops.c, built once for each text, compiler and processor, and kept in the directory for temporary files."""
    source = Path(__file__).with_name("loops.c")
    target = subprocess.run([compiler, "-march=native", "-Q", "--help=target"], capture_output=True, check=True).stdout
    name = hashlib.sha256(b"".join([source.read_bytes(), target, repr((compiler, FLAGS)).encode()])).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"distopt-loops-{name}.so"
    if not library.exists():
        part = library.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, *FLAGS, "-o", part, source, "-lmvec", "-lm"], check=True)
        part.replace(library)
    return ctypes.CDLL(str(library))


def arrays(*shapes: tuple[int, ...]) -> list[Array]:
    """Zeros whose pages exist already (fresh zeros cost their faults inside the loop), at well chosen addresses.

    Each begins on a cache line, and no two at the same place of a page: loads and stores that agree in the last 12 bits of
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


def pointer(z: NDArray[Any]) -> ctypes.c_void_p:
    if not z.flags.c_contiguous:
        raise ValueError("the C loops take contiguous arrays only")
    return ctypes.c_void_p(z.ctypes.data)


def long(*numbers: int) -> list[ctypes.c_long]:
    return [ctypes.c_long(n) for n in numbers]


def in_c(problem: Problem) -> tuple[Array, float]:
    """The C loop, compiled on first use."""
    library = compiled()
    adam = ctypes.byref(CAdam(*dataclasses.astuple(problem.adam)))

    def on_ring(rounds: int) -> tuple[Array, float]:
        assert isinstance(problem, Ring)
        N, d = problem.a.shape
        x, s, m, v, g, a, c, tile = arrays((N + 3, d), (N + 3, d), *[(N, d)] * 5, (512 + 8 * d,))
        a[:], c[:] = problem.a, problem.c
        given = [pointer(z) for z in (x, s, m, v, g, a, c, problem.p)]
        library.ring_quadratic.restype = ctypes.c_long
        start = time.perf_counter()
        first = library.ring_quadratic(*long(rounds, N, d), *given, *long(len(problem.p)), pointer(tile), adam)
        return x[first : first + N].copy(), time.perf_counter() - start

    def on_graph(rounds: int) -> tuple[Array, float]:
        assert isinstance(problem, Logistic)
        K, N, S, d = problem.A.shape
        ld = -(-d // 8) * 8
        x, s, m, v, g, change, pull = arrays((2, N, ld), (2, N, ld), *[(N, ld)] * 4, (S,))
        given = [pointer(z) for z in (x, s, m, v, g, change, problem.begin, problem.column, problem.weight, problem.A, problem.y)]
        library.csr_logistic.restype = None
        start = time.perf_counter()
        library.csr_logistic(*long(rounds, N, d, ld, S), *given, *long(K), ctypes.c_double(problem.l2), pointer(pull), adam)
        return x[rounds % 2, :, :d].copy(), time.perf_counter() - start

    return clocked(on_ring if isinstance(problem, Ring) else on_graph, problem.rounds)


# NumPy --------------------------------------------------------------------------------------------------------------------


def in_numpy(problem: Problem) -> tuple[Array, float]:
    """Whole-array operations into buffers made beforehand; halo rows for the ring, SciPy's sparse product for the graph."""
    o = problem.adam

    def adam(s: Array, m: Array, v: Array, step: Array, root: Array) -> None:
        """M, v <- moments of s; step <- lr m / sqrt(v + eps)."""
        np.multiply(s, 1 - o.b1, out=step)
        np.multiply(m, o.b1, out=m)
        np.add(m, step, out=m)
        np.multiply(s, s, out=step)
        np.multiply(step, 1 - o.b2, out=step)
        np.multiply(v, o.b2, out=v)
        np.add(v, step, out=v)
        np.minimum(v, o.cap, out=v)
        np.add(v, o.eps, out=root)
        np.sqrt(root, out=root)
        np.multiply(m, o.lr, out=step)
        np.divide(step, root, out=step)

    def on_ring(rounds: int) -> tuple[Array, float]:
        assert isinstance(problem, Ring)
        N, d = problem.a.shape
        xs, both, g, gn, m, v, step, root = arrays((2, N + 2, d), (2, N, d), *[(N, d)] * 6)
        # Rows 0 and N + 1 repeat the rows N and 1: the neighbours are slices, of x and s at once.
        left, mid, right = xs[:, :-2], xs[:, 1:-1], xs[:, 2:]
        ends, opposite = xs[:, :: N + 1], xs[:, N : 0 : 1 - N]
        x, s = mid
        start = time.perf_counter()
        for t in range(rounds):
            np.subtract(x, problem.c, out=gn)
            np.subtract(gn, problem.p[t % len(problem.p)], out=gn)
            np.multiply(gn, problem.a, out=gn)
            ends[...] = opposite
            np.add(left, mid, out=both)
            np.add(both, right, out=both)
            np.multiply(both, 1 / 3, out=mid)
            np.add(s, gn, out=s)
            np.subtract(s, g, out=s)
            g, gn = gn, g
            adam(s, m, v, step, root)
            np.subtract(x, step, out=x)
        return x.copy(), time.perf_counter() - start

    def on_graph(rounds: int) -> tuple[Array, float]:
        assert isinstance(problem, Logistic)
        K, N, S, d = problem.A.shape
        W = csr_array((problem.weight, problem.column, problem.begin), shape=(N, N))
        # x and s side by side: one product mixes both.
        xs, m, v, g, gn, step, root, pull = arrays((N, 2 * d), *[(N, d)] * 6, (N, S))
        start = time.perf_counter()
        for t in range(rounds):
            A, y, x = problem.A[t % K], problem.y[t % K], xs[:, :d]
            np.matmul(A, x[:, :, None], out=pull[:, :, None])
            np.multiply(pull, y, out=pull)
            np.exp(pull, out=pull)
            np.add(pull, 1, out=pull)
            np.multiply(pull, -S, out=pull)
            np.divide(y, pull, out=pull)
            np.matmul(pull[:, None, :], A, out=gn[:, None, :])
            np.multiply(x, problem.l2, out=step)
            np.add(gn, step, out=gn)
            xs = W @ xs
            x, s = xs[:, :d], xs[:, d:]
            np.add(s, gn, out=s)
            np.subtract(s, g, out=s)
            g, gn = gn, g
            adam(s, m, v, step, root)
            np.subtract(x, step, out=x)
        return xs[:, :d].copy(), time.perf_counter() - start

    return clocked(on_ring if isinstance(problem, Ring) else on_graph, problem.rounds)


# JAX ----------------------------------------------------------------------------------------------------------------------


def in_jax(problem: Problem) -> tuple[Array, float] | None:
    """One jitted ``lax.scan`` over the rounds, in float64; None, and a line, where JAX is not installed."""
    if importlib.util.find_spec("jax") is None:
        print("jax: skipped, not installed (pip install jax)")
        return None
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    o = problem.adam
    data: tuple[Array, ...]

    def adam(s: Any, m: Any, v: Any) -> tuple[Any, Any, Any]:
        m = o.b1 * m + (1 - o.b1) * s
        v = jnp.minimum(o.b2 * v + (1 - o.b2) * s * s, o.cap)
        return o.lr * m / jnp.sqrt(v + o.eps), m, v

    if isinstance(problem, Ring):
        shape, data = problem.a.shape, (problem.a, problem.c)

        def inputs(rounds: int) -> Any:
            return problem.p[np.arange(rounds) % len(problem.p)]

        def gradient(x: Any, now: Any, data: Any) -> Any:
            a, c = data
            return a * (x - c - now)

        def mix(z: Any, data: Any) -> Any:
            i = np.arange(len(z))  # a gather with constant indices is fused into the update; jnp.roll is not
            return (z[i - 1] + z + z[(i + 1) % len(z)]) * (1 / 3)

    else:
        K, N, S, d = problem.A.shape
        shape, data, l2 = (N, d), (problem.A, problem.y, problem.dense()), problem.l2

        def inputs(rounds: int) -> Any:
            return np.arange(rounds) % K

        def gradient(x: Any, now: Any, data: Any) -> Any:
            A, y, _ = data
            A, y = (A[0], y[0]) if K == 1 else (A[now], y[now])
            pull = -y / (S * (1 + jnp.exp(y * jnp.einsum("nsd,nd->ns", A, x))))
            return jnp.einsum("nsd,ns->nd", A, pull) + l2 * x

        def mix(z: Any, data: Any) -> Any:
            return data[2] @ z

    def loop(start: Any, given: Any, data: Any) -> Any:
        def step(carry: Any, now: Any) -> Any:
            x, s, m, v, g = carry
            gn = gradient(x, now, data)
            s = mix(s, data) + gn - g
            step, m, v = adam(s, m, v)
            return (mix(x, data) - step, s, m, v, gn), None

        return jax.lax.scan(step, start, given)[0][0]

    @functools.cache
    def ready(rounds: int) -> tuple[Any, Any]:
        given = jax.device_put(((np.zeros(shape),) * 5, inputs(rounds), data))
        program = jax.jit(loop).lower(*given).compile()
        program(*given).block_until_ready()
        return program, given

    def run(rounds: int) -> tuple[Array, float]:
        program, given = ready(rounds)
        start = time.perf_counter()
        x = program(*given).block_until_ready()
        return np.asarray(x), time.perf_counter() - start

    return clocked(run, problem.rounds)


# Self test ----------------------------------------------------------------------------------------------------------------

PROBLEMS: dict[str, Callable[[], Problem]] = {
    **{f"ring {N} x {d}": functools.partial(ring, N, d) for N, d in ((16, 2), (16, 100), (1000, 10), (100, 7850), (100_000, 10))},
    "logistic 100 x 100, static": logistic,
    "logistic 100 x 100, fresh": functools.partial(logistic, K=50),
}
YARDSTICKS = {"C": in_c, "NumPy": in_numpy, "JAX": in_jax}


def difference(x: Array, y: Array) -> float:
    """Greatest |x - y|, relative to the greatest |y|."""
    return float(np.abs(x - y).max() / np.abs(y).max())


def main() -> None:
    """Check agreement after 50 rounds and print microseconds per round; exit 1 where two loops disagree."""
    if missing := {k: v for k, v in ONE_THREAD.items() if k not in os.environ}:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | missing)
    worst = 0.0
    print(f"{'':28s}" + "".join(f"{name + ' us':>14s}" for name in YARDSTICKS) + "   differ by (relative, from C)")
    for title, make in PROBLEMS.items():
        if sys.argv[1:] and not any(word in title for word in sys.argv[1:]):
            continue
        problem = make()
        found = {name: run(problem) for name, run in YARDSTICKS.items()}
        answers = {name: answer for name, answer in found.items() if answer is not None}
        gaps = {name: difference(x, answers["C"][0]) for name, (x, _) in answers.items() if name != "C"}
        worst = max(worst, *gaps.values())
        times = "".join(f"{answers[name][1] * 1e6:14.3f}" if name in answers else f"{'-':>14s}" for name in YARDSTICKS)
        print(f"{title:28s}{times}   " + ", ".join(f"{name} {gap:.1e}" for name, gap in gaps.items()))
    if worst > TOLERANCE:
        sys.exit(f"the loops disagree: {worst:.1e} is more than {TOLERANCE:g}")


if __name__ == "__main__":
    main()
