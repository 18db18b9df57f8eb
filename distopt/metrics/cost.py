"""The cost of a round at the network average, from which regrets are computed."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distopt.metrics import Metric, View


class Cost(Metric):
    """F_t(x̄_t), the cost at the network average.

    A run keeps it if the minimisers are unknown (`comparator = False`): it then replaces the regrets.
    """

    title = "Cost"
    unit = "cost"
    smoothed = True
    signed = True
    stored = False
    diverges = True
    head = ("mean", "cost")
    column = 2
    take = "mean"

    def kept(self, scenario: Any) -> bool:
        """Only runs without regrets have it."""
        return not scenario.comparator

    def term(self, view: View) -> Tensor:
        """f_i(xbar) [R, n]."""
        value: Tensor = view.scenario.loss(view.mean.expand_as(view.x), view.data)
        return value

    def finish(self, sums: Tensor, agents: int) -> Tensor:
        """The sum itself."""
        return sums[..., 0]
