"""How far the agents are from each other."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Metric, View, _squares


class ConsensusError(Metric):
    """sqrt( (1/N) Σ_i ‖x_{i,t} − x̄_t‖² )."""

    title = "Consensus error"
    diverges = True
    head = ("consensus", "error")
    column = 3
    take = "last"

    def term(self, view: View) -> Tensor:
        """|x_i - xbar|^2 [R, n, columns]."""
        return _squares.squares(view.x - view.mean)

    def columns(self, dim: int) -> int:
        """One column per coordinate if there are few."""
        return _squares.columns(dim)

    def finish(self, sums: Tensor, agents: int) -> Tensor:
        """The root of the mean."""
        return _squares.root_mean(sums, agents)
