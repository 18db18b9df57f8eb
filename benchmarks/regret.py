"""Average dynamic regret of gtadam, gt and dgd, each with its best step size of one grid, on the same stream.

Usage: python benchmarks/regret.py [SCENARIO [TOPOLOGY [AGENTS [ROUNDS [TRIALS]]]]]

The step size is chosen by the regret averaged over trials of seed 0 and the figures are printed for the trials of seed 1, so
that no algorithm is judged on the data it was tuned on.
"""

from __future__ import annotations

import sys

import numpy as np

import distopt

GRID = [float(f"{m}e{e}") for e in range(-4, 1) for m in (1, 2, 5)]
DEFAULTS = ("moving_target", "ring", "16", "1000", "10")


def final(scenario: str, topology: str, agents: int, rounds: int, trials: int, algorithm: str, seed: int) -> np.ndarray:
    """R_T / T of each trial; inf where the run diverged."""
    run = distopt.simulate(
        topology, agents=agents, scenario=scenario, algorithm=algorithm, rounds=rounds, trials=trials, seed=seed, every=rounds, agentwise=False
    )
    if run.status == "diverged":
        return np.full(trials, np.inf)
    return np.asarray(run["average_dynamic_regret"][:, -1])


def tuned(name: str, scenario: str, topology: str, agents: int, rounds: int, trials: int) -> tuple[float, np.ndarray]:
    """The best step size of the grid on seed 0, and what it gives on seed 1."""
    scores = {lr: final(scenario, topology, agents, rounds, trials, f"{name}:lr={lr}", 0).mean() for lr in GRID}
    best = min(scores, key=lambda lr: scores[lr])
    return best, final(scenario, topology, agents, rounds, trials, f"{name}:lr={best}", 1)


def main() -> None:
    """Print the table."""
    given = sys.argv[1:]
    scenario, topology, agents, rounds, trials = (*given, *DEFAULTS[len(given) :])
    print(f"{scenario} on {topology}, {agents} agents, {rounds} rounds, {trials} trials; step size from {GRID[0]:g} to {GRID[-1]:g}")
    for name in ("gtadam", "gt", "dgd", "dadam"):
        lr, regret = tuned(name, scenario, topology, int(agents), int(rounds), int(trials))
        print(f"{name:8s} best lr {lr:<8g} R_T/T {regret.mean():.6g} +/- {regret.std(ddof=1) if len(regret) > 1 else 0:.2g}")


if __name__ == "__main__":
    main()
