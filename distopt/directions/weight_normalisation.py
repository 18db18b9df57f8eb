"""Weight normalisation: gradient steps on a length and on a vector, whose direction alone counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.directions.rpgd import polar
from distopt.protocols import DirectionRound
from distopt.ranges import not_negative, positive


class WeightNormalisationState(NamedTuple):
    """What weight normalisation carries: |v_t| [..., n, 1]."""

    length: Tensor


@dataclass(frozen=True)
class WeightNormalisation:
    """Gradient descent on (g, v) with x = g v / |v| [salimans2016].

        v_{t+1} = v_t - lr g_t / |v_t| (s_t - (w_t's_t) w_t),    w_t = v_t / |v_t|
        g_{t+1} = g_t - lr ratio w_t's_t,    x_{t+1} = g_{t+1} w_{t+1},    d_t = (x_t - x_{t+1}) / lr

    s_t, x_t, v_t, w_t and d_t are [..., n, d], g_t = |x_t|. s_t is the gradient at x_t, or a tracker of it. The step of v is orthogonal to v, so
    |v_t| grows and damps later steps; |v_t| is the state. ``rpgd`` projects v to the sphere in each step. One vector is normalised, the whole
    point; in networks each neuron has its own. The paper has one machine. In a network the algorithm mixes the points, and each agent computes g
    and w from its own x_t in each round. This is our choice. At x_t = 0, where w is free, the step is that of gradient
    descent: d_t = s_t.

    Attributes:
        length: |v_0|.
        ratio: step size of g divided by that of v.

    Raises:
        InputError: ``length`` not positive, or ``ratio`` negative.

    >>> import torch
    >>> from distopt.directions import direct
    >>> from distopt.directions.weight_normalisation import WeightNormalisation
    >>> rule, x, s = WeightNormalisation(), torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[-1.0, 2.0]]])
    >>> d, state = direct(rule, s, rule.init(x), None, lr=0.1, x=x)
    >>> [round(value, 3) for value in (x - 0.1 * d).flatten().tolist()], round(state.length.item(), 3)  # v = (1.4, 0.2)
    ([4.851, 0.693], 1.414)
    """

    length: float = 1.0
    ratio: float = 1.0

    def __post_init__(self) -> None:
        positive("weight_normalisation", length=self.length)
        not_negative("weight_normalisation", ratio=self.ratio)

    def init(self, x: Tensor) -> WeightNormalisationState:
        return WeightNormalisationState(self.length * torch.ones_like(x[..., :1]))

    def __call__(
        self, s: Tensor, state: WeightNormalisationState, mix: DirectionRound
    ) -> tuple[Tensor, WeightNormalisationState]:
        x, lr = mix.x, mix.lr
        g, w = polar(x)
        push = (w * s).sum(-1, keepdim=True)
        step = lr * (g / state.length)
        length, turned = polar(state.length * w - step * (s - push * w))
        move = self.ratio * (lr * push)
        there = g > 0
        d = torch.where(there, (x - (g - move) * turned) / lr, s)
        return d, WeightNormalisationState(torch.where(there, length, state.length))
