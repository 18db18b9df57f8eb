"""ACProp: the gradient, divided by a centred second moment of earlier gradients only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.directions.adam import check_moments
from distopt.ranges import inside


class ACPropState(NamedTuple):
    """What ACProp remembers.

    Attributes:
        m: first moment [..., n, d].
        v: second moment of s - m [..., n, d].
        power: b2^(t-1) [..., n, 1], of the rounds that are in v.
    """

    m: Tensor
    v: Tensor
    power: Tensor


@dataclass(frozen=True)
class ACProp:
    """ACProp [zhuang2021]: asynchronous and centred, coordinate by coordinate.

        d_1 = s_1,    d_t = s_t / (sqrt(v_{t-1} / (1 - b2^(t-1))) + eps)                t = 2, 3, ...
        m_t = b1 m_{t-1} + (1 - b1) s_t,    v_t = b2 v_{t-1} + (1 - b2) (s_t - m_t)^2   m_0 = v_0 = 0

    s_t, m_t, v_t and d_t are [..., n, d]. The denominator comes from earlier rounds only, so a large gradient does not shorten its own step.
    In Adam it does, which makes Adam fail on the counterexamples of [reddi2018]. The numerator is the gradient; m serves to centre v only. In
    the first round there is no denominator yet, and the step is that of gradient descent. The authors' code by default rectifies the first
    rounds; that is left out.

    b1 = 0 is refused, since m would be s, and v would be 0.

    Raises:
        InputError: ``b1`` outside (0, 1), ``b2`` outside [0, 1), ``eps`` not positive.

    >>> import torch
    >>> from distopt.directions.acprop import ACProp
    >>> rule = ACProp(b1=0.5)
    >>> d, state = rule(torch.tensor([[4.0]]), rule.init(torch.zeros(1, 1)))
    >>> d.item(), round(rule(torch.tensor([[100.0]]), state)[0].item(), 3)  # v_1 / (1 - b2) is (4 - 2)^2
    (4.0, 50.0)
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_moments("acprop", self.b1, self.b2, self.eps, None)
        inside("acprop", b1=self.b1)

    def init(self, x: Tensor) -> ACPropState:
        return ACPropState(torch.zeros_like(x), torch.zeros_like(x), torch.ones_like(x[..., :1]))

    def __call__(self, s: Tensor, state: ACPropState) -> tuple[Tensor, ACPropState]:
        one = torch.ones_like(state.power)
        first = state.power == one
        known = torch.where(first, one, 1 - state.power)
        d = torch.where(first, s, s / (torch.sqrt(state.v / known) + self.eps))
        m = self.b1 * state.m + (1 - self.b1) * s
        v = self.b2 * state.v + (1 - self.b2) * (s - m) * (s - m)
        return d, ACPropState(m, v, self.b2 * state.power)
