"""The lower end of the dynamic regret."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Seen
from distopt.metrics._certified import Certified, allowance


class DynamicRegretLow(Certified):
    """The true dynamic regret is at least this: `dynamic_regret`, less what rounding can do."""

    title = "Dynamic regret, lower end"
    signed = True

    def value(self, seen: Seen) -> Tensor:
        """What each round adds."""
        best: Tensor = seen.reference.cost
        return seen["cost"] - best - allowance(seen)
