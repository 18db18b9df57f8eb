"""The sharpness on the unit sphere, for costs that do not depend on the length of x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from distopt.errors import InputError
from distopt.optional import ProbeDefaults, entry
from distopt.probes._lanczos import require_costs, ritz
from distopt.protocols import Snapshot
from distopt.ranges import positive, whole

CHANGED = 1e-6
"""The largest relative change of costs, when x is doubled, that still counts as independent of the length."""


@dataclass(frozen=True)
class SphericalSharpness(ProbeDefaults):
    """The largest eigenvalue of the Hessian of F_t at x / |x|, where F_t does not depend on the length of x [lyu2022].

        spherical_sharpness = lambda_max(H),    H = Hessian of F_t(x) = 1/N sum_i f_{i,t}(x) at theta_t = x_t / |x_t|
        spherical_sharpness_norm = |x_t|

    x_t stands for the network average. Normalised networks have such costs, as ``digits_mlp:normalised=8`` has. Gradient descent with weight
    decay, x_{t+1} = (1 - lr decay) x_t - lr grad F_t(x_t), moves theta_t with the step size lr / ((1 - lr decay) |x_t|^2). It trains at the edge
    of stability of that: the spherical sharpness is about 2 (1 - lr decay) |x_t|^2 / lr, and the decay makes it fall. The Hessian at x_t
    itself is |x_t|^2 times smaller.

    Args:
        every: rounds from one measurement to the next, at least 1.
        steps: the most products with the Hessian, at least 1.
        tolerance: largest error of the eigenvalue, relative to the largest one, above 0.

    Raises:
        InputError: for a parameter out of range, or costs that depend on the length of x.

    >>> from distopt import simulate
    >>> asked = {"agents": 1, "scenario": "digits_mlp:rows=20,normalised=8", "algorithm": "dgd", "rounds": 2}
    >>> run = simulate("complete", **asked, probe=["sharpness:every=2", "spherical_sharpness:every=2"])
    >>> longer = run["spherical_sharpness_norm"][0, 1] ** 2
    >>> round(float(run["spherical_sharpness"][0, 1] / run["sharpness"][0, 1] / longer), 4)
    1.0
    """

    every: int = 100
    steps: int = 100
    tolerance: float = 1e-3
    columns: ClassVar[tuple[str, ...]] = ("", "norm")
    titles: ClassVar[tuple[str, ...]] = ("Spherical sharpness", "Length of the network average")

    def __post_init__(self) -> None:
        whole("spherical_sharpness", 1, every=self.every, steps=self.steps)
        positive("spherical_sharpness", tolerance=self.tolerance)

    def check(self, scenario: Any, algorithm: Any) -> None:
        """Refuse a game."""
        require_costs("spherical_sharpness", scenario)

    def measure(self, seen: Snapshot) -> tuple[float, float]:
        length = seen.mean.norm()
        if not bool(length > 0):
            return torch.nan, float(length)
        theta = seen.mean / length
        here, there = seen.cost(theta), seen.cost(2 * theta)
        if bool((here - there).abs() > CHANGED * here.abs()):
            raise InputError(
                f"probe spherical_sharpness: the costs of scenario {entry(seen.scenario)} depend on the length of x; use normalised ones, "
                "as of digits_mlp:normalised=8"
            )
        values, _ = ritz(seen.curvature(theta), seen.normal(), self.steps, self.tolerance, wanted=(-1,))
        return float(values[-1]), float(length)
