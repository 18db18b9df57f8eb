"""distopt's compiled rounds beside the yardsticks of ``yardsticks.py``: the same problem, the same answer, microseconds a round.

Usage: python benchmarks/speed.py [--log] [WORD ...]    WORD selects problems by title; --log writes benchmarks/results/speed.txt

``bare`` is the recursion alone, which is what the yardsticks do; ``measured`` also takes the cost at the network average, the
tracking and the consensus error and the tracking invariant of every round, inside the same compiled loop.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from yardsticks import ONE_THREAD, PROBLEMS, REPEATS, SHORTEST, TOLERANCE, YARDSTICKS, Logistic, Problem, Ring, difference

from distopt import runner
from distopt.comparator import Reference
from distopt.engines.compiled import Loop, prepare_process
from distopt.experiment import Experiment, build
from distopt.protocols import Scenario

RESULTS = Path(__file__).parent / "results"


class Quadratics(NamedTuple):
    """Curvatures, offsets and the target."""

    a: Tensor
    c: Tensor
    p: Tensor


class RingScenario:
    """The yardstick's quadratics as a scenario."""

    def __init__(self, problem: Ring) -> None:
        self.dim = problem.a.shape[1]
        self.a, self.c, self.p = (torch.from_numpy(z) for z in (problem.a, problem.c, problem.p))

    def batch(self, t: Tensor, key: Any) -> Quadratics:
        return Quadratics(self.a[None, None], self.c[None, None], self.p[t.reshape(-1) % len(self.p)][:, None, None])

    def loss(self, x: Tensor, b: Quadratics) -> Tensor:
        return (b.a * (x - b.c - b.p).square()).sum(-1) / 2

    def grad(self, x: Tensor, b: Quadratics) -> Tensor:
        return b.a * (x - b.c - b.p)


class LogisticScenario:
    """The yardstick's logistic regression as a scenario."""

    def __init__(self, problem: Logistic) -> None:
        self.dim, self.l2 = problem.A.shape[-1], problem.l2
        self.A, self.y = torch.from_numpy(problem.A), torch.from_numpy(problem.y)

    def batch(self, t: Tensor, key: Any) -> tuple[Tensor, Tensor]:
        rounds = t.reshape(-1) % len(self.A) if len(self.A) > 1 else torch.zeros(1, dtype=torch.int64)
        return self.A[rounds][:, None], self.y[rounds][:, None]

    def loss(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        z = b[1] * (b[0] * x.unsqueeze(-2)).sum(-1)
        return (torch.log1p(torch.exp(-z.abs())) - z.clamp(max=0)).mean(-1) + self.l2 / 2 * x.square().sum(-1)

    def grad(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        z = b[1] * (b[0] * x.unsqueeze(-2)).sum(-1)
        slope = -b[1] / (1 + torch.exp(z)) / z.shape[-1]
        return (slope.unsqueeze(-1) * b[0]).sum(-2) + self.l2 * x


def ours(problem: Problem, observe: bool, unroll: int, length: int) -> tuple[np.ndarray, float]:
    """(x after ``problem.rounds`` rounds, best seconds a round) of the compiled loop; compilation is not counted."""
    scenario: Scenario[Any] = RingScenario(problem) if isinstance(problem, Ring) else LogisticScenario(problem)
    agents = len(problem.a) if isinstance(problem, Ring) else problem.A.shape[1]
    topology: Any = "ring" if isinstance(problem, Ring) else problem.dense()
    built = build(Experiment(topology, agents, scenario, "gtadam:lr=0.01", rounds=length))
    data = scenario.batch(torch.arange(length).reshape(-1, 1, 1, 1), built.key)
    none = torch.zeros(length, 1, dtype=torch.float64)
    reference = Reference(torch.zeros(length, 1, scenario.dim, dtype=torch.float64), *[none] * 6, None)
    block = runner.Block(0, problem.rounds, length, data, data, built.mixing.tables(torch.zeros(1, 1, 1, 1).long()), reference, none, None)
    start = runner.begin(built)
    held = (start.x, start.state, {})
    loop = Loop(built, (), held, block, observe=observe, unroll=unroll)
    loop.threads = 1
    x = loop(held, block, 0).x[0].numpy()
    full = runner.Block(*(length if name == "count" else getattr(block, name) for name in block.__dataclass_fields__))
    best = np.inf
    for _ in range(REPEATS):
        began, calls = time.perf_counter(), 0
        while time.perf_counter() - began < SHORTEST or not calls:
            loop(held, full, 0)
            calls += 1
        best = min(best, (time.perf_counter() - began) / calls / length)
    return x, best


def main() -> None:
    """Print the table; exit 1 where an answer differs from C's."""
    if missing := {k: v for k, v in ONE_THREAD.items() if k not in os.environ}:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | missing)
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", action="store_true")
    parser.add_argument("words", nargs="*")
    asked = parser.parse_args()
    prepare_process()
    torch.set_default_dtype(torch.float64)
    lines = [
        f"# {platform.machine()}, {os.cpu_count()} cores, one thread; "
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}",
        f"# load at the start {os.getloadavg()[0]:.1f}; microseconds a round, best of {REPEATS}",
        f"{'':26s}" + "".join(f"{name:>12s}" for name in ("bare", "measured", *YARDSTICKS)) + f"{'bare/C':>9s}{'NumPy/bare':>12s}",
    ]
    print("\n".join(lines), flush=True)
    for title, make in PROBLEMS.items():
        if asked.words and not any(word in title for word in asked.words):
            continue
        problem = make()
        numbers = problem.a.size if isinstance(problem, Ring) else problem.A.shape[1] * problem.A.shape[3]
        small, length = numbers <= 2048, 4096 if numbers <= 2048 else 512 if numbers <= 20000 else 56
        found = {name: run(problem) for name, run in YARDSTICKS.items()}
        bare = ours(problem, observe=False, unroll=16 if small else 1, length=length)
        measured = ours(problem, observe=True, unroll=1, length=length)
        for name, (x, _) in (("bare", bare), ("measured", measured)):
            gap = difference(x, found["C"][0])  # type: ignore[index]  # C always answers
            if gap > TOLERANCE:
                sys.exit(f"{title}: {name} differs from C by {gap:.1e}, more than {TOLERANCE:g}")
        seconds = [bare[1], measured[1], *(answer[1] if answer else float("nan") for answer in found.values())]
        c, numpy_ = found["C"][1], found["NumPy"][1]  # type: ignore[index]
        line = f"{title:26s}" + "".join(f"{each * 1e6:12.3f}" for each in seconds) + f"{bare[1] / c:9.2f}{numpy_ / bare[1]:12.1f}"
        lines.append(line)
        print(line, flush=True)
    if asked.log:
        (RESULTS / "speed.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
