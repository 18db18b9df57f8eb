"""What theory reads from the curves: how fast the problem moves, and how fast or how closely each method follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from distopt.report.study import Group
from distopt.report.tables import number
from distopt.report.theory import floor, linear_rate, speed
from distopt.runs.results import Run

VARIATIONS = ("path_length", "gradient_variation", "function_variation")


class Strip(NamedTuple):
    """How the problem moves, in words, and a row for each method."""

    words: str
    heads: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, Sequence[str]]]


def strip(group: Group) -> Strip | None:
    """The figures of theory for a group; None if its minimisers are unknown.

    For constant costs it is the linear rate of the tracking error. For other costs it is the level at which the tracking error
    settles, beside the speed of the minimiser. Both are those of the median over the trials (see ``distopt.report.theory``).
    """
    have = {name: run for name, run in group.runs.items() if {"tracking_error", *VARIATIONS} <= run.metrics.keys()}
    if not have:
        return None
    run = max(have.values(), key=lambda each: len(each.rounds))
    still = not run["path_length"].any()
    if still:
        words = "The costs do not change. A method that converges linearly multiplies its error by the same rate in every round."
        heads = [("Linear rate", "of the tracking error")]
        rows = [(name, [_said(_rate(each), "not linear")]) for name, each in have.items()]
        return Strip(words, heads, rows)
    path, gradients, costs = (number(float(np.median(run[name][:, -1]))) for name in VARIATIONS)
    fast = speed(run)
    words = (
        f"The minimiser moves by {path} in all (the path length), {number(fast)} a round. The gradient variation is {gradients}, "
        f"the function variation {costs}. A method that follows settles at a floor, which grows with the speed."
    )
    heads = [("Floor", "of the tracking error"), ("Floor / speed", "rounds behind")]
    rows = []
    for name, each in have.items():
        level = floor(_middle(each))
        behind = None if level is None or not fast else level / fast
        rows.append((name, [_said(level, "not settled"), _said(behind, "—")]))
    return Strip(words, heads, rows)


def _middle(run: Run) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The median tracking error over the trials [k]."""
    with np.errstate(invalid="ignore"):
        middle: np.ndarray[tuple[int], np.dtype[np.float64]] = np.median(run["tracking_error"], axis=0)
    return middle


def _rate(run: Run) -> float | None:
    return linear_rate(_middle(run), run.rounds)


def _said(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else number(value, 4)
