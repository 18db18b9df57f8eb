"""The regret of each agent's own point, from which the agent-wise regrets are computed."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distopt.costs.linear import costs_of_all as of_rows
from distopt.metrics import Metric, Seen
from distopt.numerics.sums import tree_sum


class Agents(Metric):
    """Σ_{τ≤t} F_τ(x_{j,τ}) − F_τ(x*_τ) for every agent j."""

    title = "Dynamic regret by agent"
    unit = "cost"
    compares = True
    cumulative = True
    stored = False
    needs_points = True
    optional = True

    def value(self, seen: Seen) -> Tensor:
        """What each round adds, [K, R, N]."""
        best: Tensor = seen.reference.cost
        xs, loss = seen.points, seen.scenario.loss
        if seen.scenario.linear_rows is not None:
            return of_rows(seen.scenario.linear_rows(seen.data), xs) - best[..., None]

        def total(x: Tensor, data: Any) -> Tensor:
            """F where all agents stand at the same point x [R, N, d]: [R]."""
            each: Tensor = loss(x, data)
            return tree_sum(each.unsqueeze(-1))[..., 0, 0]

        return seen.everywhere("costs of all", total) - best[..., None]
