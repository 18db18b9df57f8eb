"""Padam: a partially adaptive Adam, between SGD with momentum and AMSGrad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.directions._powers import power
from distopt.directions.adam import check_moments
from distopt.protocols import DirectionRound
from distopt.ranges import flag, not_negative, positive


class PadamState(NamedTuple):
    """What Padam remembers.

    Attributes:
        m: first moment [..., n, d].
        v: second moment [..., n, d].
        top: largest v so far [..., n, d]; empty without ``amsgrad``.
        powers: (b1^t, b2^t), each [..., n, 1].
    """

    m: Tensor
    v: Tensor
    top: tuple[Tensor, ...]
    powers: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Padam:
    """Adam or AMSGrad whose denominator is raised to the power 2 p, coordinate by coordinate [chen2020].

        m_t = b1 m_{t-1} + (1 - b1) s_t                          m_0 = 0
        v_t = b2 v_{t-1} + (1 - b2) s_t^2                        v_0 = 0,  t = 1, 2, ...
        top_t = max(top_{t-1}, v_t)                              top_0 = 0; v_t itself without ``amsgrad``
        d_t = sqrt(1 - b2^t) / (1 - b1^t) m_t / (sqrt(top_t) + eps)^(2 p) + decay x_t

    s_t, m_t, v_t, top_t, d_t and x_t are [..., n, d]. p = 1/2 is AMSGrad or AdamW except for eps, which those add after the correction of v. A small
    p is close to SGD with momentum and needs a larger step size. The default p = 1/8, the bias correction, which the paper of Padam does not have,
    and the decoupled decay are those of GadamX [granziol2020], whose iterates are then averaged. The correction sqrt(1 - b2^t) is outside the power
    there, so for p < 1/2 the first steps are small. With equal gradients the first step is (1 - b2)^(1/2 - p) of later ones, 0.07 for the defaults.

    Raises:
        InputError: ``p`` or ``eps`` not positive, ``b1`` or ``b2`` outside [0, 1), or ``decay`` negative.

    >>> import torch
    >>> from distopt.directions import direct
    >>> from distopt.directions.padam import Padam
    >>> rule, x = Padam(b1=0.0, b2=0.0), torch.zeros(1, 1, 1)
    >>> d, _ = direct(rule, torch.full((1, 1, 1), 16.0), rule.init(x), None, lr=0.1, x=x)
    >>> round(d.item(), 3)  # 16 / 16^(1/4)
    8.0
    """

    p: float = 0.125
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    amsgrad: bool = True
    decay: float = 0.0

    def __post_init__(self) -> None:
        positive("padam", p=self.p)
        check_moments("padam", self.b1, self.b2, self.eps, None)
        flag("padam", amsgrad=self.amsgrad)
        not_negative("padam", decay=self.decay)

    def init(self, x: Tensor) -> PadamState:
        one, zero = torch.ones_like(x[..., :1]), torch.zeros_like(x)
        return PadamState(zero, zero.clone(), (zero.clone(),) if self.amsgrad else (), (one, one.clone()))

    def __call__(self, s: Tensor, state: PadamState, mix: DirectionRound) -> tuple[Tensor, PadamState]:
        m = self.b1 * state.m + (1 - self.b1) * s
        v = self.b2 * state.v + (1 - self.b2) * s * s
        top = tuple(torch.maximum(before, v) for before in state.top)
        powers = (self.b1 * state.powers[0], self.b2 * state.powers[1])
        below = power(torch.sqrt(top[0] if self.amsgrad else v) + self.eps, 2 * self.p)
        d = torch.sqrt(1 - powers[1]) / (1 - powers[0]) * m / below
        return d + self.decay * mix.x, PadamState(m, v, top, powers)
