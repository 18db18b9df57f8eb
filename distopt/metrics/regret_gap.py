"""How far the measured dynamic regret can be below the true one."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Seen
from distopt.metrics._certified import Certified, allowance, gap


class RegretGap(Certified):
    """Σ_{τ≤t} ‖∇F_τ(x̂_τ)‖² / (2 μ_τ), and what rounding can do: how much larger than `dynamic_regret` the true regret can be.

    x̂_τ is the point that the comparator found in the place of x*_τ, and F_τ is μ_τ-strongly convex. Without a known μ_τ there is none.
    """

    title = "Uncertainty of the dynamic regret"

    def value(self, seen: Seen) -> Tensor:
        """What each round adds."""
        return gap(seen) + allowance(seen)
