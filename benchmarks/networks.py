"""What gradients, bits and simulated seconds buy on three real networks, with step sizes tuned for each of these budgets.

Usage: python benchmarks/networks.py [--log]    --log writes benchmarks/results/networks.json and the table of docs/clock.md; takes a few minutes

A budget is what gradient tracking spends in ``ROUNDS`` rounds. A step size is chosen for each method, network and budget on ``TUNE`` trials. The
figures come from ``REPORT`` other trials: the distance of the agents from the minimiser when the budget is spent.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import header, log, machine, written

import distopt
from distopt.report.statistics import median_interval
from distopt.runs.results import Run

PAGE = Path(__file__).parent.parent / "docs" / "clock.md"
NETWORKS = {"Abilene": "topozoo/Abilene", "Nobel-EU": "sndlib/nobel-eu", "GÉANT 2012": "topozoo/Geant2012"}
CLOCK = "compute=1e-3,latency=length,bandwidth=5e5"
SCENARIO = "quadratic:dim=50,kappa=100"
ROUNDS, TUNE, REPORT, SEED = 100, 5, 20, 0
STEPS = tuple(float(f"{10 ** (k / 3 - 4):.3g}") for k in range(10))
"""Three step sizes in a decade, from 1e-4 to 0.1."""

BUDGETS = {"gradients": "gradients", "bits": "bits", "seconds": "simulated_seconds"}
YARDSTICK = "gt"
METHODS = {
    "DGD": "dgd",
    "gradient tracking": YARDSTICK,
    "GTAdam": "gtadam",
    "K-GT, 5 local steps": "k_gt:local=5",
    "ProxSkip, p = 0.2": "prox_skip:p=0.2",
    "C-GT, signs": "c_gt",
    "Push-DIGing": "push_diging",
}
"""The methods; constants besides the step size are the methods' defaults."""


def simulated(network: str, spec: str, steps: Sequence[float], rounds: int, trials: int, seed: int) -> dict[float, Run]:
    """The runs of a method with these step sizes, in one batch."""
    specs = {lr: with_step(spec, lr) for lr in steps}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(diverged|trackers have left)", UserWarning)  # large steps of the grid do
        runs: dict[str, Run] = distopt.simulate(
            f"topohub:name={network}",
            scenario=SCENARIO,
            algorithm=list(specs.values()),
            clock=CLOCK,
            rounds=rounds,
            trials=trials,
            seed=seed,
            agentwise=False,
        )
    return {lr: runs[each] for lr, each in specs.items()}


def with_step(spec: str, lr: float) -> str:
    """A spec with this step size.

    >>> with_step("gt", 0.1), with_step("k_gt:local=5", 0.1)
    ('gt:lr=0.1', 'k_gt:local=5,lr=0.1')
    """
    return f"{spec}{',' if ':' in spec else ':'}lr={lr:g}"


def left(run: Run, axis: str, budget: float) -> list[float]:
    """How far from the minimiser each trial is when the budget is spent, as a share of the distance at the start; inf where it has diverged.

    >>> series = {"bits": np.array([[10.0, 20.0, 30.0]]), "tracking_error": np.array([[4.0, 2.0, 1.0]])}
    >>> left(Run("gt", "done", np.arange(3), series), "bits", 25.0)
    [0.25]
    """
    found, lost = [], run.info.get("diverged_trials", {})
    for trial in range(run.trials):
        spent, error = run[axis][trial], run["tracking_error"][trial]
        done = int(np.searchsorted(spent, budget * (1 + 1e-9), side="right"))  # rounds that the budget pays for
        if done < len(error):
            found.append(float(error[done] / error[0]) if math.isfinite(error[done]) else math.inf)
        elif lost:
            found.append(math.inf)  # it was over before the budget was spent
        else:
            raise ValueError(f"{run.label}: the run ended before it had spent {budget:g} {axis}")
    return found


def measured(name: str) -> dict[str, Any]:
    """All figures of a network."""
    began, network = time.perf_counter(), NETWORKS[name]
    costs = {
        method: _costs(simulated(network, spec, STEPS[:1], 300, 10, SEED)[STEPS[0]]) for method, spec in METHODS.items()
    }
    unit = next(costs[method] for method, spec in METHODS.items() if spec == YARDSTICK)
    budgets = {each: ROUNDS * unit[each] for each in BUDGETS}
    methods = {}
    for method, spec in METHODS.items():
        longest = max(budgets[each] / costs[method][each] for each in BUDGETS)
        rounds = math.ceil(1.25 * longest) + 20  # more than needed: coins fall as they like
        tried = simulated(network, spec, STEPS, rounds, TUNE, SEED)
        best = {each: _best(tried, axis, budgets[each]) for each, axis in BUDGETS.items()}
        runs = simulated(network, spec, sorted(set(best.values())), rounds, REPORT, SEED + 1000)
        methods[method] = {
            "spec": spec,
            "round": costs[method],
            **{each: _figure(runs[best[each]], best[each], axis, budgets[each]) for each, axis in BUDGETS.items()},
        }
        print(f"  {method}: {rounds:,} rounds, {time.perf_counter() - began:.0f} s so far", flush=True)
    agents = int(tried[STEPS[0]].info["agents"])
    return {"agents": agents, "budgets": budgets, "seconds": time.perf_counter() - began, "methods": methods}


def _costs(run: Run) -> dict[str, float]:
    """What a round costs, the mean over rounds and trials."""
    return {each: float(run[axis][:, -1].mean()) / len(run.rounds) for each, axis in BUDGETS.items()}


def _best(tried: Mapping[float, Run], axis: str, budget: float) -> float:
    """The step size of the smallest median."""
    return min(tried, key=lambda lr: (statistics.median(left(tried[lr], axis, budget)), lr))


def _figure(run: Run, lr: float, axis: str, budget: float) -> dict[str, Any]:
    middle = median_interval(left(run, axis, budget))
    edge = lr in (STEPS[0], STEPS[-1])
    return {"lr": lr, "edge": edge, "median": middle.value, "low": middle.low, "high": middle.high}


def table(networks: Mapping[str, Any]) -> str:
    """The table of the page.

    >>> each = {"lr": 0.1, "edge": False, "median": 0.5, "low": 0.4, "high": 0.6}
    >>> row = {"round": {"gradients": 1, "bits": 6400.0, "seconds": 0.01}, "gradients": each, "bits": each, "seconds": each}
    >>> table({"Abilene": {"agents": 11, "methods": {"DGD": row}}}).splitlines()[-1].split(" | ")[2:4]
    ['6.4 kbit, 10 ms', '**5.0e-1** (4.0e-1 to 6.0e-1), 0.1']
    """
    lines = [
        "| network (agents) | method | a round | equal gradients | equal bits | equal seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in networks.items():
        best = {each: min(row[each]["median"] for row in found["methods"].values()) for each in BUDGETS}
        for method, row in found["methods"].items():
            cost = f"{row['round']['bits'] / 1000:.2g} kbit, {1000 * row['round']['seconds']:.2g} ms"
            cells = " | ".join(_cell(row[each], best[each]) for each in BUDGETS)
            lines.append(f"| {name} ({found['agents']}) | {method} | {cost} | {cells} |")
    return "\n".join(lines)


def _cell(figure: Mapping[str, Any], best: float) -> str:
    middle, low, high = (_short(figure[each]) for each in ("median", "low", "high"))
    middle = f"**{middle}**" if figure["median"] == best else middle
    return f"{middle} ({low} to {high}), {figure['lr']:g}{'†' if figure['edge'] else ''}"


def _short(value: float) -> str:
    """Two digits, without the zero of an exponent."""
    return f"{value:.1e}".replace("e-0", "e-").replace("e+00", "")


def main(words: Sequence[str]) -> None:
    """Measure, print the table, and log it."""
    about = machine()
    print(header(about))
    found = {}
    for name in NETWORKS:
        print(f"{name} ...", flush=True)
        found[name] = measured(name)
    print(table(found))
    if "--log" in words:
        what = {"clock": CLOCK, "scenario": SCENARIO, "rounds": ROUNDS, "tune": TUNE, "report": REPORT}
        log("networks", {**what, "networks": found}, about)
        PAGE.write_text(written(PAGE.read_text(), "networks.py", table(found)))


if __name__ == "__main__":
    main(sys.argv[1:])
