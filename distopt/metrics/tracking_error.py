"""How far the agents are from the minimiser."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Metric, View, _squares


class TrackingError(Metric):
    """sqrt( (1/N) Σ_i ‖x_{i,t} − x*_t‖² )."""

    title = "Tracking error"
    compares = True

    def term(self, view: View) -> Tensor:
        """|x_i - x*|^2 [R, n, columns]."""
        return _squares.squares(view.x - view.best)

    def columns(self, dim: int) -> int:
        """One column per coordinate if there are few."""
        return _squares.columns(dim)

    def finish(self, sums: Tensor, agents: int) -> Tensor:
        """The root of the mean."""
        return _squares.root_mean(sums, agents)
