"""Adan: Adam with Nesterov momentum in gradients' differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.protocols import DirectionRound
from distopt.ranges import flag, fraction, not_negative, positive


class AdanState(NamedTuple):
    """What Adan remembers.

    Attributes:
        m: average of the gradients [..., n, d].
        v: average of their differences [..., n, d].
        n: second moment of the look-ahead gradients [..., n, d].
        s: the gradient of the step before, clipped [..., n, d].
        begun: 0 before the first step, then 1 [..., n, 1].
        powers: (b1^t, b2^t, b3^t), each [..., n, 1].
    """

    m: Tensor
    v: Tensor
    n: Tensor
    s: Tensor
    begun: Tensor
    powers: tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Adan:
    """Adan, adaptive Nesterov momentum without a gradient at a look-ahead point [xie2024].

        s_t <- s_t min(1, clip / (|s_t| + eps))                  only with ``clip``
        y_t = s_t - s_{t-1}                                      y_1 = 0,  t = 1, 2, ...
        m_t = b1 m_{t-1} + (1 - b1) s_t                          m_0 = 0
        v_t = b2 v_{t-1} + (1 - b2) y_t                          v_0 = 0
        n_t = b3 n_{t-1} + (1 - b3) (s_t + b2 y_t)^2             n_0 = 0
        d_t = (m_t / (1 - b1^t) + b2 v_t / (1 - b2^t)) / (sqrt(n_t / (1 - b3^t)) + eps)

    s_t, y_t, m_t, v_t, n_t and d_t are [..., n, d]; |s_t| is the Euclidean norm of an agent's row, so over all its parameters. With
    ``decay`` an algorithm that steps by -lr d_t computes (x_t - lr d_t) / (1 + lr decay), or, with ``proximal=False``, (1 - lr decay) x_t - lr d_t.

    b1, b2 and b3 are the decay factors of the authors' code; the paper's betas are one minus them (0.02, 0.08, 0.01). The start is the code's: with
    the paper's m_1 = s_1 and n_1 = s_1^2 the first steps differ. Restarts are left out. In a network, s_t - s_{t-1} also includes the effects of
    mixing and of changing costs. Step sizes are usually 5 to 10 times those of AdamW.

    Raises:
        InputError: ``b1``, ``b2`` or ``b3`` outside [0, 1), ``eps`` or ``clip`` not positive, or ``decay`` negative.

    >>> import torch
    >>> from distopt.directions import direct
    >>> from distopt.directions.adan import Adan
    >>> rule, x = Adan(decay=0.5), torch.full((1, 1, 1), 2.0)
    >>> d, _ = direct(rule, torch.full((1, 1, 1), -7.0), rule.init(x), None, lr=0.5, x=x)
    >>> round(2 - 0.5 * d.item(), 4)  # (2 + 0.5) / (1 + 0.5 * 0.5)
    2.0
    """

    b1: float = 0.98
    b2: float = 0.92
    b3: float = 0.99
    eps: float = 1e-8
    decay: float = 0.0
    proximal: bool = True
    clip: float | None = None

    def __post_init__(self) -> None:
        fraction("adan", b1=self.b1, b2=self.b2, b3=self.b3)
        positive("adan", eps=self.eps)
        not_negative("adan", decay=self.decay)
        flag("adan", proximal=self.proximal)
        if self.clip is not None:
            positive("adan", clip=self.clip)

    def init(self, x: Tensor) -> AdanState:
        one, zero = torch.ones_like(x[..., :1]), torch.zeros_like(x)
        powers = (one, one.clone(), one.clone())
        return AdanState(zero, zero.clone(), zero.clone(), zero.clone(), torch.zeros_like(one), powers)

    def __call__(self, s: Tensor, state: AdanState, mix: DirectionRound) -> tuple[Tensor, AdanState]:
        if self.clip is not None:
            s = s * (self.clip / (s.square().sum(-1, keepdim=True).sqrt() + self.eps)).clamp(max=1.0)
        y = state.begun * (s - state.s)
        ahead = s + self.b2 * y
        m = self.b1 * state.m + (1 - self.b1) * s
        v = self.b2 * state.v + (1 - self.b2) * y
        n = self.b3 * state.n + (1 - self.b3) * ahead * ahead
        p1, p2, p3 = (b * power for b, power in zip((self.b1, self.b2, self.b3), state.powers, strict=True))
        d = (m / (1 - p1) + self.b2 * v / (1 - p2)) / (torch.sqrt(n / (1 - p3)) + self.eps) + self.decay * mix.x
        if self.proximal:
            d = d / (1 + mix.lr * self.decay)
        return d, AdanState(m, v, n, s.clone(), torch.ones_like(state.begun), (p1, p2, p3))
