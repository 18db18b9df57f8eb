"""Progress of a run on stderr: bars on a terminal, lines elsewhere. Imports nothing heavy."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from distopt.catalog.registry import brief
from distopt.cli.streams import say

if TYPE_CHECKING:
    from distopt.cli.live import Chart
    from distopt.runs.execution import Progress, Seen

REDRAWN = 5
"""How many times a second curves are drawn again."""


class Watch(NamedTuple):
    """Progress of a run: ``reporting`` returns the progress function of a name, and ``seen`` receives recorded rounds."""

    reporting: Callable[[str], Progress]
    seen: Seen | None = None


@contextmanager
def progress(live: bool = False) -> Iterator[Watch]:
    """Within it, runs can be watched: bars with rate and time left on a terminal, else lines. ``live`` draws curves above the bars.

    >>> with progress() as watch:
    ...     print(callable(watch.reporting("gt:lr=0.1")))
    True
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not sys.stderr.isatty() or (live and console.is_dumb_terminal):
        if live:
            say("distopt: note: --live needs a terminal to draw in; lines of progress follow instead", err=True)
        yield Watch(lines)
        return
    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(compact=True),
    )
    bars = Bars(*columns, console=console, transient=True, expand=True)
    if not live:
        with bars:
            yield Watch(_barred(bars))
        return
    from distopt.cli.live import Chart

    chart = Chart()
    with Live(Group(chart, bars), console=console, refresh_per_second=REDRAWN, transient=True):
        yield Watch(_barred(bars, chart), chart.take)
    console.print(chart)  # the last picture stays


def _barred(bars: Any, chart: Chart | None = None) -> Callable[[str], Progress]:
    """Progress functions that move bars and set the lengths of the chart's runs."""
    tasks: dict[str, tuple[Any, float, int]] = {}

    def of(label: str) -> Progress:
        def report(phase: str, done: int, total: int) -> None:
            key = "comparator" if phase == "comparator" else f"run {label}"
            if chart is not None:
                chart.rounds = max(chart.rounds, total)
            if key not in tasks:
                name = phase if phase == "comparator" else brief(label)
                shown = name if len(name) <= 32 else name[:31] + "…"
                tasks[key] = (bars.add_task(shown, total=total, rate=""), time.perf_counter(), done)
            task, began, before = tasks[key]
            if bars.tasks[task].finished:
                return  # the comparator is made once; later algorithms find it ready
            seconds = time.perf_counter() - began
            bars.update(task, completed=done, rate=f"{(done - before) / seconds:,.0f}/s" if seconds > 0 else "")

        return report

    return of


def lines(label: str) -> Progress:
    """Plain lines of one run: at the end of a phase, and about every tenth but not oftener than twice a second.

    >>> import contextlib, io
    >>> with contextlib.redirect_stderr(io.StringIO()) as text:
    ...     lines("mine.py:lr=1")("rounds", 8, 8)
    >>> text.getvalue()[:23]
    'mine:lr=1: round 8 of 8'
    """
    began: dict[str, tuple[float, int]] = {}  # a resumed run begins with rounds behind it
    last: dict[str, tuple[float, int]] = {}

    def report(phase: str, done: int, total: int) -> None:
        now = time.perf_counter()
        if phase not in began:
            began[phase], last[phase] = (now, done % total), (now, 0)
        when, count = last[phase]
        due = (
            (done - count >= total / 10 and now - when > 0.5) or now - when > 5 or (done == total and phase == "rounds")
        )
        if not due:
            return
        last[phase] = (now, done)
        name = "comparator" if phase == "comparator" else brief(label)
        since, before = began[phase]
        rate = (done - before) / (now - since) if now > since else 0.0
        left = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
        click.echo(f"{name}: round {done:,} of {total:,}{f' ({rate:,.0f} rounds/s{left})' if rate else ''}", err=True)

    return report
