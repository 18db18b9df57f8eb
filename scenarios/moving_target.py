"""Quadratics whose common target moves: how fast can a network follow?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from distopt.numerics.random import Key
from distopt.optional import ScenarioDefaults
from distopt.scenarios._ranges import one_of, real, room, whole


class Targets(NamedTuple):
    """Curvatures a and offsets o, float64 [1, R, n, d], and the common target p, float64 [K, R, 1, d]."""

    a: Tensor
    o: Tensor
    p: Tensor

    @property
    def c(self) -> Tensor:
        """The agents' own targets p + o [K, R, n, d]; never stored, as they would be the largest thing in memory."""
        return self.p + self.o


@dataclass(frozen=True)
class MovingTarget(ScenarioDefaults):
    """Follow a target that circles, runs straight on, wanders or jumps, with quadratic costs of unequal curvature.

        f_{i,t}(x) = 1/2 sum_k a_ik (x_k - c_{i,t,k})^2,    c_{i,t} = p_t + o_i

    The target p_t is common to all agents; curvatures a_ik (uniform in [1, kappa]) and offsets o_i (normal, standard
    deviation ``spread``) are the agents' own and do not change. The minimiser of the sum follows p_t at a constant distance,
    so its path length is the target's. Motions, per trial (our set-up):

    - circle: each pair of coordinates (1, 2), (3, 4), ... runs on a circle of ``radius`` around 0, one turn in ``period``
      rounds, from a random phase; with odd d the last coordinate swings.
    - line: p_t = t speed u for a random unit vector u.
    - walk: p_t = p_{t-1} + speed / sqrt(d) times a standard normal vector; ``speed`` is the root mean square step length.
    - jump: p_t = radius times a standard normal vector, drawn anew every ``period`` rounds.

    Attributes:
        motion: how the target moves: circle, line, walk or jump.
        dim: d.
        speed: length per round (line, walk).
        radius: size of the region (circle, jump).
        period: rounds per turn (circle) or between two jumps (jump).
        kappa: the largest curvature; at least 1.
        spread: standard deviation of the offsets.

    Raises:
        InputError: for an unknown motion, dim < 1, period < 1, kappa < 1, a negative speed, radius or spread, or a number above
            1e100.

    >>> s, key = MovingTarget("line", speed=0.5), Key(0, range(3), range(1), total=3)
    >>> x = s.optimum(s.batch(torch.tensor([10, 12]).reshape(2, 1, 1, 1), key))
    >>> round(float((x[1] - x[0]).norm()), 6)
    1.0
    """

    motion: Literal["circle", "line", "walk", "jump"] = "circle"
    dim: int = 2
    speed: float = 0.01
    radius: float = 1.0
    period: int = 1000
    kappa: float = 10.0
    spread: float = 2.0

    def __post_init__(self) -> None:
        one_of(self, "motion", ("circle", "line", "walk", "jump"))
        whole(self, "dim", "period")
        real(self, "kappa", low=1)
        real(self, "speed", "radius", "spread")
        room(self, self.dim, "dim")

    def target(self, t: Tensor, key: Key) -> Tensor:
        """p_t for rounds t [K, 1, 1, 1], the same for every agent: float64 [K, R, 1, d]."""
        network, d = key.shared, self.dim
        if self.motion == "circle":
            phase = 2 * math.pi * network.uniform("moving_target.phase", (d + 1) // 2)
            angle = (
                2 * math.pi * (t % self.period).to(torch.float64) / self.period + phase
            )  # small angles keep all digits
            return self.radius * torch.stack([angle.cos(), angle.sin()], -1).flatten(-2)[..., :d]
        if self.motion == "line":
            u = network.normal("moving_target.line", d)
            return self.speed * t.to(torch.float64) * (u / u.square().sum(-1, keepdim=True).sqrt())
        if self.motion == "walk":
            steps = key.running_sum(
                f"moving_target.walk {d}", t, lambda tau: network.normal("moving_target.walk", d, tau)
            )
            return self.speed / math.sqrt(d) * steps
        stay, which = torch.unique(t.reshape(-1) // self.period, return_inverse=True)
        return self.radius * network.normal("moving_target.jump", d, stay.reshape(-1, 1, 1, 1))[which]

    def batch(self, t: Tensor, key: Key) -> Targets:
        room(self, 2 * self.dim * len(key.trials) * len(key.agents), "dim")
        a = 1 + (self.kappa - 1) * key.uniform("moving_target.curvature", self.dim)
        return Targets(a, self.spread * key.normal("moving_target.offset", self.dim), self.target(t, key))

    def loss(self, x: Tensor, b: Targets) -> Tensor:
        return 0.5 * (b.a * (x - b.c).square()).sum(-1)

    def grad(self, x: Tensor, b: Targets) -> Tensor:
        return b.a * (x - b.c)

    def hessian(self, x: Tensor, b: Targets) -> Tensor:
        return torch.diag_embed(b.a.expand_as(x).sum(-2))

    def optimum(self, b: Targets) -> Tensor:
        return (b.a * b.c).sum(-2) / b.a.sum(-2)

    def modulus(self, b: Targets) -> Tensor:
        return b.a.sum(-2).amin(-1)

    def smoothness(self, b: Targets) -> Tensor:
        return b.a.sum(-2).amax(-1)
