"""A baseline of the dynamic regret: the best point that never moves."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Metric, Seen
from distopt.metrics._reasons import NO_FIXED_POINT


class RegretBestFixed(Metric):
    """Σ_{τ≤t} F_τ(x*) − F_τ(x*_τ): the dynamic regret of the best fixed point (= `dynamic_regret` − `static_regret`)."""

    title = "Dynamic regret of the best fixed point"
    unit = "cost"
    compares = True
    cumulative = True
    averaged = True
    optional = True
    label = "best fixed point"
    take = "last"

    def value(self, seen: Seen) -> Tensor:
        """What each round adds."""
        best: Tensor = seen.reference.cost
        return seen.fixed_cost - best

    def absence(self, agents: int, dim: int) -> str:
        """There is no best fixed point."""
        return NO_FIXED_POINT
