"""What the charts of a page show: the series of a group's runs in few numbers, for the page's script (``chart.js``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distopt.errors import printable
from distopt.metrics import Metric
from distopt.report import series
from distopt.report.curves import COLOURS, FRACTION
from distopt.report.page import columns
from distopt.report.page.columns import ENOUGH, Floats, Places, Pool
from distopt.report.study import Group
from distopt.report.theory import bound_for
from distopt.report.titles import averaged, heading
from distopt.runs.results import Run

COLUMNS, TRIAL_COLUMNS = (60, 400), (12, 100)
"""The fewest and the most columns of a line with its band, and of the line of a single trial."""

LINES, TRIALS = 30_000, 200_000
"""How many columns all lines of a page share, and all lines of single trials: they keep a page below 3 MB."""

DASHES: tuple[list[int], ...] = ([], [8, 3], [2, 2], [8, 3, 2, 3])
_ROUNDING = 1e-12  # a baseline below this part of the runs' first values is zero, computed in floating point


def styles(count: int) -> list[dict[str, Any]]:
    """A colour for light and for dark pages and dashes for each of some runs; no two of the first 32 are alike.

    >>> styles(1)
    [{'colour': '#0072B2', 'dark': '#4c9cc9', 'dash': []}]
    """
    return [
        {"colour": COLOURS[k % 8], "dark": lighter(COLOURS[k % 8]), "dash": DASHES[k // 4 % len(DASHES)]}
        for k in range(count)
    ]


def lighter(colour: str, part: float = 0.3) -> str:
    """A colour moved towards light blue, so that it stands out from a dark ground."""
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return "#" + "".join(
        f"{round(c + part * (to - c)):02x}" for c, to in zip((red, green, blue), (255, 255, 255), strict=True)
    )


def sizes(groups: Sequence[Group]) -> tuple[int, int]:
    """Columns of a line and of a trial's line, so that all groups fit into a page."""
    lines = sum(len(group.runs) * len(series.offered(group.runs)) for group in groups)
    trials = sum(sum(run.trials for run in g.runs.values()) * len(series.offered(g.runs)) for g in groups)
    line, trial = (
        int(np.clip(room // max(count, 1), *range_))
        for room, count, range_ in ((LINES, lines, COLUMNS), (TRIALS, trials, TRIAL_COLUMNS))
    )
    return line, trial


def charts(group: Group, pool: Pool, size: tuple[int, int], dead: Mapping[str, Floats]) -> dict[str, Any]:
    """What the script needs of a group. ``dead`` holds for each run the place from which a trial has diverged [R], inf where it has not."""
    names = series.offered(group.runs)
    longest = max(group.runs.values(), key=lambda run: len(run.rounds))
    runs = []
    for (name, run), style in zip(group.runs.items(), styles(len(group.runs)), strict=True):
        runs.append(
            {"name": printable(name), **style, "status": run.status, "trials": run.trials, **_grid(run, pool, size)}
        )
    found = [_series(name, group, longest, pool, size, dead) for name in names]
    axes = [a for a in series.AXES if any(a.name in run["axes"] for run in runs)]
    return {
        "title": printable(group.title),
        "runs": runs,
        "series": found,
        "axes": [{"name": axis.name, "title": axis.title} for axis in axes],
        "enough": ENOUGH,
        "tail": columns.TAIL,
        "longest": list(group.runs.values()).index(longest),
    }


def _grid(run: Run, pool: Pool, size: tuple[int, int]) -> dict[str, Any]:
    """The positions of a run's cursor (the rounds that begin a column, and the last), their places on the axes, and the trials' columns."""
    at = run.rounds.astype(np.float64) + 1
    stops, trial = _stops(at, size), columns.edges(at, size[1])
    axes = {}
    for axis in series.AXES:
        where = series.along(run, axis.name)
        if where is not None and axis.name != "rounds":
            axes[axis.name] = pool.add(np.median(where[:, stops], axis=0))
    both = np.stack([trial[:-1], trial[1:] - 1], -1).reshape(-1)
    return {
        "stops": pool.add_rising(at[stops]),
        "pairs": pool.add_rising(at[both]),
        "axes": {"rounds": None, **axes},
    }


def _stops(at: Floats, size: tuple[int, int]) -> Places:
    """The places at which every curve of a run is kept: where a column begins, and where one of single trials ends."""
    return np.union1d(columns.edges(at, size[0])[:-1], columns.edges(at, size[1])[1:] - 1)


def _series(
    name: str, group: Group, longest: Run, pool: Pool, size: tuple[int, int], dead: Mapping[str, Floats]
) -> dict[str, Any]:
    having = {key: run for key, run in group.runs.items() if name in run}
    metric = next(iter(having.values())).about(name)
    curves: list[dict[str, Any] | None] = []
    starts = []
    for key, run in group.runs.items():
        if key not in having:
            curves.append(None)
            continue
        values = filled(series.drawn(run, name, metric), dead[key])
        curve = _curve(run, values, pool, size, metric)
        if metric.cumulative and not averaged(name, metric):
            curve["parts"] = _parts(run, values, pool, size)
        curves.append({**curve, **_certified(run, name, pool, size)})
        first = np.abs(np.median(values[:, :1]))
        starts.append(float(first) if np.isfinite(first) else 0.0)
    return {
        "name": name,
        "title": printable(heading(name, metric)),
        "unit": "" if metric.unit in ("", "cost") else metric.unit,
        "fraction": metric.unit == FRACTION,
        "signed": metric.signed,
        "counted": metric.cumulative,
        "of": name.removeprefix("average_") if averaged(name, metric) else None,
        "curves": curves,
        "baselines": [
            *_baselines(name, metric, longest, max(starts, default=0.0), pool, size),
            *_bounds(name, group, pool, size),
        ],
    }


def filled(values: Floats, dead: Floats) -> Floats:
    """Values [R, k] that are infinite from the round on in which a trial diverged: ``dead`` holds these places [R]."""
    gone = np.arange(values.shape[1]) >= dead[:, None]
    return np.where(gone & ~np.isfinite(values), np.inf, values) if gone.any() else values


def _curve(run: Run, values: Floats, pool: Pool, size: tuple[int, int], metric: Metric) -> dict[str, Any]:
    at = run.rounds.astype(np.float64) + 1
    wide, narrow = columns.edges(at, size[0]), columns.edges(at, size[1])
    low, middle, high = columns.spread(values)
    stops = _stops(at, size)
    line = np.union1d(columns.kept(middle, wide), stops)
    found: dict[str, Any] = {"line": [pool.add_rising(at[line]), pool.add(middle[line])]}
    if run.trials > 1:
        ends = np.union1d(columns.kept(low, wide, ("smallest",)), columns.kept(high, wide, ("largest",)))
        ends = np.union1d(ends, stops)
        found["band"] = [pool.add_rising(at[ends]), pool.add(low[ends]), pool.add(high[ends])]
        found["single"] = pool.add(columns.coarse(columns.extremes(values, narrow)))
    return found


def _parts(run: Run, values: Floats, pool: Pool, size: tuple[int, int]) -> list[int]:
    """What a sum gains in each column of the trials [R, columns]: sums from a later round on are made of it, without cancellation."""
    ends = columns.edges(run.rounds.astype(np.float64) + 1, size[1])[1:] - 1
    with np.errstate(invalid="ignore"):
        return pool.add(np.diff(values[:, ends], axis=1, prepend=0.0))


def _certified(run: Run, name: str, pool: Pool, size: tuple[int, int]) -> dict[str, Any]:
    """The interval in which a regret is proved to lie, the median over the trials, and the largest width at the end as a part of the value."""
    if f"{name}_low" not in run or f"{name}_high" not in run:
        return {}
    at = run.rounds.astype(np.float64) + 1
    stops = _stops(at, size)
    low, high = (np.asarray(run[f"{name}_{end}"], dtype=np.float64) for end in ("low", "high"))
    with np.errstate(all="ignore"):
        width = float(np.max((high - low)[:, -1] / np.abs(np.asarray(run[name])[:, -1])))
    ends = [pool.add(np.median(each[:, stops], axis=0)) for each in (low, high)]
    return {"certified": [pool.add_rising(at[stops]), *ends], "width": width if np.isfinite(width) else None}


def _baselines(
    name: str, metric: Metric, longest: Run, start: float, pool: Pool, size: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    mean = averaged(name, metric)
    for each in metric.baselines:
        base = f"average_{each}" if mean else each
        if base not in longest:
            continue
        about = longest.about(each)
        values = series.drawn(longest, base, about)
        middle = columns.spread(values)[1]
        if metric.unit != FRACTION and (np.abs(middle) < _ROUNDING * start).all():
            continue
        at = longest.rounds.astype(np.float64) + 1
        line = np.union1d(columns.kept(middle, columns.edges(at, size[0])), _stops(at, size))
        found: dict[str, Any] = {
            "label": printable(about.label or about.title),
            "line": [pool.add_rising(at[line]), pool.add(middle[line])],
        }
        if metric.cumulative:
            found["parts"] = _parts(longest, series.drawn(longest, each, about), pool, size)
        yield found


def _bounds(name: str, group: Group, pool: Pool, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """The theoretical bound on the dynamic regret of a run, or on its average."""
    mean = name == "average_dynamic_regret"
    if not mean and name != "dynamic_regret":
        return
    for k, (label, run) in enumerate(group.runs.items()):
        bound, said = bound_for(run)
        if bound is None:
            continue
        at, over = run.rounds.astype(np.float64) + 1, ", mean over the trials" if run.trials > 1 else ""
        values = bound / at if mean else bound
        line = np.union1d(columns.kept(values, columns.edges(at, size[0])), _stops(at, size))
        found = {
            "label": printable(f"{label}: {said}{over}"),
            "line": [pool.add_rising(at[line]), pool.add(values[line])],
        }
        yield {**found, "run": k}


def diverged(run: Run) -> NDArray[np.float64]:
    """The place in the recorded rounds from which each trial has diverged [R]; inf for those that have not.

    >>> run = Run("gt", "done", np.arange(4), {"consensus_error": np.array([[1.0, 2, np.inf, np.nan], [1, 1, 1, 1]])})
    >>> diverged(run).tolist()
    [2.0, inf]
    """
    found = np.full(run.trials, np.inf)
    for name in run.metrics:
        if run.about(name).diverges:
            wrong = ~np.isfinite(run.metrics[name])
            found = np.minimum(found, np.where(wrong.any(1), wrong.argmax(1), np.inf))
    return found
