"""What a report draws: curves of runs, and what they can be drawn against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distopt.metrics import Metric
from distopt.runs.results import Run

Floats = NDArray[np.float64]


class Axis(NamedTuple):
    """A quantity along which a run moves on: its name, and its unit in words."""

    name: str
    title: str


AXES = (
    Axis("rounds", "round t"),
    Axis("gradients", "gradients that each agent has evaluated"),
    Axis("bits", "bits that each agent has broadcast"),
    Axis("messages", "messages that each agent has sent"),
    Axis("simulated_seconds", "simulated seconds"),
    Axis("seconds", "seconds of computing"),
)

CURVES = (
    "relative_cost_error",
    "average_dynamic_regret",
    "dynamic_regret",
    "average_static_regret",
    "static_regret",
    "tracking_error",
    "consensus_error",
    "accuracy",
    "cost",
    "tracker_invariant",
    "path_length",
    "gradient_variation",
    "function_variation",
)
"""The series that are offered, in this order, before those of a user's own metrics."""


def offered(runs: Mapping[str, Run]) -> list[str]:
    """The series that at least one of the runs has: the project's, then the user's own."""
    names = [name for name in CURVES if any(name in run and name not in run.trajectories for run in runs.values())]
    own = dict.fromkeys(name for run in runs.values() for name in run.info.get("metrics", {}) if name in run.metrics)
    return [*names, *(name for name in own if name not in names)]


def drawn(run: Run, name: str, metric: Metric | None = None, places: NDArray[np.intp] | None = None) -> Floats:
    """A series of a run as it is drawn, float64 [trials, recorded rounds], or [trials, len(places)] at some places of these, which rise.

    An accuracy or a cost is its mean over the recorded rounds so far, since a single round holds few samples. What is not measured in every
    round keeps its value until it is measured again. ``metric`` describes the series; by default it comes from the run.

    >>> run = Run("gt", "done", np.arange(3), {"accuracy": np.array([[1.0, 0.0, 0.5]])})
    >>> drawn(run, "accuracy").tolist()
    [[1.0, 0.5, 0.5]]
    """
    metric = metric or run.about(name)
    if places is not None and not metric.smoothed and metric.measured_every == 1:
        return np.asarray(run.some(name, places), dtype=np.float64)
    values = np.asarray(run[name], dtype=np.float64)
    if metric.measured_every > 1:
        last = np.maximum.accumulate(np.where(run.measured(name), np.arange(values.shape[1]), -1))
        values = np.where(last >= 0, values[:, last], np.nan)
    values = running_mean(values) if metric.smoothed else values
    return values if places is None else values[:, places]


def running_mean(values: Floats) -> Floats:
    """The mean of the values so far along the last axis; those that are not finite are left out."""
    seen = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(seen, values, 0.0).cumsum(-1) / seen.cumsum(-1)
    return mean


def along(run: Run, axis: str) -> Floats | None:
    """The position of a run on an axis at each recorded round: float64 [trials, k]; None if the run has not recorded it."""
    shape = (max(run.trials, 1), len(run.rounds))
    if axis == "rounds":
        return np.broadcast_to(run.rounds.astype(np.float64) + 1, shape)
    if axis == "seconds":
        return np.broadcast_to(run.seconds, shape) if np.isfinite(run.seconds).all() else None
    return np.asarray(run.metrics[axis], dtype=np.float64) if axis in run.metrics else None
