"""The figure of tuning: the final figure against the step size."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from distopt.metrics import about
from distopt.report.axes import INK, SOFT, frame, plain_ticks
from distopt.report.curves import COLOURS
from distopt.report.tables import broken, number
from distopt.report.titles import heading, short, subtitle
from distopt.runs.tuned import FACTOR, Sensitivity, Tuned

_DECADES = 3.0  # the vertical axis ends so far above the worst of the winners
_NAMED = 6  # the most algorithms whose texts fit into the height


def figure(tuned: Tuned) -> Figure:
    """The median final figure of the TUNE trials against the step size, a line for each algorithm, with a band over trials.

    A cross on the upper edge is a step size at which at least half of the trials diverge, a triangle one whose median lies beyond the
    axis. A disc is the winner, an empty diamond the step size that the algorithm has without tuning. If this was not tried, its figure is
    unknown: an empty triangle on the horizontal axis marks the step size alone. The line is thick over the stable range.
    """
    fig = Figure(figsize=(6, 3.73), dpi=150, facecolor="white")
    FigureCanvasAgg(fig)
    axes = fig.add_axes((0.105, 0.185, 0.645, 0.645))
    each = list(tuned.algorithms.values())
    _scale(axes, each)
    beyond = False
    for k, one in enumerate(each):
        dashes = ("-", "--", ":")[k // len(COLOURS) % 3]
        beyond |= _draw(axes, one, COLOURS[k % len(COLOURS)], dashes, 1 - 0.028 * min(k, 10))
    frame(axes)
    plain_ticks(axes)
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    scales = any("(" in one.curve[0].spec and "lr=" in one.curve[0].rest for one in each)
    axes.set_xlabel("step size lr" + (", or the scale of its schedule" if scales else ""), fontsize=8, color=INK)
    metric = about(tuned.figure.removeprefix("average_"))
    title = (
        f"{heading(tuned.figure, metric)} at the end" if metric.averaged else f"{metric.title}, mean over the rounds"
    )
    fig.text(0.02, 0.935, f"{title}, by step size", fontsize=10.5, fontweight="bold", color=INK)
    run = next(iter(tuned.runs.values()), None)
    where = subtitle(run) if run is not None else ""
    fig.text(0.02, 0.875, where, fontsize=7.5, color=SOFT, parse_math=False)
    signs = ["● winner", "× at least half of the trials diverge"]
    signs += ["◇ without tuning"] if any(one.tried is not None for one in each) else []
    signs += ["▽ step size without tuning, not tried"] if any(one.tried is None and one.usual for one in each) else []
    signs += ["▲ beyond the axis"] if beyond else []
    kinds = f"Lines: median of {tuned.trials} trials, seed {tuned.seed}; bands: smallest to largest trial that did not diverge."
    thick = f"Thick: median at most {FACTOR:g} times the best."
    note = textwrap.wrap(f"{'   '.join(signs)}.   {kinds} {thick}", 130)
    fig.text(0.02, 0.068, "\n".join(note[:2]), fontsize=6, color=SOFT, linespacing=1.4, va="top", parse_math=False)
    _name(fig, each)
    return fig


def _medians(each: Sequence[Sensitivity]) -> list[float]:
    return [point.median for one in each for point in one.curve if math.isfinite(point.median)]


def _scale(axes: Any, each: Sequence[Sensitivity]) -> None:
    """Choose the axes' scales and limits from the medians."""
    steps = [point.lr for one in each for point in one.curve] + [one.usual for one in each if one.usual is not None]
    axes.set_xscale("log")
    axes.set_xlim(min(steps) / 1.25, max(steps) * 1.25)
    medians = _medians(each)
    if not medians:
        axes.set_yticks([])
        return
    best = max(one.best.median for one in each if one.winner is not None)
    low, high = min(medians), max(medians)
    if low > 0:
        high = min(high, best * 10**_DECADES)
        margin = max((high / low) ** 0.06, 1.05)
        axes.set_yscale("log", nonpositive="mask")
        axes.set_ylim(low / margin, high * margin**2)
    else:
        high = min(high, best + 10 * max(best - low, abs(best), 1e-12))
        margin = 0.06 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + 2 * margin)


def _draw(axes: Any, one: Sensitivity, colour: str, dashes: str, up: float) -> bool:
    """Draw the line of an algorithm and its marks, with edge marks at the height ``up``. Returns whether a median lies beyond the axis."""
    bottom, top = axes.get_ylim()
    curve = one.curve
    x = np.array([point.lr for point in curve])
    y = np.array([point.median for point in curve])
    finite, shown = np.isfinite(y), np.isfinite(y) & (y <= top)
    trials = [[value for value in point.figures if math.isfinite(value)] or [math.nan] for point in curve]
    low, high = (np.array([f(values) for values in trials]) for f in (min, max))
    drawn = np.where(finite, np.minimum(y, 1e3 * top if top > 0 else top), np.nan)
    axes.fill_between(
        x, np.maximum(low, bottom), np.minimum(high, top), where=shown, color=colour, alpha=0.13, linewidth=0, zorder=2
    )
    axes.plot(x, drawn, color=colour, linestyle=dashes, linewidth=1.5, zorder=3, marker="o", markersize=2.2)
    edge = axes.get_xaxis_transform()
    mark = {"linestyle": "none", "color": colour, "markeredgecolor": "white", "markeredgewidth": 0.5, "clip_on": False}
    axes.plot(x[~finite], np.full((~finite).sum(), up), transform=edge, marker="X", markersize=6, zorder=5, **mark)
    beyond = finite & ~shown
    axes.plot(x[beyond], np.full(beyond.sum(), up), transform=edge, marker="^", markersize=5, zorder=5, **mark)
    if one.stable is not None:
        inside = shown & (x >= one.stable[0]) & (x <= one.stable[1])
        axes.plot(x[inside], y[inside], color=colour, linewidth=5, alpha=0.25, solid_capstyle="round", zorder=2)
    if one.winner is not None:
        axes.plot(one.winner.lr, one.winner.median, marker="o", markersize=8, zorder=6, **mark)
    if one.usual is not None:
        own = [k for k, point in enumerate(curve) if point.spec == one.tried]
        on = bool(own) and bool(shown[own[0]])
        at: dict[str, Any] = {} if on else {"transform": edge}
        height = float(y[own[0]]) if on else up if own else 0.0
        size = 6.5 if own else 6.5 + 70 * (1 - up)  # triangles of several algorithms lie around each other
        look = {"marker": "D" if own else "v", "markersize": size, "markerfacecolor": "none", "markeredgecolor": colour}
        axes.plot(one.usual, height, linestyle="none", markeredgewidth=1.2, clip_on=False, zorder=7, **look, **at)
    return bool(beyond.any())


def _name(fig: Any, each: Sequence[Sensitivity]) -> None:
    """Write beside the axes what each line is, and what was found of it; only the winner where there are many."""
    told = [_said(one, len(each) <= _NAMED) for one in each]
    wanted = sum(0.047 * len(name) + 0.035 * len(found) + 0.016 for name, found in told)
    scale, y = min(1.0, 0.72 / wanted), 0.83
    font = {"ha": "left", "va": "top", "parse_math": False}
    for k, (name, found) in enumerate(told):
        colour = COLOURS[k % len(COLOURS)]
        fig.text(
            0.77, y, "\n".join(name), fontsize=7.5 * scale, fontweight="bold", color=colour, linespacing=1.1, **font
        )
        y -= 0.047 * len(name) * scale
        if found:
            fig.text(0.77, y, "\n".join(found), fontsize=6.3 * scale, color=SOFT, linespacing=1.3, **font)
        y -= (0.035 * len(found) + 0.016) * scale


def _said(one: Sensitivity, much: bool) -> tuple[list[str], list[str]]:
    """The name of an algorithm and what was found of it, in lines."""
    name = short(one.algorithm)
    if not much:
        return broken(f"{name} " + ("no winner" if one.winner is None else f"{one.winner.lr:g}"), 24)[:2], []
    found = ["no winner"]
    if one.winner is not None and one.stable is not None:
        low, high = one.stable
        stable = f"stable {low:g} to {high:g}" if low < high else "stable there alone"
        found = [f"lr {one.winner.lr:g}: {number(one.winner.median)}", stable]
    diverging = [f"{100 * one.diverging:.0f} % of the grid diverges"] if one.diverging else []
    return broken(name, 22)[:2], found + diverging
