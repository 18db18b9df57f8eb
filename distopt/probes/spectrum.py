"""The spectrum of the Hessian, in a few numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from distopt.optional import ProbeDefaults
from distopt.probes._lanczos import require_costs, ritz
from distopt.protocols import Snapshot
from distopt.ranges import whole

LEVELS = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Spectrum(ProbeDefaults):
    """The mean and the quantiles of the eigenvalues of the Hessian of F_t at the network average, by stochastic Lanczos quadrature.

    From each of ``vectors`` random vectors (normal numbers, the same in all rounds) ``steps`` steps of the Lanczos process give Ritz values
    with weights (``distopt.probes._lanczos``). Their mean over the vectors is a distribution like that of all eigenvalues of

        H = Hessian of F_t(x) = 1/N sum_i f_{i,t}(x)

    [ubaru2017]. ``spectrum_mean`` is its mean (tr H / d), and ``spectrum_q10``, ``spectrum_q50`` and ``spectrum_q90`` are its quantiles: the
    smallest Ritz value up to which a tenth, a half and nine tenths of the weights lie. One vector gives the mean to about 30 % on a
    neural network of 1,000 parameters; ten vectors are three times as accurate.

    Args:
        every: rounds from one measurement to the next, at least 1.
        steps: Lanczos steps from each vector, at least 1.
        vectors: number of random vectors, at least 1.

    Raises:
        InputError: for a parameter out of range.

    >>> from distopt import simulate
    >>> asked = {"agents": 3, "scenario": "quadratic:kappa=1", "algorithm": "dgd", "rounds": 4}
    >>> simulate("ring", **asked, probe="spectrum:every=2")["spectrum_mean"].round(6).tolist()
    [[nan, 1.0, nan, 1.0]]
    """

    every: int = 100
    steps: int = 30
    vectors: int = 10
    columns: ClassVar[tuple[str, ...]] = ("mean", *(f"q{round(100 * level)}" for level in LEVELS))
    titles: ClassVar[tuple[str, ...]] = (
        "Mean curvature",
        *(f"Curvature, {round(100 * level)} % quantile" for level in LEVELS),
    )

    def __post_init__(self) -> None:
        whole("spectrum", 1, every=self.every, steps=self.steps, vectors=self.vectors)

    def check(self, scenario: Any, algorithm: Any) -> None:
        """Refuse a game."""
        require_costs("spectrum", scenario)

    def measure(self, seen: Snapshot) -> tuple[float, ...]:
        product = seen.curvature(seen.mean)
        each = [ritz(product, seen.normal(number), self.steps) for number in range(self.vectors)]
        values, order = torch.cat([found for found, _ in each]).sort(stable=True)
        weights = torch.cat([weight for _, weight in each])[order] / self.vectors
        return float(values @ weights), *(quantile(values, weights, level) for level in LEVELS)


def quantile(values: Tensor, weights: Tensor, level: float) -> float:
    """The smallest of the ascending ``values`` up to which the part ``level`` of the weights lies.

    >>> quantile(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.25, 0.5, 0.25]), 0.5)
    2.0
    """
    reached = weights.cumsum(0) >= level * weights.sum()
    return float(values[int(reached.to(torch.int64).argmax())])
