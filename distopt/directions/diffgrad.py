"""diffGrad: Adam that slows down where the gradient does not change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.directions.adam import check_moments


class DiffGradState(NamedTuple):
    """What diffGrad remembers.

    Attributes:
        m: first moment [..., n, d].
        v: second moment [..., n, d].
        s: what the rule received in the round before [..., n, d].
        powers: (b1^t, b2^t), each [..., n, 1].
    """

    m: Tensor
    v: Tensor
    s: Tensor
    powers: tuple[Tensor, ...]


@dataclass(frozen=True)
class DiffGrad:
    """diffGrad [dubey2020]: Adam times a friction that depends on how much the gradient changes, coordinate by coordinate.

        m_t = b1 m_{t-1} + (1 - b1) s_t,    v_t = b2 v_{t-1} + (1 - b2) s_t^2           m_0 = v_0 = 0
        xi_t = 1 / (1 + exp(-|s_{t-1} - s_t|))                                          s_0 = 0
        d_t = sqrt(1 - b2^t) / (1 - b1^t) xi_t m_t / (sqrt(v_t) + eps)                  t = 1, 2, ...

    s_t, m_t, v_t, xi_t and d_t are [..., n, d]. xi is in [1/2, 1): 1/2 where the gradient does not change, and near 1 where it changes by
    much more than 1. So steps are 0.5 to 1 times as long as Adam's: compare the two with a tuned step size for each. xi depends on the
    scale of the cost. With a tracker as s, or with changing costs, changes by mixing and drift count, too.

    eps is added before the bias of v is corrected, as in the authors' code. The paper adds it after that: its eps is sqrt(1 - b2^t) times as large
    here.

    Raises:
        InputError: ``b1`` or ``b2`` outside [0, 1), ``eps`` not positive.

    >>> import torch
    >>> from distopt.directions.diffgrad import DiffGrad
    >>> rule, s = DiffGrad(), torch.tensor([[5.0]])
    >>> _, state = rule(s, rule.init(s))
    >>> round(rule(s, state)[0].item(), 4)  # nothing has changed: half of Adam's step
    0.5
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_moments("diffgrad", self.b1, self.b2, self.eps, None)

    def init(self, x: Tensor) -> DiffGradState:
        zero, one = torch.zeros_like(x), torch.ones_like(x[..., :1])
        return DiffGradState(zero, zero.clone(), zero.clone(), (one, one.clone()))

    def __call__(self, s: Tensor, state: DiffGradState) -> tuple[Tensor, DiffGradState]:
        m = self.b1 * state.m + (1 - self.b1) * s
        v = self.b2 * state.v + (1 - self.b2) * s * s
        powers = (self.b1 * state.powers[0], self.b2 * state.powers[1])
        friction = 1 / (1 + torch.exp(-(state.s - s).abs()))
        d = torch.sqrt(1 - powers[1]) / (1 - powers[0]) * friction * m / (torch.sqrt(v) + self.eps)
        return d, DiffGradState(m, v, s.clone(), powers)  # a copy: s itself may be a leaf of the algorithm's state
