"""LEAD: a primal-dual method with compressed communication."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.channels.choco import Choco
from distopt.compressors.dither import Dither
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Compressor, Mix, Schedule
from distopt.ranges import named, positive, step_size
from distopt.schedules import rate

dither = Dither()


class LeadState(NamedTuple):
    """What LEAD carries: the dual variable D_t [..., n, d], whose mean over the agents is zero."""

    dual: Tensor


@dataclass(frozen=True)
class LEAD(AlgorithmDefaults):
    """LEAD: linear convergence with compressed messages, without gradient tracking [liu2021].

        y_t = x_t - lr g_t - lr D_t
        D_{t+1} = D_t + (gamma / (2 lr)) (yhat_t - W yhat_t),         x_{t+1} = x_t - lr g_t - lr D_{t+1},    D_1 = 0
        yhat_t = h_t + C(y_t - h_t),    h_{t+1} = (1 - alpha) h_t + alpha yhat_t,    h_1 = 0
        x_1 = x_0 - lr g_0

    x_t [..., n, d] are the agents' points. Row i of g_t [..., n, d] is grad f_{i,t}(x_{i,t}). D_t [..., n, d] is the dual variable. h_t [..., n,
    d] are copies that all neighbours hold, memory of the channel that this algorithm brings. C is the (unbiased) compressor, and W is symmetric
    and doubly stochastic. lr > 0 is a number, a schedule or a tensor [R, 1, 1], gamma > 0, and alpha is in (0, 1]. One message a round. The
    first round is a gradient step alone and sends zeros, so that all rounds send the same messages. With C the identity and gamma = 1 it is
    ``nids``. The paper's lr is constant. If lr changes, the mean still moves by lr_t mean g_t. But D is a dual variable divided by lr, so if
    lr rises by a factor, gamma is multiplied by that factor for one round. ``cedas`` is the method for such an lr.

    Raises:
        InputError: ``lr`` or ``gamma`` not positive, or alpha outside (0, 1].

    >>> import torch
    >>> from distopt.algorithms.lead import LEAD
    >>> from distopt.network.net import Rehearsal
    >>> lead, x, a = LEAD(lr=0.5), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean = lambda name, z: z.mean(-2, keepdim=True).expand_as(z)
    >>> state = lead.init(x)
    >>> for t in range(60):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = lead.update(x - a, state, x, Rehearsal(mean, x, t))
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """

    lr: float | Schedule = 0.01
    compressor: Compressor = dither
    gamma: float = 1.0
    alpha: float = 0.5
    channels: ClassVar[tuple[str, ...]] = ("y",)
    weights: ClassVar[str] = "symmetric"

    def __post_init__(self) -> None:
        step_size("lead", self.lr)
        positive("lead", gamma=self.gamma)
        with named("lead"):
            _ = self.channel  # checks the rest

    @property
    def channel(self) -> Choco:
        return Choco(self.compressor, gamma=1.0, alpha=self.alpha)

    def init(self, x: Tensor) -> LeadState:
        return LeadState(torch.zeros_like(x))

    def update(self, g: Tensor, state: LeadState, x: Tensor, mix: Mix) -> tuple[Tensor, LeadState]:
        lr = rate(self.lr, mix)
        step = x - lr * g
        y = torch.where(mix.t > 0, step - lr * state.dual, 0.0)
        dual = state.dual + self.gamma / (2 * lr) * (y - mix("y", y))  # the channel gives y - (yhat - W yhat)
        return step - lr * dual, LeadState(dual)
