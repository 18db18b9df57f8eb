"""What ``distopt.simulate`` takes a round with everything that it does: data, comparator, rounds, metrics, regrets of every agent.

Usage: python benchmarks/whole.py [--log] [WORD ...]    WORD selects problems by title; --log writes benchmarks/results/whole.json

The scenarios are user classes with the quadratics of the yardsticks. One has its minimiser in closed form (``known``); for the other
Newton's method finds it in every round (``searched``). A run has a fixed part: recording, compiling and writing. The time of a round
is the difference between a long and a short run, divided by the difference of their lengths, in CPU seconds of all threads. It is
compared with the tightest C loop and the NumPy script, which only do the recursion.
"""

from __future__ import annotations

import time
from typing import Any

from machine import log
from problems import ring
from speed import Quadratics, RingScenario, started
from torch import Tensor
from yardsticks import in_numpy, in_tight_c

import distopt

PROBLEMS = {  # agents, coordinates: rounds of the short run and of the long one
    (16, 2): (50_000, 250_000),
    (16, 100): (10_000, 50_000),
    (1000, 10): (4096, 16_384),
    (100, 7850): (64, 320),
}
REPEATS = 3
TARGETS = {(16, 2): 20, (16, 100): 6, (1000, 10): 5, (100, 7850): 5}
"""How many times the tightest C loop a round may take."""


class Known(RingScenario):
    """The same quadratics with their minimiser."""

    def optimum(self, b: Quadratics) -> Tensor:
        """The mean of what the agents aim at, weighted by their curvatures, [K, 1, 1, d]."""
        return (b.a * b.c).sum(2, keepdim=True) / b.a.sum(2, keepdim=True) + b.p


def seconds(scenario: RingScenario, agents: int, rounds: int) -> float:
    """CPU seconds of a run, the least of a few."""
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        distopt.simulate("ring", agents=agents, scenario=scenario, algorithm="gtadam:lr=0.01", rounds=rounds)
        times.append(time.process_time() - began)
    return min(times)


def figures(agents: int, dim: int) -> dict[str, Any]:
    """CPU seconds a round of a problem, by what does them."""
    problem, (short, long) = ring(agents, dim), PROBLEMS[agents, dim]
    found = {"title": f"ring {agents} x {dim}", "target": TARGETS[agents, dim]}
    found |= {"tight C": in_tight_c(problem)[1], "NumPy": in_numpy(problem)[1]}
    for name, kind in (("known", Known), ("searched", RingScenario)):
        scenario = kind(problem)
        fixed = seconds(scenario, agents, short)
        found[name] = (seconds(scenario, agents, long) - fixed) / (long - short)
    return found


def line(found: dict[str, Any]) -> str:
    """A row of the table."""
    times = "".join(f"{found[name] * 1e6:12.3f}" for name in ("known", "searched", "tight C", "NumPy"))
    ratios = "".join(f"{found[name] / found['tight C']:12.1f}" for name in ("known", "searched"))
    return f"{found['title']:18s}{times}{ratios}{found['target']:9d}{found['known'] / found['NumPy']:12.2f}"


def main() -> None:
    """Print the table."""
    asked, about = started(f"CPU microseconds a round, best of {REPEATS}")
    names = ("known", "searched", "tight C", "NumPy", "known/C", "searched/C")
    print(f"{'':18s}" + "".join(f"{name:>12s}" for name in names) + f"{'target':>9s}{'known/NumPy':>12s}", flush=True)
    problems = []
    for agents, dim in PROBLEMS:
        if not asked.words or any(word in f"ring {agents} x {dim}" for word in asked.words):
            problems.append(figures(agents, dim))
            print(line(problems[-1]), flush=True)
    if asked.log:
        log("whole", {"problems": problems}, about)


if __name__ == "__main__":
    main()
