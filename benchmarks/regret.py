"""Average dynamic regret of gtadam, gt and dgd, each with its best step size of one grid, on the same stream.

Usage: python benchmarks/regret.py [SCENARIO [TOPOLOGY [AGENTS [ROUNDS [TRIALS]]]]]

The step size is chosen by the regret averaged over trials of seed 0 and the figures are printed for the trials of seed 1, so
that no algorithm is judged on the data it was tuned on.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np

from distopt.api import Comparison, execute
from distopt.experiment import Experiment, build

GRID = [float(f"{m}e{e}") for e in range(-4, 1) for m in (1, 2, 5)]
DEFAULTS = ("moving_target", "ring", "16", "1000", "10")


@dataclass(frozen=True)
class Stream:
    """One scenario on one network with one seed; data and comparator are made once for the whole grid."""

    base: Experiment
    comparison: Comparison

    @classmethod
    def of(cls, scenario: str, topology: str, agents: int, rounds: int, trials: int, seed: int) -> Stream:
        base = Experiment(topology, agents, scenario, "gt", rounds=rounds, trials=trials, seed=seed, every=rounds)
        return cls(base, Comparison.of(build(base)))

    def final(self, algorithm: str) -> np.ndarray:
        """R_T / T of each trial; inf where the run diverged."""
        run = execute(replace(self.base, algorithm=algorithm), comparison=self.comparison, agentwise=False)
        return np.full(self.base.trials, np.inf) if run.status == "diverged" else np.asarray(run["average_dynamic_regret"][:, -1])


def main() -> None:
    """Print the table."""
    given = sys.argv[1:]
    scenario, topology, agents, rounds, trials = (*given, *DEFAULTS[len(given) :])
    print(f"{scenario} on {topology}, {agents} agents, {rounds} rounds, {trials} trials; step size from {GRID[0]:g} to {GRID[-1]:g}")
    tuning, judging = (Stream.of(scenario, topology, int(agents), int(rounds), int(trials), seed) for seed in (0, 1))
    for name in ("gtadam", "gt", "dgd", "dadam"):
        scores = {lr: tuning.final(f"{name}:lr={lr}").mean() for lr in GRID}
        lr = min(scores, key=lambda each: scores[each])
        regret = judging.final(f"{name}:lr={lr}")
        print(f"{name:8s} best lr {lr:<8g} R_T/T {regret.mean():.6g} +/- {regret.std(ddof=1) if len(regret) > 1 else 0:.2g}", flush=True)


if __name__ == "__main__":
    main()
