"""Push-DIGing: gradient tracking and push-sum on directed graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.optional import AlgorithmDefaults
from distopt.protocols import Mix, Schedule
from distopt.ranges import step_size
from distopt.schedules import rate


class PushDIGingState(NamedTuple):
    """What Push-DIGing carries.

    Attributes:
        w: push-sum weights [..., n, 1]; their sum over all agents is n.
        y: trackers [..., n, d]; their sum over all agents is that of g.
        g: the gradients of the round before, old cost at old point [..., n, d].
    """

    w: Tensor
    y: Tensor
    g: Tensor


@dataclass(frozen=True)
class PushDIGing(AlgorithmDefaults):
    """Push-DIGing [nedic2017]: gradient tracking and push-sum on directed graphs, with column weights alone.

        y_t = C_t y_{t-1} + g_t - g_{t-1}                         y_{-1} = g_{-1} = 0
        u_{t+1} = C_t (u_t - lr y_t)                              u_0 = x_0
        w_{t+1} = C_t w_t                                         w_0 = 1
        x_{t+1} = u_{t+1} / w_{t+1}

    x_t, u_t, y_t and g_t are [..., n, d], and w_t is [..., n, 1]. Row i of g_t is grad f_{i,t}(x_{i,t}). lr > 0 is a number, a schedule
    or a tensor [R, 1, 1]. The columns of C_t sum to 1: a sender splits its value among itself and its receivers, and need not know their
    other senders. So sum y_t = sum g_t, and u and w go to the same multiples of averages, whose quotient x is the average.

    The paper starts from y_0 = g_0 and updates y at the end of an iteration. Here the update is at the beginning of the next one.
    This differs only if the network changes: y_{t-1} then meets C_t, since all three values travel in one round. u_t = w_t x_t is
    computed from x_t in each round, so that changes of x, such as a projection, also change u.

    Raises:
        InputError: ``lr`` not positive.

    >>> import torch
    >>> from distopt.algorithms.push_diging import PushDIGing
    >>> push, x, a = PushDIGing(lr=0.2), torch.zeros(1, 3, 1), torch.tensor([[[1.0], [2.0], [6.0]]])
    >>> C = torch.tensor([[1 / 3, 0, 1 / 2], [1 / 3, 1 / 2, 0], [1 / 3, 1 / 2, 1 / 2]])  # 0 sends to 1 and 2, 1 to 2, 2 to 0
    >>> state = push.init(x)
    >>> for _ in range(200):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = push.update(x - a, state, x, lambda name, z: C @ z)
    >>> round(x[0, 0, 0].item(), 4), round(state.w.sum().item(), 4)
    (3.0, 3.0)
    """

    lr: float | Schedule = 0.01
    channels: ClassVar[tuple[str, ...]] = ("u", "w", "y")
    tracks: ClassVar[str] = "y"
    weights: ClassVar[str] = "column"

    def __post_init__(self) -> None:
        step_size("push_diging", self.lr)

    def init(self, x: Tensor) -> PushDIGingState:
        return PushDIGingState(torch.ones_like(x[..., :1]), torch.zeros_like(x), torch.zeros_like(x))

    def update(self, g: Tensor, state: PushDIGingState, x: Tensor, mix: Mix) -> tuple[Tensor, PushDIGingState]:
        y = mix("y", state.y) + g - state.g
        u = mix("u", state.w * x - rate(self.lr, mix) * y)
        w = mix("w", state.w)
        return u / w, PushDIGingState(w, y, g)
