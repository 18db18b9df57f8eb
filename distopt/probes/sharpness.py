"""The sharpness: the largest eigenvalue of the Hessian at the network average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from distopt.optional import ProbeDefaults
from distopt.probes._lanczos import require_costs, ritz
from distopt.protocols import Snapshot
from distopt.ranges import positive, whole


@dataclass(frozen=True)
class Sharpness(ProbeDefaults):
    """The largest and the smallest eigenvalue of the Hessian of F_t at the network average.

        sharpness = lambda_max(H),    sharpness_lowest = lambda_min(H),    H = Hessian of F_t(x) = 1/N sum_i f_{i,t}(x) at the average of x_t

    On a quadratic, gradient descent with step size lr is stable where lr lambda_max < 2. On neural networks it trains at the edge of that:
    the sharpness rises to 2 / lr and stays there [cohen2021]. Both come from the Lanczos process (``distopt.probes._lanczos``) on products of H
    with vectors, the first of which is the same in all rounds. Their error is at most ``tolerance`` times the largest. The sharpness is usually
    isolated, and then much more accurate. On ``digits_mlp`` this takes 30 to 60 products, and 40 to 120 with ``tolerance=1e-6``.

    Args:
        every: rounds from one measurement to the next, at least 1.
        steps: the most products with the Hessian, at least 1.
        tolerance: largest error of the eigenvalues, relative to the largest one, above 0.

    Raises:
        InputError: for a parameter out of range.

    >>> from distopt import simulate
    >>> run = simulate("ring", agents=3, scenario="quadratic:kappa=1", algorithm="dgd", rounds=4, probe="sharpness:every=2")
    >>> run["sharpness"].round(6).tolist()
    [[nan, 1.0, nan, 1.0]]
    """

    every: int = 100
    steps: int = 100
    tolerance: float = 1e-3
    columns: ClassVar[tuple[str, ...]] = ("", "lowest")
    titles: ClassVar[tuple[str, ...]] = ("Sharpness", "Lowest curvature")

    def __post_init__(self) -> None:
        whole("sharpness", 1, every=self.every, steps=self.steps)
        positive("sharpness", tolerance=self.tolerance)

    def check(self, scenario: Any, algorithm: Any) -> None:
        """Refuse a game."""
        require_costs("sharpness", scenario)

    def measure(self, seen: Snapshot) -> tuple[float, float]:
        values, _ = ritz(seen.curvature(seen.mean), seen.normal(), self.steps, self.tolerance)
        return float(values[-1]), float(values[0])
