"""The files of a tuning: a note of its settings and points, two tables and a figure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distopt._version import __version__
from distopt.errors import InputError
from distopt.report import tables
from distopt.runs import reading
from distopt.runs.files import write_text, written
from distopt.runs.tuned import Point, Tuned, finals

if TYPE_CHECKING:
    from distopt.runs.tuning import Tuning

SCHEMA = 1
NOTE, POINTS, VERDICT, FIGURE = "tuning.json", "tuning.csv", "tuned.csv", "sensitivity.png"


def content(tuning: Tuning, tuned: Tuned | None = None) -> str:
    """What is noted: the question, the points so far, and in the end what has been found. A figure of null has diverged."""
    settings = tuning.first.experiment.describe()
    noted: dict[str, Any] = {
        "schema": SCHEMA,
        "version": __version__,
        "fingerprint": tuning.fingerprint,
        "status": "done" if tuned else "begun",
        "question": {
            "settings": {k: value for k, value in settings.items() if k not in ("algorithm", "trials", "seed")},
            "rounds": tuning.first.rounds,
            "tune": {"seed": tuning.seed, "trials": tuning.trials},
            "report": {"seed": tuning.report_seed, "trials": tuning.report_trials},
            "grids": {each.given: each.grid.values for each in tuning.families},
        },
        "points": [
            {
                "algorithm": given,
                "spec": point.spec,
                "lr": point.lr,
                "rest": point.rest,
                "rounds": point.rounds,
                "figures": _plain(point.figures),
                "median": _plain([point.median])[0],
                "diverged": point.diverged,
            }
            for (given, _), point in tuning.points.items()
        ],
    }
    if tuned is not None:
        noted["figure"] = tuned.figure
        noted["found"] = [
            {
                "algorithm": each.algorithm,
                "tuned": each.tuned,
                "lr": each.winner and each.winner.lr,
                "defaults": each.defaults,
                "same": each.same,
                "continued": {"lower": each.lower, "upper": each.upper},
                "edge": each.edge,
                "stable": each.stable,
                "diverging": each.diverging,
            }
            for each in tuned.algorithms.values()
        ]
        noted["reported"] = [
            {"algorithm": name, "status": run.status, "rounds": run.info["rounds"], "figures": _plain(finals(run))}
            for name, run in tuned.runs.items()
        ]
    return json.dumps(noted, indent=1, allow_nan=False) + "\n"


def _plain(figures: Sequence[float]) -> list[float | None]:
    """Figures as JSON holds them."""
    return [each if math.isfinite(each) else None for each in figures]


def noted(path: Path, fingerprint: str, elsewhere: str) -> dict[tuple[str, str], Point]:
    """The points that a note holds, by algorithm and spec.

    Raises:
        InputError: it is damaged, of another version of the program, or of another question; ``elsewhere`` is the
            advice in the message.
    """
    found = reading.parsed(path, reading.text(path))
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or not isinstance(found.get("points"), list):
        raise InputError(f"{path}: damaged, or not the note of a tuning of this version; {elsewhere}")
    if found.get("fingerprint") != fingerprint:
        raise InputError(f"{path.parent} holds another tuning; {elsewhere}, or remove it")
    try:
        return dict(_points(found["points"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{path}: damaged (its points cannot be read); {elsewhere}") from None


def _points(told: list[Any]) -> Iterator[tuple[tuple[str, str], Point]]:
    for each in told:
        figures = tuple(math.inf if value is None else float(value) for value in each["figures"])
        point = Point(str(each["spec"]), float(each["lr"]), str(each["rest"]), int(each["rounds"]), figures)
        if not figures or any(map(math.isnan, (*figures, point.lr))):
            raise ValueError
        yield (str(each["algorithm"]), point.spec), point


def write(tuning: Tuning, tuned: Tuned) -> list[str]:
    """Write the tables, the figure and, last of all, the note that all is done; what to say of a figure that could not be drawn.

    Raises:
        RunError: a file cannot be written.
    """
    assert tuning.path is not None
    write_text(tuning.path / POINTS, tables.to_csv(rows(tuned)))
    write_text(tuning.path / VERDICT, tables.to_csv(tuned.rows()))
    failures = []
    try:
        drawn = tuned.plot()
        with written(tuning.path / FIGURE) as file:
            drawn.savefig(file, format="png")
    except Exception as error:  # a picture does not cost the results
        failures.append(f"{FIGURE} could not be drawn: {' '.join(f'{type(error).__name__}: {error}'.split())}")
    write_text(tuning.path / NOTE, content(tuning, tuned))
    return failures


def rows(tuned: Tuned) -> list[dict[str, Any]]:
    """A row for each point: what it is, its median, how many trials diverged, and the figure of each trial."""
    return [
        {
            "algorithm": each.algorithm,
            "spec": point.spec,
            "lr": point.lr,
            "rounds": point.rounds,
            "winner": "yes" if point is each.winner else "no",
            "median": point.median,
            "diverged": point.diverged,
            **{f"trial_{k}": value for k, value in enumerate(point.figures)},
        }
        for each in tuned.algorithms.values()
        for point in each.points
    ]
