"""Average dynamic regret of gtadam, gt and dgd, each with its best step size of one grid, on the same stream.

Usage: python benchmarks/regret.py [--log | SCENARIO [TOPOLOGY [AGENTS [ROUNDS [TRIALS]]]]]

--log writes the tables of five streams to benchmarks/results/regret.txt.

The step size is chosen by the mean regret over the trials of seed 0. The figures come from the trials of seed 1, so that no
algorithm is judged on the data of its tuning.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from machine import RESULTS, header, machine

from distopt.experiment import Experiment
from distopt.runs.execution import Comparison, execute_together
from distopt.runs.results import Run
from distopt.simulation.problem import build

GRID = [float(f"{m}e{e}") for e in range(-4, 1) for m in (1, 2, 5)]
DEFAULTS = ("moving_target", "ring", "16", "1000", "10")
STREAMS = (
    "moving_target",
    "moving_target:kappa=30",
    "moving_target:spread=1",
    "moving_target:spread=5",
    "moving_target:motion=walk,speed=0.05",
)


@dataclass(frozen=True)
class Stream:
    """One scenario on one network with one seed; data and comparator are made once for the whole grid."""

    base: Experiment
    comparison: Comparison

    @classmethod
    def of(cls, base: Experiment) -> Stream:
        return cls(base, Comparison.of(build(base)))

    def runs(self, algorithm: str, channel: str = "exact") -> list[Run]:
        """An algorithm, or all points of a grid of its step sizes, in one batch."""
        points = replace(self.base, algorithm=algorithm, channel=channel).points()
        problems = [build(point, self.comparison.problem) for point in points]
        return execute_together(problems, self.comparison, folders=[None] * len(problems), agentwise=False)


def final(run: Run) -> np.ndarray:
    """R_T / T of each trial; inf where the run diverged."""
    regret = np.asarray(run["average_dynamic_regret"])
    return np.full(len(regret), np.inf) if run.status == "diverged" else regret[:, -1]


def table(scenario: str, topology: str, agents: str, rounds: str, trials: str) -> Iterator[str]:
    """The lines of one stream's table."""
    yield f"{scenario} on {topology}, {agents} agents, {rounds} rounds, {trials} trials; step size from {GRID[0]:g} to {GRID[-1]:g}"
    base = Experiment(topology, int(agents), scenario, "gt", rounds=int(rounds), trials=int(trials), every=int(rounds))
    tuning, judging = (Stream.of(replace(base, seed=seed)) for seed in (0, 1))
    for name in ("gtadam", "gt", "dgd", "dadam"):
        scores = {lr: final(run).mean() for lr, run in zip(GRID, tuning.runs(f"{name}:lr={GRID}"), strict=True)}
        lr = min(scores, key=lambda each: scores[each])
        regret = final(judging.runs(f"{name}:lr={lr}")[0])
        spread = regret.std(ddof=1) if len(regret) > 1 else 0
        yield f"{name:8s} best lr {lr:<8g} R_T/T {regret.mean():.6g} +/- {spread:.2g}"


def shown(asked: tuple[str, ...]) -> list[str]:
    """The lines of a table, each printed as soon as it is there."""
    lines = []
    for line in table(*asked):
        print(line, flush=True)
        lines.append(line)
    return lines


def main() -> None:
    """Print the tables."""
    given = tuple(sys.argv[1:])
    if given != ("--log",):
        shown((*given, *DEFAULTS[len(given) :]))
        return
    log = [header(machine())]
    for scenario in STREAMS:
        log += ["", f"$ python benchmarks/regret.py {scenario}", *shown((scenario, *DEFAULTS[1:]))]
    (RESULTS / "regret.txt").write_text("\n".join(log) + "\n")


if __name__ == "__main__":
    main()
