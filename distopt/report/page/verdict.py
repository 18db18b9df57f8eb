"""What a page says first: a row for each method, which of them cannot be told apart, and a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from distopt.report import series
from distopt.report.page import setup
from distopt.report.page.columns import Floats
from distopt.report.study import Group
from distopt.report.tables import amount, figure, number
from distopt.report.titles import heading
from distopt.runs.results import Run

LEVEL, ALPHA, LEAST = 0.9, 0.05, 6
"""The level of the intervals, the level of the tests, and the pairs below which no test can be significant."""

TARGET = 2.0
"""The target is so many times the best method's closing figure."""


class Estimate(NamedTuple):
    """A median over trials with its interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """A method in the table; ``cells`` are as the table's heads. ``mark`` is "best", "tied" (not distinguishable from the best) or ""."""

    name: str
    mark: str
    closing: Estimate
    cells: tuple[str, ...]
    diverged: int
    trials: int


@dataclass(frozen=True)
class Verdict:
    """A table with its heads (each a text and a unit or remark), and what it says in words."""

    heads: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    sentence: str
    notes: tuple[str, ...]


def verdict(group: Group, dead: Mapping[str, Floats]) -> Verdict:
    """The verdict on a group. ``dead`` holds the places from which trials have diverged (see ``data.diverged``)."""
    leading = next(iter(group.runs.values())).leading
    having = {name: run for name, run in group.runs.items() if leading in run}
    closing = {name: closed(run, leading, dead[name]) for name, run in having.items()}
    medians = {name: interval(values) for name, values in closing.items()}
    metric = next(iter(having.values())).about(leading)
    title = heading(leading, metric)
    best = min(medians, key=lambda name: medians[name].median)
    ties = tied(group, closing, best) if len(having) > 1 else {}
    level = TARGET * medians[best].median
    aimed = 0 < level < math.inf
    heads = [("method", ""), (title, f"median [{LEVEL:.0%} bootstrap interval]")]
    shown = [name for name in ("tracking_error", "consensus_error") if any(name in run for run in having.values())]
    heads += [(next(r for r in having.values() if n in r).about(n).title, "at the end, median") for n in shown]
    heads += [("Rounds", f"to reach {number(level)}"), ("Bits", f"to reach {number(level)}")] if aimed else []
    heads += [("Seconds", "of computing"), ("Step size", "lr"), ("Diverged", "trials")]
    rows = []
    for name in sorted(having, key=lambda name: medians[name].median):
        run, lost = having[name], int(np.isfinite(dead[name]).sum())
        if run.status == "diverged":
            lost = max(lost, 1)
        cells = [text(medians[name], with_interval=run.trials > 1)]
        cells += [text(interval(closed(run, n, dead[name]))) if n in run else "" for n in shown]
        if aimed:
            there = reached(run, leading, level)
            cells += [_goal(run, there, axis) for axis in ("rounds", "bits")]
        seconds = run.info.get("seconds")
        cells += [
            number(float(seconds)) if isinstance(seconds, int | float) else "",
            setup.step(run),
            f"{lost}/{run.trials}",
        ]
        mark = "best" if name == best and len(having) > 1 else "tied" if ties.get(name) else ""
        rows.append(Row(name, mark, medians[name], tuple(cells), lost, run.trials))
    notes = []
    if aimed:
        notes.append(
            f"The target, {number(level)}, is {TARGET:g} times the best method's closing figure. A method has reached it in the first recorded "
            "round from which it stays at or below; — means that at least half of its trials did not."
        )
    few = len(group.common(list(having)))
    if len(having) > 1 and few < LEAST:
        notes.append(
            f"Differences cannot be significant: the methods have {few} {'trial' if few == 1 else 'trials'} in common, and a paired test "
            f"needs at least {LEAST}."
        )
    elif len(having) > 1:
        test = f"Wilcoxon's signed-rank test over the {few} trials in common, Holm's correction, level {ALPHA}"
        said = "≈ is not distinguishable from the best" if any(ties.values()) else "All others differ from the best"
        notes.append(f"{said}: {test}.")
    return Verdict(tuple(heads), tuple(rows), sentence(rows, title, metric.unit), tuple(notes))


def closed(run: Run, name: str, dead: Floats) -> Floats:
    """The closing figure of each trial [R]: the last value, or the mean over the rounds of a metric that says so; inf if it has diverged."""
    values = np.asarray(run[name], dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        found = values.mean(1) if run.about(name).take == "mean" else values[:, -1]
    lost = np.isfinite(dead)
    if run.status == "diverged" and not lost.any():  # its last round is not recorded
        lost = np.ones_like(lost)
    return np.where(lost, np.inf, found)


def interval(values: Floats, level: float = LEVEL) -> Estimate:
    """The median and its percentile bootstrap interval; of one value, the value.

    >>> interval(np.array([1.0, 2.0, 3.0])).median
    2.0
    """
    if len(values) < 2:
        return Estimate(*(float(values[0]) if len(values) else math.nan,) * 3)
    picks = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    with np.errstate(invalid="ignore"):
        medians = np.sort(np.median(values[picks], axis=1))
    ends = (int((1 - level) / 2 * 1999), int(np.ceil((1 + level) / 2 * 1999)))
    return Estimate(float(np.median(values)), float(medians[ends[0]]), float(medians[ends[1]]))


def tied(group: Group, closing: Mapping[str, Floats], best: str) -> dict[str, bool]:
    """Which methods a paired test cannot tell from the best: Wilcoxon's signed-rank test, with Holm's correction."""
    from scipy.stats import wilcoxon

    common = group.common(list(closing))
    others = [name for name in closing if name != best]
    if len(common) < LEAST:
        return {}
    p = []
    for name in others:
        pair = [closing[each][group.rows(each, common)] for each in (name, best)]
        with np.errstate(invalid="ignore"):
            gap = np.nan_to_num(pair[0] - pair[1], nan=0.0, posinf=1e300, neginf=-1e300)
        p.append(float(wilcoxon(gap).pvalue) if gap.any() else 1.0)
    found, largest = {}, 0.0
    for k, place in enumerate(np.argsort(p)):
        largest = max(largest, p[place] * (len(p) - k))
        found[others[place]] = largest >= ALPHA
    return found


def reached(run: Run, name: str, level: float) -> Floats:
    """The place in the recorded rounds from which each trial stays at or below a level [R]; inf where it does not get there."""
    values = series.drawn(run, name)
    above = ~(values <= level)
    last = np.where(above.any(1), values.shape[1] - above[:, ::-1].argmax(1), 0)
    return np.where(last < values.shape[1], last, np.inf)


def _goal(run: Run, places: Floats, axis: str) -> str:
    where = series.along(run, axis)
    if where is None:
        return ""
    there = np.isfinite(places)
    each = np.where(there, where[np.arange(len(places)), np.where(there, places, 0).astype(int)], np.inf)
    middle = float(np.sort(each)[len(each) // 2])
    if not math.isfinite(middle):
        return "—"
    return f"{middle:,.0f}" if axis == "rounds" else amount(middle)


def text(estimate: Estimate, with_interval: bool = False) -> str:
    """An estimate in a table."""
    if math.isnan(estimate.median):
        return ""
    median, low, high = (number(value) if math.isfinite(value) else "∞" for value in estimate)
    return f"{median} [{low}, {high}]" if with_interval else median


def sentence(rows: Sequence[Row], title: str, unit: str) -> str:
    """What the table says, in words."""
    what = title[:1].lower() + title[1:]
    alive = [row for row in rows if math.isfinite(row.closing.median)]
    if not alive:
        return f"No method has a finite {what} at the end." if len(rows) > 1 else f"{rows[0].name} has diverged."
    best = alive[0]
    trials = f" (median of {best.trials} trials)" if best.trials > 1 else ""
    value = figure(best.closing.median, unit)
    if len(rows) == 1:
        return f"{best.name} ends with the {what} {value}{trials}."
    ties = [row.name for row in rows if row.mark == "tied"]
    words = [f"{best.name} has the smallest {what} at the end: {value}{trials}."]
    if ties:
        words.append(f"Not distinguishable from it: {', '.join(ties)}.")
    others = [row for row in alive[1:] if row.mark != "tied"]
    if others and best.closing.median > 0:
        last = others[-1]
        times = last.closing.median / best.closing.median
        words.append(
            f"{last.name} has the largest: {figure(last.closing.median, unit)}, {number(times, 2)} times as much."
        )
    lost = [row.name for row in rows if row.diverged]
    if lost:
        words.append(f"Diverged, at least in some trials: {', '.join(lost)}.")
    return " ".join(words)
