"""Dynamic regret at the worst agent's own point."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Metric, Seen
from distopt.metrics._reasons import too_large


class DynamicRegretWorst(Metric):
    """max_j Σ_{τ≤t} F_τ(x_{j,τ}) − F_τ(x*_τ): the global cost at each agent's own point, of the worst agent."""

    title = "Dynamic regret of the worst agent"
    unit = "cost"
    compares = True
    averaged = True
    announced = "the regrets at each agent's own point"

    def value(self, seen: Seen) -> Tensor:
        """The largest over the agents."""
        return seen["agents"].amax(-1)

    def absence(self, agents: int, dim: int) -> str:
        """It is too much work."""
        return too_large(agents, dim)
