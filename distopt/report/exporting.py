"""Runs for other programs: one long table as CSV, Parquet or NumPy arrays, and event files for TensorBoard. Formats: docs/exporting.md."""

from __future__ import annotations

import csv
import io
import math
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from distopt.errors import InputError, needs
from distopt.report.study import Group
from distopt.report.titles import told_apart
from distopt.runs.files import written
from distopt.runs.results import Run, folder_name

TABLES = ("csv", "parquet", "npz")
"""The formats of a table."""

POINTS = 1000
"""As many rounds of a run at most become scalars for TensorBoard."""

CSV_LINES = 10_000
"""As many lines of a CSV file are made at a time."""

EVENTS = "events.out.tfevents*"
"""What TensorBoard calls its files."""


def table(groups: Sequence[Group]) -> dict[str, NDArray[Any]]:
    """All recorded rounds of all trials as the columns of one table: a line for each trial and recorded round.

    Columns: ``problem`` and ``algorithm`` (text), ``seed``, ``trial`` and ``round`` (int64), then a column of float64 for each metric
    and average, nan where a run does not have it.

    >>> info = {"experiment": {"scenario": "sea", "topology": "ring", "seed": 7}, "agents": 4}
    >>> run = Run("gt", "done", np.array([0, 1]), {"bits": np.array([[64.0, 128.0]])}, info=info)
    >>> from distopt.report.study import groups
    >>> {name: column[1].item() for name, column in table(groups([run])).items()}
    {'problem': 'sea, 4 agents, ring', 'algorithm': 'gt', 'seed': 7, 'trial': 0, 'round': 1, 'bits': 128.0}
    """
    parts = []
    for group in groups:
        for name, run in group.runs.items():
            k, trials = len(run.rounds), group.trials[name]
            columns: dict[str, NDArray[Any]] = {
                "problem": np.full(k * len(trials), group.title),
                "algorithm": np.full(k * len(trials), name),
                "seed": np.repeat(np.array([trial.seed for trial in trials], dtype=np.int64), k),
                "trial": np.repeat(np.array([trial.number for trial in trials], dtype=np.int64), k),
                "round": np.tile(run.rounds, len(trials)),
            }
            parts.append(columns | {each: run[each].reshape(-1) for each in run if each not in run.trajectories})
    missing = [np.full(len(part["round"]), np.nan) for part in parts]
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: np.concatenate([part.get(name, nothing) for part, nothing in zip(parts, missing, strict=True)])
        for name in names
    }


def write(groups: Sequence[Group], path: Path, kind: str) -> None:
    """Write the table of some runs as ``kind``, one of ``TABLES``.

    In an .npz file each column is an array; texts are fixed-width Unicode, so nothing has to be unpickled.

    Raises:
        InputError: Parquet without pyarrow.
        RunError: the file cannot be written.
    """
    if kind == "parquet":
        needs("pyarrow", "a Parquet file", "export")
    found = table(groups)
    with written(path) as file:
        if kind == "csv":
            _csv(found, file)
        elif kind == "parquet":
            import pyarrow as pa
            from pyarrow import parquet

            columns = {name: pa.array(column, from_pandas=True) for name, column in found.items()}  # nan becomes null
            parquet.write_table(pa.table(columns), file)
        else:
            arrays: dict[str, Any] = {**found}  # NumPy's types take every name for its option allow_pickle
            np.savez(file, **arrays)


def _csv(columns: dict[str, NDArray[Any]], file: IO[bytes]) -> None:
    """Numbers with all their digits; nan is an empty cell."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(columns)
    size = len(columns["round"])
    for start in range(0, size, CSV_LINES):  # lists of Python's numbers take several times the room of arrays
        few = [_cells(column[start : start + CSV_LINES]) for column in columns.values()]
        lines.writerows(zip(*few, strict=True))
    text.detach()


def _cells(column: NDArray[Any]) -> list[Any]:
    """A column as Python's numbers and texts."""
    cells: list[Any] = column.tolist()
    return ["" if math.isnan(number) else number for number in cells] if column.dtype.kind == "f" else cells


def ready(folder: Path) -> None:
    """Make the folder, and refuse now what ``events`` would refuse later.

    Raises:
        InputError: TensorBoard is missing, or the folder cannot be written or holds events already.
    """
    needs("tensorboard", "an event file", "tensorboard")
    if folder.is_dir() and any(folder.rglob(EVENTS)):
        raise InputError(
            f"{folder}: holds event files already, and others beside them would mix; choose another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error}); choose another folder") from error


def events(groups: Sequence[Group], folder: Path) -> None:
    """Write event files for TensorBoard: a folder for each run, in a folder for each problem where there are several.

    A scalar is the mean over the trials of a metric after a recorded round. Of a run with more than ``POINTS`` recorded rounds as many are
    taken, evenly spread, first and last included. The time of a scalar is when the round was computed, counted from now.

    Raises:
        InputError: as ``ready``.
    """
    ready(folder)
    problems = _places(group.title for group in groups)
    for group, problem in zip(groups, problems, strict=True):
        place = folder / problem if len(groups) > 1 else folder
        for run, name in zip(group.runs.values(), _places(group.runs), strict=True):
            _events(run, place / name)


def _places(names: Iterable[str]) -> list[str]:
    """Names as those of folders."""
    return told_apart([folder_name(name)[:100] for name in names])


def _events(run: Run, place: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    kept = np.unique(np.linspace(0, len(run.rounds) - 1, min(POINTS, len(run.rounds))).round().astype(int))
    seconds = np.nan_to_num(run.seconds)
    began = time.time() - seconds[-1]
    try:
        writer = SummaryWriter(str(place))
        try:
            for series in run:
                if series not in run.trajectories:
                    with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges
                        mean = run[series].mean(0)
                    for k in kept if run.about(series).measured_every == 1 else np.flatnonzero(run.measured(series)):
                        writer.add_scalar(series, float(mean[k]), int(run.rounds[k]), began + seconds[k])
        finally:
            writer.close()
    except OSError as error:
        raise InputError(f"{place}: cannot be written ({error.strerror or error}); choose another folder") from error
