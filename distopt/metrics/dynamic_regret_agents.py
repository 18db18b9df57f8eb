"""Dynamic regret at the agents' own points, on average."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Metric, Seen
from distopt.metrics._reasons import too_large


class DynamicRegretAgents(Metric):
    """(1/N) Σ_j Σ_{τ≤t} F_τ(x_{j,τ}) − F_τ(x*_τ): the mean over the agents of the global cost at their own points.

    This is the network regret of [shahrampour2018], with a sum instead of a mean of costs.
    """

    title = "Dynamic regret, mean over the agents"
    unit = "cost"
    compares = True
    averaged = True

    def value(self, seen: Seen) -> Tensor:
        """The mean over the agents."""
        return seen["agents"].mean(-1)

    def absence(self, agents: int, dim: int) -> str:
        """It is too much work."""
        return too_large(agents, dim)
