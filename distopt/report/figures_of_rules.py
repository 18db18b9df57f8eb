"""The figures of the experiments with one agent and a direction rule (``distopt.reproduce``): each takes the results of one part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from distopt.report.axes import INK, SOFT
from distopt.report.curves import COLOURS
from distopt.report.figures import DOTTED, ROW, levels, titled
from distopt.report.reproduce import _finished, _page

_LOOK: dict[str, tuple[str, Any]] = {
    "Adam": (COLOURS[1], (0, (5, 1.5))),
    "AMSGrad": (COLOURS[0], "-"),
    "AdaBelief": (COLOURS[4], (0, (1.5, 1))),
    "AdaShift": (COLOURS[2], (0, (5, 1.5, 1, 1.5))),
    "ACProp": (COLOURS[3], "-"),
    "SGD": (SOFT, (0, (1.5, 1))),
    "TheoPouLa": (COLOURS[0], "-"),
    "TheoPouLa, eps = 0.01": (COLOURS[3], (0, (5, 1.5, 1, 1.5))),
    "diffGrad": (COLOURS[0], "-"),
}


def _line(panel: Any, name: str, x: Any, y: Any, **more: Any) -> None:
    colour, dashes = _LOOK[name]
    panel.plot(x, y, **{"color": colour, "linestyle": dashes, "linewidth": 1.3, "label": name} | more)


def online(results: Sequence[Mapping[str, Any]]) -> Figure:
    """x and its average regret against rounds."""
    note = (
        "Costs c_t x on [−1, 1]: c_t = 1010 if t mod 101 = 1, else −10. Steps 1/√t, b1 = 0.9, b2 = 0.99, eps = 0; AdaShift with 10 gradients. "
        "Left: x, averaged between two marks. Right: average regret against x = −1; dotted: 20/101, what x = 1 costs for ever."
    )
    title = "Linear costs that come round: Adam goes to the worst point, AMSGrad to the best one"
    return _course(results, title, note, 20 / 101, 100)


def theorem(results: Sequence[Mapping[str, Any]]) -> Figure:
    """x and its average regret against rounds."""
    note = (
        "Costs c_t x on [−1, 1]: c_t = 4 if t mod 3 = 1, else −1. Steps 0.5/√t, b1 = 0, b2 = 1/17, eps = 0. Left: x, averaged between two "
        "marks. Right: average regret against x = −1; dotted: 4/3, what x = 1 costs for ever."
    )
    return _course(results, "Theorem 1, C = 4: Adam ends at x = 1, AMSGrad at −1", note, 4 / 3, 1)


def _course(results: Sequence[Mapping[str, Any]], title: str, note: str, level: float, since: int) -> Figure:
    """Two panels; regrets from round ``since`` on, as the first ones are large."""
    fig, axes = _page(ROW, 1, 2, title, note)
    left, right = axes[0]
    for each in (each for each in results if each["method"] in _LOOK):
        _line(left, each["method"], each["rounds"], each["x"])
        late = np.array(each["rounds"]) >= since
        _line(right, each["method"], np.array(each["rounds"])[late], np.array(each["regret"])[late])
    levels(left, -1, 1)
    levels(right, level)
    left.set(xscale="log", ylim=(-1.1, 1.1))
    right.set(xscale="log", yscale="log")
    titled(left, "x", "round t", "x_t")
    titled(right, "average regret", "round t", "regret / t")
    return _finished(fig, axes)


def stochastic(results: Sequence[Mapping[str, Any]]) -> Figure:
    """x against rounds, a panel for each method, a line for each draw."""
    note = (
        "Costs c_t x on [−1, 1]: c_t = 1010 with probability 0.01, else −10. Steps 1/√t, b1 = 0.9, b2 = 0.99, eps = 0. A line for each draw "
        "of the costs: x, averaged between two marks. Dotted: the best fixed point, −1, and the worst, 1."
    )
    title = "The same costs at random: AMSGrad takes far longer than where they come round"
    fig, axes = _page(ROW, 1, len(results), title, note, sharey=True)
    for panel, each in zip(axes[0], results, strict=True):
        for k, line in enumerate(each["x"]):
            _line(panel, each["method"], each["rounds"], line, linewidth=0.9, **({} if k == 0 else {"label": None}))
        levels(panel, -1, 1)
        panel.set(xscale="log", ylim=(-1.1, 1.1))
        titled(panel, each["method"], "round t")
    axes[0, 0].set_ylabel("x_t", fontsize=8, color=INK)
    return _finished(fig, axes)


def family(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Where each method ends, against b2, a panel for each period."""
    note = (
        "Costs c_t x on [−1, 1]: c_t = P if t mod P = 1, else −1. Steps 1/√t, b1 = 0.9, eps = 0, 200,000 rounds; AdaShift with one gradient. Mean x "
        "of the last tenth of the rounds. The best fixed point is −1."
    )
    return _ends(results, "One large gradient in P: fresh moments need b2 close to 1, delayed ones do not", note)


def sparse(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Where each method ends, against b2, a panel for each period."""
    note = (
        "Costs c_t x on [−1, 1]: c_t = P/2 if t mod P = 1, −1 if t mod P = P − 2, else 0. Steps 1/√t, b1 = 0.9, eps = 0, 200,000 rounds; AdaShift "
        "with one gradient. Mean x of the last tenth of the rounds. The best fixed point is −1."
    )
    return _ends(results, "Sparse gradients: with a small b2 delay alone goes wrong, delay and centring do not", note)


def _ends(results: Sequence[Mapping[str, Any]], title: str, note: str) -> Figure:
    periods = list(dict.fromkeys(each["period"] for each in results))
    fig, axes = _page(ROW, 1, len(periods), title, note, sharey=True)
    for panel, period in zip(axes[0], periods, strict=True):
        own = [each for each in results if each["period"] == period]
        for k, each in enumerate(own):  # a little apart, since many lie on each other
            places = np.arange(len(each["b2"])) + 0.05 * (k - (len(own) - 1) / 2)
            _line(panel, each["method"], places, each["ends"][-1], marker="o", markersize=4)
        panel.set_xticks(range(len(own[0]["b2"])), [f"{b2:g}" for b2 in own[0]["b2"]])
        levels(panel, -1, 1)
        panel.set_ylim(-1.15, 1.15)
        titled(panel, f"P = {period}", "b2")
    axes[0, 0].set_ylabel("x at the end", fontsize=8, color=INK)
    return _finished(fig, axes)


def powers(results: Sequence[Mapping[str, Any]]) -> Figure:
    """|x| against rounds, a panel for each cost."""
    note = (
        "All methods with lr = 0.01. A line that leaves its panel at the top diverges. SGD and TheoPouLa with eps = 0.01 lie on each other in the "
        "third panel. Dotted, in the last panel: lr √lr, the order of the floor at which TheoPouLa stops."
    )
    fig, axes = _page(5.6, 2, 2, "TheoPouLa on steep, flat and plain costs", note, sharex=True)
    for panel, each in zip(axes.flat, results, strict=True):
        first = each["curves"][0]["size"][0]
        for curve in each["curves"]:
            size = np.nan_to_num(curve["size"], nan=np.inf)
            _line(panel, curve["method"], curve["rounds"], np.clip(size, 1e-12, 100 * first))
        least = min(np.min(curve["size"]) for curve in each["curves"])
        panel.set(xscale="log", yscale="log", ylim=(max(least / 3, 1e-8), first * 5))
        titled(panel, each["cost"], "round t", "|x_t|")
    levels(axes[1, 1], 0.01**1.5)
    return _finished(fig, axes)


def toys(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Above, each cost with the ends of both methods; below, x against rounds."""
    note = (
        "Start −1, lr = 0.1, b1 = 0.95, b2 = 0.999, 300 rounds. Above: the cost and, as dots, where each method ends. Dotted: the global "
        "minimiser. F2 is given by its derivative, as in the authors' notebook."
    )
    title = "Three functions of one variable: diffGrad and Adam at the step size of the authors' notebook"
    fig, axes = _page(5.4, 2, len(results), title, note)
    for (above, below), each in zip(axes.T, results, strict=True):
        above.plot(each["at"], each["cost"], color=SOFT, linewidth=1.1)
        above.axvline(each["best"], color=INK, linewidth=0.9, linestyle=DOTTED, alpha=0.6)
        for method, x in each["x"].items():
            _line(below, method, np.arange(len(x)), x)
            cost = np.interp(x[-1], each["at"], each["cost"])
            above.plot([x[-1]], [cost], "o", color=_LOOK[method][0], markersize=6)
        levels(below, each["best"])
        titled(above, each["toy"], "x")
        titled(below, "", "round t")
    axes[0, 0].set_ylabel("cost", fontsize=8, color=INK)
    axes[1, 0].set_ylabel("x_t", fontsize=8, color=INK)
    return _finished(fig, axes)


def step_sizes(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Where both methods end, against the step size, a panel for each toy."""
    note = "Start −1, b1 = 0.95, b2 = 0.999, 3,000 rounds. Dotted: the global minimiser."
    fig, axes = _page(ROW, 1, len(results), "The same functions at other step sizes: where diffGrad and Adam end", note)
    for panel, each in zip(axes[0], results, strict=True):
        for method, ends in each["ends"].items():
            _line(panel, method, each["lrs"], ends, marker="o", markersize=4)
        levels(panel, each["best"])
        panel.set(xscale="log", ylim=(-1.15, 1.15))
        titled(panel, each["toy"], "lr")
    axes[0, 0].set_ylabel("x at the end", fontsize=8, color=INK)
    return _finished(fig, axes)


def rates(results: Mapping[str, Any]) -> Figure:
    """Var(x)/Var(a) against the rate of switching: dots for runs, lines for the formula."""
    note = "Costs (x − a_i)²/2, where i jumps at a rate; α = 1, h = 0.005. Dots: runs. Lines: (1 + mγ)/(1 + γ + mγ²), derived for continuous time."
    fig, axes = _page(
        ROW, 1, 1, "The faster the index jumps, the less x varies: like 1/rate, with and without mass", note
    )
    panel = axes[0, 0]
    for k, mass in enumerate(results["masses"]):
        panel.plot(results["line"], results["formula"][k], color=COLOURS[k], linewidth=1.2, label=f"m = {mass:g}")
        panel.plot(
            [each["rate"] for each in results["runs"]],
            [each["variance"][k] for each in results["runs"]],
            "o",
            color=COLOURS[k],
            markersize=5,
        )
    panel.set(xscale="log", yscale="log")
    titled(panel, "stationary variance of x", "rate γ", "Var(x) / Var(a)")
    return _finished(fig, axes)


def well(results: Sequence[Mapping[str, Any]]) -> Figure:
    """x against time, a line for each mass and start."""
    note = "f(x) = x⁴/4 − x²/2 + 0.15 x, α = 1, h = 0.02. Dotted: the global minimiser, and the local one in the other well."
    fig, axes = _page(
        ROW, 1, 1, "Two wells: a mass carries x into the deeper one, and losing it ends the swinging", note
    )
    panel = axes[0, 0]
    for each, colour in zip(results, (SOFT, COLOURS[1], COLOURS[0], COLOURS[2]), strict=True):
        panel.plot(each["time"], each["x"], color=colour, linewidth=1.2, label=each["way"])
    levels(panel, -1.068, 0.914)
    panel.set_xlim(0, 60)
    titled(panel, "", "time t = k h", "x")
    return _finished(fig, axes)


def floor(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """The root mean square of x against steps, a panel for each way to see the sum."""
    titles = {
        "full": "all samples, h = 0.25",
        "fixed": "one sample a step, h = 0.25",
        "falling": "one sample a step, h falls",
    }
    note = (
        "Mean of (x − a_i)²/2 over ten samples, α = 1, from x = 1. Root mean square of x over the trials. Right: h_k = 0.5/(1 + k/20)^0.7; dotted: "
        "the size that h_k alone explains, √(Var(a) h_k / (2 − h_k))."
    )
    fig, axes = _page(ROW, 1, 3, "With one sample a step, losing the mass is not enough: steps must fall", note)
    colours = {each["mass"]: colour for each, colour in zip(results["full"], COLOURS, strict=False)}
    for panel, (kind, title) in zip(axes[0], titles.items(), strict=True):
        for each in results[kind]:
            rms = np.maximum(each["rms"], 1e-16)
            label = each["mass"] if kind == "full" else None
            panel.plot(each["rounds"], rms, color=colours[each["mass"]], linewidth=1.1, label=label)
        panel.set(xscale="log", yscale="log")
        titled(panel, title, "step k")
    steps = np.geomspace(1, max(results["falling"][0]["rounds"]), 100)
    h = 0.5 / (1 + steps / 20) ** 0.7
    axes[0, 2].plot(steps, np.sqrt(0.57 * h / (2 - h)), color=INK, linewidth=0.9, linestyle=DOTTED, alpha=0.7)
    axes[0, 0].set_ylabel("root mean square of x", fontsize=8, color=INK)
    return _finished(fig, axes)
