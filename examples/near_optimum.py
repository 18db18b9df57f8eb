"""A metric of one's own: which share of the agents is near the optimum."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NearOptimum:
    """The share of the agents whose distance from the minimiser of the round is at most ``radius``."""

    radius: float = 0.1
    title = "Agents near the optimum"
    unit = "fraction"
    rises = True  # more is better
    compares = True  # it needs a minimiser

    def term(self, view):
        apart = (view.x - view.best).square().sum(-1).sqrt()
        return (apart <= self.radius).to(view.x.dtype)  # [R, n]: what each agent adds
