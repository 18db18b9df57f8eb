"""The results of tuning: figures by step size, the winners, and their runs beside those of the defaults."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distopt.report.summary import by_trial, summary
from distopt.report.tables import text
from distopt.runs.results import Run

FACTOR = 2.0
"""A median of at most so many times the best one is within the stable range."""


@dataclass(frozen=True)
class Point:
    """A spec that was tried.

    Attributes:
        spec: the algorithm's.
        lr: its step size, or the scale of its schedule.
        rest: the spec without it.
        rounds: how many it ran.
        figures: the final figure of each TUNE trial; inf where it diverged.

    >>> point = Point("gt:lr=0.1", 0.1, "gt", 500, (1.0, 3.0, math.inf))
    >>> point.median, point.diverged
    (3.0, 1)
    """

    spec: str
    lr: float
    rest: str
    rounds: int
    figures: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the figures. It is inf as soon as half of the trials diverge."""
        return float(statistics.median(self.figures))

    @property
    def diverged(self) -> int:
        """How many of the trials diverged."""
        return sum(not math.isfinite(each) for each in self.figures)


@dataclass(frozen=True)
class Sensitivity:
    """How an algorithm depends on its step size.

    Attributes:
        algorithm: the spec as it was given.
        defaults: the algorithm without tuning; None where it cannot be without a value that only a list gives.
        points: all that was tried.
        lower, upper: by how many decades the grid was continued.
        same: whether the winner is the algorithm without tuning.
        usual: the step size of the algorithm without tuning, or the scale of its schedule; None where it has none.
    """

    algorithm: str
    defaults: str | None
    points: tuple[Point, ...]
    lower: int = 0
    upper: int = 0
    same: bool = False
    usual: float | None = None

    @property
    def best(self) -> Point:
        """The point of the smallest median; of several the one of the smallest step size."""
        return min(self.points, key=lambda point: (point.median, point.lr))

    @property
    def winner(self) -> Point | None:
        """The best point; None where at least half of the trials diverge at every point."""
        return self.best if math.isfinite(self.best.median) else None

    @property
    def tuned(self) -> str | None:
        """The spec of the winner; that of the defaults where it is the same algorithm."""
        return None if self.winner is None else self.defaults if self.same else self.winner.spec

    @cached_property
    def curve(self) -> tuple[Point, ...]:
        """The points whose other constants are those of the best, by step size."""
        found = (point for point in self.points if point.rest == self.best.rest)
        return tuple(sorted(found, key=lambda point: point.lr))

    @property
    def tried(self) -> str | None:
        """The spec of the point of the curve that is the algorithm without tuning; None where no point of it is."""
        alone = len({point.rest for point in self.points}) == 1
        return next((point.spec for point in self.curve if alone and point.lr == self.usual), None)

    @property
    def edge(self) -> str:
        """The end of the grid at which the best point is: "lower", "upper" or ""; a grid of one point has no ends."""
        lowest, highest = self.curve[0], self.curve[-1]
        return "" if lowest is highest else "lower" if self.best is lowest else "upper" if self.best is highest else ""

    @property
    def stable(self) -> tuple[float, float] | None:
        """The stable range: the largest interval of the curve around the winner in which the median is within ``FACTOR`` of the best.

        A median is finite only where less than half of the trials diverge. Below zero, as for costs, it may exceed the best by |best|.
        """
        if self.winner is None:
            return None
        best, place = self.winner.median, self.curve.index(self.winner)
        good = [point.median <= best + (FACTOR - 1) * abs(best) for point in self.curve]
        low = high = place
        while low and good[low - 1]:
            low -= 1
        while high + 1 < len(good) and good[high + 1]:
            high += 1
        return self.curve[low].lr, self.curve[high].lr

    @property
    def diverging(self) -> float:
        """The fraction of the points at which at least half of the trials diverge."""
        return sum(math.isinf(point.median) for point in self.points) / len(self.points)


@dataclass(repr=False)
class Tuned:
    """What ``distopt.tune`` found.

    Attributes:
        figure: what was compared at the end of a trial: "average_dynamic_regret", or "cost" if the minimisers are
            unknown.
        rounds: T, of the algorithms that take the fewest gradients in a round.
        seed, trials: of the runs by which the winners were chosen.
        report_seed, report_trials: of the runs that are reported.
        algorithms: the sensitivity of each algorithm, by its spec as it was given.
        runs: the runs that are reported, by label: winners, and the algorithms without tuning.
        path: the folder, if there is one.
    """

    figure: str
    rounds: int
    seed: int
    trials: int
    report_seed: int
    report_trials: int
    algorithms: Mapping[str, Sensitivity]
    runs: Mapping[str, Run]
    path: Path | None = None

    @property
    def winners(self) -> dict[str, str]:
        """The tuned spec of each algorithm that has one."""
        return {name: each.tuned for name, each in self.algorithms.items() if each.tuned is not None}

    def rows(self) -> list[dict[str, Any]]:
        """The verdict: for each algorithm a row of the tuned one and a row of the defaults, both of the REPORT trials.

        ``row`` names it, ``median`` is over the trials. What runs measure of their own speed is left out.
        """
        found = []
        for each in self.algorithms.values():
            which = {"tuned = defaults": each.tuned} if each.same else {"tuned": each.tuned, "defaults": each.defaults}
            for row, label in which.items():
                if label is not None and label in self.runs:
                    run = self.runs[label]
                    figures = {key: value for key, value in summary(run).items() if key != "rounds_per_second"}
                    found.append(
                        {"given": each.algorithm, "row": row, **figures, "median": statistics.median(finals(run))}
                    )
        return found

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the figure against the step size, a line for each algorithm; returns the figure. It is written to ``path`` where given."""
        from distopt.report.sensitivity import figure

        fig = figure(self)
        if path is not None:
            fig.savefig(path)
        return fig

    def __repr__(self) -> str:
        shown = [{**row, "algorithm": f"{row['algorithm']} ({row['row']})"} for row in self.rows()]
        return f"<Tuned: {', '.join(self.winners.values()) or 'no winner'}>\n{text(shown, baselines=False)}"


def finals(run: Run) -> list[float]:
    """The final figure of each trial of a run; inf where it has diverged.

    >>> import numpy as np
    >>> values = {"dynamic_regret": np.array([[1.0, 4.0], [2.0, np.inf]])}
    >>> finals(Run("gt", "diverged", np.arange(2), values, info={"diverged_trials": {"1": 1}}))
    [2.0, inf]
    """
    lost = run.info.get("diverged_trials", {})
    count = run.trials or len(lost)  # one that diverges at once has no metrics
    values = by_trial(run, run.leading).tolist() if len(lost) < count else [math.inf] * count
    return [math.inf if str(trial) in lost else value for trial, value in enumerate(values)]
