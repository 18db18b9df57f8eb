"""Locating a moving source from noisy ranges: a smooth problem that is not convex."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.numerics.random import Key
from distopt.optional import ScenarioDefaults
from distopt.scenarios._ranges import real, whole


class Ranges(NamedTuple):
    """Positions, float64 [1, R, n, 2]; squared ranges [K, R, n, 1]; the true source [K, R, 1, 2] (no agent uses it)."""

    position: Tensor
    squared: Tensor
    source: Tensor


@dataclass(frozen=True)
class Localization(ScenarioDefaults):
    """Find a source that moves on a circle, from each agent's noisy distance to it: squared-range least squares, not convex.

        f_{i,t}(x) = (|x - q_i|^2 - r_{i,t}^2)^2 / (8 size^2)

    Agents stand at fixed positions q_i, uniform in the square [-size, size]^2. A source p_t circles the centre and each agent
    measures r_{i,t} = |p_t - q_i| + noise times a standard normal. This is the cost (|x - q_i|^2 - r^2)^2 / 4 over
    2 size^2: the gradient is then a length, and near the source an agent adds a curvature of order 1, whatever the unit of
    length. It is not convex: well inside an agent's circle the curvature is negative. The task is one of those in
    [carnevale2023]; cost and numbers are our set-up.

    Attributes:
        size: half the side of the square.
        radius: radius of the source's circle.
        period: rounds per turn; the phase is random per trial.
        noise: standard deviation of a range measurement.

    Raises:
        InputError: for size < 1e-100, period < 1, a negative radius or noise, or a number above 1e100.

    >>> s, key = Localization(noise=0.0), Key(0, range(4), range(1), total=4)
    >>> b = Ranges(*(leaf[0] for leaf in s.batch(torch.full((1, 1, 1, 1), 70), key)))
    >>> float(s.loss(s.guess(b).unsqueeze(-2), b).max()) < 1e-30
    True
    """

    dim: ClassVar[int] = 2
    size: float = 1.0
    radius: float = 0.5
    period: int = 1000
    noise: float = 0.01

    def __post_init__(self) -> None:
        real(self, "size", above=True)
        whole(self, "period")
        real(self, "radius", "noise")

    def batch(self, t: Tensor, key: Key) -> Ranges:
        position = self.size * (2 * key.uniform("localization.position", 2) - 1)
        phase = 2 * math.pi * key.shared.uniform("localization.phase", 1)
        angle = 2 * math.pi * (t % self.period).to(torch.float64) / self.period + phase
        source = self.radius * torch.cat([angle.cos(), angle.sin()], -1)
        distance = (source - position).square().sum(-1, keepdim=True).sqrt()
        measured = distance + self.noise * key.normal("localization.noise", 1, t)
        return Ranges(position, measured.square(), source)

    def loss(self, x: Tensor, b: Ranges) -> Tensor:
        position, squared, _ = b
        gap = (x - position).square().sum(-1, keepdim=True) - squared
        return (gap.square() / (8 * self.size**2)).squeeze(-1)

    def grad(self, x: Tensor, b: Ranges) -> Tensor:
        position, squared, _ = b
        away = x - position
        return (away.square().sum(-1, keepdim=True) - squared) * away / (2 * self.size**2)

    def hessian(self, x: Tensor, b: Ranges) -> Tensor:
        position, squared, _ = b
        away = x - position
        gap = away.square().sum(-1, keepdim=True) - squared
        eye = torch.eye(2, dtype=x.dtype, device=x.device)
        each = (gap.unsqueeze(-1) * eye + 2 * away.unsqueeze(-1) * away.unsqueeze(-2)) / (2 * self.size**2)
        return each.sum(-3)

    def optimum(self, b: Ranges) -> None:
        return None

    def guess(self, b: Ranges) -> Tensor:
        return b[2].squeeze(-2)
