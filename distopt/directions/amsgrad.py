"""AMSGrad as a direction, with the smoothed maximum of DADAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.directions.adam import check_moments, divisor, precondition
from distopt.ranges import flag, fraction


class AMSGradState(NamedTuple):
    """What AMSGrad remembers.

    Attributes:
        m: first moment [..., n, d].
        v: second moment [..., n, d].
        top: filtered maximum of v [..., n, d]; it never falls.
        powers: (b1^t, b2^t), each [..., n, 1], with bias correction; empty without.
    """

    m: Tensor
    v: Tensor
    top: Tensor
    powers: tuple[Tensor, ...]


@dataclass(frozen=True)
class AMSGrad:
    """Adam whose step sizes never grow, coordinate by coordinate [reddi2018] [nazari2022].

        m_t = b1 m_{t-1} + (1 - b1) s_t                              m_{-1} = 0
        v_t = min(b2 v_{t-1} + (1 - b2) s_t^2, cap)                  v_{-1} = 0
        top_t = b3 top_{t-1} + (1 - b3) max(top_{t-1}, v_t)          top_{-1} = 0
        d_t = m_t / sqrt(top_t + eps)

    s_t, m_t, v_t, top_t and d_t are [..., n, d]. b3 = 0 is AMSGrad. 0 < b3 < 1 is the filter of DADAM, with which top follows
    the maximum slowly: after one round top is only (1 - b3) v. b3 = 1 is refused: from the zero start top stays 0 for ever,
    and d = m / sqrt(eps) explodes. Use Adam instead. The maximum is taken over the uncorrected v. eps, cap and bias
    correction are those of ``distopt.directions.adam.Adam``, with the same defaults. The papers have neither eps inside the
    root nor a cap. With eps outside, no cap and bias correction this is ``torch.optim.Adam(amsgrad=True)``.

    Raises:
        InputError: ``b1``, ``b2`` or ``b3`` outside [0, 1), ``eps`` or ``cap`` not positive.

    >>> import torch
    >>> from distopt.directions.amsgrad import AMSGrad
    >>> rule = AMSGrad(b1=0.0, b2=0.0)
    >>> _, state = rule(torch.tensor([[4.0]]), rule.init(torch.zeros(1, 1)))
    >>> round(rule(torch.tensor([[1.0]]), state)[0].item(), 4)  # Adam would answer 1
    0.25
    """

    b1: float = 0.9
    b2: float = 0.999
    b3: float = 0.0
    eps: float = 1e-8
    eps_inside: bool = True
    cap: float | None = 1e6
    bias_correction: bool = False

    def __post_init__(self) -> None:
        check_moments("amsgrad", self.b1, self.b2, self.eps, self.cap)
        fraction("amsgrad", b3=self.b3)
        flag("amsgrad", eps_inside=self.eps_inside, bias_correction=self.bias_correction)

    def init(self, x: Tensor) -> AMSGradState:
        one, zero = torch.ones_like(x[..., :1]), torch.zeros_like(x)
        return AMSGradState(zero, zero.clone(), zero.clone(), (one, one.clone()) if self.bias_correction else ())

    def __call__(self, s: Tensor, state: AMSGradState) -> tuple[Tensor, AMSGradState]:
        m = self.b1 * state.m + (1 - self.b1) * s
        v = self.b2 * state.v + (1 - self.b2) * s * s
        v = v if self.cap is None else v.clamp(max=self.cap)
        top = self.b3 * state.top + (1 - self.b3) * torch.maximum(state.top, v)
        powers = tuple(b * power for b, power in zip((self.b1, self.b2), state.powers, strict=False))
        return precondition(m, top, powers, self.eps, self.eps_inside), AMSGradState(m, v, top, powers)

    def preconditioner(self, state: AMSGradState) -> Tensor:
        """P [..., n, d] with d = m / P (see ``distopt.protocols.Preconditioned``)."""
        return divisor(state.top, state.powers, self.eps, self.eps_inside)
