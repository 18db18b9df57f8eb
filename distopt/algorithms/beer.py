"""BEER: gradient tracking with compressed public copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.channels.choco import Choco
from distopt.compressors.sign import Sign
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Compressor, Mix, Schedule
from distopt.ranges import named, share, step_size
from distopt.schedules import rate

sign = Sign()


class BeerState(NamedTuple):
    """What BEER carries: trackers s and last gradients g [..., n, d]."""

    s: Tensor
    g: Tensor


@dataclass(frozen=True)
class BEER(AlgorithmDefaults):
    """BEER: gradient tracking on copies that compressed increments keep up to date [zhao2022].

        x_{t+1} = x_t + gamma (W - I) h_t - lr s_t,                      h_{t+1} = h_t + C(x_{t+1} - h_t)
        s_{t+1} = s_t + gamma (W - I) k_t + g_{t+1} - g_t,               k_{t+1} = k_t + C(s_{t+1} - k_t)
        s_0 = g_0,    h_0 = k_0 = 0

    x_t [..., n, d] are the agents' points. Row i of g_t [..., n, d] is grad f_{i,t}(x_{i,t}). s_t [..., n, d] are the trackers. h_t and k_t [...,
    n, d] are the public copies of both, memory of the channel that this algorithm brings. C is the compressor, and W the mixing matrix. lr > 0 is
    a number, a schedule or a tensor [R, 1, 1], and gamma is in (0, 1]. Copies start at zero, and x_0 and s_0 are not mixed: the first round
    sends zeros, so that all rounds send the same messages. From then on it is ``c_gt`` with alpha = 1; in particular mean s = mean g for every
    C.

    Raises:
        InputError: ``lr`` not positive, or gamma outside (0, 1].

    >>> import torch
    >>> from distopt.algorithms.beer import BEER
    >>> from distopt.network.net import Rehearsal
    >>> beer, x, a = BEER(lr=0.3), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean = lambda name, z: z.mean(-2, keepdim=True).expand_as(z)
    >>> state = beer.init(x)
    >>> for t in range(60):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = beer.update(x - a, state, x, Rehearsal(mean, x, t))
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """

    lr: float | Schedule = 0.01
    compressor: Compressor = sign
    gamma: float = 0.3
    channels: ClassVar[tuple[str, ...]] = ("x", "s")
    tracks: ClassVar[str] = "s"
    weights: ClassVar[str] = "doubly"

    def __post_init__(self) -> None:
        step_size("beer", self.lr)
        share("beer", gamma=self.gamma)
        with named("beer"):
            _ = self.channel  # checks the rest

    @property
    def channel(self) -> Choco:
        return Choco(self.compressor, self.gamma)

    def init(self, x: Tensor) -> BeerState:
        return BeerState(torch.zeros_like(x), torch.zeros_like(x))

    def update(self, g: Tensor, state: BeerState, x: Tensor, mix: Mix) -> tuple[Tensor, BeerState]:
        late_s, late_x = torch.where(mix.t > 1, state.s, 0.0), torch.where(mix.t > 0, x, 0.0)
        s = mix("s", late_s) + (state.s - late_s) + g - state.g
        x = mix("x", late_x) + (x - late_x) - rate(self.lr, mix) * s
        return x, BeerState(s, g)
