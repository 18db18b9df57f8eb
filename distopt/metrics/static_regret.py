"""Static regret: against the best point that never moves."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Metric, Seen
from distopt.metrics._reasons import NO_FIXED_POINT


class StaticRegret(Metric):
    """Σ_{τ≤t} F_τ(x̄_τ) − F_τ(x*), where x* is the best fixed point of the WHOLE run, argmin Σ_{τ<T} F_τ.

    It may be negative where the costs drift.
    """

    title = "Static regret"
    unit = "cost"
    compares = True
    cumulative = True
    averaged = True
    signed = True
    optional = True
    announced = "the static regret"

    def value(self, seen: Seen) -> Tensor:
        """What each round adds."""
        return seen["cost"] - seen.fixed_cost

    def absence(self, agents: int, dim: int) -> str:
        """There is no best fixed point."""
        return NO_FIXED_POINT
