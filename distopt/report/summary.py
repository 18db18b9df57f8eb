"""The summary of a run for its closing table, and warnings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distopt.errors import either
from distopt.metrics import Metric, about, catalogue
from distopt.report import tables
from distopt.report.tables import Column, closing_key
from distopt.runs.results import Run

CERTIFIED = 1e-6
"""A larger relative gradient norm at the comparator deserves a warning."""


def weakness(certificate: float) -> str | None:
    """The warning for a comparator whose relative gradient norm is ``certificate``; None if that is small enough."""
    if certificate <= CERTIFIED:
        return None
    return (
        f"the comparator's relative gradient norm is {certificate:.1e}, above {CERTIFIED:g}: "
        "regrets have errors of that order, and larger ones if costs are nearly flat"
    )


LEFT = {"float64": 1e-6, "float32": 1e-2}
"""A larger distance of the trackers' mean from the gradients' mean is no rounding."""


def divergence(run: Run, name: str | None = None) -> str:
    """How a run has diverged, in words; ``name`` is what it is called, by default its label.

    >>> run = Run("gt", "diverged", np.arange(9), {"bits": np.ones((3, 9))}, info={"diverged_at": 4, "diverged_trials": {"2": 4}})
    >>> divergence(run)
    'gt: 1 of 3 trials diverged, the first at round 4'
    """
    lost, at = len(run.info.get("diverged_trials", ())), run.info["diverged_at"]
    when = f"at round {at}" if at else "at round 0: costs or gradients are not finite at the starting points"
    if run.trials > 1 and lost:
        return f"{name or run.label}: {lost} of {run.trials} trials diverged, the first {when}"
    return f"{name or run.label} diverged {when}"


def cure(run: Run) -> str:
    """What may help a run that has diverged: nothing that an algorithm does can, where it began like that."""
    return "lower lr" if run.info["diverged_at"] else f"choose other starting points ({either('--x0', 'x0=')})"


def drift(run: Run) -> str | None:
    """The warning for a run whose trackers have left the gradients; None if their means agree, it diverged, or has no trackers.

    Where messages were lost or late on purpose, or agents slept, the run was warned of that before it began.
    """
    told = run.info["experiment"]
    if run.status == "diverged" or any(told.get(name) for name in ("drop_messages", "sleep", "delay")):
        return None
    violation = run["tracker_invariant"].max(0) if "tracker_invariant" in run.metrics else np.zeros(0)
    bad = np.nonzero(violation > LEFT[run.info["experiment"]["dtype"]])[0]
    if not len(bad):
        return None
    left = f"{run.label}: the trackers have left the mean of the gradients by {violation[bad[0]]:.1e} in round {run.rounds[bad[0]]}"
    if told["channel"] == "exact":
        return f"{left}: its update does not keep this mean; look for the mistake with distopt.checks.check_algorithm"
    return f"{left}: the channel changes means, or a message was lost; use choco, which keeps means, with resync=K to repair losses"


def summary(run: Run) -> dict[str, Any]:
    """The figures of the closing table: the figure that ranks (see ``Run.leading``) with its spread over trials, and each metric's own."""
    ranking = by_trial(run, run.leading) if run.rounds.size else np.full(1, np.nan)
    row: dict[str, Any] = {
        "algorithm": run.label,
        "status": run.status,
        "rounds": int(run.info.get("completed", 0)),
        run.leading: math.inf if _lost(run) else _mean(ranking),
        "spread": _spread(ranking),
        "rounds_per_second": float(run.info.get("rounds_per_second", float("nan"))),
    }
    for name in dict.fromkeys([*catalogue(), *run.metrics]):
        metric = run.about(name)
        there = name in run.metrics and run.rounds.size
        if metric.take and (there or (metric.head and metric.stored and not metric.compares)):
            row.setdefault(closing_key(name, metric), _closing(run, name, metric) if there else float("nan"))
    return row


def _lost(run: Run) -> bool:
    """Whether a trial of several has diverged: the mean over the trials is then infinite."""
    return run.trials > 1 and bool(run.info.get("diverged_trials"))


def _mean(values: NDArray[np.float64]) -> float:
    with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges may end near the largest number
        return float(values.mean())


def _spread(values: NDArray[np.float64]) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def by_trial(run: Run, series: str) -> NDArray[np.float64]:
    """The closing figure of a series [R]: the mean, the largest or the last value, as its metric defines."""
    values, take = run[series], run.about(series).take
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values.mean(1) if take == "mean" else values.max(1) if take == "largest" else values[:, -1])


def _closing(run: Run, name: str, metric: Metric) -> float:
    """What is left of a metric [R, k] in the end."""
    values = run[f"average_{name}" if metric.averaged else name]
    if _lost(run) and np.isnan(values[:, -1]).any():
        return float("nan")
    if metric.take == "mean":
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
    return float(values.max()) if metric.take == "largest" else _mean(values[:, -1])


def columns(runs: Iterable[Run]) -> list[Column]:
    """The columns of the closing table of some runs, their users' metrics last."""
    users = {name: about(name, run.info["metrics"]) for run in runs for name in run.info.get("metrics", {})}
    return tables.closing(users)
