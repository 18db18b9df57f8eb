"""NIDS: network-independent step sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.optional import AlgorithmDefaults
from distopt.protocols import Mix, Schedule
from distopt.ranges import step_size
from distopt.schedules import rate


class NIDSState(NamedTuple):
    """What NIDS carries: z = x_{t-1} - lr g_{t-1}, the local gradient step of the round before [..., n, d]."""

    z: Tensor


@dataclass(frozen=True)
class NIDS(AlgorithmDefaults):
    """NIDS [li2019]: converges for every lr < 2 / L on any network.

        x_1 = x_0 - lr g_0                                                              no mixing
        x_{t+1} = (I + W_t) (2 x_t - x_{t-1} - lr (g_t - g_{t-1})) / 2                  t >= 1

    x_t [..., n, d] are the agents' points. Row i of g_t [..., n, d] is grad f_{i,t}(x_{i,t}). W_t is symmetric and doubly stochastic,
    and L is the largest Lipschitz constant of the local gradients. lr > 0 is a number, a schedule or a tensor [R, 1, 1] of x's dtype.
    The state is z_{t-1} = x_{t-1} - lr g_{t-1}, the only place where x_{t-1} and g_{t-1} occur. Every round sends one message. The
    first round sends one, too, so that all rounds are alike, but does not use the answer. The paper also has one step size per
    agent, and rescales (I + W) / 2 by them. Here all agents have the same step size, and the matrix is (I + W) / 2.

    Raises:
        InputError: ``lr`` not positive.

    >>> import torch
    >>> from distopt.algorithms.nids import NIDS
    >>> from distopt.network.net import Rehearsal
    >>> nids, x, a = NIDS(lr=1.5), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean = lambda name, z: z.mean(-2, keepdim=True).expand_as(z)
    >>> state = nids.init(x)
    >>> for t in range(80):  # f_i(x) = (x - a_i)^2 / 2: L = 1, the optimum is the mean, 3
    ...     x, state = nids.update(x - a, state, x, Rehearsal(mean, x, t))
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """

    lr: float | Schedule = 0.01
    channels: ClassVar[tuple[str, ...]] = ("x",)
    weights: ClassVar[str] = "symmetric"

    def __post_init__(self) -> None:
        step_size("nids", self.lr)

    def init(self, x: Tensor) -> NIDSState:
        return NIDSState(x.clone())

    def update(self, g: Tensor, state: NIDSState, x: Tensor, mix: Mix) -> tuple[Tensor, NIDSState]:
        z = x - rate(self.lr, mix) * g
        y = (
            z + x - state.z
        )  # 2 x_t - x_{t-1} - lr (g_t - g_{t-1}); z_{-1} = x_0 makes it x_0 - lr g_0 in the first round
        mixed = (y + mix("x", y)) / 2
        return torch.where(mix.t > 0, mixed, y), NIDSState(z)
