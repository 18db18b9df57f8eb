"""Dynamic regret at the network average."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Metric, Seen


class DynamicRegret(Metric):
    """Σ_{τ≤t} F_τ(x̄_τ) − F_τ(x*_τ): the cost at the network average, as in the GTAdam paper [carnevale2023]."""

    title = "Dynamic regret"
    unit = "cost"
    compares = True
    cumulative = True
    averaged = True
    diverges = True
    baselines = ("regret_best_fixed", "regret_previous_optimum")
    head = ("average", "regret")
    column = 1
    take = "last"
    announced = "the dynamic regret"

    def value(self, seen: Seen) -> Tensor:
        """What each round adds."""
        best: Tensor = seen.reference.cost
        return seen["cost"] - best
