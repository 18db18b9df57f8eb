"""Heavy-ball momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.ranges import fraction


class MomentumState(NamedTuple):
    """What heavy ball remembers: the accumulated direction m [..., n, d]."""

    m: Tensor


@dataclass(frozen=True)
class Momentum:
    """Polyak's heavy ball [polyak1964].

        m_t = b m_{t-1} + s_t,    d_t = m_t,    m_{-1} = 0

    s_t, m_t and d_t are [..., n, d]; 0 <= b < 1. The sum is not an average: at a constant s the direction grows to s / (1 - b),
    so ``lr`` plays the role of (1 - b) times the learning rate of an averaging form. Polyak writes the same iteration with the
    difference of two points, x_{t+1} = x_t - lr s_t + b (x_t - x_{t-1}). With mixing the two differ: here only the gradients
    accumulate, and not the moves by mixing.

    Raises:
        InputError: ``b`` outside [0, 1).

    >>> import torch
    >>> from distopt.directions.momentum import Momentum
    >>> rule, s = Momentum(b=0.5), torch.ones(1, 1)
    >>> d, state = rule(s, rule.init(s))
    >>> rule(s, state)[0].item()
    1.5
    """

    b: float = 0.9

    def __post_init__(self) -> None:
        fraction("momentum", b=self.b)

    def init(self, x: Tensor) -> MomentumState:
        return MomentumState(torch.zeros_like(x))

    def __call__(self, s: Tensor, state: MomentumState) -> tuple[Tensor, MomentumState]:
        m = self.b * state.m + s
        return m, MomentumState(m)
