"""The figures of ``distopt reproduce``: each takes the results of one part (``distopt.reproduce``)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from distopt.report.axes import HAIR, INK, SOFT
from distopt.report.curves import COLOURS
from distopt.report.page.columns import ENOUGH
from distopt.report.tables import number

_SGD, _SCALED, _SIGN, _EF, _OTHER = SOFT, COLOURS[4], COLOURS[1], COLOURS[0], COLOURS[3]
_COLOUR = {
    "SGD": _SGD,
    "SGDM": _SGD,
    "signSGD": _SIGN,
    "EF-signSGD": _EF,
    "EF-sign": _EF,
    "scaled sign": _SIGN,
    "sign, momentum": _SCALED,
    "Signum": _OTHER,
}
_HEAD, _FOOT = 0.58, 0.36  # inches
_METHOD = {
    "gtadam": (COLOURS[0], "-"),
    "gt": (COLOURS[1], (0, (5, 1.5))),
    "gt with momentum": (COLOURS[2], (0, (1.5, 1))),
    "dgd": (COLOURS[3], (0, (5, 1.5, 1, 1.5))),
    "dadam": (COLOURS[4], (0, (3, 1, 1, 1, 1, 1))),
}
_KINDS = (
    ("by tensor", COLOURS[2], "φ(γg + e) by tensor"),
    ("whole", COLOURS[0], "φ(γg + e)"),
    ("gradient", COLOURS[4], "φ(g)"),
)


def _page(height: float, down: int, across: int, title: str, note: str, **grid: Any) -> tuple[Figure, Any]:
    """A page with a title, a note at the foot, and panels [down, across] between."""
    fig = Figure(figsize=(9.6, height), dpi=100, facecolor="white")
    FigureCanvasAgg(fig)
    axes = fig.subplots(down, across, squeeze=False, **grid)
    fig.text(0.012, 1 - 0.12 / height, title, fontsize=10.5, fontweight="bold", color=INK, va="top")
    fig.text(0.012, 0.08 / height, "\n".join(textwrap.wrap(note, 165)), fontsize=7, color=SOFT, linespacing=1.35)
    for each in axes.flat:
        for side in ("top", "right"):
            each.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            each.spines[side].set(color="#B5B5B5", linewidth=0.8)
        each.grid(True, color=HAIR, linewidth=0.6)
        each.set_axisbelow(True)
        each.tick_params(which="both", labelsize=7, labelcolor=INK, color="#B5B5B5", width=0.6, length=2.5)
    return fig, axes


def _finished(fig: Figure, axes: Any) -> Figure:
    """The page with one legend for all panels, under the title, and the panels laid out below it."""
    handles = {
        label: handle for each in axes.flat for handle, label in zip(*each.get_legend_handles_labels(), strict=True)
    }
    height = float(fig.get_size_inches()[1])
    look: dict[str, Any] = {
        "loc": "upper left",
        "ncols": len(handles),
        "fontsize": 7.5,
        "frameon": False,
        "columnspacing": 1.4,
    }
    fig.legend(list(handles.values()), list(handles), bbox_to_anchor=(0.005, 1 - 0.32 / height), **look)
    fig.tight_layout(rect=(0, _FOOT / height, 1, 1 - _HEAD / height), w_pad=1.5, h_pad=1.2)
    return fig


def counterexamples(results: Sequence[Mapping[str, Any]]) -> Figure:
    """f - f* against rounds, a panel for each problem."""
    titles = ("1  x/4 on [−1, 1], noisy gradient", "2  ε|x₁+x₂| + |x₁−x₂|", "3  ⟨a₁,x⟩² + ⟨a₂,x⟩², one at a time")
    note = (
        "Lines: mean over 20 runs, and over the rounds around; bands: smallest to largest run. signSGD with step sizes 0.3, 0.1, 0.03, 0.01"
        " (solid) and 0.3/√(t+1) (dotted); EF-signSGD with 0.05 (dashed) and with 0.05 halved again and again (solid). Black dots: what "
        "signSGD never gets below (in 1: where it ends). ε = 0.5."
    )
    fig, axes = _page(
        3.7, 1, 3, "signSGD fails on three small problems whatever its step size; EF-signSGD solves them", note
    )
    for panel, each, title in zip(axes[0], results, titles, strict=True):
        panel.set_title(title, fontsize=8.5, color=INK, loc="left")
        for curve in each["curves"]:
            sign = curve["method"] == "signSGD"
            dashes = ":" if "sqrt" in curve["step"] else "-" if sign or "halved" in curve["step"] else "--"
            colour = _COLOUR[curve["method"]]
            x = np.array(curve["rounds"]) + 1
            mean, low, high = (np.maximum(curve[name], 1e-30) for name in ("mean", "low", "high"))
            panel.plot(
                x, mean, color=colour, linestyle=dashes, linewidth=1.1, label=curve["method"] if dashes == "-" else None
            )
            panel.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
        panel.axhline(
            0.5 if each["problem"].startswith("1") else each["floor"],
            color=INK,
            linewidth=0.9,
            linestyle=(0, (1, 1.5)),
            alpha=0.6,
        )
        panel.set(xscale="log", yscale="log", ylim=(1e-9, 20))
        panel.set_xlabel("round t", fontsize=8, color=INK)
    axes[0, 0].set_ylabel("f(x_t) − f*", fontsize=8, color=INK)
    return _finished(fig, axes)


def least_squares(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """Distance to the span, train and test loss against epochs, a row for each rule for sign(0)."""
    note = (
        "Lines: mean over 20 draws of the data; bands: the middle 80 % of them. Step sizes of the authors' script: SGD 0.5, scaled sign and"
        " EF-sign 10, the others 0.05. Below, columns in which no training row has an entry move in every step, since one bit has no 0: "
        "error feedback repairs that. What lies below an axis is drawn at its foot."
    )
    title = "Least squares with more columns than rows: signs leave the span of the data, error feedback comes back"
    fig, axes = _page(5.6, 2, 3, title, note, sharex=True)
    panels = (
        ("distance", "distance to the span of the training rows", 1e-3),
        ("train", "train loss", 1e-8),
        ("test", "test loss", 1e-4),
    )
    for line, (rule, runs) in zip(axes, results.items(), strict=True):
        for panel, (field, title, least) in zip(line, panels, strict=True):
            for name, each in runs.items():
                if name not in _COLOUR:
                    continue
                values = np.maximum(np.array(each[field]), least)  # [epochs + 1, seeds]
                epochs = np.arange(len(values))
                panel.plot(epochs, values.mean(1), color=_COLOUR[name], linewidth=1.3, label=name)
                panel.fill_between(
                    epochs, *np.quantile(values, (0.1, 0.9), axis=1), color=_COLOUR[name], alpha=0.12, linewidth=0
                )
            panel.set(yscale="log", xlim=(0, len(values) - 1))
            panel.set_title(title, fontsize=8.5, color=INK, loc="left")
        line[0].set_ylabel(
            "sign(0) = 0, as torch has it" if rule == "zero" else "sign(0) = 1, one bit", fontsize=8, color=INK
        )
    for panel in axes[1]:
        panel.set_xlabel("epoch", fontsize=8, color=INK)
    return _finished(fig, axes)


def images(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Test accuracy against epochs, a row for each kind of pictures, a column for each batch size."""
    kinds, batches = (list(dict.fromkeys(each[name] for each in results)) for name in ("data", "batch"))
    note = (
        "Lines: mean over 3 seeds; bands: smallest to largest seed. A small network, not the paper's ResNet-18 and VGG-19. Step sizes: tuned at "
        "batch 128, scaled with the batch size, falling twice. signSGD: scaled sign without memory, as in the authors' code. Not shown: below 70 %."
    )
    title = "Test accuracy at batch sizes 128, 32 and 8: how near signs come to SGD with momentum"
    fig, axes = _page(1.1 + 2.1 * len(kinds), len(kinds), len(batches), title, note, sharey="row")
    for line, kind in zip(axes, kinds, strict=True):
        for panel, batch in zip(line, batches, strict=True):
            runs = [run for run in results if (run["data"], run["batch"]) == (kind, batch)]
            for method in dict.fromkeys(run["method"] for run in runs):
                values = 100 * np.array(
                    [run["accuracy"]["x"] for run in runs if run["method"] == method]
                )  # [seeds, epochs]
                epochs = np.arange(1, values.shape[1] + 1)
                panel.plot(epochs, values.mean(0), color=_COLOUR[method], linewidth=1.3, label=method)
                panel.fill_between(epochs, values.min(0), values.max(0), color=_COLOUR[method], alpha=0.13, linewidth=0)
            panel.set_title(f"{kind}, batch {batch}", fontsize=8.5, color=INK, loc="left")
            panel.set_xlim(1, values.shape[1])
            panel.set_xlabel("epoch", fontsize=8, color=INK)
        line[0].set_ylabel("test accuracy (%)", fontsize=8, color=INK)
        line[0].set_ylim(70, 100.5)
    return _finished(fig, axes)


def density(results: Sequence[Mapping[str, Any]]) -> Figure:
    """phi against epochs, a panel for each kind of pictures and batch size."""
    kinds, batches = (list(dict.fromkeys(each[name] for each in results)) for name in ("data", "batch"))
    note = (
        "φ(z) = ‖z‖₁² / (d ‖z‖₂²), the part of ‖z‖² that a scaled sign keeps. By tensor: each tensor of the network has a scale of its own,"
        " which is what is sent. One seed. Dotted: 0.134, what φ(γg + e) stays above while VGG-19 trains on CIFAR-10 in the authors' "
        "notebooks."
    )
    title = "What EF-signSGD compresses is mostly dense; where the step size falls, it is not for a while"
    fig, axes = _page(1.1 + 1.9 * len(kinds), len(kinds), len(batches), title, note, sharex="row", sharey=True)
    for k, each in enumerate(results):
        panel = axes.flat[k]
        for name, colour, label in _KINDS:
            panel.plot(each["epoch"], each[name], color=colour, linewidth=0.8, label=label)
        panel.axhline(0.134, color=INK, linewidth=0.9, linestyle=(0, (1, 1.5)))
        panel.set_title(f"{each['data']}, batch {each['batch']}", fontsize=8.5, color=INK, loc="left")
        panel.set(ylim=(0, 0.8), xlim=(0, max(each["epoch"])))
        panel.set_xlabel("epoch", fontsize=8, color=INK)
    for line in axes:
        line[0].set_ylabel("density φ", fontsize=8, color=INK)
    return _finished(fig, axes)


def classification(results: Sequence[Mapping[str, Any]]) -> Figure:
    """GTAdam and its comparators on logistic regression that changes, a row for each set-up."""
    titles = {"different": "agents' data differ much", "alike": "agents' data are alike"}
    return _contest(results, titles, "Logistic regression on points that run on circles: GTAdam against other methods")


def localization(results: Sequence[Mapping[str, Any]]) -> Figure:
    """GTAdam and its comparators where a target is located, a row for each set-up."""
    titles = {"still": "target stands still", "moving": "target moves on a circle"}
    return _contest(results, titles, "Locating a target from noisy ranges: GTAdam against other methods")


def digits(results: Sequence[Mapping[str, Any]]) -> Figure:
    """GTAdam and its comparators training a network."""
    return _contest(
        results, {"digits": "digits"}, "A small network learns to classify digits: GTAdam against other methods"
    )


def _contest(results: Sequence[Mapping[str, Any]], titles: Mapping[str, str], title: str) -> Figure:
    """For each set-up: two curves of each method, and the figures at the end of every trial with their median."""
    trials = max(each["trials"] for each in results)
    band = "the middle 90 % of" if trials >= ENOUGH else "smallest to largest of"
    note = (
        f"Lines: median over {trials} trials; bands: {band} them. Every method at the step size that was best for it on other trials (named on the "
        "right). Right: the figure that is compared, a dot a trial, a bar at the median; hollow: the median without tuning, where it is in view. "
        "A set-up of ours, not the paper's."
    )
    fig, axes = _page(1.1 + 2.5 * len(results), len(results), 3, title, note)
    for line, each in zip(axes, results, strict=True):
        drawn = list(next(method["curves"] for method in each["methods"].values() if method["curves"]))
        leading = next(iter(each["heads"]))
        for panel, series in zip(line, drawn, strict=False):
            _lines(panel, each, series)
            smoothed = ", mean so far" if series in ("cost", "accuracy") else ""
            panel.set_title(
                f"{titles[each['setup']]}: {each['heads'][series].lower()}{smoothed}",
                fontsize=8.5,
                color=INK,
                loc="left",
            )
        _dots(line[2], each, leading)
        averaged = ", mean of all rounds" if leading == "cost" else " at the end"
        line[2].set_title(f"{each['heads'][leading].lower()}{averaged}", fontsize=8.5, color=INK, loc="left")
    return _finished(fig, axes)


def _lines(panel: Any, each: Mapping[str, Any], series: str) -> None:
    """Medians and bands of a series against rounds."""
    low, high = np.inf, 0.0
    for name, method in each["methods"].items():
        curve = method["curves"].get(series)
        if curve is None:
            continue
        colour, dashes = _METHOD[name]
        middle = np.array(curve["median"], dtype=np.float64)
        panel.plot(curve["rounds"], middle, color=colour, linestyle=dashes, linewidth=1.3, label=name)
        panel.fill_between(curve["rounds"], curve["low"], curve["high"], color=colour, alpha=0.12, linewidth=0)
        good = middle[np.isfinite(middle) & (middle > 0)]
        if good.size:
            low, high = min(low, float(good.min())), max(high, float(good.max()))
    if each["rises"][series]:
        panel.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    elif high > 0:
        panel.set(yscale="log", ylim=(low / 2, high * 2))
        _few_ticks(panel.yaxis, high / low)
    panel.margins(x=0)
    panel.set_xlabel("round t", fontsize=8, color=INK)


def _dots(panel: Any, each: Mapping[str, Any], series: str) -> None:
    """The figure of each trial by method, and its median with and without tuning."""
    names, shown = [], []
    for k, (name, method) in enumerate(each["methods"].items()):
        colour, _ = _METHOD[name]
        values = np.array(method["figures"].get(series, []), dtype=np.float64)
        values = values[np.isfinite(values) & (values > 0)]
        lr = "diverges" if method["lr"] is None else f"lr {method['lr']:g}"
        names.append(f"{name.replace(' with ', ', ')}\n{lr}")
        if values.size:
            shown.append(values)
            panel.scatter(values, k + np.linspace(-0.24, 0.24, values.size), s=7, color=colour, alpha=0.55, linewidth=0)
            panel.plot([np.median(values)] * 2, [k - 0.34, k + 0.34], color=INK, linewidth=1.4)
        untuned = float(np.median(method["untuned"].get(series, [np.inf])))
        if np.isfinite(untuned):
            panel.plot(untuned, k, marker="D", markersize=4.5, markerfacecolor="white", markeredgecolor=colour)
    together = np.concatenate(shown) if shown else np.ones(1)
    panel.set(xscale="log", xlim=(together.min() / 1.6, together.max() * 1.6), ylim=(len(names) - 0.5, -0.5))
    _few_ticks(panel.xaxis, together.max() / together.min())
    panel.set_yticks(range(len(names)), names)


def _few_ticks(axis: Any, span: float) -> None:
    """Labels of a logarithmic axis that covers a factor ``span``: 1, 2 and 5 of each decade, or decades alone."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if span < 40 else (1.0,)))
    axis.set_minor_formatter(NullFormatter())
    if span < 40:
        axis.set_major_formatter(lambda value, _: number(value))


def static(results: Sequence[Mapping[str, Any]]) -> Figure:
    """The error against rounds on costs that stand still, a panel for each method, a line for each step size."""
    methods = list(dict.fromkeys(each["method"] for each in results))
    trials = len(results[0]["trials"])
    note = (
        f"Lines: median over {trials} trials; bands: smallest to largest of them. Error: root mean square distance of the agents from the "
        "minimiser. A straight line is a linear rate. A set-up of ours, not the paper's."
    )
    title = "Costs that stand still: where GTAdam's error falls by a constant factor a round, and where it bursts"
    fig, axes = _page(3.7, 1, len(methods), title, note, sharey=True, sharex=True)
    colours = dict(zip(sorted({_step(each) for each in results}, key=float), COLOURS, strict=False))
    for lr, colour in colours.items():
        axes[0, 0].plot([], [], color=colour, linewidth=1.2, label=f"lr = {lr}")
    for panel, name in zip(axes[0], methods, strict=True):
        panel.set_title(name, fontsize=8.5, color=INK, loc="left")
        panel.xaxis.set_major_locator(MaxNLocator(5))
        for each in (each for each in results if each["method"] == name):
            lr = _step(each)
            low, middle, high = (np.maximum(each[key], 1e-17) for key in ("low", "median", "high"))
            panel.plot(each["rounds"], middle, color=colours[lr], linewidth=1.2)
            panel.fill_between(each["rounds"], low, high, color=colours[lr], alpha=0.15, linewidth=0)
        panel.set(yscale="log", ylim=(1e-17, None))
        panel.set_xlabel("round t", fontsize=8, color=INK)
    axes[0, 0].set_ylabel("error", fontsize=8, color=INK)
    return _finished(fig, axes)


def _step(each: Mapping[str, Any]) -> str:
    """The step size in a spec."""
    return str(each["spec"]).partition("lr=")[2].split(",")[0]
