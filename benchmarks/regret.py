"""Average dynamic regret of gtadam, gt and dgd, each with its best step size of one grid, on the same stream.

Usage: python benchmarks/regret.py [SCENARIO [TOPOLOGY [AGENTS [ROUNDS [TRIALS]]]]]

The step size is chosen by the mean regret over the trials of seed 0. The figures come from the trials of seed 1, so that no
algorithm is judged on the data of its tuning.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np

from distopt.experiment import Experiment
from distopt.runs.execution import Comparison, execute_together
from distopt.runs.results import Run
from distopt.simulation.problem import build

GRID = [float(f"{m}e{e}") for e in range(-4, 1) for m in (1, 2, 5)]
DEFAULTS = ("moving_target", "ring", "16", "1000", "10")


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


def main() -> None:
    """Print the table."""
    given = sys.argv[1:]
    scenario, topology, agents, rounds, trials = (*given, *DEFAULTS[len(given) :])
    print(
        f"{scenario} on {topology}, {agents} agents, {rounds} rounds, {trials} trials; step size from {GRID[0]:g} to {GRID[-1]:g}"
    )
    base = Experiment(topology, int(agents), scenario, "gt", rounds=int(rounds), trials=int(trials), every=int(rounds))
    tuning, judging = (Stream.of(replace(base, seed=seed)) for seed in (0, 1))
    for name in ("gtadam", "gt", "dgd", "dadam"):
        scores = {lr: final(run).mean() for lr, run in zip(GRID, tuning.runs(f"{name}:lr={GRID}"), strict=True)}
        lr = min(scores, key=lambda each: scores[each])
        regret = final(judging.runs(f"{name}:lr={lr}")[0])
        print(
            f"{name:8s} best lr {lr:<8g} R_T/T {regret.mean():.6g} +/- {regret.std(ddof=1) if len(regret) > 1 else 0:.2g}",
            flush=True,
        )


if __name__ == "__main__":
    main()
