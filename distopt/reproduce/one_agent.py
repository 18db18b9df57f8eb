"""Runs of one agent: a rule on a cost, without a network, and what the experiments of such runs share."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt.api import simulate
from distopt.numerics.random import Key
from distopt.report.statistics import diverged

Floats = NDArray[np.float64]
MARKS = 160
"""Points of a curve."""
LOOP, DERIVED = "loop", "derived"
LOOPS = f'Numbers with the source "{LOOP}" come from loops of a few lines written from the equations, those with "{DERIVED}" from formulas.'
"""Where the numbers come from that are expected, in words."""
EXACT = "eps=1e-300,eps_inside=false,cap=none"
"""Moments as in the papers: nothing is added under the root or beside it that a float64 could notice, and nothing is capped."""


class Still:
    """A constant cost of one coordinate, without a given minimiser. Its data are empty."""

    dim: ClassVar[int] = 1
    comparator: ClassVar[bool] = False

    def batch(self, t: Tensor, key: Key) -> Tensor:
        """See ``distopt.protocols.Scenario``."""
        return torch.zeros(1, 1, 1, 1, dtype=torch.float64)


def paths(
    scenario: Any, algorithm: Any, rounds: int, *, trials: int = 1, seed: int = 0, x0: float | None = None
) -> list[Floats]:
    """x_0 .. x_T of one agent for each point of the algorithm's grid, [R, T + 1, d]; where a trial has diverged its last point is inf.

    >>> (x,) = paths("quadratic:dim=1", "dgd:lr=0.1", 3)
    >>> x.shape
    (1, 4, 1)
    """
    with warnings.catch_warnings():
        # no gradient certifies the minimiser of a linear cost on an interval
        warnings.filterwarnings("ignore", "the comparator's relative gradient norm")
        runs = simulate(
            "ring",
            agents=1,
            scenario=scenario,
            algorithm=[algorithm],
            rounds=rounds,
            trials=trials,
            seed=seed,
            x0=x0,
            every=max(rounds // 100, 1),
            record="x",
            agentwise=False,
        )
    return [_whole(run, rounds) for run in runs.values()]


def _whole(run: Any, rounds: int) -> Floats:
    x: Floats = np.array(run["x"][:, :, 0], dtype=np.float64)
    missing = rounds + 1 - x.shape[1]
    if missing:  # all trials have diverged
        x = np.concatenate([x, np.full((len(x), missing, x.shape[2]), np.inf)], axis=1)
    x[diverged(run), -1] = np.inf
    return x


def marks(length: int) -> NDArray[np.int64]:
    """Some of the places 0 .. length - 1, closer together at the beginning; the first and the last are among them."""
    spaced: NDArray[np.int64] = np.unique(np.geomspace(1, length, min(length, MARKS)).round().astype(np.int64)) - 1
    return spaced


def averaged(values: Floats, at: NDArray[np.int64]) -> list[float]:
    """The means of ``values`` [T] from each mark to before the next, so that fast oscillations do not hide the course."""
    found: list[float] = (np.add.reduceat(values, at) / np.diff(at, append=len(values))).tolist()
    return found
