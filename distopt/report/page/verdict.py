"""The first part of a page: a row for each method, marks for methods without a significant difference, and a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distopt.report import series, statistics
from distopt.report.page import setup
from distopt.report.page.columns import Floats
from distopt.report.statistics import ALPHA, LEVEL, Estimate
from distopt.report.study import Group
from distopt.report.tables import amount, figure, number
from distopt.report.titles import heading, short
from distopt.report.verdict import Row as Compared
from distopt.report.verdict import compared
from distopt.runs.results import Run

TARGET = 2.0
"""The target is so many times the best method's closing figure."""


@dataclass(frozen=True)
class Row:
    """A method in the table; ``cells`` are as the table's heads. ``mark`` is "best", "tied" (not distinguishable from the best) or ""."""

    name: str
    mark: str
    cells: tuple[str, ...]
    said: Compared


@dataclass(frozen=True)
class Verdict:
    """A table with its heads (each a text and a unit or remark), and its result in words."""

    heads: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    sentence: str
    notes: tuple[str, ...]


def verdict(group: Group) -> Verdict:
    """The verdict on a group: the result of ``distopt compare``, and what each method needs to reach a target."""
    said = compared([group])
    (having,) = said.groups
    leading = next(iter(said.series.values()))
    best = min(said.rows, key=lambda row: row.median.value)
    metric = having.runs[best.method].about(leading)
    title = heading(leading, metric)
    level = TARGET * best.median.value
    aimed = 0 < level < math.inf
    heads = [("method", ""), (title, f"median [{LEVEL:.0%} bootstrap interval]")]
    if len(said.rows) > 1:
        heads.append(("Difference", f"to the best [{LEVEL:.0%}]"))
    shown = [n for n in ("tracking_error", "consensus_error") if any(n in run for run in having.runs.values())]
    heads += [(next(r for r in having.runs.values() if n in r).about(n).title, "at the end, median") for n in shown]
    heads += [(what, f"to reach {number(level)}") for what in ("Rounds", "Bits") if aimed]
    heads += [("Seconds", "of computing"), ("Step size", "lr"), ("Diverged", "trials")]
    rows = []
    for row in sorted(said.rows, key=lambda row: row.median.value):
        run = having.runs[row.method]
        cells = [text(row.median)]
        if len(said.rows) > 1:
            cells.append("" if row.difference is None else text(row.difference))
        cells += [_plain(_median(statistics.closing(run, n))) if n in run else "" for n in shown]
        if aimed:
            places = reached(run, leading, level)
            cells += [_goal(run, places, axis) for axis in ("rounds", "bits")]
        seconds = run.info.get("seconds")
        cells += [number(float(seconds)) if isinstance(seconds, int | float) else "", setup.step(run)]
        cells.append(f"{row.diverged}/{row.trials}")
        mark = row.finding if row.finding == "best" and len(said.rows) > 1 else "tied" if row.marked else ""
        rows.append(Row(row.method, mark if mark in ("best", "tied") else "", tuple(cells), row))
    return Verdict(tuple(heads), tuple(rows), sentence(rows, title, metric.unit), (*_notes(rows, level), *said.notes))


def _notes(rows: Sequence[Row], level: float) -> list[str]:
    """What the table's figures mean."""
    found = []
    if 0 < level < math.inf:
        found.append(
            f"The target, {number(level)}, is {TARGET:g} times the best method's closing figure. A method has reached it in the first recorded "
            "round from which it stays at or below; — means that at least half of its trials did not."
        )
    unsure = {row.said.verdict for row in rows if row.said.finding == "open"}
    if unsure:
        found.append(f"A difference {' or '.join(sorted(unsure))}.")
    if len(rows) > 1 and any(row.said.p is not None for row in rows):
        tied = any(row.mark == "tied" for row in rows)
        words = "≈ is not distinguishable from the best" if tied else "All others differ from the best"
        words = words if tied or not unsure else "Tested"
        trials = rows[0].said.trials
        found.append(
            f"{words}: Wilcoxon's signed-rank test over the {trials} trials in common, Holm's correction, level {ALPHA}. The difference is "
            "the estimate of Hodges and Lehmann."
        )
    return found


def _median(values: Floats) -> float:
    return float(np.median(values))


def reached(run: Run, name: str, level: float) -> Floats:
    """The place in the recorded rounds from which each trial stays at or below a level [R]; inf if it never does."""
    above = ~(series.drawn(run, name) <= level)
    last = np.where(above.any(1), above.shape[1] - above[:, ::-1].argmax(1), 0)
    return np.where(last < above.shape[1], last, np.inf)


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


def text(estimate: Estimate) -> str:
    """An estimate in a table, with its interval where it has one."""
    value, low, high = map(_plain, estimate)
    return f"{value} [{low}, {high}]" if low and high else value


def _plain(value: float) -> str:
    return number(value).replace("inf", "∞")


def sentence(rows: Sequence[Row], title: str, unit: str) -> str:
    """The result of the table in words."""
    what = title[:1].lower() + title[1:]
    alive = [row for row in rows if math.isfinite(row.said.median.value)]
    if not alive:
        return f"No method has a finite {what} at the end." if len(rows) > 1 else f"{short(rows[0].name)} has diverged."
    best = alive[0]
    first = best.said.median.value
    trials = f" (median of {best.said.trials} trials)" if best.said.trials > 1 else ""
    if len(rows) == 1:
        return f"{short(best.name)} ends with the {what} {figure(first, unit)}{trials}."
    words = [f"{short(best.name)} has the smallest {what} at the end: {figure(first, unit)}{trials}."]
    if ties := [short(row.name) for row in rows if row.mark == "tied"]:
        words.append(f"Not distinguishable from it: {', '.join(ties)}.")
    others = [row for row in alive[1:] if row.mark != "tied"]
    if others and first > 0:
        last = others[-1].said.median.value
        words.append(
            f"{short(others[-1].name)} has the largest: {figure(last, unit)}, {number(last / first, 2)} times as much."
        )
    if lost := [short(row.name) for row in rows if row.said.diverged]:
        words.append(f"Diverged, at least in some trials: {', '.join(lost)}.")
    return " ".join(words)
