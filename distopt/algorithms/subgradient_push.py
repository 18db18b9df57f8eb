"""Subgradient-push: (sub)gradient descent and push-sum on directed graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.optional import AlgorithmDefaults
from distopt.protocols import Mix, Schedule
from distopt.ranges import step_size
from distopt.schedules import rate


class SubgradientPushState(NamedTuple):
    """What subgradient-push carries.

    Attributes:
        w: push-sum weights [..., n, 1]; their sum over all agents is n.
    """

    w: Tensor


@dataclass(frozen=True)
class SubgradientPush(AlgorithmDefaults):
    """Subgradient-push [nedic2015]: descent on directed graphs that may change, with column weights and push-sum [kempe2003].

        u_{t+1} = C_t (u_t - lr_t g_t)                            u_0 = x_0
        w_{t+1} = C_t w_t                                         w_0 = 1
        x_{t+1} = u_{t+1} / w_{t+1}

    x_t, u_t and g_t are [..., n, d], and w_t is [..., n, 1]. Row i of g_t is a (sub)gradient of f_{i,t} at x_{i,t}. lr > 0 is a number,
    a schedule or a tensor [R, 1, 1]. The columns of C_t sum to 1: a sender splits its value among itself and its receivers. A plain
    average with such weights counts agents unequally. The quotient of u and w does not, since both have the same weights.

    With a constant step the agents stop at a distance O(lr) from the optimum, as with ``dgd``. In the paper lr falls, as
    ``lr=inverse_sqrt(0.1)`` does. The paper exchanges once before its first gradient. Here a round begins with a gradient, so u and w meet
    one C less. The paper proves its rate for an average of the points x_t; here the points themselves are measured. u_t = w_t x_t is
    computed from x_t in each round, so that changes of x, such as a projection, also change u.

    Raises:
        InputError: ``lr`` not positive.

    >>> import torch
    >>> from distopt.algorithms.subgradient_push import SubgradientPush
    >>> push, x, a = SubgradientPush(lr=0.01), torch.zeros(1, 3, 1), torch.tensor([[[1.0], [2.0], [6.0]]])
    >>> C = torch.tensor([[1 / 3, 0, 1 / 2], [1 / 3, 1 / 2, 0], [1 / 3, 1 / 2, 1 / 2]])  # 0 sends to 1 and 2, 1 to 2, 2 to 0
    >>> state = push.init(x)
    >>> for _ in range(1000):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = push.update(x - a, state, x, lambda name, z: C @ z)
    >>> round(x[0, :, 0].mean().item(), 1)
    3.0
    """

    lr: float | Schedule = 0.01
    channels: ClassVar[tuple[str, ...]] = ("u", "w")
    weights: ClassVar[str] = "column"

    def __post_init__(self) -> None:
        step_size("subgradient_push", self.lr)

    def init(self, x: Tensor) -> SubgradientPushState:
        return SubgradientPushState(torch.ones_like(x[..., :1]))

    def update(
        self, g: Tensor, state: SubgradientPushState, x: Tensor, mix: Mix
    ) -> tuple[Tensor, SubgradientPushState]:
        u = mix("u", state.w * x - rate(self.lr, mix) * g)
        w = mix("w", state.w)
        return u / w, SubgradientPushState(w)
