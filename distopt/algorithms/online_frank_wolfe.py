"""Online Frank-Wolfe on a network: no projections, only linear minimisers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.optional import AlgorithmDefaults
from distopt.protocols import Mix, Schedule
from distopt.ranges import positive, share
from distopt.schedules import rate


class FrankWolfeState(NamedTuple):
    """What online Frank-Wolfe carries.

    Attributes:
        s: tracker [..., n, d]; its mean over all agents is the mean of g.
        g: the gradients of the round before [..., n, d].
    """

    s: Tensor
    g: Tensor


@dataclass(frozen=True)
class OnlineFrankWolfe(AlgorithmDefaults):
    """Frank and Wolfe's step [jaggi2013] along the tracked gradient of the network, in every round.

        s_t = W_t s_{t-1} + g_t - g_{t-1}                           s_{-1} = g_{-1} = 0
        v_t = argmin_{v in X} <s_t, v>,    x_{t+1} = (1 - lr) W_t x_t + lr v_t

    x_t, s_t and v_t are [..., n, d], and row i of g_t is grad f_{i,t}(x_{i,t}). W_t is doubly stochastic. lr in (0, 1] is a number, a schedule or a
    tensor [R, 1, 1]; a schedule's values above 1 count as 1. X is the scenario's set of allowed points (``lmo``), such as that of ``feasible``. If
    it has none, X is the Euclidean ball of ``radius`` about 0. Points are means of allowed points, so nothing is ever projected, and x stays in X
    if it begins there. A linear minimiser is cheaper than a projection for many sets.

    Where s_t is 0 all points are least, and v_t is W_t x_t. Elsewhere v_t jumps between corners of X, so x_t does not converge. It stays at
    a distance that grows with lr; with a smaller lr it follows changes more slowly. The distributed online method of conditional gradients
    adds up all earlier gradients in place of s_t; tracking is our choice.

    Raises:
        InputError: ``lr`` outside (0, 1], or ``radius`` not positive.

    >>> import torch
    >>> from distopt.algorithms.online_frank_wolfe import OnlineFrankWolfe
    >>> from distopt.network.net import Rehearsal
    >>> fw, x, corners = OnlineFrankWolfe(lr=0.02), torch.zeros(1, 1, 1), lambda s: -torch.sign(s)  # on [-1, 1]
    >>> state = fw.init(x)
    >>> for t in range(300):  # f(x) = (x - 0.5)^2 / 2
    ...     x, state = fw.update(x - 0.5, state, x, Rehearsal(lambda name, z: z, x, t, lmo=corners))
    >>> abs(x.item() - 0.5) < 0.03
    True
    """

    lr: float | Schedule = 0.03
    radius: float = 10.0
    channels: ClassVar[tuple[str, ...]] = ("x", "s")
    tracks: ClassVar[str] = "s"
    weights: ClassVar[str] = "doubly"

    def __post_init__(self) -> None:
        if not callable(self.lr):
            share("online_frank_wolfe", lr=self.lr)
        positive("online_frank_wolfe", radius=self.radius)

    def init(self, x: Tensor) -> FrankWolfeState:
        return FrankWolfeState(torch.zeros_like(x), torch.zeros_like(x))

    def update(self, g: Tensor, state: FrankWolfeState, x: Tensor, mix: Mix) -> tuple[Tensor, FrankWolfeState]:
        s = mix("s", state.s) + g - state.g
        mixed, lr = mix("x", x), torch.clamp(rate(self.lr, mix) * torch.ones_like(x[..., :1]), max=1.0)
        v = torch.where(s.abs().amax(-1, keepdim=True) > 0, mix.lmo(s, self.radius), mixed)
        return (1 - lr) * mixed + lr * v, FrankWolfeState(s, g)
