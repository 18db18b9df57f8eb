"""Nesterov momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.ranges import fraction


class NesterovState(NamedTuple):
    """What Nesterov momentum remembers: the accumulated direction m [..., n, d]."""

    m: Tensor


@dataclass(frozen=True)
class Nesterov:
    """Nesterov momentum [nesterov1983] with a constant b, written at the look-ahead point.

        m_t = b m_{t-1} + s_t,    d_t = s_t + b m_t,    m_{-1} = 0

    s_t, m_t and d_t are [..., n, d]; 0 <= b < 1. The original evaluates the gradient at an extrapolated point, and its b
    grows with t. Here the gradient is taken at x_t, so x_t is the extrapolated point, and b is constant (the choice for
    strongly convex costs). ``torch.optim.SGD(nesterov=True)`` is the same recursion.

    Raises:
        InputError: ``b`` outside [0, 1).

    >>> import torch
    >>> from distopt.directions.nesterov import Nesterov
    >>> rule, s = Nesterov(b=0.5), torch.ones(1, 1)
    >>> rule(s, rule.init(s))[0].item()
    1.5
    """

    b: float = 0.9

    def __post_init__(self) -> None:
        fraction("nesterov", b=self.b)

    def init(self, x: Tensor) -> NesterovState:
        return NesterovState(torch.zeros_like(x))

    def __call__(self, s: Tensor, state: NesterovState) -> tuple[Tensor, NesterovState]:
        m = self.b * state.m + s
        return s + self.b * m, NesterovState(m)
