"""Shared by ``dynamic_regret_low`` and ``dynamic_regret_high``: how far a measured regret can be from the true one.

The derivation is in docs/theory.md.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distopt.costs.curvature import UNIT, rounding
from distopt.metrics import Metric, Missing, Seen


class Certified(Metric):
    """What these metrics have in common."""

    unit = "cost"
    compares = True
    cumulative = True
    averaged = True
    optional = True

    def applies(self, scenario: Any, algorithm: Any) -> bool:
        """Only where it is known how the costs curve, and all of them has a gradient."""
        own = scenario.prox is None and scenario.modulus is not None and scenario.smoothness is not None
        return own or scenario.linear_rows is not None

    def absence(self, agents: int, dim: int) -> str:
        """It is not known how the costs curve."""
        return "the scenario does not say how strongly convex and how smooth its costs are, or the run was begun by a version that did not measure it"


def gap(seen: Seen) -> Tensor:
    """An upper bound on F_t(x*_t) minus the least cost, for the x*_t that the comparator found [K, R]."""
    found: Tensor | None = seen.reference.gap
    if found is None:
        raise Missing
    return found


def allowance(seen: Seen) -> Tensor:
    """Bounds on the rounding errors of F_t(xbar_t) - F_t(x*_t) in round t, and of its sum over the rounds so far [K, R]."""
    known = seen.reference
    if known.smoothness is None:
        raise Missing
    reach = known.size + seen["tracking_error"]  # no agent, and not their mean, is farther out on average
    terms = seen["cost"].abs() + known.cost.abs() + 2 * known.smoothness * reach.square()
    found: Tensor = rounding(seen.data, seen.agents, int(seen.scenario.dim)) * terms
    return found + 4 * UNIT * seen["dynamic_regret"].abs()
