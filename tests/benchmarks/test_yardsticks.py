from __future__ import annotations

import importlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from distopt.algorithms.gtadam import gtadam
from distopt.network.net import Rehearsal

if shutil.which("gcc") is None:
    pytest.skip("the C loops need gcc", allow_module_level=True)


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def yardsticks() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        problems = importlib.import_module("problems")
        patch.setattr(problems, "SHORTEST", 0.0)
        patch.setattr(problems, "REPEATS", 1)
        yield importlib.import_module("yardsticks")


def by_distopt(problem, W, gradient):
    o = problem.adam
    algorithm = gtadam(o.lr, o.b1, o.b2, o.eps, o.cap)
    x = torch.zeros(1, *problem_shape(problem), dtype=torch.float64)
    state, W = algorithm.init(x), torch.from_numpy(W)
    for t in range(problem.rounds):
        g = torch.from_numpy(gradient(x[0].numpy(), t))[None]
        x, state = algorithm.update(g, state, x, Rehearsal(lambda name, z: W @ z, x))
    return x[0].numpy()


def problem_shape(problem):
    return problem.a.shape if hasattr(problem, "a") else (problem.A.shape[1], problem.A.shape[3])


# Rows grouped with and without remainder, rows of one group, rows of their own, few agents, a cap that binds.
@pytest.mark.parametrize(("N", "d"), [(3, 1), (5, 3), (16, 2), (7, 200), (4, 511), (5, 512), (3, 1030), (700, 10)])
@pytest.mark.parametrize("rounds", [1, 2, 37])
def test_ring(yardsticks, N, d, rounds):
    problems = sys.modules["problems"]
    problem = replace(problems.ring(N, d, seed=N + d), rounds=rounds, adam=problems.Adam(lr=0.05, cap=0.002, eps=1e-4))
    a, c, p = problem.a, problem.c, problem.p
    W = (np.eye(N) + np.roll(np.eye(N), 1, 0) + np.roll(np.eye(N), -1, 0)) / 3
    expected = by_distopt(problem, W, lambda x, t: a * (x - c - p[t % len(p)]))
    for run in (yardsticks.in_c, yardsticks.in_tight_c, yardsticks.in_numpy):
        assert yardsticks.difference(run(problem)[0], expected) < 1e-12


@pytest.mark.parametrize(("d", "S", "K"), [(13, 7, 3), (16, 4, 1), (100, 20, 2)])
@pytest.mark.parametrize("rounds", [1, 30])
def test_logistic(yardsticks, d, S, K, rounds):
    problem = replace(sys.modules["problems"].logistic(11, d, S, K, edge=0.3, seed=d), rounds=rounds)
    W = problem.dense()
    assert np.allclose(W.sum(0), 1) and np.allclose(W, W.T) and (W >= 0).all()

    def gradient(x, t):
        A, y = problem.A[t % K], problem.y[t % K]
        out = problem.l2 * x
        for i in range(len(x)):
            for k in range(S):
                out[i] -= y[i, k] * A[i, k] / (1 + np.exp(y[i, k] * (A[i, k] @ x[i]))) / S
        return out

    expected = by_distopt(problem, W, gradient)
    for run in (yardsticks.in_c, yardsticks.in_tight_c, yardsticks.in_numpy):
        assert yardsticks.difference(run(problem)[0], expected) < 1e-12


@pytest.mark.slow
def test_jax_agrees(yardsticks):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    # Its 64-bit switch is global, so this runs in a process of its own.
    code = "import problems, yardsticks as y; problems.SHORTEST, problems.REPEATS = 0, 1\n" + "".join(
        f"p = problems.{make}; assert y.difference(y.in_jax(p)[0], y.in_c(p)[0]) < 1e-12\n"
        for make in ("ring(5, 3)", "logistic(11, 13, 7)", "logistic(11, 13, 7, 3)")
    )
    subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, check=True)
