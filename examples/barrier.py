"""A probe of one's own: whether two agents are in the same valley (Frankle et al., 2020, arXiv:1912.05671)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Barrier:
    """The barrier between agent 0 and the agent that is farthest from it, and their distance.

        barrier = max over 0 <= a <= 1 of F(a x + (1 - a) y) - a F(x) - (1 - a) F(y)

    F is the mean of all agents' costs. No convex cost has a barrier.
    """

    every: int = 50
    parts: int = 8
    columns = ("", "distance")
    titles = ("Barrier between two agents", "Distance of the two agents")

    def measure(self, seen):
        x = seen.x[0]
        y = seen.x[(seen.x - x).norm(dim=-1).argmax()]
        ends, rises = (seen.cost(x), seen.cost(y)), []
        for a in (k / self.parts for k in range(self.parts + 1)):
            rises.append(seen.cost(a * x + (1 - a) * y) - a * ends[0] - (1 - a) * ends[1])
        return float(max(rises)), float((x - y).norm())
