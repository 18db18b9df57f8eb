"""GTAdam written out for one machine in C, NumPy and JAX: what a compiled round of distopt is compared with.

Each of ``YARDSTICKS`` runs ``problem.rounds`` rounds of the recursion of ``distopt.algorithms.gtadam`` from x_0 = 0 on a problem of
``problems.py``. It returns (final x [N, d], seconds per round); a time only counts if x agrees.

Usage: python benchmarks/yardsticks.py [WORD ...]    checks that all agree after 50 rounds and prints the table of times

One thread each: start Python with the variables of ``ONE_THREAD``. Nothing of distopt is imported here.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import time
from typing import Any

import numpy as np
from c_loops import in_c, in_tight_c
from problems import ONE_THREAD, PROBLEMS, TOLERANCE, Array, Logistic, Problem, Ring, arrays, clocked, difference
from scipy.sparse import csr_array

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

YARDSTICKS = {"C": in_c, "tight C": in_tight_c, "NumPy": in_numpy, "JAX": in_jax}


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
