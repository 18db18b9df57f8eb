"""Sensor fusion: sensors that see different parts of a moving state, with noise, estimate all of it together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from distopt.numerics.random import Key
from distopt.optional import ScenarioDefaults
from distopt.scenarios._ranges import one_of, real, room, whole
from distopt.scenarios.moving_target import MovingTarget


class Measured(NamedTuple):
    """What the sensors measure.

    Attributes:
        H: their directions, rows of length 1, float64 [1, R, n, m, d].
        y: the measured values [K, R, n, m].
        w: what each of them weighs [1, R, n, m].
    """

    H: Tensor
    y: Tensor
    w: Tensor


@dataclass(frozen=True)
class SensorFusion(ScenarioDefaults):
    """Follow a moving state p_t, when each sensor measures a few directions of it: least squares that change with time.

        y_{i,t} = H_i p_t + e_{i,t},    f_{i,t}(x) = w_i/2 |H_i x - y_{i,t}|^2

    H_i [rows, d] has random rows of length 1, which do not change. With rows < d one sensor alone cannot find the state: f_i has a whole space of
    minimisers. All together can, as soon as N rows >= d. The noise e is normal and independent in each round. Its standard deviation is
    noise / sqrt(w_i), and the weights w_i are uniform in [1/kappa, 1], so the minimiser of the sum is the estimate of maximal likelihood from one
    round's measurements. It is p_t plus an error of covariance noise^2 (sum_i w_i H_i'H_i)^-1: it follows the state, and jitters. Methods that are
    fast follow the noise too, and slow ones average it. The set-up is ours; [kay1993] explains estimation from linear
    measurements.

    The state moves as in ``moving_target``: on a circle, a line, a random walk or in jumps. It is the same for all sensors.

    Attributes:
        dim: d, the size of the state.
        rows: number of directions that each sensor measures.
        noise: the standard deviation of the best sensor's noise.
        kappa: the variance of the worst sensor's noise, relative to the best one's; at least 1.
        motion: circle, line, walk or jump.
        speed: length per round (line, walk).
        radius: size of the region (circle, jump).
        period: rounds per turn (circle) or between two jumps (jump).

    Raises:
        InputError: for an unknown motion, dim < 1, rows < 1, period < 1, kappa < 1, a negative noise, speed or radius, or a number above 1e100.

    >>> s, key = SensorFusion(noise=0.0), Key(0, range(5), range(1), total=5)
    >>> t = torch.tensor([3]).reshape(1, 1, 1, 1)
    >>> x = s.optimum(s.batch(t, key))
    >>> round(float((x - s.state(t, key)[:, :, 0]).norm()), 9), s.batch(t, key).H.shape
    (0.0, torch.Size([1, 1, 5, 1, 4]))
    """

    dim: int = 4
    rows: int = 1
    noise: float = 0.1
    kappa: float = 10.0
    motion: Literal["circle", "line", "walk", "jump"] = "circle"
    speed: float = 0.01
    radius: float = 1.0
    period: int = 1000
    row_weights: ClassVar[str] = "w"

    def __post_init__(self) -> None:
        one_of(self, "motion", ("circle", "line", "walk", "jump"))
        whole(self, "dim", "rows", "period")
        real(self, "kappa", low=1)
        real(self, "noise", "speed", "radius")
        room(self, 2 * self.dim * self.rows, "dim", "rows")

    def state(self, t: Tensor, key: Key) -> Tensor:
        """p_t [K, R, 1, d] of rounds t [K, 1, 1, 1]."""
        motion = MovingTarget(self.motion, self.dim, self.speed, self.radius, self.period)
        return motion.target(t, key)

    def batch(self, t: Tensor, key: Key) -> Measured:
        many = len(key.trials) * len(key.agents)
        room(self, (2 * self.dim + len(t)) * self.rows * many, "dim", "rows")
        H = key.normal("sensor_fusion.directions", self.rows * self.dim)
        H = H.reshape(*H.shape[:-1], self.rows, self.dim)
        H = H / H.square().sum(-1, keepdim=True).sqrt()
        best = 1 / self.kappa
        w = (best + (1 - best) * key.uniform("sensor_fusion.weight", 1)).expand(*H.shape[:-1])
        noise = self.noise / w.sqrt() * key.normal("sensor_fusion.noise", self.rows, t)
        return Measured(H, (H * self.state(t, key).unsqueeze(-2)).sum(-1) + noise, w)

    def loss(self, x: Tensor, b: Measured) -> Tensor:
        return 0.5 * (b.w * _gaps(x, b).square()).sum(-1)

    def grad(self, x: Tensor, b: Measured) -> Tensor:
        return ((b.w * _gaps(x, b)).unsqueeze(-1) * b.H).sum(-2)

    def hessian(self, x: Tensor, b: Measured) -> Tensor:
        return information(b).expand(len(x), -1, -1)

    def optimum(self, b: Measured) -> Tensor:
        """The estimate of maximal likelihood; of minimal length where the sensors together do not see the whole state."""
        values, vectors = torch.linalg.eigh(information(b))
        inverse = torch.where(values > 1e-12 * values[..., -1:], 1 / values, 0.0)
        told = ((b.w * b.y).unsqueeze(-1) * b.H).sum((-3, -2)).unsqueeze(-1)
        found: Tensor = (vectors @ (inverse.unsqueeze(-1) * (vectors.mT @ told))).squeeze(-1)
        return found

    def modulus(self, b: Measured) -> Tensor:
        values: Tensor = torch.linalg.eigvalsh(information(b))
        return torch.where(values[..., 0] > 1e-12 * values[..., -1], values[..., 0], 0.0)

    def smoothness(self, b: Measured) -> Tensor:
        values: Tensor = torch.linalg.eigvalsh(information(b))
        return values[..., -1]


def _gaps(x: Tensor, b: Measured) -> Tensor:
    """H x - y [R, n, m]."""
    return (b.H * x.unsqueeze(-2)).sum(-1) - b.y


def information(b: Measured) -> Tensor:
    """sum_i w_i H_i'H_i [..., d, d], the Hessian of the sum of all costs: the joint information of the sensors."""
    H = b.H.flatten(-3, -2)
    weighted = b.w.expand(b.H.shape[:-1]).flatten(-2).unsqueeze(-1) * H
    return weighted.mT @ H
