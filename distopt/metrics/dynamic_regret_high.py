"""The upper end of the dynamic regret."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Seen
from distopt.metrics._certified import Certified, allowance, gap


class DynamicRegretHigh(Certified):
    """The true dynamic regret is at most this: `dynamic_regret` + `regret_gap`."""

    title = "Dynamic regret, upper end"

    def value(self, seen: Seen) -> Tensor:
        """What each round adds."""
        best: Tensor = seen.reference.cost
        return seen["cost"] - best + (gap(seen) + allowance(seen))
