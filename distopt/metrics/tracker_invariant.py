"""Whether the trackers' mean is still the gradients' mean."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distopt.metrics import Metric
from distopt.numerics.trees import leaf


class TrackerInvariant(Metric):
    """The largest coordinate of |(1/N) Σ_i s_{i,t} − (1/N) Σ_i g_{i,t}|.

    Only algorithms that name the tracker in their state have it, as in `tracks = "s"`.
    """

    title = "Tracker invariant"
    head = ("tracker", "violation")
    column = 4
    take = "largest"

    def applies(self, scenario: Any, algorithm: Any) -> bool:
        """Only algorithms with ``tracks`` have a tracker."""
        return algorithm.tracks is not None

    def absence(self, agents: int, dim: int) -> str:
        """The algorithm has no ``tracks``."""
        return 'the algorithm has no tracker: it names none, as in tracks = "s"'

    def round_term(self, algorithm: Any, state: Any, g: Tensor) -> Tensor:
        """s_i - g_i [R, n, d] in float64: its sum over all agents is zero while the tracker tracks."""
        return leaf(state, algorithm.tracks).double() - g.double()

    def columns(self, dim: int) -> int:
        """All coordinates."""
        return dim

    def finish(self, sums: Tensor, agents: int) -> Tensor:
        """The largest over the coordinates, of the mean."""
        return sums.abs().amax(-1) / agents
