"""The figures of the experiments with the Dirac-GAN and with weight normalisation (``distopt.reproduce``): each takes the results of one part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from distopt.report.axes import INK, SOFT
from distopt.report.curves import COLOURS
from distopt.report.figures import DASHES, ROW, titled
from distopt.report.reproduce import _finished, _page

_REACH = 3.3
"""Half the side of a panel of the plane."""


def dirac_forms(results: Mapping[str, Any]) -> Figure:
    """For each form: the paths in the plane, and the radius against the steps."""
    names = list(results["paths"])
    note = (
        "Two upper rows: theta (across) and psi (up) from (1, 1) over 500 steps of h = 0.2; the cross is the equilibrium. "
        "Below: the distance from it. What lies below 1e-12 is drawn at the foot."
    )
    title = "Dirac-GAN: without a regulariser it circles; R1, noise and consensus lead in"
    fig, axes = _page(9.4, 3, 4, title, note)
    for panel, name in zip(axes[:2].ravel(), names, strict=True):
        for k, (way, path) in enumerate(results["paths"][name].items()):
            x = np.array(path)
            panel.plot(x[:, 0], x[:, 1], color=COLOURS[k], linestyle=DASHES[0], linewidth=0.9, alpha=0.8, label=way)
        panel.plot(0, 0, "+", color=INK, markersize=8)
        panel.set(xlim=(-_REACH, _REACH), ylim=(-_REACH, _REACH))
        titled(panel, name, "")
    for k, (panel, way) in enumerate(zip(axes[2], results["radii"][names[0]], strict=False)):
        for j, name in enumerate(names):
            line = results["radii"][name][way]
            shown = np.maximum(np.array(line["values"]), 1e-12)
            label = name if k == 0 else None
            panel.plot(line["t"], shown, color=COLOURS[j], linestyle=DASHES[j % 4], linewidth=1.2, label=label)
        panel.set(yscale="log", ylim=(5e-13, 50), xlim=(0, line["t"][-1]))
        titled(panel, way, "step", "distance" if k == 0 else "")
    axes[2, 3].axis("off")
    handles, labels = axes[2, 0].get_legend_handles_labels()
    axes[2, 3].legend(handles, labels, loc="center left", fontsize=8, frameon=False)
    return _finished(fig, axes[:1])


def dirac_agents(results: Mapping[str, Any]) -> Figure:
    """The mean of the agents beside the game on all data: in the plane, and the distance from the equilibrium."""
    lr = max(each["lr"] for each in results["games"])
    note = (
        f"Eight agents on a ring, each with a data point of its own, lr = {lr:g}. Grey: the game with all data in one place, both players together. "
        "Left: theta (across) and psi (up). Right: distance of the mean from the equilibrium; what lies below 1e-12 is drawn at the foot."
    )
    title = "Agents with data of their own: the mean plays the game on all data; tracking comes to its equilibrium"
    fig, axes = _page(2 * ROW, 2, 2, title, note)
    for line, regulariser in zip(axes, ("none", "r1"), strict=True):
        games = [each for each in results["games"] if each["regulariser"] == regulariser and each["lr"] == lr]
        whole = np.array(games[0]["whole"])
        line[0].plot(whole[:, 0], whole[:, 1], color=INK, linewidth=2.2, alpha=0.35, label="all data in one place")
        line[1].plot(np.maximum(np.hypot(*whole.T), 1e-12), color=INK, linewidth=2.2, alpha=0.35)
        for k, each in enumerate(games):
            x = np.array(each["mean"])
            line[0].plot(x[:, 0], x[:, 1], color=COLOURS[k], linestyle=DASHES[k], linewidth=1.1, label=each["method"])
            radius = np.maximum(np.hypot(*x.T), 1e-12)
            line[1].plot(radius, color=COLOURS[k], linestyle=DASHES[k], linewidth=1.1)
        line[0].axhline(0, color=SOFT, linewidth=0.6)
        line[0].axvline(0, color=SOFT, linewidth=0.6)
        words = "R1 of 0.3" if regulariser == "r1" else "no regulariser"
        titled(line[0], f"{words}: path of the mean", "theta", "psi")
        line[1].set(yscale="log", ylim=(5e-13, 5), xlim=(0, len(whole) - 1))
        titled(line[1], f"{words}: distance of the mean", "round t", "distance")
    return _finished(fig, axes)


# --------------------------------------------------------------------------------------------------- weight normalisation


def normalised_ends(results: Mapping[str, Any]) -> Figure:
    """The distance from the shortest solution: at the end against the length of the start, and against rounds from two starts."""
    note = (
        "Least squares with 20 rows and 50 columns. Left: after 8,000 rounds; grey: the formula of the flow. Middle and right: the course. "
        "In two phases the length is held for the first half. What lies below 1e-12 is drawn at the foot."
    )
    title = "Normalised weights end near the shortest solution; gradient descent keeps what no row sees"
    fig, axes = _page(ROW, 1, 3, title, note)
    left, *courses = axes[0]
    starts = [each["start"] for each in results["starts"]]
    left.plot(starts, [each["flow"] for each in results["starts"]], color=INK, linewidth=3, alpha=0.3)
    names = ("gradient descent", "rPGD", "weight normalisation", "two phases")
    for k, name in enumerate(names):
        ends = np.maximum([each["runs"][name]["end"] for each in results["starts"]], 1e-12)
        style: dict[str, Any] = {"color": COLOURS[k], "linestyle": DASHES[k], "linewidth": 1.3}
        left.plot(starts, ends, marker="o", markersize=3, label=name, **style)
        for panel, each in zip(courses, (results["starts"][1], results["starts"][-1]), strict=True):
            values = np.maximum(each["runs"][name]["distance"], 1e-12)
            panel.plot(np.linspace(0, 8000, len(values)), values, **style)
    left.set(xscale="log", yscale="log", ylim=(5e-13, 20))
    titled(left, "at the end", "|x_0|", "distance from x*")
    for panel, start in zip(courses, (starts[1], starts[-1]), strict=True):
        panel.set(yscale="log", ylim=(5e-13, 20), xlim=(0, 8000))
        titled(panel, f"|x_0| = {start:g}", "round t")
    return _finished(fig, axes)


def normalised_agents(results: Mapping[str, Any]) -> Figure:
    """The distance of agents from the shortest solution against rounds."""
    note = "Five agents on a ring with four rows each, gradient tracking, |x_0| = 1; the last method does not track. Grey: the formula of the flow."
    title = "Agents with some of the rows each agree near the shortest solution"
    fig, axes = _page(ROW, 1, 1, title, note)
    panel = axes[0, 0]
    for k, (name, each) in enumerate(results["runs"].items()):
        rounds = np.linspace(0, 1, len(each["distance"])) * 12_000
        panel.plot(rounds, each["distance"], color=COLOURS[k], linestyle=DASHES[k], linewidth=1.3, label=name)
    panel.axhline(results["flow"], color=INK, linewidth=3, alpha=0.3)
    panel.set(yscale="log", xlim=(0, 12_000))
    titled(panel, "", "round t", "distance from x*")
    return _finished(fig, axes)
