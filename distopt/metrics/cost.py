"""The cost of a round at the network average; regrets are made of it."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Metric, View


class Cost(Metric):
    """F_t(x̄_t)."""

    title = "Cost"
    unit = "cost"
    signed = True
    stored = False
    diverges = True

    def term(self, view: View) -> Tensor:
        """f_i(xbar) [R, n]."""
        value: Tensor = view.scenario.loss(view.mean.expand_as(view.x), view.data)
        return value

    def finish(self, sums: Tensor, agents: int) -> Tensor:
        """The sum itself."""
        return sums[..., 0]
