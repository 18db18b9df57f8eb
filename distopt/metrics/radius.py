"""How far the agents are from the equilibrium of a game."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distopt.metrics import Metric, View, _squares


class Radius(Metric):
    """sqrt( (1/N) Σ_i ‖x_{i,t} − e‖² ), e the equilibrium of a game. Only a game has it (its scenario has `equilibrium`)."""

    title = "Distance from the equilibrium"
    head = ("", "radius")
    column = 3
    take = "last"

    def applies(self, scenario: Any, algorithm: Any) -> bool:
        """Only a game has an equilibrium."""
        return scenario.equilibrium is not None

    def absence(self, agents: int, dim: int) -> str:
        """It is none."""
        return "the scenario is no game"

    def term(self, view: View) -> Tensor:
        """|x_i - e|^2 [R, n, columns]."""
        return _squares.squares(view.x - view.scenario.equilibrium(view.data))

    def columns(self, dim: int) -> int:
        """One column per coordinate if there are few."""
        return _squares.columns(dim)

    def finish(self, sums: Tensor, agents: int) -> Tensor:
        """The root of the mean."""
        return _squares.root_mean(sums, agents)
