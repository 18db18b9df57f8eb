"""The sharpness that limits an adaptive method: after division by its preconditioner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.optional import ProbeDefaults, entry
from distopt.probes._lanczos import require_costs, ritz
from distopt.protocols import Preconditioned, Snapshot
from distopt.ranges import positive, whole


@runtime_checkable
class Directed(Protocol):
    """An algorithm, or its state, that has a direction rule, or that rule's state."""

    direction: Any


@dataclass(frozen=True)
class PreconditionedSharpness(ProbeDefaults):
    """The largest eigenvalue of P^{-1/2} H P^{-1/2}, where the direction rule divides by P.

        d_t = m_t / P_t,    H = Hessian of F_t(x) = 1/N sum_i f_{i,t}(x) at the average of x_t

    It is also the largest eigenvalue of P^{-1} H. This form is symmetric, as the Lanczos process needs. While P hardly changes, a moving average
    m_t = b1 m_{t-1} + (1 - b1) s_t is stable where lr times it is below (2 + 2 b1) / (1 - b1), which is 38 for b1 = 0.9. Full-batch Adam trains
    at the edge of that [cohen2022]. The direction rule must say what P is (``distopt.protocols.Preconditioned``), as adam and amsgrad do, and
    the algorithm must have it as its ``direction``. If agents have their own P_i, 1 / P is the mean of 1 / P_i, since this moves the average of
    the agents. P is the one that has led to x_t. Before the first round, and where an entry of P is 0, the series is nan.

    Args:
        every: rounds from one measurement to the next, at least 1.
        steps: the most products with the Hessian, at least 1.
        tolerance: largest error of the eigenvalue, relative to the largest one, above 0.

    Raises:
        InputError: for a parameter out of range, or a direction rule that has no preconditioner.

    >>> from distopt import simulate
    >>> asked = {"agents": 1, "scenario": "quadratic:dim=1,kappa=1", "algorithm": "dgd:direction=adam", "rounds": 4}
    >>> run = simulate("complete", **asked, record="direction.v", probe="preconditioned_sharpness:every=2")
    >>> p = run["direction.v"][0, 0, 0, 0] ** 0.5  # of the first round, up to eps; H is 1
    >>> round(float(run["preconditioned_sharpness"][0, 1] * p), 5)
    1.0
    """

    every: int = 100
    steps: int = 100
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        whole("preconditioned_sharpness", 1, every=self.every, steps=self.steps)
        positive("preconditioned_sharpness", tolerance=self.tolerance)

    def check(self, scenario: Any, algorithm: Any) -> None:
        """Refuse a game, and what has no preconditioner."""
        require_costs("preconditioned_sharpness", scenario)
        if not isinstance(algorithm, Directed):
            raise InputError(
                f"probe preconditioned_sharpness: {entry(algorithm)} has no direction rule; use an algorithm with direction=adam"
            )
        if not isinstance(algorithm.direction, Preconditioned):
            raise InputError(
                f"probe preconditioned_sharpness: the direction {entry(algorithm.direction)} has no preconditioner; use one that "
                "does, as in direction=adam"
            )

    def measure(self, seen: Snapshot) -> float:
        algorithm, state = seen.algorithm, seen.state
        p: Tensor = algorithm.direction.preconditioner(state.direction).expand(seen.x.shape)
        root = torch.sqrt((1 / p).mean(0))
        if not bool(root.isfinite().all()):
            return torch.nan
        product = seen.curvature(seen.mean)
        values, _ = ritz(lambda v: root * product(root * v), seen.normal(), self.steps, self.tolerance, wanted=(-1,))
        return float(values[-1])
