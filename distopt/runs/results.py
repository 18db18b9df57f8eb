"""Finished, interrupted and diverged runs: in memory, and on disk as a TOML experiment, a JSON manifest and npz chunks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distopt.errors import needs
from distopt.metrics import Metric, about
from distopt.runs.clock import at
from distopt.runs.manifest import Status

Array = NDArray[Any]


class Part(NamedTuple):
    """Some consecutive rounds of a run: the recorded ones [k], metrics [R, k] and trajectories [R, T, ...] by name."""

    rounds: NDArray[np.int64]
    metrics: Mapping[str, Array]
    trajectories: Mapping[str, Array]


@dataclass(repr=False)
class Run(Mapping[str, Array]):
    """One algorithm on one scenario: metrics and trajectories by name.

    ``run["dynamic_regret"]`` is float64 [trials, recorded rounds]; ``run["x"]``, where recorded, is [trials, rounds + 1, N, d]
    (x_0 first) and a recorded state leaf [trials, rounds, N, d] (its value after round t at index t).

    Attributes:
        label: the algorithm's spec.
        status: "done", "interrupted" or "diverged".
        rounds: the recorded rounds, int64 [k]; round t is the t-th cost seen, from 0.
        metrics, trajectories: arrays by name.
        info: experiment, fingerprint, versions, seconds, and what else the manifest holds.
    """

    label: str
    status: Status
    rounds: NDArray[np.int64]
    metrics: Mapping[str, Array]
    trajectories: Mapping[str, Array] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def __getitem__(self, name: str) -> Array:
        """A metric, its average over time (``average_dynamic_regret``: divided by t + 1), or a trajectory."""
        for store in (self.metrics, self.trajectories):
            if name in store:
                return store[name]
        base = name.removeprefix("average_")
        if base != name and base in self.metrics and self.about(base).averaged:
            return self.metrics[base] / (self.rounds + 1)
        note = self.info.get("left_out", {}).get(base)
        have = ", ".join(self)
        raise KeyError(f"{name} is not in this run{f': {note}' if note else ''}; it has: {have}")

    def some(self, name: str, places: NDArray[np.intp]) -> Array:
        """``run[name][:, places]`` of a metric or an average, for rising places; of a run in a folder, no more is held in memory."""
        base = name if name in self.metrics else name.removeprefix("average_")
        if base not in self.metrics:
            return np.asarray(self[name][:, places])
        some = getattr(self.metrics, "some", None)  # of arrays in files
        values: Array = self.metrics[base][:, places] if some is None else some(base, places)
        return values if base == name else values / (self.rounds[places] + 1)

    def __iter__(self) -> Iterator[str]:
        averages = [f"average_{name}" for name in self.metrics if self.about(name).averaged]
        return iter([*self.metrics, *averages, *self.trajectories])

    def __contains__(self, name: object) -> bool:  # without reading the array
        return any(name == each for each in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        k = len(self.rounds)
        return f"<Run {self.label}: {self.status}, {self.trials} trials, {k} recorded rounds; {', '.join([*self.metrics, *self.trajectories])}>"

    @property
    def trials(self) -> int:
        """R."""
        if hasattr(self.metrics, "trials"):  # of arrays in files, none of which need be read
            return int(self.metrics.trials)
        return int(next(iter(self.metrics.values())).shape[0]) if self.metrics else 0

    @property
    def seconds(self) -> NDArray[np.float64]:
        """When each recorded round was done, in seconds since the rounds began [k]. Resumed runs go on counting.

        It is read off at most 64 points in time and, of runs of earlier versions, off their mean speed; nan where nothing is known.
        """
        if self.info.get("clock"):
            return at(self.info["clock"], self.rounds)
        speed = float(self.info.get("rounds_per_second", 0.0))
        return (self.rounds + 1) / speed if speed > 0 else np.full(len(self.rounds), np.nan)

    @property
    def leading(self) -> str:
        """The metric by which runs are ranked: the average dynamic regret, the cost if the minimisers are unknown, or the radius in a game."""
        return "radius" if "radius" in self.metrics else "cost" if "cost" in self.metrics else "average_dynamic_regret"

    def about(self, series: str) -> Metric:
        """How a metric of the run, or the metric of an average, is shown."""
        name = series if series in self.metrics else series.removeprefix("average_")
        return about(name, self.info.get("metrics"))

    def measured(self, name: str) -> NDArray[np.bool_]:
        """In which of the recorded rounds a series was measured [k]: in all, if it is not a probe's (see ``distopt.probes``)."""
        every = self.about(name).measured_every if name not in self.trajectories else 1
        if every == 1:
            return np.ones(len(self.rounds), bool)
        last = self.info.get("rounds", 0) - 1
        found: NDArray[np.bool_] = ((self.rounds + 1) % every == 0) | (self.rounds == last)
        return found

    def readings(self, name: str) -> tuple[NDArray[np.int64], Array]:
        """The recorded rounds in which a metric or a probe's series was measured [k], and its values there [R, k].

        >>> info = {"rounds": 5, "metrics": {"sharpness": {"measured_every": 2}}}
        >>> run = Run("gt", "done", np.arange(5), {"sharpness": np.array([[np.nan, 7.0, np.nan, 8.0, 9.0]])}, info=info)
        >>> rounds, values = run.readings("sharpness")
        >>> rounds.tolist(), values.tolist()
        ([1, 3, 4], [[7.0, 8.0, 9.0]])
        """
        there = self.measured(name)
        return self.rounds[there], self[name][:, there]

    def to_pandas(self) -> Any:
        """A long table: one line per trial and recorded round, one column per metric (a pandas DataFrame).

        Raises:
            InputError: pandas is not installed.
        """
        needs("pandas", "to_pandas()", "export")
        import pandas as pd

        trials, k = self.trials, len(self.rounds)
        columns: dict[str, Array] = {"trial": np.repeat(np.arange(trials), k), "round": np.tile(self.rounds, trials)}
        columns.update({name: self[name].reshape(-1) for name in self if name not in self.trajectories})
        return pd.DataFrame(columns)

    def to_xarray(self) -> Any:
        """The run with named axes (an xarray Dataset), as ``to_netcdf`` and ``to_zarr`` take it.

        Metrics and averages have the axes trial and round. Trajectories have trial, point (x_0 .. x_T) or step (after round 0 .. T - 1),
        agent and coordinate; an axis of another length is called after its trajectory. A variable's attributes are its ``long_name`` and
        ``units``; those of the dataset are the settings of the experiment.

        Raises:
            InputError: xarray is not installed.
        """
        needs("xarray", "to_xarray()", "export")
        import xarray as xr

        variables: dict[str, Any] = {}
        for name in self:
            if name not in self.trajectories:
                metric = self.about(name)
                long_name = metric.title if name in self.metrics else f"{metric.title}, average over the rounds"
                told = {"long_name": long_name, "units": metric.unit or "1"}
                variables[name] = (("trial", "round"), self[name], told)
        lengths = {"trial": self.trials}
        for name, values in self.trajectories.items():
            axes = [
                "trial",
                "point" if name == "x" else "step",
                "agent",
                *(f"{name}_{k}" for k in range(3, values.ndim)),
            ]
            axes[-1] = "coordinate" if values.ndim > 3 else axes[-1]
            for k, length in enumerate(values.shape):
                axes[k] = axes[k] if lengths.setdefault(axes[k], length) == length else f"{name}_{k}"
            variables[name] = (tuple(axes), values)
        experiment = {**self.info.get("experiment", {}), "label": self.label, "status": self.status}
        experiment |= {key: self.info[key] for key in ("agents", "fingerprint", "diverged_trials") if key in self.info}
        attributes = {
            key: value if isinstance(value, str | float) or type(value) is int else json.dumps(value)
            for key, value in experiment.items()
        }
        return xr.Dataset(variables, {"trial": np.arange(self.trials), "round": self.rounds}, attributes)

    def plot(self, path: str | Path | None = None, metric: str | None = None) -> Any:
        """Draw a metric, by default the one that ranks, against rounds (log axes, band over trials); returns the figure.

        It is written to ``path`` where given.
        """
        from distopt.report.curves import figure

        fig = figure({self.label: self}, metric or self.leading)
        if path is not None:
            fig.savefig(path)
        return fig

    def report(self, path: str | Path) -> Path:
        """Write the run's report: one HTML page that needs no network (docs/reports.md); returns its path.

        Args:
            path: the file; or a folder, in which it is called ``report.html``.

        Raises:
            InputError: no round is recorded, or the place cannot be written.
        """
        from distopt.report.page import write

        return write(self, path)

    def save(self, folder: str | Path, toml: str | None = None) -> Path:
        """Write the run so that ``distopt.load`` reads it back, with the text of its experiment where given; returns the folder.

        Raises:
            InputError: the folder cannot be written, or holds another run.
        """
        from distopt.runs.writing import Writer  # here, since it imports this module

        writer = Writer(Path(folder), self.label, self.info, toml)
        writer.add(
            Part(self.rounds, self.metrics, {n: (v[:, :-1] if n == "x" else v) for n, v in self.trajectories.items()})
        )
        tail = self.trajectories["x"][:, -1] if "x" in self.trajectories else None
        writer.finish(self.status, self.info, tail)
        return Path(folder)


def collect(
    parts: Sequence[Part], x_last: Array | None
) -> tuple[NDArray[np.int64], dict[str, Array], dict[str, Array]]:
    """Join the chunks of a run: rounds, metrics [R, k], trajectories [R, T, ...] (x with its last point, T + 1)."""
    if not parts:
        return np.empty(0, dtype=np.int64), {}, {}
    rounds = np.concatenate([p.rounds for p in parts])
    metrics = {name: np.concatenate([p.metrics[name] for p in parts], axis=1) for name in parts[0].metrics}
    trajectories = {
        name: np.concatenate([p.trajectories[name] for p in parts], axis=1) for name in parts[0].trajectories
    }
    if "x" in trajectories and x_last is not None:
        trajectories["x"] = np.concatenate([trajectories["x"], x_last[:, None]], axis=1)
    return rounds, metrics, trajectories


def folder_name(label: str) -> str:
    """A label as a folder name."""
    return re.sub(r"[^A-Za-z0-9_.=,-]+", "-", label).strip("-.") or "run"
