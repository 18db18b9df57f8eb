"""distopt's compiled rounds beside the yardsticks of ``yardsticks.py``: the same problem, the same answer, microseconds a round.

Usage: python benchmarks/speed.py [--log] [WORD ...]    WORD selects problems by title; --log writes benchmarks/results/speed.json

``bare`` is the recursion alone, like the yardsticks. ``measured`` also computes the cost at the network average, the tracking error,
the consensus error and the tracking invariant of every round, inside the same compiled function. ``C`` is the loop of plain.c,
``tight C`` that of loops.c. Large rings are also compared with the least bytes that a round must move, 96 per coordinate
and agent: x, s, m, v, the last gradient, curvatures and offsets are read, and x, s, m, v and the gradient are written.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from c_loops import stream
from machine import header, log, machine
from problems import ONE_THREAD, PROBLEMS, REPEATS, SHORTEST, TOLERANCE, Logistic, Problem, Ring, difference
from torch import Tensor
from yardsticks import YARDSTICKS

from distopt.codegen.leaves import Leaves
from distopt.costs.comparator import Reference
from distopt.engines.local.compiled import Rounds, leaves_of
from distopt.experiment import Experiment
from distopt.protocols import Scenario
from distopt.scenarios._logistic import logistic_grad, logistic_loss
from distopt.simulation import runner
from distopt.simulation.problem import build

COLUMNS = ("bare", "measured", *YARDSTICKS)
BYTES = 96  # of a coordinate of an agent and round
LARGE = 10**5  # coordinates in all above which caches do not hold the state


class Quadratics(NamedTuple):
    """Curvatures, offsets and the target."""

    a: Tensor
    c: Tensor
    p: Tensor


class RingScenario:
    """The yardstick's quadratics as a scenario."""

    def __init__(self, problem: Ring, trials: int = 1) -> None:
        self.dim = problem.a.shape[1]
        self.a, self.c, self.p = (torch.from_numpy(z) for z in (problem.a, problem.c, problem.p))
        if trials > 1:  # each trial has data of its own in memory, though equal, so that one answer is right for all
            self.a, self.c = (z.expand(trials, *z.shape).contiguous() for z in (self.a, self.c))

    def batch(self, t: Tensor, key: Any) -> Quadratics:
        a, c = (z.reshape(1, -1, *z.shape[-2:]) for z in (self.a, self.c))
        return Quadratics(a, c, self.p[t.reshape(-1) % len(self.p)][:, None, None])

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
        return logistic_loss(x, *b, torch.full_like(b[1], 1 / b[1].shape[-1]), self.l2)

    def grad(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        return logistic_grad(x, *b, torch.full_like(b[1], 1 / b[1].shape[-1]), self.l2)


def ours(
    problem: Problem,
    observe: bool,
    length: int,
    algorithm: str = "gtadam:lr=0.01",
    trials: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[np.ndarray, float]:
    """(x after ``problem.rounds`` rounds, best seconds a round of all trials) of the compiled rounds; compilation is not counted."""
    scenario: Scenario[Any] = RingScenario(problem, trials) if isinstance(problem, Ring) else LogisticScenario(problem)
    agents = len(problem.a) if isinstance(problem, Ring) else problem.A.shape[1]
    topology: Any = "ring" if isinstance(problem, Ring) else problem.dense()
    built = build(Experiment(topology, agents, scenario, algorithm, rounds=length, trials=trials))
    data = scenario.batch(torch.arange(length).reshape(-1, 1, 1, 1), built.key)
    none = torch.zeros(length, 1, dtype=torch.float64)
    reference = Reference(torch.zeros(length, 1, scenario.dim, dtype=torch.float64), *(none,) * 6, None)
    block = runner.Block(built, 0, problem.rounds, length, data, reference, none, None)
    held, leaves = Leaves(runner.begin(built).held), leaves_of(replace(block, count=length))
    rounds = Rounds(built, (), held, leaves, observe=observe)
    rows = [torch.empty(length, *shape, dtype=dtype) for shape, dtype in rounds.function.rows]
    bound = rounds.function.bound(held.tensors, leaves.tensors, rows)
    bound(0, problem.rounds)
    xs = held.tree(bound.carry).x.clone().numpy()  # what is held is written over by the next call
    x = xs[0]
    if not np.allclose(xs, x, rtol=1e-12, atol=1e-12):
        sys.exit("trials with equal data came to different points")
    best = np.inf
    for _ in range(REPEATS):
        began, calls = clock(), 0
        while clock() - began < SHORTEST or not calls:
            bound(0, length)
            calls += 1
        best = min(best, (clock() - began) / calls / length)
    return x, best


def bytes_of_round(problem: Problem, bare: float) -> dict[str, float]:
    """What a round must move at least, in bytes, and how long a plain pass over as many takes; nothing where caches hold the state."""
    if not isinstance(problem, Ring) or problem.a.size < LARGE:
        return {}
    seconds = stream(problem)
    return {"minimum_bytes": BYTES * problem.a.size, "stream": seconds, "bare_to_stream": bare / seconds}


def figures(title: str, problem: Problem) -> dict[str, Any]:
    """Seconds a round of distopt and of every yardstick, by name; exits where an answer differs from C's."""
    numbers = problem.a.size if isinstance(problem, Ring) else problem.A.shape[1] * problem.A.shape[3]
    length = 4096 if numbers <= 2048 else 512 if numbers <= 20000 else 56
    if isinstance(problem, Logistic) and len(problem.A) > 1:
        length = len(
            problem.A
        )  # the yardsticks go round so many rounds' data; more would lie farther from the processor
    answers = {
        "bare": ours(problem, observe=False, length=length),
        "measured": ours(problem, observe=True, length=length),
        **{name: answer for name, run in YARDSTICKS.items() if (answer := run(problem)) is not None},
    }
    gaps = {name: difference(x, answers["C"][0]) for name, (x, _) in answers.items()}
    if (worst := max(gaps, key=lambda name: gaps[name])) and not gaps[worst] <= TOLERANCE:
        sys.exit(f"{title}: {worst} differs from C by {gaps[worst]:.1e}, more than {TOLERANCE:g}")
    seconds = {name: answer[1] for name, answer in answers.items()}
    return {"title": title, "seconds": seconds, "difference": gaps[worst], **bytes_of_round(problem, seconds["bare"])}


def line(found: dict[str, Any]) -> str:
    """A row of the table."""
    seconds = found["seconds"]
    times = "".join(f"{seconds[name] * 1e6:12.3f}" if name in seconds else f"{'-':>12s}" for name in COLUMNS)
    bare = seconds["bare"]
    row = f"{found['title']:26s}{times}{bare / seconds['C']:9.2f}{bare / seconds['tight C']:14.2f}{seconds['NumPy'] / bare:12.1f}"
    if "stream" in found:
        row += f"\n{'':26s}at least {found['minimum_bytes'] / 1e6:.1f} MB a round, streamed in {found['stream'] * 1e6:.0f} us: "
        row += f"bare takes {found['bare_to_stream']:.2f} times that"
    return row


def one_thread() -> None:
    """Prepare this process for timed rounds."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)


def started(title: str) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The options of the command line and the machine, both printed, in a process that is prepared for timed rounds."""
    if missing := {k: v for k, v in ONE_THREAD.items() if k not in os.environ}:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | missing)
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", action="store_true")
    parser.add_argument("words", nargs="*")
    asked = parser.parse_args()
    about = machine()
    one_thread()
    print(header(about), f"# {title}; one thread", sep="\n")
    return asked, about


def main() -> None:
    """Print the table; exit 1 where an answer differs from C's."""
    asked, about = started(f"microseconds a round, best of {REPEATS}")
    print(
        f"{'':26s}"
        + "".join(f"{name:>12s}" for name in COLUMNS)
        + f"{'bare/C':>9s}{'bare/tight C':>14s}{'NumPy/bare':>12s}",
        flush=True,
    )
    problems = []
    for title, make in PROBLEMS.items():
        if not asked.words or any(word in title for word in asked.words):
            problems.append(figures(title, make()))
            print(line(problems[-1]), flush=True)
    if asked.log:
        log("speed", {"problems": problems}, about)


if __name__ == "__main__":
    main()
