"""Figures of metrics against rounds, drawn on matplotlib's objects and never on pyplot's global state."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray

from distopt.errors import InputError
from distopt.metrics import Metric
from distopt.report.axes import INK, SOFT, frame, plain_ticks, spread
from distopt.report.series import drawn
from distopt.report.tables import broken
from distopt.report.titles import averaged, common_start, heading, short, subtitle
from distopt.runs.results import Run

Floats = NDArray[np.float64]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#5B5B5B")
"""Eight colours that the common kinds of colour blindness keep apart."""

FRACTION = "fraction"
"""The unit of metrics that are drawn in percent, on linear axes."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1.5, 1, 1.5)))
_BASE_STYLES: tuple[Any, ...] = ((0, (5, 2)), (0, (1, 1.6)))
_ROUNDING = 1e-12  # a baseline below this part of the runs' first value is zero, computed in floating point
_LARGEST = 1e150  # an axis ends here: ticks far beyond it are still numbers
_NAMES = 16  # as many names as the height holds beside the baselines
_POINTS = 2000  # more than a page has columns: longer curves are thinned evenly on the axis they are drawn on


class Curve(NamedTuple):
    """One line of a figure: at ``x`` [k] its mean over trials and the smallest and largest trial [k]."""

    label: str
    x: Floats
    mean: Floats
    low: Floats
    high: Floats
    colour: str
    dashes: Any
    baseline: bool
    diverged: bool


def figure(runs: Mapping[str, Run], series: str = "average_dynamic_regret") -> Figure:
    """A metric against rounds: one line per run (mean over trials) with a band from the smallest to the largest trial.

    A metric names its baselines (dashed and dotted grey lines). Those of a regret are left out where they are zero up to rounding,
    as where the costs do not change. Axes are logarithmic if the values allow it. A few values <= 0 are left out. With many of them,
    or if values below zero are meaningful, the axis is linear around 0. The note under the figure says which. Fractions have linear
    axes. A diverged run ends in a cross.

    Args:
        runs: what to compare, by name; a run that lacks the metric is left out and named in the note.
        series: a name that ``run[series]`` knows as a metric [trials, rounds].

    Raises:
        InputError: no run has the metric.

    >>> run = Run("gt", "done", np.arange(3), {"consensus_error": np.array([[1.0, 0.1, 0.01]])})
    >>> figure({"gt": run}, "consensus_error").axes[0].get_yscale()
    'log'
    """
    curves, longest, notes = lines(runs, series)
    metric, crowded = longest.about(series), len(runs) > len(COLOURS)
    common = common_start(list(runs)) if crowded else ""
    fig = Figure(figsize=(6, 3.73), dpi=150, facecolor="white")
    FigureCanvasAgg(fig)
    axes = fig.add_axes((0.105, 0.175, 0.665, 0.655))
    scale(axes, curves, metric, notes)
    drawn = [curve for curve in curves if draw(axes, curve)]
    frame(axes)
    plain_ticks(axes)
    axes.set_xlabel("round", fontsize=8, color=INK, labelpad=2)
    fig.text(0.02, 0.935, heading(series, metric), fontsize=10.5, fontweight="bold", color=INK)
    where = "  ·  ".join(part for part in (subtitle(longest), short(common.rstrip(":,"))) if part)
    fig.text(0.02, 0.875, where, fontsize=7.5, color=SOFT, parse_math=False)
    notes += _omissions(axes, curves, drawn)
    named = _best(drawn)
    if len(named) < len(drawn):
        notes.append(
            f"Named: the {sum(not c.baseline for c in named)} runs that end lowest, of {sum(not c.baseline for c in drawn)}."
        )
    wrapped = textwrap.wrap(" ".join(notes), 125)
    wrapped = wrapped if len(wrapped) <= 2 else [wrapped[0], wrapped[1][:122] + " …"]
    fig.text(0.02, 0.068, "\n".join(wrapped), fontsize=6, color=SOFT, linespacing=1.4, va="top", parse_math=False)
    _name_lines(axes, named)
    return fig


def lines(runs: Mapping[str, Run], series: str) -> tuple[list[Curve], Run, list[str]]:
    """The lines of a figure: of the runs that have the metric, and of its baselines; the longest of these runs; and notes for the reader.

    Raises:
        InputError: no run has the metric.
    """
    have = {name: run for name, run in runs.items() if series in run and series not in run.trajectories}
    if not have:
        known = sorted({key for run in runs.values() for key in run if key not in run.trajectories})
        raise InputError(f"no run has the metric {series!r}; metrics: {', '.join(known) or 'none'}")
    crowded = len(runs) > len(COLOURS)
    common = common_start(list(runs)) if crowded else ""
    longest = max(have.values(), key=lambda run: len(run.rounds))
    metric = longest.about(series)
    styles = _shades(len(runs)) if crowded else [(colour, "-") for colour in COLOURS]
    curves = [  # a run keeps its colour in every figure, whichever runs have the metric
        _curve(short(name[len(common) :]), run, series, metric, *style)
        for (name, run), style in zip(runs.items(), styles, strict=False)
        if name in have
    ]
    for each, dashes in zip(metric.baselines, _BASE_STYLES, strict=False):
        beside, base = longest.about(each), f"average_{each}" if averaged(series, metric) else each
        if base in longest:
            curves.append(_curve(beside.label, longest, base, beside, SOFT, dashes, baseline=True))

    notes = []
    if metric.unit != FRACTION:
        zero = [curve for curve in curves if curve.baseline and _is_rounding(curve, curves)]
        curves = [curve for curve in curves if not any(curve is other for other in zero)]
        if zero:
            notes.append(f"Zero up to rounding, not drawn: {', '.join(curve.label for curve in zero)}.")
    if longest.trials > 1:
        bands = "" if crowded else "; bands: smallest to largest trial"
        notes.append(f"Lines: mean over {longest.trials} trials{bands}.")
    if crowded:
        # bands of many runs would hide the lines
        curves = [curve._replace(low=curve.mean, high=curve.mean) for curve in curves]
    if len(have) < len(runs):
        notes.append(f"No such metric: {', '.join(short(name) for name in runs if name not in have)}.")
    return curves, longest, notes


def _shades(count: int) -> list[tuple[str, Any]]:
    """Styles for more runs than there are colours: one scale from dark to light in their order, with different dashes for neighbours."""
    shades = colormaps["viridis"]
    return [(to_hex(shades(0.85 * k / (count - 1))), DASHES[k % 2 if count <= _NAMES else 0]) for k in range(count)]


def _best(curves: Sequence[Curve]) -> list[Curve]:
    """The curves that get a name: all, or where there are too many to be read the baselines and the runs that end lowest."""
    runs = [k for k, curve in enumerate(curves) if not curve.baseline]
    if len(runs) <= _NAMES:
        return list(curves)
    ends = {k: float(curves[k].mean[np.isfinite(curves[k].mean)][-1]) for k in runs if not curves[k].diverged}
    lowest = set(sorted(ends, key=ends.__getitem__)[:_NAMES])
    return [curve for k, curve in enumerate(curves) if curve.baseline or k in lowest]


def _curve(
    label: str, run: Run, series: str, metric: Metric, colour: str, dashes: Any, *, baseline: bool = False
) -> Curve:
    measured = run.measured(series)
    whole = bool(measured.all())
    keep = _thin(run.rounds if whole else run.rounds[measured], metric.unit == FRACTION)
    keep = keep if whole else np.flatnonzero(measured)[keep]
    values, x = drawn(run, series, metric, keep), run.rounds[keep].astype(np.float64) + 1
    diverged = run.status == "diverged" and not baseline
    if values.size == 0:
        return Curve(label, x[:0], x[:0], x[:0], x[:0], colour, dashes, baseline, diverged)
    with np.errstate(over="ignore"):  # a run that diverges may end near the largest number
        mean = values.mean(0)
    low, high = (mean, mean) if baseline else (values.min(0), values.max(0))
    return Curve(label, x, mean, low, high, colour, dashes, baseline, diverged)


def _thin(rounds: NDArray[np.int64], linear: bool) -> NDArray[np.intp]:
    """At most about ``_POINTS`` places, evenly spread over the axis of round numbers from 1, first and last included."""
    if len(rounds) <= _POINTS:
        return np.arange(len(rounds))
    ends = rounds[0] + 1.0, rounds[-1] + 1.0
    marks = np.linspace(*ends, _POINTS) if linear else np.geomspace(*ends, _POINTS)
    after = np.searchsorted(rounds, np.ceil(marks).astype(np.int64) - 1)  # whole numbers: no copy of the rounds
    return np.unique(np.append(after.clip(max=len(rounds) - 1), len(rounds) - 1))


def _is_rounding(baseline: Curve, curves: Sequence[Curve]) -> bool:
    """Whether a baseline is nothing but rounding errors beside the runs that did not diverge."""
    runs = [c.mean[np.isfinite(c.mean)] for c in curves if not (c.baseline or c.diverged)]
    # the start of a run; its end may have grown
    started = [abs(float(mean[0])) for mean in runs if len(mean) and mean[0]]
    largest = max(started or [float(np.abs(mean).max(initial=0)) for mean in runs], default=0.0)
    return bool(largest > 0 and (np.abs(baseline.mean) < _ROUNDING * largest).all())


def scale(axes: Any, curves: Sequence[Curve], metric: Metric, notes: list[str]) -> None:
    """Choose the axes' scales and limits from the values, before anything is drawn."""
    ends = [(curve.x[0], curve.x[-1]) for curve in curves if len(curve.x)]
    first, last = min((a for a, _ in ends), default=1.0), max((b for _, b in ends), default=1.0)
    if last > first:
        axes.set_xscale("linear" if metric.unit == FRACTION else "log")
        axes.set_xlim(first, last)
    if metric.unit == FRACTION:
        axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:g} %")
        return
    values = np.concatenate([curve.mean for curve in curves] or [np.empty(0)])
    values = values[np.isfinite(values)]
    if not values.any():
        return  # nothing, or zeros only: a linear axis shows that as it is
    below = np.count_nonzero(values < 0 if metric.signed else values <= 0)
    if below <= 0.1 * len(values):
        axes.set_yscale("log", nonpositive="mask")
    else:
        own = np.concatenate([curve.mean for curve in curves if not curve.baseline] or [np.empty(0)])
        sizes = np.abs(own[np.isfinite(own) & (own != 0)])
        sizes = sizes if len(sizes) else np.abs(values[values != 0])
        inner = float(10 ** np.floor(np.log10(max(np.quantile(sizes, 0.2), sizes.max() / _LARGEST))))
        axes.set_yscale("symlog", linthresh=inner)
        notes.append(f"The vertical axis is linear between ±{inner:g}, logarithmic beyond.")
    axes.set_ylim(*_limits(axes, curves))


def _limits(axes: Any, curves: Sequence[Curve]) -> tuple[float, float]:
    """Where the vertical axis begins and ends, with a margin, in the axis' own scale.

    Runs that did not diverge are shown whole. Baselines and diverged runs may extend their range by three decades (or by
    that range). So a baseline of rounding noise or a value of 1e300 does not flatten everything else.
    """
    transform = axes.yaxis.get_transform()
    decade = getattr(transform, "linthresh", 1.0)  # the length of one decade in transformed units

    def span(some: Sequence[Curve]) -> tuple[float, float] | None:
        with np.errstate(all="ignore"):
            means = transform.transform(np.concatenate([np.empty(0), *(c.mean for c in some)]).clip(-1e300, 1e300))
            bands = np.concatenate([np.empty(0), *(band for c in some for band in (c.low, c.high))])
            bands = transform.transform(bands.clip(-1e300, 1e300))
        means, bands = means[np.isfinite(means)], bands[np.isfinite(bands)]
        if not len(means):
            return None
        return max(float(min(means.min(), bands.min())), float(means.min()) - 0.5 * decade), float(
            max(means.max(), bands.max())
        )

    runs = [c for c in curves if not c.baseline]
    core = span([c for c in runs if not c.diverged])
    rest = span(curves)
    assert rest is not None
    if core is None:  # everything diverged: the way up, as far as it can be read
        low, high = rest[0], min(rest[1], rest[0] + 12 * decade)
    else:
        low, high = max(rest[0], core[0] - 3 * decade), min(rest[1], core[1] + 3 * decade)
        low, high = min(low, core[0]), max(high, core[1])
    margin = max(0.04 * (high - low), 0.02 * decade)
    with np.errstate(over="ignore", under="ignore"):
        bottom, top = transform.inverted().transform(np.array([low - margin, high + margin])).clip(-_LARGEST, _LARGEST)
    return max(float(bottom), 1 / _LARGEST) if axes.get_yscale() == "log" else float(bottom), float(top)


def _visible(axes: Any, curve: Curve) -> NDArray[np.bool_]:
    """The points that the vertical axis can show."""
    able: NDArray[np.bool_] = np.isfinite(curve.mean) & ((curve.mean > 0) | (axes.get_yscale() != "log"))
    return able


def draw(axes: Any, curve: Curve) -> bool:
    """Draw one curve; False where it has nothing that can be shown."""
    visible = _visible(axes, curve)
    if not visible.any():
        return False
    bottom, top = axes.get_ylim() if axes.get_yscale() != "linear" else (-np.inf, np.inf)
    far = 1e3 * max(abs(bottom), abs(top))  # well outside the axes, and still a number a renderer can take
    mean = np.where(visible, curve.mean, np.nan).clip(-far, far)
    width, order = (1.1, 2) if curve.baseline else (1.7, 3)
    if (curve.high > curve.low).any() and not curve.diverged:
        low, high = np.maximum(curve.low, bottom if axes.get_yscale() == "log" else -far), np.minimum(curve.high, far)
        axes.fill_between(
            curve.x, low, high, where=visible, color=curve.colour, alpha=0.13, linewidth=0, zorder=order - 1
        )
    axes.plot(
        curve.x,
        mean,
        color=curve.colour,
        linestyle=curve.dashes,
        linewidth=width,
        zorder=order,
        solid_joinstyle="round",
    )
    padded = np.concatenate([[False], visible, [False]])
    alone = visible & ~padded[:-2] & ~padded[2:]
    if alone.any():  # a line needs two points; a single one is a dot
        axes.plot(
            curve.x[alone], mean[alone], linestyle="none", marker="o", markersize=4, color=curve.colour, zorder=order
        )
    if curve.diverged:
        seen = np.flatnonzero(visible & (curve.mean >= bottom) & (curve.mean <= top))
        end = seen[-1] if len(seen) else np.flatnonzero(visible)[-1]
        cross = {"marker": "X", "markersize": 7, "markeredgecolor": "white", "clip_on": False}
        axes.plot(curve.x[end], mean[end], color=curve.colour, zorder=5, **cross)
    return True


def _omissions(axes: Any, curves: Sequence[Curve], drawn: Sequence[Curve]) -> list[str]:
    """Notes on values that a logarithmic axis cannot show."""
    what = "values of 0 or less" if axes.get_yscale() == "log" else "values that are not finite"
    out = []
    missing = [curve.label for curve in curves if not any(curve is other for other in drawn)]
    if missing:
        out.append(f"Nothing to draw of: {', '.join(missing)} (only {what}).")
    # in the very first round the costs have not changed, and a tracker is exact: a 0 there is no news
    hidden = {c.label: int((~_visible(axes, c)[c.x > 1]).sum()) for c in drawn}
    if any(hidden.values()):
        out.append(
            f"Not drawn, {what}: " + ", ".join(f"{count} of {label}" for label, count in hidden.items() if count) + "."
        )
    return out


def _name_lines(axes: Any, curves: Sequence[Curve]) -> None:
    """Write each line's name beside its end, spread apart where ends lie close, joined to the end by a hairline."""
    texts, heights, wanted = [], [], []
    box = axes.get_window_extent()
    size = 7.5 if len(curves) <= 8 else 6.0
    bottom, top = axes.get_ylim()
    for curve in curves:
        inside = np.flatnonzero(_visible(axes, curve))
        end = curve.mean[inside[-1]]
        away = " ↑" if end > top else " ↓" if end < bottom else ""
        lines = broken(curve.label + (" (diverged)" if curve.diverged else "") + away, 19)[:4]
        y = axes.transData.transform((1.0, min(max(end, bottom), top)))[1]
        wanted.append(float(np.clip((y - box.y0) / box.height, 0, 1)))
        texts.append("\n".join(lines))
        heights.append(len(lines) * size * 1.32 * axes.figure.dpi / 72 / box.height)
    places = spread(wanted, heights)
    for curve, text, y, at in zip(curves, texts, wanted, places, strict=True):
        axes.plot(
            [1.005, 1.03],
            [y, at],
            transform=axes.transAxes,
            color=curve.colour,
            linewidth=0.6,
            clip_on=False,
            alpha=0.7,
        )
        weight, style = ("normal", "italic") if curve.baseline else ("bold", "normal")
        font = {"fontsize": size, "fontweight": weight, "fontstyle": style, "linespacing": 1.1, "parse_math": False}
        axes.text(1.04, at, text, transform=axes.transAxes, va="center", color=curve.colour, **font)
