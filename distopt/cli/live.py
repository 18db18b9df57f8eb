"""Curves in the terminal while rounds run: the figure that ranks the runs, against rounds, in Braille dots or, without Unicode, in stars."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions
from rich.text import Text

from distopt.catalog.registry import brief
from distopt.report.tables import number

Floats = NDArray[np.float64]

KEPT = 4096
"""Points of a line that are kept; when there are more, every second one goes."""

COLOURS = ("blue", "red", "green", "magenta", "yellow", "cyan", "bright_black", "white")
MARGIN = 9
"""Columns for the numbers beside the vertical axis."""

ROWS, NAMED = 16, 8
"""Lines of the terminal that the curves take at most, and runs that are named below them."""

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""The bits of a Braille character, by column and row of its dots."""


class Line(NamedTuple):
    """What is known of a run: its mean over the trials after some rounds, and the sum of all values so far with their number."""

    x: Floats
    y: Floats
    total: float = 0.0
    seen: int = 0


class Chart:
    """The runs so far as lines of a terminal. rich draws it as often as it likes; ``take`` adds rounds.

    Attributes:
        rounds: the length of the horizontal axis.
        lines: by label, in the order in which the runs began.
    """

    def __init__(self) -> None:
        self.rounds = 0
        self.lines: dict[str, Line] = {}
        self.title = "average dynamic regret"

    def take(self, label: str, rounds: NDArray[Any], metrics: Mapping[str, NDArray[Any]]) -> None:
        """Add what was recorded of some rounds: the average dynamic regret, or the mean cost so far where there are no regrets."""
        before = self.lines.get(label, Line(np.empty(0), np.empty(0)))
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # all trials of a round have diverged
            if "cost" in metrics:
                self.title = "cost, mean over the rounds so far"
                sums = before.total + np.nanmean(metrics["cost"], axis=0).cumsum()
                y = sums / (before.seen + 1 + np.arange(len(sums)))
                total = float(sums[-1]) if len(sums) else before.total
            elif "dynamic_regret" in metrics:
                y = np.nanmean(metrics["dynamic_regret"], axis=0) / (rounds + 1)
                total = 0.0
            else:
                return
        x, y = np.append(before.x, rounds + 1.0), np.append(before.y, y)
        while len(x) > KEPT:
            x, y = np.append(x[:-1:2], x[-1]), np.append(y[:-1:2], y[-1])
        self.lines = {
            **self.lines,
            label: Line(x, y, total, before.seen + len(rounds)),
        }  # at once: others draw it

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """The chart, as wide as the terminal."""
        lines = self.lines
        if not any(len(line.x) for line in lines.values()):
            yield Text(f"{self.title}: no round yet", style="dim", no_wrap=True, overflow="crop")
            return
        names = list(lines)[:NAMED]
        wide = max(10, options.max_width - MARGIN - 1)
        high = max(3, min(ROWS, console.size.height - 7 - len(names)))
        yield from self._drawn(lines, wide, high, (console.encoding or "").lower().startswith("utf"))
        for k, name in enumerate(names):
            told = (
                f"{brief(name)}  {number(float(lines[name].y[-1])) or 'diverged'}"
                if len(lines[name].y)
                else brief(name)
            )
            yield Text.assemble(
                (" " * MARGIN + " "), ("-- ", COLOURS[k % len(COLOURS)]), told, no_wrap=True, overflow="ellipsis"
            )
        if len(lines) > NAMED:
            yield Text(f"{' ' * MARGIN} and {len(lines) - NAMED} more", style="dim", no_wrap=True, overflow="crop")

    def _drawn(self, lines: dict[str, Line], wide: int, high: int, unicode: bool) -> Iterator[Text]:
        low, top, log = _limits([line.y for line in lines.values()])
        across, down = (2, 4) if unicode else (1, 1)
        last = max(self.rounds, *(float(line.x[-1]) for line in lines.values() if len(line.x)), 2.0)
        cells = np.zeros((high, wide), dtype=np.int64)
        owners = np.zeros((high, wide), dtype=np.int64)
        for k, line in enumerate(lines.values()):
            for column, row in _dots(line, (low, top, log), last, wide * across, high * down):
                cells[row // down, column // across] |= _DOTS[column % across][row % down] if unicode else 1
                owners[row // down, column // across] = k
        yield Text(f"{' ' * MARGIN} {self.title}", style="bold", no_wrap=True, overflow="crop")
        middle = math.sqrt(low * top) if log else (low + top) / 2
        marks = {0: top, high - 1: low, **({(high - 1) // 2: middle} if high > 4 else {})}
        bar = "│" if unicode else "|"
        for row in range(high):
            text = Text(f"{number(marks[row]) if row in marks else '':>{MARGIN}}{bar}", no_wrap=True, overflow="crop")
            signs = [
                (chr(0x2800 + int(cell)) if unicode else "*", COLOURS[owner % len(COLOURS)]) if cell else (" ", "")
                for cell, owner in zip(cells[row], owners[row].tolist(), strict=True)
            ]
            for colour, some in groupby(signs, key=lambda each: each[1]):  # fewer changes of colour are fewer bytes
                text.append("".join(sign for sign, _ in some), style=colour or None)
            yield text
        end = f"{last:,.0f}"
        corner, dash = ("└", "─") if unicode else ("+", "-")
        yield Text(f"{' ' * MARGIN}{corner}{dash * wide}", no_wrap=True, overflow="crop")
        yield Text(f"{' ' * MARGIN} 1{'round':^{max(wide - len(end) - 1, 5)}}{end}", no_wrap=True, overflow="crop")


def _limits(each: Sequence[Floats]) -> tuple[float, float, bool]:
    """Where the vertical axis begins and ends, and whether it is logarithmic: where all values are above zero.

    A run that diverges stretches it to a thousand times the largest first value at most.

    >>> _limits([np.array([1.0, 0.1]), np.array([1.0, 1e9])])
    (0.1, 1000.0, True)
    """
    finite = np.concatenate([values[np.isfinite(values)] for values in each])
    if not len(finite):
        return 0.0, 1.0, False
    firsts = [abs(float(values[0])) for values in each if len(values) and np.isfinite(values[0])]
    low, top = float(finite.min()), min(float(finite.max()), 1e3 * max(firsts, default=math.inf) or math.inf)
    log = low > 0
    if not top > low:
        top, low = (low * 2, low / 2) if log else (low + 1.0, low - 1.0)
    return low, top, log


def _dots(
    line: Line, limits: tuple[float, float, bool], last: float, wide: int, high: int
) -> Iterator[tuple[int, int]]:
    """The dots of a line, as (column, row from above), with those between neighbours that lie far apart."""
    low, top, log = limits
    with np.errstate(all="ignore"):
        share = np.log(line.y / low) / math.log(top / low) if log else (line.y - low) / (top - low)
    inside = np.isfinite(line.y)
    columns = ((line.x - 1) / (last - 1) * (wide - 1)).round().astype(int).clip(0, wide - 1)[inside]
    rows = ((1 - share[inside].clip(0, 1)) * (high - 1)).round().astype(int)
    before: tuple[int, int] | None = None
    for column, row in dict.fromkeys(zip(columns.tolist(), rows.tolist(), strict=True)):
        if before is not None:
            steps = max(abs(column - before[0]), abs(row - before[1]))
            for k in range(1, steps):
                yield (
                    before[0] + round((column - before[0]) * k / steps),
                    before[1] + round((row - before[1]) * k / steps),
                )
        yield column, row
        before = (column, row)
