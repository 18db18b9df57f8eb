"""How the axes of a figure look: frame, ticks, and room for names beside the lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

INK, SOFT, HAIR = "#222222", "#767676", "#E3E3E3"


def frame(axes: Any) -> None:
    """Draw a light frame and grid; the horizontal axis counts rounds."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(color="#B5B5B5", linewidth=0.8)
    axes.grid(True, which="major", color=HAIR, linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", labelsize=7.5, labelcolor=INK, color="#B5B5B5", width=0.6, length=2.5)
    axes.tick_params(which="minor", length=1.5, labelsize=6.5)
    if axes.get_xscale() == "log":
        axes.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")
        axes.xaxis.set_minor_formatter(lambda v, _: "")
    else:
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))


def plain_ticks(axes: Any) -> None:
    """Write a logarithmic axis' ticks as 0.2 instead of 2 x 10^-1 where that is short, and only as many as can be read."""
    bottom, top = axes.get_ylim()
    if axes.get_yscale() != "log" or bottom < 1e-4 or top > 1e5:
        return
    decades = np.log10(top / bottom)

    def minor(value: float, _: int) -> str:
        leading = f"{value:.0e}"[0]
        return f"{value:.3g}" if decades < 0.7 or (decades < 2 and leading in "25") else ""

    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.yaxis.set_minor_formatter(minor)


def spread(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Centres close to ``wanted`` for boxes of these heights that do not overlap within 0 .. 1 (as far as they fit).

    Overlapping neighbours merge into a block at their mean, as in isotonic regression.

    >>> [round(y, 3) for y in spread([0.5, 0.5, 0.0], [0.1, 0.1, 0.1])]
    [0.45, 0.55, 0.0]
    """

    def settle(members: list[int]) -> float:
        """The bottom edge at which the members, stacked, lie closest to where they want to be, kept near 0 .. 1."""
        below = np.concatenate([[0.0], np.cumsum([heights[m] for m in members])])
        bottom = float(np.mean([wanted[m] - b - heights[m] / 2 for m, b in zip(members, below[:-1], strict=True)]))
        return max(-0.05, min(bottom, 1.05 - float(below[-1])))

    blocks: list[tuple[list[int], float]] = []  # members from below, bottom edge
    for k in sorted(range(len(wanted)), key=lambda k: wanted[k]):
        members = [k]
        bottom = settle(members)
        while blocks and blocks[-1][1] + sum(heights[m] for m in blocks[-1][0]) > bottom:
            members = blocks.pop()[0] + members
            bottom = settle(members)
        blocks.append((members, bottom))
    places = [0.0] * len(wanted)
    for members, bottom in blocks:
        for m in members:
            places[m] = bottom + heights[m] / 2
            bottom += heights[m]
    return places
