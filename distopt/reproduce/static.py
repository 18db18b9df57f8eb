"""GTAdam on constant costs: whether its error falls by a constant factor in every round [carnevale2023]."""

from __future__ import annotations

import math
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distopt.api import simulate
from distopt.report.claims import Outcome, Verdict
from distopt.report.tables import number
from distopt.report.theory import linear_rate
from distopt.reproduce import Results, Say
from distopt.reproduce.store import Store

AGENTS, ROUNDS, TRIALS, EVERY, SEED = 50, 20_000, 5, 20, 2000
TOPOLOGY = "erdos_renyi:p=0.2"
SCENARIO = "drifting_logistic:rows=10,spread=2,speed=0"
PAPER_EPS, LARGER_EPS = 1e-8, 1e-4
METHODS = {
    f"gtadam, eps = {PAPER_EPS:g}": "gtadam:lr=[0.0003,0.001,0.01]",
    f"gtadam, eps = {LARGER_EPS:g}": f"gtadam:lr=[0.001,0.003,0.01],eps={LARGER_EPS}",
    "gt": "gt:lr=[0.01,0.03]",
}
Floats = NDArray[np.float64]
SMALL = 1e-9
"""Of the error of the first round: an error below it counts as 0."""


def measure(store: Store, data: Path | None, say: Say) -> Results:
    """For each method and step size: the rate, the smallest error and the largest one of the last fifth in each trial, and the curve."""
    settings = {"agents": AGENTS, "rounds": ROUNDS, "trials": TRIALS, "every": EVERY, "seed": SEED}
    places = {"topology": TOPOLOGY, "scenario": SCENARIO}
    began, out = time.perf_counter(), []
    for k, (name, spec) in enumerate(METHODS.items()):
        out += store.get(f"gtadam-static-{k}", {**settings, **places, "spec": spec}, partial(_one, name, spec))
        seconds = time.perf_counter() - began
        left = seconds / (k + 1) * (len(METHODS) - k - 1)
        say(f"static: {name}: {k + 1} of {len(METHODS)} methods; {seconds:.0f} s, about {left:.0f} s left")
    return out


def _one(name: str, spec: str) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        for said in ("the comparator's relative gradient norm", ".*the trackers have left the mean"):
            warnings.filterwarnings("ignore", said, UserWarning)  # both are at rounding beside errors of 1e-15
        runs = simulate(
            TOPOLOGY,
            agents=AGENTS,
            scenario=SCENARIO,
            algorithm=spec,
            rounds=ROUNDS,
            trials=TRIALS,
            every=EVERY,
            seed=SEED,
            agentwise=False,
        )
    return [{"method": name, "spec": label, **_fitted(run)} for label, run in runs.items()]


def _fitted(run: Any) -> dict[str, Any]:
    errors = run["tracking_error"]  # [R, k]
    low, middle, high = np.quantile(errors, (0.0, 0.5, 1.0), axis=0)
    return {
        "trials": [_trial(each / each[0], run.rounds) for each in errors],
        "rounds": (run.rounds + 1).tolist(),
        "low": low.tolist(),
        "median": middle.tolist(),
        "high": high.tolist(),
    }


def _trial(error: Floats, rounds: Any) -> dict[str, Any]:
    """Figures of the error of a trial, relative to that of the first round.

    Its ``rate`` is the factor by which it falls in a round, on average over the second half of its way down to ``SMALL``; None if it
    does not get there, or if it falls less than half as fast (in logarithms) as in the first half. ``straight`` is whether that is a
    straight line (see ``distopt.report.theory.linear_rate``).
    """
    down = np.flatnonzero(error <= SMALL)
    found: dict[str, Any] = {
        "rate": None,
        "straight": linear_rate(error, rounds) is not None,
        "least": float(error.min()),
        "end": float(error[-max(len(error) // 5, 1) :].max()),
    }
    if down.size and down[0] > 1:
        stop, half = int(down[0]), int(down[0]) // 2
        first, second = (math.log(error[b] / error[a]) / (rounds[b] - rounds[a]) for a, b in ((0, half), (half, stop)))
        found["rate"] = math.exp(second) if second < 0.5 * first else None
    return found


def said() -> str:
    """The set-up in words."""
    return (
        f"logistic regression whose points stand still: {SCENARIO}, {AGENTS} agents, {TOPOLOGY}, {ROUNDS:,} rounds, {TRIALS} trials (few, "
        "since the runs are long); error: root mean square distance of the agents from the minimiser"
    )


def count(each: dict[str, Any]) -> tuple[int, int, int]:
    """The number of trials whose error falls at least linearly below ``SMALL``, also stays there, and falls in a straight line."""
    falls = [trial for trial in each["trials"] if trial["rate"] is not None]
    stays = [trial for trial in falls if trial["end"] <= SMALL]
    return len(falls), len(stays), sum(trial["straight"] for trial in falls)


def rate(each: dict[str, Any]) -> float:
    """The median rate over the trials that have one; nan without any."""
    found = [trial["rate"] for trial in each["trials"] if trial["rate"] is not None]
    return float(np.median(found)) if found else math.nan


def middle(each: dict[str, Any], key: str) -> float:
    """The median over the trials."""
    return float(np.median([trial[key] for trial in each["trials"]]))


def rows(results: Results) -> list[dict[str, Any]]:
    """A row for each method and step size."""
    return [
        {
            "method": each["method"],
            "algorithm": each["spec"],
            "rate": rate(each),
            "falls in": f"{falls} of {len(each['trials'])}",
            "and stays in": f"{stays} of {len(each['trials'])}",
            "straight in": f"{straight} of {len(each['trials'])}",
            "least / first error": middle(each, "least"),
            "largest in the last fifth": middle(each, "end"),
        }
        for each in results
        for falls, stays, straight in (count(each),)
    ]


def verdicts(results: Results) -> list[Verdict]:
    """The claim holds where at some step size every trial falls at a linear rate and stays, with the paper's eps; in part with a larger eps."""
    named = list(METHODS)
    ours, larger, _ = ([each for each in results if each["method"] == name] for name in named)
    trials = len(results[0]["trials"])
    good, other = (max(group, key=lambda each: (count(each)[1], -middle(each, "least"))) for group in (ours, larger))
    outcome: Outcome
    if count(good)[1] == trials:
        outcome, why = "holds", _said(good)
    elif count(other)[1] == trials:
        outcome = "holds in part"
        why = (
            f"with eps = {LARGER_EPS:g} it does: {_said(other)}. With eps = {PAPER_EPS:g} it does not last: v falls towards 0, so steps grow and the "
            f"error bursts: {'; '.join(map(_burst, ours))}"
        )
    elif any(count(each)[0] for each in (*ours, *larger)):
        outcome, why = "holds in part", "; ".join(map(_burst, (*ours, *larger)))
    else:
        outcome, why = "does not hold", f"no step size reaches {SMALL:g} of the first error at a linear rate"
    return [Verdict("GTAdam converges linearly on a static strongly convex problem", said(), outcome, why)]


def _said(each: dict[str, Any]) -> str:
    _, stays, _ = count(each)
    return (
        f"at lr = {_lr(each)} the error falls by the factor {rate(each):.4f} a round (median) below {SMALL:g} of the first one, and stays there, in "
        f"{stays} of {len(each['trials'])} trials"
    )


def _burst(each: dict[str, Any]) -> str:
    falls, stays, _ = count(each)
    below = f"at lr = {_lr(each)} it falls below {SMALL:g} in {falls} of {len(each['trials'])} trials and stays there in {stays}"
    return f"{below}; its largest value in the last fifth is {number(middle(each, 'end'))} (median)"


def _lr(each: dict[str, Any]) -> str:
    return str(each["spec"]).partition("lr=")[2].split(",")[0]
