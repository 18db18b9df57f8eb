"""The figures of the experiments on quadratics and on generalised linear models (``distopt.reproduce``): each takes the results of one part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from distopt.report.axes import INK
from distopt.report.curves import COLOURS
from distopt.report.figures import DASHES, DOTTED, ROW, titled
from distopt.report.figures_of_methods import _drawn
from distopt.report.reproduce import _finished, _page

# ------------------------------------------------------------------------------------------------------------- quadratics


def quadratic_rates(results: Sequence[Mapping[str, Any]]) -> Figure:
    """|x| against rounds, all and the first ones."""
    note = (
        "20 curvatures from 0.001 to 1, no noise, from x = (1, ..., 1). Dotted: the rate that is expected. The lines of eight agents on the complete "
        "graph lie on these."
    )
    title = "A quadratic with a condition number of 1,000: momentum needs the square root of the rounds"
    fig, axes = _page(ROW, 1, 2, title, note)
    for panel, last in zip(axes[0], (4000, 400), strict=True):
        for k, each in enumerate(results):
            t, values = (np.array(each["course"][name]) for name in ("t", "values"))
            shown = (t <= last) & (values > 1e-20)
            line = {"t": t[shown], "values": values[shown]}
            _drawn(panel, line, k, f"{each['name']}: {each['one']:.4f} a round")
            if panel is axes[0, 0]:
                late = line["t"] > 0.6 * line["t"][-1]
                slope = line["values"][-1] * each["expected"] ** (line["t"][late] - line["t"][-1])
                panel.plot(line["t"][late], 0.3 * slope, color=INK, linewidth=1.0, linestyle=DOTTED)
        panel.set(yscale="log", xlim=(0, last))
    axes[0, 1].set_ylim(1e-10, 1e3)
    titled(axes[0, 0], "until 1e-20", "round t", "‖x_t‖")
    titled(axes[0, 1], "the first rounds: heavy ball rises before it falls", "round t")
    return _finished(fig, axes)


def quadratic_limits(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Factor of a round against the step size, relative to the limit."""
    note = (
        "x²/2, b = 0.9. Lines: largest eigenvalue of a step. Points: measured in 300 rounds. Above 1 the method diverges. In brackets: the limit. "
        "The mean of gradients is heavy ball with a step 1/(1 − b) = 10 times as large, and its points lie on those of heavy ball."
    )
    title = "The largest stable step: 2/L, and with momentum 2(1 + b)/L, 2(1 + b)/((1 + 2b)L) and 2(1 + b)/((1 − b)L)"
    fig, axes = _page(ROW, 1, 1, title, note)
    panel = axes[0, 0]
    for k, each in enumerate(results):
        panel.plot(each["line"][0], each["line"][1], color=COLOURS[k], linestyle=DASHES[k], linewidth=1.3)
        label = f"{each['kind']} ({each['limit']:.4g})"
        panel.plot(each["parts"], each["factors"], "os^x"[k], color=COLOURS[k], markersize=4 + k % 2, label=label)
    panel.axhline(1, color=INK, linewidth=0.9, linestyle=DOTTED)
    panel.axvline(1, color=INK, linewidth=0.9, linestyle=DOTTED)
    panel.set(ylim=(0, 2), xlim=(0, 1.25))
    titled(panel, "factor of a round", "lr / limit", "factor")
    return _finished(fig, axes)


def quadratic_floors(results: Sequence[Mapping[str, Any]]) -> Figure:
    """E x² against rounds, of one agent and of several."""
    note = (
        "x²/2 from x = 1, gradients with noise of variance 1, means over 64 trials. Dotted: lr s² / (lam (2(1 + b) − lr lam)) · (1 + b)/(1 − b), and "
        "an eighth of it."
    )
    title = "Noise: momentum rests as far away as gradient descent with the step lr/(1 − b); agents rest lower"
    fig, axes = _page(ROW, 1, 2, title, note, sharey=True)
    for panel, name in zip(axes[0], ("one", "several"), strict=True):
        for k, each in enumerate(results):
            _drawn(panel, each[name]["course"], k, f"b = {each['b']:g}, lr = {each['lr']:g}")
            panel.axhline(each[name]["expected"], color=COLOURS[k], linewidth=1.0, linestyle=DOTTED)
        panel.set(xscale="log", yscale="log")
    titled(axes[0, 0], "one agent", "round t", "E x²")
    titled(axes[0, 1], "eight agents, complete graph", "round t")
    return _finished(fig, axes)


# ---------------------------------------------------------------------------------------------- generalised linear models


def _learning(
    results: Mapping[str, Any], title: str, note: str, error: str, penalty: str, scale: str = "log"
) -> Figure:
    """The error against rounds, and against the number of rows."""
    fig, axes = _page(ROW, 1, 2, title, note)
    course, sweep = axes[0]
    first = results["runs"][0]["penalty"]
    for k, each in enumerate(results["runs"]):
        own = each["error"]
        other = f", {penalty} = {each['penalty']:g}" if each["penalty"] != first else ""
        _drawn(course, each["course"], k, f"alpha = {each['alpha']:g}{other}")
        course.axhline(own["expected"], color=COLOURS[k], linewidth=1.0, linestyle=DOTTED)
        asked: dict[str, Any] = {"color": COLOURS[k], "markersize": 4, "capsize": 3, "zorder": 5}
        sweep.errorbar(each["alpha"], own["mean"], 2 * own["error"], fmt="s" if other else "o", **asked)
    sweep.plot(results["line"]["alpha"], results["line"]["error"], color=INK, linewidth=1.2, label="fixed point")
    course.set(xscale="log", yscale=scale)
    sweep.set(xscale="log", yscale=scale)
    sweep.set_xticks(_ALPHAS, [f"{each:g}" for each in _ALPHAS])
    sweep.set_xticks([], minor=True)
    titled(course, "five agents on a ring", "round t", error)
    titled(sweep, f"at the end, {penalty} = {first:g}", "rows for each coordinate, alpha", error)
    return _finished(fig, axes)


_ALPHAS = (0.25, 0.5, 1, 2, 4)
_NOTE = (
    "300 coordinates, means over 16 trials; F'F has eigenvalues between 0.2 and 2, and zeros where there are fewer rows than coordinates. Dotted and "
    "black: the fixed point for infinitely many coordinates. Bars: two standard errors."
)


def glm_ridge(results: Mapping[str, Any]) -> Figure:
    """The squared error of ridge regression."""
    title = "Ridge regression: the agents' error comes to rest where the fixed point says"
    return _learning(results, title, f"{_NOTE} Noise of deviation 0.1.", "‖x − x₀‖² / d", "l2")


def glm_logistic(results: Mapping[str, Any]) -> Figure:
    """The error on fresh signs."""
    title = "Logistic regression on a teacher's signs: errors on fresh rows"
    note = f"{_NOTE} The square has a smaller l2, and is not on the line."
    return _learning(results, title, note, "errors on fresh rows", "l2", "linear")


def glm_lasso(results: Mapping[str, Any]) -> Figure:
    """The squared error of the LASSO."""
    title = "The LASSO with proximal steps: sixty of 300 coordinates of the teacher are not 0"
    return _learning(results, title, f"{_NOTE} Noise of deviation 0.1.", "‖x − x₀‖² / d", "l1")
