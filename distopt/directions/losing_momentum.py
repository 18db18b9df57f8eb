"""SGD with momentum whose mass falls with time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from distopt.protocols import DirectionRound
from distopt.ranges import choice, not_negative, positive

Decay = Literal["exponential", "constant", "inverse"]


class LosingMomentumState(NamedTuple):
    """What the rule remembers.

    Attributes:
        q: the velocity [..., n, d].
        time: the sum of the step sizes so far [..., n, 1].
    """

    q: Tensor
    time: Tensor


@dataclass(frozen=True)
class LosingMomentum:
    """Momentum that is lost with time [jin2025]: an underdamped flow in which every step size is a time step.

        q_{k+1} = (m_k q_k + h_k s_k) / (m_k + alpha h_k),    d_k = q_{k+1}           q_0 = 0
        m_k = m(t_k),    t_k = h_0 + ... + h_{k-1}

    s_k, q_k and d_k are [..., n, d], and h_k is the step size of the round, so that x_{k+1} = x_k - h_k q_{k+1}. It is the flow
    m(t) q' = s - alpha q, x' = -q, with friction alpha and a mass m(t) of three kinds:

        m(t) = m0 exp(-t / T)           decay="exponential"
        m(t) = m0 / (1 + t / T)^p       decay="inverse"
        m(t) = m0                       decay="constant"

    Friction is taken at the new velocity, and the point moves with the new velocity (semi-implicit Euler). So the rule stays stable as m falls to
    0, where it is gradient descent with the step size h / alpha. Explicit friction is unstable once alpha h / m > 2. The paper's own scheme is
    symplectic, too; whether its formula is this one was not checked. T counts time, not rounds, so it follows a schedule of the step
    size.

    A falling mass does not replace falling steps: with noisy gradients and a constant step the error does not go to zero for any
    mass. In a network q is never mixed; the momentum is each agent's own.

    Raises:
        InputError: ``alpha``, ``T`` or ``p`` not positive, ``m0`` negative, or an unknown ``decay``.

    >>> import torch
    >>> from distopt.directions import direct
    >>> from distopt.directions.losing_momentum import LosingMomentum
    >>> rule, s = LosingMomentum(alpha=2.0, m0=0.3, decay="constant"), torch.ones(1, 1)
    >>> d, state = direct(rule, s, rule.init(s), None, lr=0.1)
    >>> round(d.item(), 4), round(state.time.item(), 4)  # 0.1 / (0.3 + 0.2)
    (0.2, 0.1)
    """

    alpha: float = 1.0
    m0: float = 1.0
    T: float = 10.0
    decay: Decay = "exponential"
    p: float = 1.0

    def __post_init__(self) -> None:
        positive("losing_momentum", alpha=self.alpha, T=self.T, p=self.p)
        not_negative("losing_momentum", m0=self.m0)
        choice("losing_momentum", get_args(Decay), decay=self.decay)

    def init(self, x: Tensor) -> LosingMomentumState:
        return LosingMomentumState(torch.zeros_like(x), torch.zeros_like(x[..., :1]))

    def __call__(
        self, s: Tensor, state: LosingMomentumState, mix: DirectionRound
    ) -> tuple[Tensor, LosingMomentumState]:
        h: Any = mix.lr
        m = self.m0 * self._left(state.time)
        q = (m * state.q + h * s) / (m + self.alpha * h)
        return q, LosingMomentumState(q, state.time + h)

    def _left(self, time: Tensor) -> Tensor:
        """m(t) / m0 [..., n, 1]."""
        if self.decay == "constant":
            return torch.ones_like(time)
        age = time / self.T
        return torch.exp(-age) if self.decay == "exponential" else torch.exp(-self.p * torch.log(1 + age))
