"""What an agent has computed."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Metric, Seen


class Gradients(Metric):
    """Gradients that each agent has evaluated up to and including round t. For methods without gradients, observed values of the costs.

    A method with ``gradient_free``, such as ``bandit``, only observes values: each counts 1, so an estimate from two points counts 2. The
    gradient of one of an agent's m rows of data counts 1/m. Methods that need the gradient of all rows in some rounds only (gt_sarah, gt_vr)
    count the mean per round.
    """

    title = "Gradients evaluated by each agent"
    unit = "evaluations"
    cumulative = True
    optional = True  # runs of earlier versions count none, and go on without
    take = "last"
    key = "gradients_per_agent"

    def value(self, seen: Seen) -> Tensor:
        """What each round adds."""
        return seen.same(seen.gradients)

    def absence(self, agents: int, dim: int) -> str:
        """It began with an earlier version."""
        return "the run was begun by a version that did not count them"
