"""The figures of the experiments on curvature and step sizes (``distopt.reproduce``): each takes the results of one part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from distopt.report.axes import INK
from distopt.report.curves import COLOURS
from distopt.report.figures import DASHES, DOTTED, ROW, levels, titled
from distopt.report.reproduce import _finished, _page

_DASHES = (*DASHES, (0, (3, 1, 1, 1, 1, 1)), "-")


def _drawn(panel: Any, line: Mapping[str, Any], style: int, label: str | None = None, factor: float = 1.0) -> None:
    """Readings as ``distopt.reproduce.landscape.read`` keeps them, times a factor."""
    values = factor * np.array(line["values"], dtype=np.float64)
    colour = COLOURS[style % len(COLOURS)]
    panel.plot(line["t"], values, color=colour, linestyle=_DASHES[style % 6], linewidth=1.3, label=label)


# -------------------------------------------------------------------------------------------------------------- edges


def gradient_descent(results: Sequence[Mapping[str, Any]]) -> Figure:
    """lr times the sharpness, and the cost, against rounds."""
    note = "A tanh network of 2,410 parameters on 200 digits, all of them in every round; one machine. Dotted: 2, the edge of stability."
    title = "Gradient descent: the sharpness rises to 2 / lr and stays there; with lr = 0.2 the run is too short"
    fig, axes = _page(ROW, 1, 2, title, note)
    left, right = axes[0]
    for k, each in enumerate(results):
        _drawn(left, each["readings"], k, f"lr = {each['lr']:g}", each["lr"])
        _drawn(right, {"t": [0, *each["readings"]["t"]], "values": each["cost"]}, k)
    levels(left, 2)
    left.set(xlim=(0, None), ylim=(0, None))
    right.set(yscale="log", xlim=(0, None))
    titled(left, "lr times the sharpness", "round t")
    titled(right, "cost", "round t")
    return _finished(fig, axes)


def adaptive_digits(results: Sequence[Mapping[str, Any]]) -> Figure:
    """lr times the preconditioned sharpness over its edge, and the sharpness itself, against rounds."""
    note = (
        "The network and digits of edge-of-stability; Adam with its bias corrected, one machine. Lines: b1, b2, lr. Dotted: the edge. With b1 = 0.9 "
        "and lr = 0.001 the run is too short."
    )
    title = "Adam: the preconditioned sharpness goes to its edge, the sharpness itself does not"
    fig, axes = _page(ROW, 1, 2, title, note)
    left, right = axes[0]
    for k, each in enumerate(results):
        factor = each["lr"] * (1 - each["b1"]) / (2 + 2 * each["b1"])
        _drawn(left, each["readings"], k, f"{each['b1']:g}, {each['b2']:g}, {each['lr']:g}", factor)
        _drawn(right, each["raw"], k)
    levels(left, 1)
    left.set(xlim=(0, None), ylim=(0, 1.3))
    right.set(xlim=(0, None), ylim=(0, None))
    titled(left, "preconditioned sharpness, as a part of (2 + 2 b1) / ((1 − b1) lr)", "round t")
    titled(right, "sharpness", "round t")
    return _finished(fig, axes)


def adaptive_quadratic(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """|x| against rounds just below and just above the edge."""
    note = "f = x'Hx/2, H = [[3, 1], [1, 2]], from (1, 1). Falling: 0.999 times the largest stable step size; rising: 1.001 times."
    fig, axes = _page(ROW, 1, 1, "On a quadratic the edge is sharp to a thousandth", note)
    panel = axes[0, 0]
    for k, (name, each) in enumerate(results.items()):
        for side in ("below", "above"):
            label = name if side == "below" else None
            _drawn(panel, {"t": each[side]["t"], "values": np.maximum(each[side]["size"], 1e-30)}, k, label)
    panel.set(yscale="log", xlim=(0, None), ylim=(1e-12, 1e12))
    titled(panel, "", "round t", "|x_t|")
    return _finished(fig, axes)


def adaptive_network(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Three kinds of sharpness times lr against rounds, a panel for each network."""
    note = (
        "The same network and digits. A ring of five, weights 1/3, lr = 0.003, b1 = 0.9. Band: smallest to largest agent. Linearised network: "
        "the largest eigenvalue of 4 (I + W)⁻¹ P⁻¹ (I + W)⁻¹ H with tracking, of 2 (I + W)⁻¹ P⁻¹ H without. Dotted: 38, the edge."
    )
    title = "A network reaches 38 / lr as a whole: neither at its average nor at any agent alone"
    fig, axes = _page(ROW, 1, len(results), title, note, sharey=True)
    lr = 3e-3
    for panel, (name, each) in zip(axes[0], results.items(), strict=True):
        kept = each["readings"]
        for k, (key, label) in enumerate((("network", "linearised network"), ("average", "at the network average"))):
            _drawn(panel, kept[key], k, label, lr)
        _drawn(panel, kept["own"], 2, "agents' own", lr)
        band = [lr * np.array(kept[key]["values"]) for key in ("low", "high")]
        panel.fill_between(kept["own"]["t"], *band, color=COLOURS[2], alpha=0.2, linewidth=0)
        levels(panel, 38)
        panel.set(xlim=(0, None), ylim=(0, 45))
        titled(panel, name.replace(", ", ",\n"), "round t")
    axes[0, 0].set_ylabel("lr times the sharpness", fontsize=8, color=INK)
    return _finished(fig, axes)


# --------------------------------------------------------------------------------------------------------- on the sphere


def spherical(results: Sequence[Mapping[str, Any]]) -> Figure:
    """The spherical sharpness, its ratio to the edge, and |x|, against rounds."""
    note = "The network of digits_mlp at 8 x / |x|, from |x| = 1. The step on the sphere is lr / ((1 − lr decay) |x|²). Dotted: the edge."
    title = "On the sphere: weight decay moves gradient descent along the edge, to smaller sharpness"
    fig, axes = _page(ROW, 1, 3, title, note)
    names = ("sharpness", "ratio", "length")
    for panel, name in zip(axes[0], names, strict=True):
        for k, each in enumerate(results):
            _drawn(panel, each[name], k, f"lr {each['lr']:g}, decay {each['decay']:g}")
        panel.set(xlim=(0, None), ylim=(0, None))
    levels(axes[0, 1], 1)
    titled(axes[0, 0], "spherical sharpness", "round t")
    titled(axes[0, 1], "over 2 / the step on the sphere", "round t")
    titled(axes[0, 2], "|x|", "round t")
    return _finished(fig, axes)


# ---------------------------------------------------------------------------------------------------------- and the flow


def flow_order(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """The distance from the flow against time, a panel for each problem, a line for each step size."""
    note = (
        "A deep linear network of three 4 × 4 matrices from two sizes of starts, and a tanh network on 200 digits. Time is the round times lr. "
        "Halving lr halves the distance."
    )
    fig, axes = _page(
        ROW, 1, len(results), "Gradient descent keeps near the gradient flow, the nearer the smaller its steps", note
    )
    rates = list(dict.fromkeys(each["lr"] for runs in results.values() for each in runs))
    for panel, (name, runs) in zip(axes[0], results.items(), strict=True):
        for each in runs:
            k = rates.index(each["lr"])
            _drawn(panel, {"t": each["time"], "values": each["distance"]}, k, f"lr = {each['lr']:g}")
        panel.set(yscale="log", xlim=(0, None))
        titled(panel, name, "time")
    axes[0, 0].set_ylabel("distance from the flow", fontsize=8, color=INK)
    return _finished(fig, axes)


def flow_valleys(results: Mapping[str, Any]) -> Figure:
    """-lam_min along the run, at random points, and the costs from balanced starts."""
    note = (
        "Left: the most negative eigenvalue of the Hessian of a deep linear network, along a run from a nearly balanced start, and at points of "
        "standard normal numbers. A line for each point and start."
    )
    fig, axes = _page(
        ROW, 1, 2, "Along the flow the cost is nearly convex, and nearly balanced starts reach its minimum", note
    )
    left, right = axes[0]
    _drawn(left, {"t": results["time"], "values": results["along"]}, 0, "along the run")
    for k, value in enumerate(results["elsewhere"]):
        label = None if k else "at random points"
        left.axhline(value, color=COLOURS[1], linewidth=0.7, alpha=0.7, label=label)
    for k, (name, label) in enumerate((("same", "det M > 0, as det A"), ("other", "det M < 0"))):
        for j, line in enumerate(results[name]["cost"]):
            rounds = np.arange(len(line)) * results["stride"]
            values = np.maximum(np.array(line), 1e-16)
            right.plot(rounds, values, color=COLOURS[k + 2], linewidth=0.8, alpha=0.7, label=None if j else label)
    left.set(xlim=(0, None), ylim=(0, None))
    right.set(yscale="log", xlim=(0, None), ylim=(1e-12, None))
    titled(left, "−lam_min", "time")
    titled(right, "cost", "round t")
    return _finished(fig, axes)


# ------------------------------------------------------------------------------------------------------- random matrices


def random_field(results: Sequence[Mapping[str, Any]]) -> Figure:
    """The largest eigenvalue against the batch size, beside the formula."""
    note = "A matrix 200 × 200 with eigenvalues 2, 5, 10 and 0, plus symmetric noise of variance 4 / B in each element; means of 10 draws."
    fig, axes = _page(ROW, 1, 1, "Spikes in a random field: the formula for the largest eigenvalue", note)
    panel, batches = axes[0, 0], [each["batch"] for each in results]
    panel.plot(batches, [each["formula"] for each in results], color=COLOURS[0], linewidth=1.3, label="formula")
    panel.plot(batches, [each["top"] for each in results], "o", color=COLOURS[1], markersize=5, label="measured")
    panel.set(xscale="log", ylim=(0, None))
    titled(panel, "", "batch size B", "largest eigenvalue")
    return _finished(fig, axes)


def random_steps(results: Mapping[str, Any]) -> Figure:
    """The largest stable step size against the batch size."""
    note = "Least squares on 1,797 digits, 61 pixels, random rows. Dotted: 2 / lam1, and the line through the first point of slope 1."
    fig, axes = _page(ROW, 1, 1, "SGD: the largest stable step size grows with the batch, and stops at 2 / lam1", note)
    panel, found = axes[0, 0], np.array(results["steps"])
    batches = 2.0 ** np.arange(len(found))
    panel.plot(batches, found, "o-", color=COLOURS[0], linewidth=1.3, markersize=5, label="measured")
    squares = np.array(results["squares"])
    panel.plot(batches, squares, color=COLOURS[1], linestyle=_DASHES[1], linewidth=1.3, label="mean square, derived")
    panel.plot(batches[:5], found[0] * batches[:5], color=INK, linewidth=0.9, linestyle=DOTTED, alpha=0.6)
    levels(panel, results["limit"])
    panel.set(xscale="log", yscale="log", ylim=(0.5 * found[0], 2 * results["limit"]))
    titled(panel, "", "batch size B", "largest stable step size")
    return _finished(fig, axes)


def random_network(results: Mapping[str, Any]) -> Figure:
    """The sharpness of mini-batches against their size, beside the fitted and the derived constant."""
    note = (
        "digits_mlp with 400 digits, after 200 rounds of gradient descent. Means over 10 batches of each size. B' = B / (1 − B / 400). "
        "Dotted: lam1, the sharpness of all digits."
    )
    title = "Mini-batches are sharper by a constant over B', and not by that of independent elements"
    fig, axes = _page(ROW, 1, 1, title, note)
    panel, batches = axes[0, 0], np.array(results["batches"], dtype=np.float64)
    top, values = results["top"], np.array(results["values"])
    rest = batches / (1 - batches / 400)
    fitted, spread = float(np.median((values - top) * rest)), results["spread"]
    panel.plot(batches, values, "o", color=COLOURS[1], markersize=5, label="measured")
    panel.plot(batches, top + fitted / rest, color=COLOURS[0], linewidth=1.3, label="lam1 + fitted constant / B'")
    scale = np.sqrt(spread / rest)
    formula = np.where(top > scale, top + spread / rest / top, 2 * scale)
    panel.plot(batches, formula, color=COLOURS[2], linestyle=_DASHES[1], label="independent elements")
    levels(panel, top)
    panel.set(xscale="log", yscale="log")
    titled(panel, "", "batch size B", "largest eigenvalue of the Hessian")
    return _finished(fig, axes)


def random_learner(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Costs against gradients."""
    note = "The network of digits_mlp on 200 digits. lanczos_rate takes three gradients a round. What leaves the panel at the top does not come back."
    fig, axes = _page(
        ROW, 1, 1, "Step size and momentum from the extreme curvatures: fast, if they are read often enough", note
    )
    panel = axes[0, 0]
    for k, (name, each) in enumerate(results.items()):
        cost = np.minimum(np.array(each["cost"]), 100.0)
        panel.plot(each["gradients"] * np.arange(len(cost)), cost, color=COLOURS[k], linewidth=1.0, label=name)
    panel.set(yscale="log", xlim=(0, None), ylim=(None, 30))
    titled(panel, "", "gradients", "cost")
    return _finished(fig, axes)


def random_floor(results: Mapping[str, Sequence[float]]) -> Figure:
    """The largest step size that keeps to a loss, against the batch size."""
    note = "A quadratic, d = 30, curvatures 0.1 to 10, noise 2 / √B; largest lr with a stationary loss below 0.02. Dotted: slopes ½ and 1."
    title = "To keep to a given loss, Adam's step size may grow like √B, that of SGD like B"
    fig, axes = _page(ROW, 1, 1, title, note)
    panel, batches = axes[0, 0], np.array([4.0, 16.0, 64.0, 256.0])
    for k, (name, found) in enumerate(results.items()):
        panel.plot(batches, found, "o-", color=COLOURS[k], linewidth=1.3, markersize=5, label=name)
        power = 0.5 if name == "Adam" else 1.0
        line = found[0] * (batches / batches[0]) ** power
        panel.plot(batches, line, color=INK, linewidth=0.9, linestyle=DOTTED, alpha=0.6)
    panel.set(xscale="log", yscale="log")
    titled(panel, "", "batch size B", "lr")
    return _finished(fig, axes)
