"""What the figures of the experiments of papers share (``distopt.reproduce``)."""

from __future__ import annotations

from typing import Any

from distopt.report.axes import INK

DOTTED: Any = (0, (1, 1.5))
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1.5, 1, 1.5)))
"""Of the lines of a panel, one after the other."""
ROW = 3.7
"""Inches, of a page with one row of panels."""


def titled(panel: Any, title: str, across: str, up: str = "") -> None:
    """Give a panel its title, and names to its axes."""
    panel.set_title(title, fontsize=8.5, color=INK, loc="left")
    panel.set_xlabel(across, fontsize=8, color=INK)
    panel.set_ylabel(up, fontsize=8, color=INK)


def levels(panel: Any, *values: float) -> None:
    """Draw dotted lines across."""
    for value in values:
        panel.axhline(value, color=INK, linewidth=0.9, linestyle=DOTTED, alpha=0.6)
