"""AdamW: Adam with weight decay that the moments do not see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distopt.directions.adam import AdamState, check_moments, precondition
from distopt.protocols import DirectionRound
from distopt.ranges import not_negative


@dataclass(frozen=True)
class AdamW:
    """Adam of [kingma2015] with decoupled weight decay [loshchilov2019], coordinate by coordinate.

        m_t = b1 m_{t-1} + (1 - b1) s_t                                         m_0 = 0
        v_t = b2 v_{t-1} + (1 - b2) s_t^2                                       v_0 = 0,  t = 1, 2, ...
        d_t = m_t / (1 - b1^t) / (sqrt(v_t / (1 - b2^t)) + eps) + decay x_t

    s_t, m_t, v_t, d_t and x_t are [..., n, d]. So an algorithm that steps by -lr d_t computes (1 - lr decay) x_t - lr (Adam's direction),
    as ``torch.optim.AdamW`` does. The default decay is also that of ``torch.optim.AdamW``. The strength of the decay does not depend on
    gradients. A term decay |x|^2 / 2 in the costs would be divided by sqrt(v). Among agents the decay is taken at the agent's own x_t,
    before mixing.

    Raises:
        InputError: ``b1`` or ``b2`` outside [0, 1), ``eps`` not positive, or ``decay`` negative.

    >>> import torch
    >>> from distopt.directions import direct
    >>> from distopt.directions.adamw import AdamW
    >>> rule, x = AdamW(decay=0.25), torch.full((1, 1, 1), 2.0)
    >>> d, _ = direct(rule, torch.full((1, 1, 1), -7.0), rule.init(x), None, lr=0.1, x=x)
    >>> round(d.item(), 4)  # -1 + 0.25 * 2
    -0.5
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    decay: float = 0.01

    def __post_init__(self) -> None:
        check_moments("adamw", self.b1, self.b2, self.eps, None)
        not_negative("adamw", decay=self.decay)

    def init(self, x: Tensor) -> AdamState:
        one = torch.ones_like(x[..., :1])
        return AdamState(torch.zeros_like(x), torch.zeros_like(x), (one, one.clone()))

    def __call__(self, s: Tensor, state: AdamState, mix: DirectionRound) -> tuple[Tensor, AdamState]:
        m = self.b1 * state.m + (1 - self.b1) * s
        v = self.b2 * state.v + (1 - self.b2) * s * s
        powers = (self.b1 * state.powers[0], self.b2 * state.powers[1])
        d = precondition(m, v, powers, self.eps, eps_inside=False) + self.decay * mix.x
        return d, AdamState(m, v, powers)
