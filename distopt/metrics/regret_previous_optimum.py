"""A baseline of the dynamic regret: playing the minimiser of the round before, known only in hindsight."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Metric, Seen


class RegretPreviousOptimum(Metric):
    """Σ_{1≤τ≤t} F_τ(x*_{τ−1}) − F_τ(x*_τ): the dynamic regret of playing the previous round's minimiser."""

    title = "Dynamic regret of the previous round's minimiser"
    unit = "cost"
    compares = True
    cumulative = True
    averaged = True
    label = "previous optimum (hindsight)"
    take = "last"

    def value(self, seen: Seen) -> Tensor:
        """What each round adds."""
        added: Tensor = seen.reference.previous_optimum
        return added
