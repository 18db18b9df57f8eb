"""AdaShift: the second moment of older gradients, which are not in the numerator of the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from distopt.directions.adam import check_moments
from distopt.ranges import choice, whole

Phi = Literal["max", "identity"]

MOST = 100
"""Gradients that are remembered."""


class AdaShiftState(NamedTuple):
    """What AdaShift remembers.

    Attributes:
        window: the last n gradients, the oldest first, each [..., n, d].
        v: second moment of the gradients that have left the window [..., n, d]; [..., n, 1] with "max".
        age: how many gradients are in the window [..., n, 1].
        power: b2 to the number of gradients that are in v [..., n, 1].
    """

    window: tuple[Tensor, ...]
    v: Tensor
    age: Tensor
    power: Tensor


@dataclass(frozen=True)
class AdaShift:
    """AdaShift [zhou2019]: Adam whose second moment lags n gradients behind.

        v_t = b2 v_{t-1} + (1 - b2) phi(s_{t-n}^2)                                              v_n = 0
        m_t = sum_{i<n} b1^i s_{t-i} / sum_{i<n} b1^i
        d_t = m_t / (sqrt(v_t / (1 - b2^(t-n))) + eps)                                          t = n + 1, n + 2, ...

    s_t, m_t and d_t are [..., n, d]. The gradients in the numerator are not in the denominator, so a large gradient does not shorten
    its own step. In Adam it does, which makes Adam fail on the counterexamples of [reddi2018]. Nothing moves in the first n rounds:
    d_t = 0.

    With ``phi="max"`` the denominator is the same for all coordinates of an agent: the largest square of its row. In the paper it is
    the largest of each tensor of a network; here the parameters of an agent are one row. ``phi="identity"`` has a denominator for
    each coordinate. The rule remembers n gradients.

    Raises:
        InputError: ``n`` no whole number from 1 to 100, ``b1`` or ``b2`` outside [0, 1), ``eps`` not positive, or an unknown ``phi``.

    >>> import torch
    >>> from distopt.directions.adashift import AdaShift
    >>> rule, found = AdaShift(n=2), []
    >>> state = rule.init(torch.zeros(1, 1))
    >>> for s in (4.0, 1.0, 1.0):
    ...     d, state = rule(torch.tensor([[s]]), state)
    ...     found.append(round(d.item(), 4))
    >>> found  # in the third round 1 / 4
    [0.0, 0.0, 0.25]
    """

    n: int = 10
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-10
    phi: Phi = "max"

    def __post_init__(self) -> None:
        whole("adashift", 1, MOST, n=self.n)
        check_moments("adashift", self.b1, self.b2, self.eps, None)
        choice("adashift", get_args(Phi), phi=self.phi)

    def init(self, x: Tensor) -> AdaShiftState:
        zero = torch.zeros_like(x[..., :1])
        window = tuple(torch.zeros_like(x) for _ in range(self.n))
        v = torch.zeros_like(x) if self.phi == "identity" else zero.clone()
        return AdaShiftState(window, v, zero, torch.ones_like(zero))

    def __call__(self, s: Tensor, state: AdaShiftState) -> tuple[Tensor, AdaShiftState]:
        oldest, *rest = state.window
        m, *later = (*rest, s)
        total: Any = 1.0
        for each in later:
            m, total = self.b1 * m + each, self.b1 * total + 1
        square = oldest * oldest
        square = square if self.phi == "identity" else square.amax(-1, keepdim=True)
        v = self.b2 * state.v + (1 - self.b2) * square  # stays 0 until the window is full
        full, one = state.age >= self.n, torch.ones_like(state.power)
        power = torch.where(full, self.b2 * state.power, state.power)
        d = m / total / (torch.sqrt(v / torch.where(full, 1 - power, one)) + self.eps)
        d = torch.where(full, d, torch.zeros_like(d))
        window = (*(each.clone() for each in rest), s.clone())  # copies: a leaf must not be another one, nor s itself
        return d, AdaShiftState(window, v, (state.age + 1).clamp(max=self.n), power)
