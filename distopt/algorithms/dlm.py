"""DLM: decentralised ADMM with one gradient step in the place of the minimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.optional import AlgorithmDefaults
from distopt.protocols import Mix, Schedule
from distopt.ranges import positive, step_size
from distopt.schedules import rate


class DLMState(NamedTuple):
    """What DLM carries: the dual variable z_t [..., n, d]. Its sum over the agents is zero."""

    z: Tensor


@dataclass(frozen=True)
class DLM(AlgorithmDefaults):
    """DLM, decentralised linearised ADMM [ling2015].

        z_t = z_{t-1} + rho (x_t - W_t x_t)                                   z_0 = 0
        x_{t+1} = x_t - lr (g_t + rho (x_t - W_t x_t) + z_t)

    x_t and z_t are [..., n, d], and row i of g_t [..., n, d] is grad f_{i,t}(x_{i,t}). W_t is symmetric and doubly stochastic, and rho > 0. lr > 0
    is a number, a schedule or a tensor [R, 1, 1]. One message a round, and it can be sent before the gradients are known. The dual variable has the
    units of a gradient. At the optimum it is minus the agent's own gradient, so a falling step size does not change it. The z_t sum to zero over the
    agents, and the mean moves by lr_t mean g_t. Steps are small enough if lr (L + 3 rho) < 2 or so; agents agree after about 1 / (lr rho) times as
    many rounds as averaging by W needs.

    The paper sums x_i - x_j over the neighbours; here they have the weights w_ij. There is no ``direction``: it is not in the paper.

    Raises:
        InputError: ``lr`` or ``rho`` not positive.

    >>> import torch
    >>> from distopt.algorithms.dlm import DLM
    >>> from distopt.network.net import Rehearsal
    >>> dlm, x, a = DLM(lr=0.3), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean, state = lambda name, z: z.mean(-2, keepdim=True).expand_as(z), dlm.init(x)
    >>> for t in range(80):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = dlm.update(x - a, state, x, Rehearsal(mean, x, t))
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """

    lr: float | Schedule = 0.01
    rho: float = 1.0
    channels: ClassVar[tuple[str, ...]] = ("x",)
    weights: ClassVar[str] = "symmetric"

    def __post_init__(self) -> None:
        step_size("dlm", self.lr)
        positive("dlm", rho=self.rho)

    def init(self, x: Tensor) -> DLMState:
        return DLMState(torch.zeros_like(x))

    def update(self, g: Tensor, state: DLMState, x: Tensor, mix: Mix) -> tuple[Tensor, DLMState]:
        apart = self.rho * (x - mix("x", x))
        z = torch.where(mix.t > 0, state.z + apart, state.z)
        return x - rate(self.lr, mix) * (g + apart + z), DLMState(z)
