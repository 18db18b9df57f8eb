"""ATG: ADMM in the place of averaging, for gradient tracking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.algorithms._links import Links, begun, relaxed
from distopt.directions import direct
from distopt.directions.sgd import SGD
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Direction, Mix, Schedule
from distopt.ranges import direction, positive, share, step_size
from distopt.schedules import rate

sgd = SGD()


class ATGState(NamedTuple):
    """What ATG carries.

    Attributes:
        points, gradients: the variables of the links, summed up, of those that average points and of those that average gradients.
        direction: the state of the direction rule, leaves [..., n, *].
    """

    points: Links
    gradients: Links
    direction: Any


@dataclass(frozen=True)
class ATG(AlgorithmDefaults):
    """ADMM-Tracking Gradient [carnevale2025]: the mean of the points and the mean of the gradients are both followed by ADMM.

        [y_t; s_t] = ([x_t; g_t] + rho sum_j z_ij) / (1 + rho)
        x_{t+1} = x_t + gamma (y_t - x_t - lr d(s_t))
        z_ij <- (1 - a) z_ij - a (z_ji - 2 w_ij [y_{j,t}; s_{j,t}])                      z_ii = [x_{i,0}; 0], others 0, at first

    x_t, y_t and s_t are [..., n, d], z_ij are pairs of these, and row i of g_t [..., n, d] is grad f_{i,t}(x_{i,t}). W_t is symmetric and doubly
    stochastic, and d is the direction rule (s itself by default). rho > 0, gamma is in (0, 1], and a, in (0, 1], is ``relaxation``. lr > 0, the
    paper's delta, is a number, a schedule or a tensor [R, 1, 1]. Two messages a round, y and s. The y_t and s_t follow the means with a delay of a
    few rounds, so there is no ``tracks``, and gamma lr must be small enough for this delay.

    The paper has one penalty for all links. Our links have the penalties rho w_ij, and an agent also has a link with itself, with its self
    weight. So an agent only keeps two sums over its links. Links that fail are dealt with as in ``lt_admm``. Directions other than s itself are
    not in the paper.

    Raises:
        InputError: ``lr`` or ``rho`` not positive, or ``gamma`` or ``relaxation`` outside (0, 1].

    >>> import torch
    >>> from distopt.algorithms.atg import ATG
    >>> from distopt.network.net import Rehearsal
    >>> atg, x, a = ATG(lr=0.5), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean, state = lambda name, z: z.mean(-2, keepdim=True).expand_as(z), atg.init(x)
    >>> for t in range(120):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = atg.update(x - a, state, x, Rehearsal(mean, x, t))
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """

    lr: float | Schedule = 0.01
    rho: float = 1.0
    gamma: float = 0.5
    relaxation: float = 0.5
    direction: Direction[Any] = sgd
    channels: ClassVar[tuple[str, ...]] = ("y", "s")
    weights: ClassVar[str] = "symmetric"

    def __post_init__(self) -> None:
        step_size("atg", self.lr)
        positive("atg", rho=self.rho)
        share("atg", gamma=self.gamma, relaxation=self.relaxation)
        direction("atg", self.direction)

    def init(self, x: Tensor) -> ATGState:
        return ATGState(begun(x), begun(torch.zeros_like(x)), self.direction.init(x))

    def update(self, g: Tensor, state: ATGState, x: Tensor, mix: Mix) -> tuple[Tensor, ATGState]:
        y, s = (
            (value + self.rho * links.own) / (1 + self.rho)
            for value, links in ((x, state.points), (g, state.gradients))
        )
        step = self.gamma * rate(self.lr, mix)
        d, direction = direct(self.direction, s, state.direction, mix, step)
        points = relaxed(state.points, y, mix("y", y), self.relaxation)
        gradients = relaxed(state.gradients, s, mix("s", s), self.relaxation)
        return x + self.gamma * (y - x) - step * d, ATGState(points, gradients, direction)
