"""Stochastic gradient push: any direction rule and push-sum on directed graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.directions import direct
from distopt.directions.sgd import SGD
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Direction, Mix, Schedule
from distopt.ranges import direction, step_size
from distopt.schedules import rate

sgd = SGD()


class PushSumSGDState(NamedTuple):
    """What stochastic gradient push carries.

    Attributes:
        w: push-sum weights [..., n, 1]; their sum over all agents is n.
        direction: the state of the direction rule, leaves [..., n, *].
    """

    w: Tensor
    direction: Any


@dataclass(frozen=True)
class PushSumSGD(AlgorithmDefaults):
    """Stochastic gradient push (SGP) [assran2019]: each agent steps along its own direction, and push-sum averages on a directed graph.

        u_{t+1} = C_t (u_t - lr d(g_t))                           u_0 = x_0
        w_{t+1} = C_t w_t                                         w_0 = 1
        x_{t+1} = u_{t+1} / w_{t+1}

    x_t, u_t and g_t are [..., n, d], and w_t is [..., n, 1]. Row i of g_t is grad f_{i,t}(x_{i,t}). d is the direction rule (the gradient
    itself by default; the paper trains with ``direction=nesterov``). lr > 0 is a number, a schedule or a tensor [R, 1, 1]. The columns of
    C_t sum to 1: a sender splits its value among itself and its receivers.

    Gradients are taken at the quotient x, which the paper calls z, and never at the numerator u, which it calls x. So x is the answer.
    u_t = w_t x_t is computed from x_t in each round, so weight decay and projections of x also change u. With the default direction this
    is ``subgradient_push``. If the agents' costs differ, a constant step leaves a distance O(lr) from the optimum; ``push_diging`` does
    not.

    Raises:
        InputError: ``lr`` not positive.

    >>> import torch
    >>> from distopt.algorithms.push_sum_sgd import PushSumSGD
    >>> from distopt.directions.momentum import Momentum
    >>> push, x, a = PushSumSGD(0.05, Momentum(0.5)), torch.zeros(1, 3, 1), torch.full((1, 3, 1), 3.0)
    >>> C = torch.tensor([[1 / 3, 0, 1 / 2], [1 / 3, 1 / 2, 0], [1 / 3, 1 / 2, 1 / 2]])  # 0 sends to 1 and 2, 1 to 2, 2 to 0
    >>> state = push.init(x)
    >>> for _ in range(300):  # f_i(x) = (x - 3)^2 / 2
    ...     x, state = push.update(x - a, state, x, lambda name, z: C @ z)
    >>> round(x[0, 0, 0].item(), 3)
    3.0
    """

    lr: float | Schedule = 0.01
    direction: Direction[Any] = sgd
    channels: ClassVar[tuple[str, ...]] = ("u", "w")
    weights: ClassVar[str] = "column"

    def __post_init__(self) -> None:
        step_size("push_sum_sgd", self.lr)
        direction("push_sum_sgd", self.direction)

    def init(self, x: Tensor) -> PushSumSGDState:
        return PushSumSGDState(torch.ones_like(x[..., :1]), self.direction.init(x))

    def update(self, g: Tensor, state: PushSumSGDState, x: Tensor, mix: Mix) -> tuple[Tensor, PushSumSGDState]:
        lr = rate(self.lr, mix)
        d, direction = direct(self.direction, g, state.direction, mix, lr)
        u = mix("u", state.w * x - lr * d)
        w = mix("w", state.w)
        return u / w, PushSumSGDState(w, direction)
