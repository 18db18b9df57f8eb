"""Aida: AdamW with other powers of the gradient and of the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.directions._powers import power
from distopt.directions.adam import check_moments
from distopt.protocols import DirectionRound
from distopt.ranges import flag, not_negative, positive


class AidaState(NamedTuple):
    """What Aida remembers.

    Attributes:
        m: first moment [..., n, d].
        r: average of |s|^p [..., n, d].
        powers: (b1^t, b2^t), each [..., n, 1].
    """

    m: Tensor
    r: Tensor
    powers: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Aida:
    """AdamW that tracks |s|^p and raises the step to the power q, coordinate by coordinate [zhang2021].

        m_t = b1 m_{t-1} + (1 - b1) s_t                          mh_t = m_t / (1 - b1^t),    m_0 = 0
        r_t = b2 r_{t-1} + (1 - b2) |s_t|^p                      rh_t = r_t / (1 - b2^t),    r_0 = 0,  t = 1, 2, ...
        d_t = sign(mh_t) |mh_t|^q / (rh_t + eps)^(q/p) + decay x_t          eps_inside
        d_t = sign(mh_t) |mh_t|^q / (rh_t^(q/p) + eps) + decay x_t          otherwise

    s_t, m_t, r_t, d_t and x_t are [..., n, d]. (p, q) = (2, 1) with eps outside is ``adamw``. For q > 1 a minimiser at 0 is locally stable if
    0 < lr decay < 2, for any curvature. Near it d_t is of higher order than x, which shrinks by 1 - lr decay in each step. Without decay x
    falls no faster than r forgets and, once r is below eps, like t^(-1 / (q - 1)). With (2, 1) and a large lr, x jumps away again and again.

    This follows the paper's abstract, which has no bias correction; here the bias is corrected as in AdamW. The paper is arXiv
    2112.06125. Another method by the same authors has the same name: Aida of arXiv 2203.13273 projects m and s on each other.
    Packages of optimisers usually mean that one.

    Raises:
        InputError: ``p``, ``q`` or ``eps`` not positive, ``b1`` or ``b2`` outside [0, 1), or ``decay`` negative.

    >>> import torch
    >>> from distopt.directions import direct
    >>> from distopt.directions.aida import Aida
    >>> rule, x = Aida(p=2.0, q=2.0, b1=0.0, b2=0.5), torch.zeros(1, 1, 1)
    >>> _, state = direct(rule, torch.full((1, 1, 1), 4.0), rule.init(x), None, lr=0.1, x=x)
    >>> d, _ = direct(rule, torch.full((1, 1, 1), 2.0), state, None, lr=0.1, x=x)
    >>> round(d.item(), 3)  # r = 0.25 * 16 + 0.5 * 4 = 6, and 4 / (6 / (1 - 0.5^2))
    0.5
    """

    p: float = 1.0
    q: float = 2.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    eps_inside: bool = True
    decay: float = 0.0

    def __post_init__(self) -> None:
        positive("aida", p=self.p, q=self.q)
        check_moments("aida", self.b1, self.b2, self.eps, None)
        flag("aida", eps_inside=self.eps_inside)
        not_negative("aida", decay=self.decay)

    def init(self, x: Tensor) -> AidaState:
        one = torch.ones_like(x[..., :1])
        return AidaState(torch.zeros_like(x), torch.zeros_like(x), (one, one.clone()))

    def __call__(self, s: Tensor, state: AidaState, mix: DirectionRound) -> tuple[Tensor, AidaState]:
        m = self.b1 * state.m + (1 - self.b1) * s
        r = self.b2 * state.r + (1 - self.b2) * power(s.abs(), self.p)
        powers = (self.b1 * state.powers[0], self.b2 * state.powers[1])
        mh, rh, exponent = m / (1 - powers[0]), r / (1 - powers[1]), self.q / self.p
        below = power(rh + self.eps, exponent) if self.eps_inside else power(rh, exponent) + self.eps
        d = torch.sign(mh) * power(mh.abs(), self.q) / below
        return d + self.decay * mix.x, AidaState(m, r, powers)
