"""AdaBelief: Adam whose second moment is that of the gradient's deviation from its average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.directions.adam import check_moments, precondition
from distopt.ranges import inside


class AdaBeliefState(NamedTuple):
    """What AdaBelief remembers.

    Attributes:
        m: first moment [..., n, d].
        v: second moment of s - m [..., n, d].
        powers: (b1^t, b2^t), each [..., n, 1].
    """

    m: Tensor
    v: Tensor
    powers: tuple[Tensor, ...]


@dataclass(frozen=True)
class AdaBelief:
    """AdaBelief [zhuang2020], coordinate by coordinate.

        m_t = b1 m_{t-1} + (1 - b1) s_t                              m_0 = 0
        v_t = b2 v_{t-1} + (1 - b2) (s_t - m_t)^2 + eps              v_0 = 0
        d_t = m_t / (1 - b1^t) / (sqrt(v_t / (1 - b2^t)) + eps)      t = 1, 2, ...

    s_t, m_t, v_t and d_t are [..., n, d]. Steps are long where the gradient is close to its average, and short where it is not. eps is in two
    places, as in the authors' code. The eps in v accumulates: if s never changes, sqrt(v) tends to sqrt(eps / (1 - b2)), 3e-3 for the
    defaults. The authors' other switches (weight decay, rectification) are left out.

    b1 = 0 is refused, since m would be s, and v would only hold eps.

    Raises:
        InputError: ``b1`` outside (0, 1), ``b2`` outside [0, 1), ``eps`` not positive.

    >>> import torch
    >>> from distopt.directions.adabelief import AdaBelief
    >>> rule = AdaBelief()
    >>> d, _ = rule(torch.tensor([[7.0]]), rule.init(torch.zeros(1, 1)))
    >>> round(d.item(), 3)  # 1 / b1, whatever the size of the gradient
    1.111
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_moments("adabelief", self.b1, self.b2, self.eps, None)
        inside("adabelief", b1=self.b1)

    def init(self, x: Tensor) -> AdaBeliefState:
        one = torch.ones_like(x[..., :1])
        return AdaBeliefState(torch.zeros_like(x), torch.zeros_like(x), (one, one.clone()))

    def __call__(self, s: Tensor, state: AdaBeliefState) -> tuple[Tensor, AdaBeliefState]:
        m = self.b1 * state.m + (1 - self.b1) * s
        v = self.b2 * state.v + (1 - self.b2) * (s - m) * (s - m) + self.eps
        powers = (self.b1 * state.powers[0], self.b2 * state.powers[1])
        return precondition(m, v, powers, self.eps, eps_inside=False), AdaBeliefState(m, v, powers)
