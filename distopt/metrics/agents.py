"""The regret of each agent's own point, of which the agent-wise regrets are made."""

from __future__ import annotations

import torch
from torch import Tensor

from distopt.costs.data import evaluate
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
        costs = [evaluate(loss, xs[:, :, j : j + 1].expand_as(xs), seen.data) for j in range(xs.shape[2])]
        return torch.cat([tree_sum(each.unsqueeze(-1)).squeeze(-1) for each in costs], -1) - best[..., None]
