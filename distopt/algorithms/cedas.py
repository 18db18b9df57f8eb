"""CEDAS: exact diffusion with compressed communication."""

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


class CedasState(NamedTuple):
    """What CEDAS carries: the correction D_t [..., n, d], whose mean over the agents is zero."""

    correction: Tensor


@dataclass(frozen=True)
class CEDAS(AlgorithmDefaults):
    """CEDAS: exact diffusion whose messages are compressed increments [huang2024].

        psi_t = x_t - lr g_t,    y_t = psi_t - D_t
        D_{t+1} = D_t + (gamma / 2) (yhat_t - W yhat_t),    x_{t+1} = psi_t - D_{t+1},    D_1 = 0
        yhat_t = h_t + C(y_t - h_t),    h_{t+1} = (1 - alpha) h_t + alpha yhat_t,    h_1 = 0
        x_1 = x_0 - lr g_0

    x_t [..., n, d] are the agents' points. Row i of g_t [..., n, d] is grad f_{i,t}(x_{i,t}). D_t [..., n, d] is the correction. h_t [..., n, d]
    are copies that all neighbours hold, memory of the channel that this algorithm brings. C is the (unbiased) compressor, and W is symmetric and
    doubly stochastic. lr > 0 is a number, a schedule or a tensor [R, 1, 1], gamma > 0, and alpha is in (0, 1]. It is LEAD with lr inside D, so
    that lr may change from round to round, as in the paper. With a constant lr the points are those of ``lead``. The first round is that of
    ``lead``, too. With C the identity and gamma = 1 it is exact diffusion (D_t = psi_{t-1} - x_t) whose first round does not mix. (Checked
    against exact diffusion and LEAD's compression, the two parts that the abstract names, and not against the paper's text. The first round is
    our choice.)

    Raises:
        InputError: ``lr`` or ``gamma`` not positive, or alpha outside (0, 1].

    >>> import torch
    >>> from distopt.algorithms.cedas import CEDAS
    >>> from distopt.network.net import Rehearsal
    >>> cedas, x, a = CEDAS(lr=0.5), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean = lambda name, z: z.mean(-2, keepdim=True).expand_as(z)
    >>> state = cedas.init(x)
    >>> for t in range(60):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = cedas.update(x - a, state, x, Rehearsal(mean, x, t))
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
        step_size("cedas", self.lr)
        positive("cedas", gamma=self.gamma)
        with named("cedas"):
            _ = self.channel  # checks the rest

    @property
    def channel(self) -> Choco:
        return Choco(self.compressor, gamma=1.0, alpha=self.alpha)

    def init(self, x: Tensor) -> CedasState:
        return CedasState(torch.zeros_like(x))

    def update(self, g: Tensor, state: CedasState, x: Tensor, mix: Mix) -> tuple[Tensor, CedasState]:
        psi = x - rate(self.lr, mix) * g
        y = torch.where(mix.t > 0, psi - state.correction, 0.0)
        correction = state.correction + self.gamma / 2 * (y - mix("y", y))  # the channel gives y - (yhat - W yhat)
        return psi - correction, CedasState(correction)
