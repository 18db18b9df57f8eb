"""Figures for papers: curves, differences pair by pair, shares of targets, performance profiles. Column widths, 8 pt, legible in grey.

Users' names are texts with ``parse_math=False``, which marks them if LaTeX sets the texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from distopt.report.axes import INK, SOFT, frame, plain_ticks
from distopt.report.curves import COLOURS, DASHES, draw, lines, scale
from distopt.report.series import AXES
from distopt.report.statistics import FARTHEST, Floats, Profile
from distopt.report.titles import heading, short
from distopt.runs.results import Run

if TYPE_CHECKING:
    from distopt.report.verdict import Row, Verdict

COLUMN, PAGE = 3.5, 7.16
"""The widths of a column and of a page of the IEEE in inches."""

GOLDEN = 0.62
"""Height of a column figure over its width."""

_STYLE: dict[Any, Any] = {
    "font.family": "STIXGeneral",  # comes with matplotlib, and goes with Times
    "mathtext.fontset": "stix",
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.titlesize": 8.0,
    "legend.fontsize": 7.0,
    "pdf.fonttype": 42,  # letters stay letters; publishers refuse type 3
    "ps.fonttype": 42,
    "svg.hashsalt": "distopt",  # equal figures are equal files
    "axes.unicode_minus": False,
}


@contextmanager
def style(usetex: bool = False) -> Iterator[None]:
    """Within it, figures are drawn and saved for papers; with ``usetex`` LaTeX sets their texts."""
    with rc_context({**_STYLE, **({"text.usetex": True, "font.family": "serif"} if usetex else {})}):
        yield


def _started(width: float, height: float) -> Figure:
    fig = Figure(figsize=(width, height), dpi=300, facecolor="white", layout="constrained")
    FigureCanvasAgg(fig)
    return fig


def _done(fig: Figure) -> Figure:
    """The figure with everything in its place, so that each format it is saved in need not find the places again."""
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
    return fig


def _height(width: float) -> float:
    return GOLDEN * min(width, 5.0)


def _named(fig: Any, handles: Sequence[Any], names: Sequence[str], width: float) -> None:
    """A legend above the axes, in as many columns as there is room for. The figure grows by its lines."""
    longest = max((len(name) for name in names), default=1)
    columns = max(1, min(len(names), int(width * 72 / (34 + 3.1 * longest))))
    fig.set_size_inches(width, _height(width) + 0.135 * -(-len(names) // columns))
    legend = fig.legend(
        handles,
        names,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        handlelength=2.6,
        columnspacing=1.2,
        borderpad=0.1,
        labelspacing=0.25,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _style(k: int) -> dict[str, Any]:
    """The colour and the dashes of the k-th method, which differ in grey, too."""
    return {"color": COLOURS[k % len(COLOURS)], "linestyle": DASHES[k % len(DASHES)]}


def trend(runs: Mapping[str, Run], series: str, width: float = COLUMN) -> Any:
    """A series against rounds, as ``distopt.report.curves.figure`` draws it, but in the style of papers; returns the figure.

    Raises:
        InputError: no run has the series.
    """
    with style():
        fig = _started(width, _height(width))
        axes = fig.add_subplot()
        curves, longest, notes = lines(runs, series)
        if len(runs) <= len(COLOURS):
            order = {short(name): k for k, name in enumerate(runs)}
            curves = [
                curve if curve.baseline else curve._replace(dashes=DASHES[order[curve.label] % len(DASHES)])
                for curve in curves
            ]
        metric = longest.about(series)
        scale(axes, curves, metric, notes)
        shown = [curve for curve in curves if draw(axes, curve)]
        for line in axes.lines:
            line.set_linewidth(0.7 if line.get_color() == SOFT else 1.2)  # baselines have dashes, too
        frame(axes)
        plain_ticks(axes)
        axes.set_xlabel("round", color=INK)
        axes.set_ylabel(heading(series, metric), color=INK)
        proxies = [
            axes.plot([], [], color=curve.colour, linestyle=curve.dashes, linewidth=0.7 if curve.baseline else 1.2)[0]
            for curve in shown
        ]
        _named(fig, proxies, [curve.label + (" (diverged)" if curve.diverged else "") for curve in shown], width)
        return _done(fig)


def shares(found: Mapping[str, Floats], axis: str = "rounds", width: float = COLUMN) -> Any:
    """The share of targets that each method has reached, from ``distopt.report.statistics.ecdf``; returns the figure.

    Lines that end below 1 have missed targets.
    """
    title = next((each.title for each in AXES if each.name == axis), axis)
    with style():
        fig = _started(width, _height(width))
        axes = fig.add_subplot()
        ends = [float(each[np.isfinite(each)].max()) for each in found.values() if np.isfinite(each).any()]
        first = min((float(each.min()) for each in found.values() if np.isfinite(each).any()), default=1.0)
        last = max(ends, default=1.0)
        handles = []
        for k, times in enumerate(found.values()):
            reached = times[np.isfinite(times)]
            x = np.concatenate([[first], reached, [last]])
            y = np.concatenate([[0.0], np.arange(1, len(reached) + 1), [len(reached)]]) / max(len(times), 1)
            handles += axes.plot(x, y, drawstyle="steps-post", linewidth=1.2, **_style(k))
        if last > first > 0:
            axes.set_xscale("log")
            axes.set_xlim(first, last)
        frame(axes)
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(title, color=INK)
        axes.set_ylabel("targets reached", color=INK)
        _named(fig, handles, [short(name, 40) for name in found], width)
        return _done(fig)


def profile(found: Mapping[str, Profile], farthest: float = FARTHEST, width: float = COLUMN) -> Any:
    """Performance profiles, from ``distopt.report.statistics.profiles``; returns the figure. The names carry the scores."""
    with style():
        fig = _started(width, _height(width))
        axes = fig.add_subplot()
        handles = []
        for k, each in enumerate(found.values()):
            inside = each.ratios <= farthest
            x = np.concatenate([[1.0], each.ratios[inside], [farthest]])
            height = each.shares[inside]
            y = np.concatenate([[0.0], height, height[-1:] if len(height) else [0.0]])
            handles += axes.plot(x, y, drawstyle="steps-post", linewidth=1.2, **_style(k))
        frame(axes)
        axes.set_xlim(1, farthest)
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(r"factor $\tau$ of the best", color=INK)
        axes.set_ylabel(r"problems within $\tau$", color=INK)
        _named(fig, handles, [f"{short(name, 34)} ({each.score:.2f})" for name, each in found.items()], width)
        return _done(fig)


def differences(verdict: Verdict, width: float = COLUMN) -> Any:
    """Each trial's difference as a dot, and the Hodges-Lehmann estimate with its interval as a bar; a panel for each problem.

    Infinite differences, for example after a divergence, are drawn as crosses at the edge.
    """
    problems = [group.title for group in verdict.groups if any(len(row.differences) for row in verdict.of(group.title))]
    rows = {problem: [row for row in verdict.of(problem) if len(row.differences)] for problem in problems}
    count = sum(len(each) for each in rows.values())
    with style():
        fig = _started(width, max(1.3, 0.34 * count + 0.62 * len(problems)))
        if not problems:
            fig.text(0.5, 0.5, "nothing to compare", ha="center", color=SOFT)
            return fig
        each_axes = fig.subplots(
            len(problems), 1, squeeze=False, gridspec_kw={"height_ratios": [len(each) + 1 for each in rows.values()]}
        )
        for (problem, some), (axes,) in zip(rows.items(), each_axes, strict=True):
            _differences(axes, some, [row.method for row in verdict.of(problem)])
            axes.set_title(short(problem, 70), loc="left", color=INK, parse_math=False)
            axes.set_xlabel(f"difference to {verdict.reference(problem)}", color=INK, parse_math=False)
        return _done(fig)


def _differences(axes: Any, rows: Sequence[Row], methods: Sequence[str]) -> None:
    frame(axes)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    finite = np.concatenate([row.differences[np.isfinite(row.differences)] for row in rows])
    sizes = [np.abs(row.differences[np.isfinite(row.differences) & (row.differences != 0)]) for row in rows]
    middles = [float(np.median(each)) for each in sizes if len(each)]
    if middles and np.abs(finite).max() > 100 * min(middles):  # one bad method would squeeze all others
        first, last = int(np.floor(np.log10(min(middles)))), int(np.log10(np.abs(finite).max()))
        axes.set_xscale("symlog", linthresh=10.0**first)
        marks = sorted({int(mark) for mark in np.linspace(first, last, 4)})[1 if last - first > 12 else 0 :]
        ends = [sign for sign in (-1, 1) if (sign * finite).max() >= 10.0**first]
        ticks = {0.0: "0"} | {
            sign * 10.0**mark: f"${'-' if sign < 0 else ''}10^{{{mark}}}$" for sign in ends for mark in marks
        }
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_xticks([], minor=True)
    low, high = min(float(finite.min(initial=0)), 0.0), max(float(finite.max(initial=0)), 0.0)
    room = 0.08 * (high - low) or 1.0
    for k, row in enumerate(rows):
        y, colour = len(rows) - 1 - k, COLOURS[methods.index(row.method) % len(COLOURS)]
        spread = np.linspace(-0.16, 0.16, len(row.differences)) if len(row.differences) > 1 else np.zeros(1)
        inside = np.isfinite(row.differences)
        axes.plot(row.differences[inside], (y + spread)[inside], "o", markersize=2, color=colour, alpha=0.55)
        edge = np.where(row.differences[~inside] > 0, high + room, low - room)
        axes.plot(edge, (y + spread)[~inside], "x", markersize=3.5, color=colour)
        if row.difference is not None and np.isfinite(row.difference.value):
            bar = np.nan_to_num(
                [row.difference.low, row.difference.high], nan=np.nan, posinf=high + room, neginf=low - room
            )
            axes.plot(bar, [y, y], color=INK, linewidth=1.4, solid_capstyle="butt")
            axes.plot([row.difference.value], [y], "D", markersize=3.2, color=INK)
    axes.axvline(0, color=SOFT, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    for y, row in enumerate(reversed(rows)):
        where = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
        axes.text(-0.02, y, short(row.method, 30), color=INK, parse_math=False, **where)
    axes.set_ylim(-0.6, len(rows) - 0.4)
