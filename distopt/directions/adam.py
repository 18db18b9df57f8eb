"""Adam as a direction: GTAdam's version by default, Kingma and Ba's by two switches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.ranges import flag, fraction, positive


class AdamState(NamedTuple):
    """What Adam remembers.

    Attributes:
        m: first moment [..., n, d].
        v: second moment [..., n, d].
        powers: (b1^t, b2^t), each [..., n, 1], with bias correction; empty without.
    """

    m: Tensor
    v: Tensor
    powers: tuple[Tensor, ...]


@dataclass(frozen=True)
class Adam:
    """Adam's direction, coordinate by coordinate.

        m_t = b1 m_{t-1} + (1 - b1) s_t                     m_{-1} = 0
        v_t = min(b2 v_{t-1} + (1 - b2) s_t^2, cap)         v_{-1} = 0
        d_t = m_t / sqrt(v_t + eps)

    s_t, m_t, v_t and d_t are [..., n, d]. The defaults are those of GTAdam [carnevale2023], whose analysis needs a
    preconditioner that is bounded on both sides. So eps is INSIDE the root, and v is capped (the capped value is stored).
    The bias of the zero start is not corrected. The first direction is therefore (1 - b1) / sqrt(1 - b2) sign(s_0) = 3.16
    sign(s_0) for the defaults, wherever s_0^2 is far above eps. ``Adam(eps_inside=False, cap=None, bias_correction=True)``
    is the Adam of [kingma2015]:

        d_t = m_t / (1 - b1^t) / (sqrt(v_t / (1 - b2^t)) + eps),    t = 1, 2, ...

    The powers b^t are state, multiplied round by round: so they have the same bits for every agent in every block.

    Raises:
        InputError: ``b1`` or ``b2`` outside [0, 1), ``eps`` or ``cap`` not positive.

    >>> import torch
    >>> from distopt.directions.adam import Adam
    >>> adam = Adam()
    >>> d, _ = adam(torch.tensor([[-7.0]]), adam.init(torch.zeros(1, 1)))
    >>> round(d.item(), 2)
    -3.16
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    eps_inside: bool = True
    cap: float | None = 1e6
    bias_correction: bool = False

    def __post_init__(self) -> None:
        check_moments("adam", self.b1, self.b2, self.eps, self.cap)
        flag("adam", eps_inside=self.eps_inside, bias_correction=self.bias_correction)

    def init(self, x: Tensor) -> AdamState:
        one = torch.ones_like(x[..., :1])
        return AdamState(torch.zeros_like(x), torch.zeros_like(x), (one, one.clone()) if self.bias_correction else ())

    def __call__(self, s: Tensor, state: AdamState) -> tuple[Tensor, AdamState]:
        m = self.b1 * state.m + (1 - self.b1) * s
        v = self.b2 * state.v + (1 - self.b2) * s * s
        v = v if self.cap is None else v.clamp(max=self.cap)
        powers = tuple(b * power for b, power in zip((self.b1, self.b2), state.powers, strict=False))
        return precondition(m, v, powers, self.eps, self.eps_inside), AdamState(m, v, powers)

    def preconditioner(self, state: AdamState) -> Tensor:
        """P [..., n, d] with d = m / P (see ``distopt.protocols.Preconditioned``)."""
        return divisor(state.v, state.powers, self.eps, self.eps_inside)


def precondition(m: Tensor, v: Tensor, powers: tuple[Tensor, ...], eps: float, eps_inside: bool) -> Tensor:
    """m / sqrt(v + eps), or m / (sqrt(v) + eps), of moments m and v [..., n, d] divided by 1 - powers first (if any are given).

    >>> import torch
    >>> from distopt.directions.adam import precondition
    >>> precondition(torch.ones(1, 1), torch.full((1, 1), 3.0), (), eps=1.0, eps_inside=True).item()
    0.5
    """
    if powers:
        m, v = m / (1 - powers[0]), v / (1 - powers[1])
    return m / torch.sqrt(v + eps) if eps_inside else m / (torch.sqrt(v) + eps)


def divisor(v: Tensor, powers: tuple[Tensor, ...], eps: float, eps_inside: bool) -> Tensor:
    """P [..., n, d] with ``precondition(m, v, ...)`` = m / P: the bias correction of m is a part of it.

    >>> import torch
    >>> from distopt.directions.adam import divisor
    >>> half = torch.full((1, 1), 0.5)
    >>> divisor(torch.full((1, 1), 2.0), (half, half), eps=1.0, eps_inside=False).item()  # (1 - 0.5) (sqrt(2 / (1 - 0.5)) + 1)
    1.5
    """
    if powers:
        v = v / (1 - powers[1])
    p = torch.sqrt(v + eps) if eps_inside else torch.sqrt(v) + eps
    return (1 - powers[0]) * p if powers else p


def check_moments(name: str, b1: float, b2: float, eps: float, cap: float | None) -> None:
    """Raise InputError, naming the parameter of the rule ``name``, unless 0 <= b1, b2 < 1, eps > 0 and cap is None or > 0.

    >>> from distopt.directions.adam import check_moments
    >>> check_moments("adam", 0.9, 1.5, 1e-8, None)
    Traceback (most recent call last):
    distopt.errors.InputError: adam: b2 must lie in [0, 1), got 1.5
    """
    fraction(name, b1=b1, b2=b2)
    positive(name, eps=eps)
    if cap is not None:
        positive(name, cap=cap)
