"""The result of comparing methods: their figures at the end, differences pair by pair, and a verdict in words.

How to read it: docs/comparing.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distopt.catalog.spec import shown
from distopt.errors import InputError, either, needs, printable
from distopt.report import statistics, tables
from distopt.report.statistics import ALPHA, Estimate, Floats
from distopt.report.study import Group
from distopt.report.titles import heading, short

Finding = Literal["best", "baseline", "same", "better", "worse", "open", "apart"]
"""The best or the baseline itself, no significant difference from it, better, worse, too few trials, or no common trials."""

WIDTH = 44
"""The most characters of a method's name in the tables."""


@dataclass(frozen=True)
class Row:
    """One method on one problem.

    Attributes:
        problem, method: their names.
        trials, diverged: how many trials count, and how many of these have diverged.
        median: of the trials' figures at the end, with its bootstrap interval.
        difference: to the best or the baseline, Hodges-Lehmann with its interval; None for that one itself.
        p, corrected: of the Wilcoxon signed-rank test, as it is, and corrected by Holm for the comparisons on the problem.
        finding, verdict: what follows, as a word and in words.
        marked: whether tables mark the method: it is the best, or does not differ significantly from the best although there are trials enough.
        figures: of each trial at the end, float64 [trials].
        differences: of each trial, float64 [trials]; empty for the best or the baseline.
    """

    problem: str
    method: str
    trials: int
    diverged: int
    median: Estimate
    difference: Estimate | None
    p: float | None
    corrected: float | None
    finding: Finding
    verdict: str
    marked: bool
    figures: Floats
    differences: Floats


@dataclass(frozen=True)
class Verdict:
    """The result of a comparison.

    Attributes:
        groups: the problems, with the runs that were compared.
        series: the metric that was compared, by problem.
        level: of the intervals.
        rows: one for each method on each problem, in the order of the runs.
        notes: what to know besides, in words.
    """

    groups: tuple[Group, ...]
    series: Mapping[str, str]
    level: float
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def of(self, problem: str) -> list[Row]:
        """The rows of a problem."""
        return [row for row in self.rows if row.problem == problem]

    def title(self, problem: str) -> str:
        """What was compared on a problem, in words."""
        run = next(iter(self._group(problem).runs.values()))
        series = self.series[problem]
        metric = run.about(series)
        return f"{heading(series, metric)}, {'mean' if metric.take == 'mean' else 'at the end'}"

    def _group(self, problem: str) -> Group:
        return next(group for group in self.groups if group.title == problem)

    def reference(self, *problems: str) -> str:
        """What the methods of some problems were compared with, in words."""
        named = {
            next((short(row.method, 30) for row in self.of(problem) if row.finding == "baseline"), "the best")
            for problem in problems
        }
        return named.pop() if len(named) == 1 else f"the baseline{' or the best' if 'the best' in named else ''}"

    def records(self) -> list[dict[str, Any]]:
        """One flat record for each row."""
        nothing = Estimate(math.nan, math.nan, math.nan)
        return [
            {
                "problem": row.problem,
                "metric": self.series[row.problem],
                "method": row.method,
                "trials": row.trials,
                "diverged": row.diverged,
                "median": row.median.value,
                "median_low": row.median.low,
                "median_high": row.median.high,
                "difference": (row.difference or nothing).value,
                "difference_low": (row.difference or nothing).low,
                "difference_high": (row.difference or nothing).high,
                "p": math.nan if row.p is None else row.p,
                "p_holm": math.nan if row.corrected is None else row.corrected,
                "verdict": row.verdict,
            }
            for row in self.rows
        ]

    def to_pandas(self) -> Any:
        """One line for each method on each problem (a pandas DataFrame); nan where there is no figure.

        Raises:
            InputError: pandas is not installed.
        """
        needs("pandas", "to_pandas()", "export")
        import pandas as pd

        return pd.DataFrame(self.records())

    def text(self) -> str:
        """The tables of all problems as lines for a terminal, and the notes."""
        blocks = []
        for group in self.groups:
            problem = group.title
            lines = [printable(f"{problem}: {self.title(problem)}"), *tables.columns(self.cells(problem)).splitlines()]
            blocks.append("\n".join(lines))
        star = (
            [f"{tables.STAR.strip()} the best, or not distinguishable from it"]
            if any(row.marked for row in self.rows)
            else []
        )
        below = [*star, *map(printable, self.notes)]
        return "\n\n".join([*blocks, *(["\n".join(below)] if below else [])])

    def cells(self, problem: str, width: int = WIDTH) -> list[dict[str, str]]:
        """The rows of a problem as texts, by the heads of their columns."""
        percent = f"{100 * self.level:g} %"
        against = f"minus {self.reference(problem)}"
        return [
            {
                "method": printable(short(row.method, width)) + (tables.STAR if row.marked else ""),
                f"median [{percent}]": interval(row.median),
                "trials": f"{row.trials}",
                "diverged": f"{row.diverged} of {row.trials}" if row.diverged else "",
                f"{against} [{percent}]": "" if row.difference is None else interval(row.difference),
                "p (Holm)": "" if row.corrected is None else f"{row.corrected:.2g}",
                "verdict": row.verdict,
            }
            for row in self.of(problem)
        ]

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the differences of all trials with their estimates and intervals; returns the figure, written to ``path`` where given."""
        from distopt.report.panels import differences

        fig = differences(self)
        if path is not None:
            fig.savefig(path)
        return fig

    def write(self, out: str | Path) -> list[Path]:
        """Write the tables (comparison.csv, .md, .tex) and the figures (differences.png, ecdf.png, and profile.png from 5 problems on).

        Raises:
            RunError: a file cannot be written.
        """
        from distopt.report.paper import comparison

        return comparison(self, Path(out))

    def __str__(self) -> str:
        return self.text()


def interval(estimate: Estimate) -> str:
    """A figure with its interval, in few characters.

    >>> interval(Estimate(0.01234, 0.01, math.inf)), interval(Estimate(2.0, math.nan, math.nan))
    ('0.0123 [0.01, inf]', '2')
    """
    value, low, high = (tables.number(each) for each in estimate)
    return f"{value} [{low}, {high}]" if low and high else value


def compared(
    groups: Sequence[Group], metric: str | None = None, baseline: str | None = None, level: float = statistics.LEVEL
) -> Verdict:
    """Compare the methods of each group on the trials that all of them have.

    Args:
        groups: the problems, as ``distopt.report.study.groups`` gives them.
        metric: a name that the runs know as a metric; by default the one by which they are ranked.
        baseline: the method that the others are compared with; by default the one of the best median.
        level: of the intervals, between 0 and 1.

    Raises:
        InputError: the metric is no name, no run has it, no problem has the baseline, or the level is no share.
    """
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise InputError(f"{either('--level ', 'level=')}{shown(level)}: must lie between 0 and 1, such as 0.9")
    if metric is not None and not isinstance(metric, str):
        raise InputError(f"metric={shown(metric)}: must be the name of a metric, such as 'tracking_error'")
    if not groups:
        raise InputError("give at least one run to compare")
    everyone = list(dict.fromkeys(name for group in groups for name in group.runs))
    if baseline is not None and not any(_named(baseline, list(group.runs)) for group in groups):
        raise InputError(f"no method is called {shown(baseline)}; methods: {', '.join(everyone)}")
    rows: list[Row] = []
    notes: list[str] = []
    kept: list[Group] = []
    series: dict[str, str] = {}
    for group in groups:
        one, found, said = _one(group, metric, baseline, level)
        notes += said
        if found:
            kept.append(one)
            rows += found
            series[group.title] = metric or next(iter(one.runs.values())).leading
    if not rows:
        known = sorted({name for group in groups for run in group.runs.values() for name in run.metrics})
        raise InputError(f"no run has the metric {shown(metric)}; metrics: {', '.join(known) or 'none'}")
    return Verdict(tuple(kept), series, level, tuple(rows), tuple(dict.fromkeys(notes)))


def _named(wanted: str, names: Sequence[str]) -> str | None:
    """The method of that name, or of that name in the table, or the only one whose name begins so, up to a ``:`` or ``,``.

    >>> _named("mine:lr=1", ["mine.py:lr=1", "gt"])
    'mine.py:lr=1'
    """
    if wanted in names:
        return wanted
    shorter = {name: (short(name), short(name, WIDTH)) for name in names}
    found = [name for name in names if wanted in shorter[name]]
    begins = (f"{wanted}:", f"{wanted},")
    found = found or [name for name in names if name.startswith(begins) or shorter[name][0].startswith(begins)]
    if len(found) > 1:
        raise InputError(f"{shown(wanted)} could be {' or '.join(found)}; write one of them")
    return found[0] if found else None


def _one(group: Group, metric: str | None, baseline: str | None, level: float) -> tuple[Group, list[Row], list[str]]:
    """The methods of a group that have the metric, their rows, and notes."""
    notes, title = [], group.title
    runs = {
        name: run
        for name, run in group.runs.items()
        if (series := metric or run.leading) in run and series not in run.trajectories and run[series].ndim == 2
    }
    lacking = [name for name in group.runs if name not in runs]
    if lacking and runs:
        notes.append(f"{title}: without {metric or 'the metric that ranks'}, left out: {', '.join(lacking)}")
    group = replace(group, runs=runs)
    if not runs:
        return group, [], notes
    common = group.common()
    if not common and len(runs) > 1:
        notes.append(
            f"{title}: the methods have no trial in common, so nothing was compared; run them on the same seeds"
        )
    for name, run in runs.items():
        if common and len(common) < run.trials:
            notes.append(
                f"{title}: of the {run.trials} trials of {name} only the {len(common)} that all methods have count"
            )
        if run.status == "interrupted":
            notes.append(
                f"{title}: {name} was interrupted after {int(run.rounds[-1]) + 1:,} rounds; its last recorded figures count"
            )
    if len({int(run.rounds[-1]) for run in runs.values() if run.status != "diverged"}) > 1:
        notes.append(f"{title}: the methods ran for different numbers of rounds")
    figures = {
        name: statistics.closing(run, metric)[group.rows(name, common) if common else slice(None)]
        for name, run in runs.items()
    }
    lost = {
        name: statistics.diverged(run)[group.rows(name, common) if common else slice(None)]
        for name, run in runs.items()
    }
    for name, each in figures.items():
        if none := int((np.isinf(each) & ~lost[name]).sum()):
            notes.append(
                f"{title}: {metric or 'the metric that ranks'} of {name} is not a number at the end of {none} "
                f"of {len(each)} trials; these count as infinitely bad"
            )
    first = next(iter(runs.values()))
    rises = first.about(metric or first.leading).rises
    reference = _named(baseline, list(runs)) if baseline is not None else None
    if baseline is not None and reference is None:
        notes.append(f"{title}: has no {baseline}, so the methods are compared with the best")
    medians = {name: float(np.median(each)) for name, each in figures.items()}
    chosen = reference or min(medians, key=lambda name: -medians[name] if rises else medians[name])
    itself: Finding = "best" if reference is None else "baseline"
    rows = []
    for name, each in figures.items():
        alone = name == chosen or not common
        pairs = None if alone else statistics.paired(each, figures[chosen], level)
        rows.append(
            Row(
                title,
                name,
                len(each),
                int(lost[name].sum()),
                statistics.median_interval(each, level),
                pairs and pairs.difference,
                pairs and pairs.p,
                None,
                itself if name == chosen else "apart",
                itself if name == chosen and len(runs) > 1 else "" if len(runs) == 1 else "no trial in common",
                name == chosen and itself == "best" and len(runs) > 1,
                each,
                np.empty(0) if alone else statistics.differences(each, figures[chosen]),
            )
        )
    tests = [row.p for row in rows]
    corrected = statistics.holm(tests)
    judged = [
        _judged(replace(row, corrected=p), _least(tests, k, row), len(rows) - 1, itself == "baseline", rises)
        for k, (row, p) in enumerate(zip(rows, corrected, strict=True))
    ]
    return group, judged, notes


def _least(tests: Sequence[float | None], k: int, row: Row) -> float:
    """The smallest corrected p-value that row k could have, beside the other ``tests`` as they are."""
    if row.p is None:
        return 1.0
    own = statistics.smallest_p(int(np.count_nonzero(row.differences)))
    return statistics.holm([*tests[:k], own, *tests[k + 1 :]])[k] or 0.0


def _judged(row: Row, least: float, comparisons: int, by_baseline: bool, rises: bool) -> Row:
    """A row with its finding, in a word and in words; ``least`` as ``_least`` gives it."""
    if row.difference is None:
        return row
    other = "the baseline" if by_baseline else "the best"
    unequal = int(np.count_nonzero(row.differences))
    finding: Finding
    if row.corrected is not None and row.corrected <= ALPHA:
        larger = statistics.leaning(row.differences) > 0
        finding, words = ("better", f"better than {other}") if larger == rises else ("worse", f"worse than {other}")
    elif not unequal:
        finding, words = "same", f"equal to {other} in every trial"
    elif least > ALPHA:
        few = f"{row.trials} trials" if unequal == row.trials else f"differs in {unequal} of {row.trials} trials"
        few = few if row.trials > 1 else "1 trial"
        need = f", and {comparisons} comparisons need {statistics.trials_needed(comparisons)}"
        finding, words = "open", f"cannot be significant: {few}{'' if row.p is None else need}"
    else:
        finding, words = "same", f"not distinguishable from {other}"
    return replace(row, finding=finding, verdict=words, marked=finding == "same" and not by_baseline)
