"""The figures of the experiments with AIDA, Super-Adam, Gadam, Adan and INNA (``distopt.reproduce``): each takes the results of one part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from distopt.report.axes import INK, SOFT
from distopt.report.curves import COLOURS
from distopt.report.figures import DASHES, DOTTED, ROW, titled
from distopt.report.reproduce import _finished, _page


def _drawn(panel: Any, line: Mapping[str, Any], style: int, label: str | None = None, floor: float = 0.0) -> None:
    """A curve as ``distopt.reproduce.smooth.curve`` keeps it."""
    values = np.maximum(np.array(line["values"], dtype=np.float64), floor)
    dashes = DASHES[style % len(DASHES)]
    panel.plot(line["t"], values, color=COLOURS[style], linestyle=dashes, linewidth=1.3, label=label)


# ------------------------------------------------------------------------------------------------------------------ AIDA


def aida_stability(results: Mapping[str, Any]) -> Figure:
    """|x| against rounds without and with weight decay, and the cycles of AdamW."""
    note = (
        "f = 5 x² from x = 0.01. Left and middle: the largest |x| from a round on. Dotted: (1 − lr decay)^t. Right: the largest |x| in every 20 "
        "rounds of AdamW: while it rests, its second moment is forgotten, until a step is so large that x jumps away."
    )
    title = "With q > 1, weight decay makes the rate linear; AdamW, (2, 1), keeps jumping away from the minimiser"
    fig, axes = _page(ROW, 1, 3, title, note)
    without, decayed, cycles = axes[0]
    for k, each in enumerate(results["without"]):
        _drawn(without, each["curve"], k, f"(p, q) = ({each['p']:g}, {each['q']:g})", 1e-40)
    pairs = [(each["p"], each["q"]) for each in results["without"]]
    rates = list(dict.fromkeys((each["lr"], each["decay"]) for each in results["decayed"]))
    for each in results["decayed"]:
        _drawn(decayed, each["curve"], pairs.index((each["p"], each["q"])), None, 1e-60)
    for lr, decay in rates:
        t = np.array(results["decayed"][0]["curve"]["t"])
        with np.errstate(under="ignore"):
            decayed.plot(t, 0.01 * (1 - lr * decay) ** t, color=INK, linewidth=1.0, linestyle=DOTTED, zorder=5)
    without.set(xscale="log", yscale="log")
    decayed.set(yscale="log", ylim=(1e-50, 1), xlim=(0, results["decayed"][0]["curve"]["t"][-1]))
    titled(without, "no weight decay, lr = 0.1", "round t", "|x_t|")
    named = " and ".join(f"{lr * decay:g}" for lr, decay in rates)
    titled(decayed, f"with it: lr decay = {named}", "round t")
    for k, each in enumerate(results["cycles"]):
        words = f"lr {each['lr']:g}, decay {each['decay']:g}, eps {each['eps']:g}"
        course = np.maximum(np.array(each["course"]), 1e-40)
        rounds = np.linspace(0, results["decayed"][0]["curve"]["t"][-1], len(course))
        cycles.plot(rounds, course, color=COLOURS[k + 4], linestyle=DASHES[k], linewidth=1.0, label=words)
    cycles.set(yscale="log", ylim=(1e-40, 10), xlim=(0, rounds[-1]))
    titled(cycles, "AdamW, (p, q) = (2, 1)", "round t")
    return _finished(fig, axes)


# ------------------------------------------------------------------------------------------------------------ Super-Adam


def superadam_estimators(results: Mapping[str, Any]) -> Figure:
    """Squared errors of the estimates, and of the gradients at the points, against rounds."""
    note = (
        "A quadratic of 20 coordinates whose gradients are seen with noise of variance (1 + x/2)² in each; means over the trials. The raw "
        "gradient is taken with momentum's step size. Dotted: powers of t, −2/3 and −1/2, at which the weight of the newest gradient falls."
    )
    title = "STORM knows the gradient better; at the same gamma it is faster, and momentum ends lower"
    fig, axes = _page(ROW, 1, 2, title, note)
    left, right = axes[0]
    for k, (name, each) in enumerate(results["noisy"].items()):
        _drawn(left, each["error"], k, name)
        _drawn(right, each["size"], k)
    for name, power in (("STORM", -2 / 3), ("momentum", -1 / 2)):
        line = results["noisy"][name]["error"]
        t = np.array(line["t"][len(line["t"]) // 2 :], dtype=np.float64)
        left.plot(t, 0.6 * line["values"][-1] * (t / t[-1]) ** power, color=INK, linewidth=1.0, linestyle=DOTTED)
    for panel in axes[0]:
        panel.set(xscale="log", yscale="log")
    titled(left, "squared error of the estimate", "round t", "‖G_t − ∇f(x_t)‖²")
    titled(right, "squared gradient", "round t", "‖∇f(x_t)‖²")
    return _finished(fig, axes)


# ----------------------------------------------------------------------------------------------------------------- Gadam


def gadam_quadratic(results: Mapping[str, Any]) -> Figure:
    """f at the last iterate and at the means against rounds, a panel for each method."""
    note = (
        "50 curvatures from 0.1 to 10, gradient noise 2, lr = 0.05; means over the trials. Until the averages begin, at half of the rounds, they are "
        "the last iterate."
    )
    title = "A noisy quadratic: the mean of the iterates is far lower, even that of every hundredth"
    fig, axes = _page(ROW, 1, len(results), title, note, sharey=True)
    for panel, (name, each) in zip(axes[0], results.items(), strict=True):
        for k, (label, line) in enumerate(each["curves"].items()):
            _drawn(panel, line, k, label)
        panel.set(yscale="log", xlim=(0, None))
        titled(panel, name, "round t")
    axes[0, 0].set_ylabel("f − f*", fontsize=8, color=INK)
    return _finished(fig, axes)


def gadam_digits(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Test accuracy of the iterates and of their mean against epochs, a panel for each method."""
    note = (
        "600 digits to learn from, 30 % of them with wrong labels; a small perceptron. Lines: mean over the seeds; bands: smallest to largest "
        "seed. The mean begins at half of the epochs and takes the end of each."
    )
    title = (
        "Digits with wrong labels: the mean classifies better than the last iterate, unless it begins too early (right)"
    )
    fig, axes = _page(ROW, 1, len(results), title, note, sharey=True)
    for panel, (name, runs) in zip(axes[0], results.items(), strict=True):
        for k, (key, label) in enumerate((("x", "last iterate"), ("output", "mean"))):
            values = 100 * np.array([each[key] for each in runs])
            epochs = np.arange(values.shape[1])
            panel.plot(epochs, values.mean(0), color=COLOURS[k], linestyle=DASHES[k], linewidth=1.3, label=label)
            panel.fill_between(epochs, values.min(0), values.max(0), color=COLOURS[k], alpha=0.13, linewidth=0)
        panel.set(xlim=(0, values.shape[1] - 1), ylim=(50, 100))
        titled(panel, name.replace(", ", "\n", 1), "epoch")
    axes[0, 0].set_ylabel("test accuracy (%)", fontsize=8, color=INK)
    return _finished(fig, axes)


def gadam_short(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """f - f* of the iterates and of their mean on a short run without noise."""
    note = "A strongly convex function of 10 coordinates, AdamW. The mean begins at half of the rounds, at the dotted line."
    title = "Without noise, before the iterates have come to rest, the mean is worse than the last one"
    fig, axes = _page(ROW, 1, 1, title, note)
    panel = axes[0, 0]
    for k, (key, label) in enumerate((("x", "last iterate"), ("output", "mean"))):
        values = np.array(results[key]["values"])
        panel.plot(range(len(values)), values, color=COLOURS[k], linestyle=DASHES[k], linewidth=1.3, label=label)
    panel.axvline((len(values) - 1) / 2, color=SOFT, linewidth=0.9, linestyle=DOTTED)
    panel.set(yscale="log", xlim=(0, len(values) - 1))
    titled(panel, "", "round t", "f(x_t) − f*")
    return _finished(fig, axes)


# ------------------------------------------------------------------------------------------------------------------ Adan


def adan_nesterov(results: Mapping[str, Sequence[float]]) -> Figure:
    """How far the paths lie apart, against rounds."""
    labels = {
        "differences": "Nesterov from differences, g_0 = 0: from Nesterov",
        "none first": "the same, g_0 = g_1: from Nesterov",
        "printed": "Adan with the printed start: from Adan",
    }
    note = "A strongly convex function of 10 coordinates without noise. Largest difference of a coordinate; 0 is drawn at the foot."
    title = "Momentum from differences of gradients is Nesterov's method to rounding, if it starts with g_0 = 0"
    fig, axes = _page(ROW, 1, 1, title, note)
    panel = axes[0, 0]
    for k, (name, values) in enumerate(results.items()):
        shown = np.maximum(np.array(values), 1e-18)
        panel.plot(range(len(shown)), shown, color=COLOURS[k], linestyle=DASHES[k], linewidth=1.3, label=labels[name])
    panel.set(yscale="log", xlim=(0, len(shown) - 1), ylim=(1e-18, 10))
    titled(panel, "", "round t", "distance")
    return _finished(fig, axes)


def adan_contest(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """For each problem: the figure of each step size, and the course of the best one."""
    note = (
        "Left: median over the trials of the tuning, for each step size (those that diverge are not drawn); dots: the best one. Right: median "
        "over other trials, at the best step size; bands: smallest to largest of them; losses of pictures are means of 15 rounds."
    )
    fig, axes = _page(1.1 + 2.5 * len(results), len(results), 2, "Adan and AdamW, each at its best step size", note)
    names = {"waves": "noisy function: f − f*", "digits": "digits: training loss"}
    for line, (kind, methods) in zip(axes, results.items(), strict=True):
        for k, (name, each) in enumerate(methods.items()):
            rates = np.array(each["rates"])
            tuned = np.array(each["tuned"], dtype=np.float64)
            line[0].plot(rates, tuned, color=COLOURS[k], linestyle=DASHES[k], linewidth=1.3, label=name)
            line[0].plot(each["lr"], np.nanmin(tuned), "o", color=COLOURS[k], markersize=4)
            low, middle, high = (_smoothed(each[key], kind) for key in ("low", "median", "high"))
            rounds = np.linspace(1, len(each["median"]), len(middle))
            line[1].plot(rounds, middle, color=COLOURS[k], linestyle=DASHES[k], linewidth=1.3)
            line[1].fill_between(rounds, low, high, color=COLOURS[k], alpha=0.13, linewidth=0)
        line[0].set(xscale="log", yscale="log")
        line[1].set(yscale="log", xlim=(0, len(each["median"])))
        titled(line[0], f"{names[kind]}, mean of all rounds", "step size")
        titled(line[1], names[kind], "round t")
    return _finished(fig, axes)


def _smoothed(values: Sequence[float], kind: str) -> Any:
    """The losses of batches jump from round to round: means of 15 of them."""
    found = np.array(values, dtype=np.float64)
    return found[: len(found) // 15 * 15].reshape(-1, 15).mean(1) if kind == "digits" and len(found) >= 15 else found


# ------------------------------------------------------------------------------------------------------------------ INNA


def inna_spirals(results: Sequence[Mapping[str, Any]]) -> Figure:
    """x against rounds, a panel for each case."""
    note = "f = lam x²/2 from x = 1, lr = 0.1. The sign of (alpha + beta lam)² − 4 lam decides; changes of sign are counted over all rounds."
    title = "INNA spirals into a minimum where (alpha + beta lam)² < 4 lam, and nowhere else"
    fig, axes = _page(ROW, 1, len(results), title, note, sharey=True)
    for k, (panel, each) in enumerate(zip(axes[0], results, strict=True)):
        panel.axhline(0, color=SOFT, linewidth=0.8)
        panel.plot(each["path"], color=COLOURS[k], linewidth=1.2)
        words = f"alpha {each['alpha']:g}, beta {each['beta']:g}, lam {each['curvature']:g}: {each['changes']} changes"
        panel.set(xlim=(0, len(each["path"]) - 1))
        titled(panel, words, "round t")
    axes[0, 0].set_ylabel("x_t", fontsize=8, color=INK)
    return _finished(fig, axes)


def inna_saddle(results: Mapping[str, Any]) -> Figure:
    """|y| against rounds from some starts, for INNA and for Newton's method."""
    note = (
        "f = x²/2 − y²/2 + y⁴/4 has a saddle at y = 0 and minima at y = ±1. INNA: alpha, beta and lr stand over the panels. A line for each of "
        "the first 40 starts; counts are of all. What lies below the axis is drawn at its foot."
    )
    title = "From normal starts INNA ends at minima; Newton's method is drawn into the saddle, too"
    runs = [*results["inna"], results["newton"]]
    fig, axes = _page(ROW, 1, len(runs), title, note, sharey=True)
    for panel, each in zip(axes[0], runs, strict=True):
        for line in each["heights"]:
            shown = np.maximum(np.array(line["values"]), 1e-4)
            panel.plot(line["t"], shown, color=COLOURS[0] if shown[-1] > 0.5 else COLOURS[1], linewidth=0.7, alpha=0.6)
        named = "{:g}, {:g}, {:g}".format(*each["setting"]) if each["setting"] else "Newton"
        panel.set(xscale="log", yscale="log", ylim=(8e-5, 20))
        titled(panel, f"{named}: {each['saddle']} at saddle", "round t")
    axes[0, 0].set_ylabel("|y_t|", fontsize=8, color=INK)
    return _finished(fig, axes)
