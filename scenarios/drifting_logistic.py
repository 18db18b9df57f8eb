"""Logistic regression on points that circle: the time-varying classification problem of the tracking literature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.numerics.random import Key
from distopt.scenarios._ranges import LARGEST, real, room, whole

from ._classified import Classified


class Points(NamedTuple):
    """Points with a 1 for the bias, float64 [K, R, n, m, 3]; labels [1, 1, 1, m]; row weights [1, 1, 1, m]."""

    X: Tensor
    y: Tensor
    w: Tensor


@dataclass(frozen=True)
class DriftingLogistic(Classified):
    """Binary logistic regression where every point runs on a circle around its own centre.

    Agent i holds m = ``rows`` labelled points of the plane, z_{ik,t} = c_ik + radius [cos(speed t), sin(speed t)], and

        f_{i,t}(w, beta) = 1/m sum_k log(1 + exp(-y_ik (w . z_{ik,t} + beta))) + l2/2 (|w|^2 + beta^2).

    Labels alternate +1, -1, ...; the centres are c_ik = y_ik (separation, 0) + spread h_{i,y} + scatter e_ik with standard
    normal h (one per agent and label) and e (one per point), so each agent's classes lie elsewhere. The points keep their
    label and their shape: only the offset moves, and the minimiser turns with it. The idea and the circle with speed 1/100
    are those of [carnevale2023]; everything else is our set-up.

    Attributes:
        rows: m, points per agent.
        radius: radius of the points' circles.
        speed: angle that a point moves in a round, in radians.
        separation: half the distance between the two classes' centres before spread.
        spread: how much the class centres differ from agent to agent.
        scatter: standard deviation of the points about their class centre.
        l2: the ridge parameter; it makes each f_i strongly convex.

    Raises:
        InputError: for rows < 1, a negative spread, scatter, radius or l2, or a number beyond 1e100.

    >>> s, key = DriftingLogistic(rows=4), Key(0, range(3), range(1), total=3)
    >>> b = Points(*(leaf[0] for leaf in s.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), key)))
    >>> round(float(s.loss(torch.zeros(1, 3, 3, dtype=torch.float64), b)[0, 0]), 4)  # log 2
    0.6931
    """

    dim: ClassVar[int] = 3
    rows: int = 20
    radius: float = 1.0
    speed: float = 0.01
    separation: float = 1.0
    spread: float = 0.5
    scatter: float = 0.5
    l2: float = 0.1

    def __post_init__(self) -> None:
        whole(self, "rows")
        real(self, "radius", "spread", "scatter", "l2")
        real(self, "speed", "separation", low=-LARGEST)
        room(self, 3 * self.rows, "rows")

    def batch(self, t: Tensor, key: Key) -> Points:
        room(self, 3 * self.rows * len(t) * len(key.trials) * len(key.agents), "rows")
        m, side = self.rows, torch.arange(self.rows) % 2
        y = 1.0 - 2.0 * side.to(torch.float64)
        homes = _pairs(key.normal("drifting_logistic.home", 4))[..., side, :]
        points = _pairs(key.normal("drifting_logistic.point", 2 * m))
        apart = torch.stack([self.separation * y, torch.zeros_like(y)], -1)
        angle = self.speed * t.to(torch.float64).unsqueeze(-1)
        drift = self.radius * torch.cat([angle.cos(), angle.sin()], -1)
        z = apart + self.spread * homes + self.scatter * points + drift
        X = torch.cat([z, torch.ones_like(z[..., :1])], -1)
        return Points(X, y.reshape(1, 1, 1, m), torch.full((1, 1, 1, m), 1.0 / m, dtype=torch.float64))

    def terms(self, agents: int) -> int:
        return self.rows


def _pairs(z: Tensor) -> Tensor:
    return z.reshape(*z.shape[:-1], -1, 2)
