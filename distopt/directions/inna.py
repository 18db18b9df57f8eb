"""INNA: inertia and a damping along the Hessian, from gradients alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distopt.protocols import DirectionRound
from distopt.ranges import not_negative, positive


class INNAState(NamedTuple):
    """What INNA remembers: the velocity v [..., n, d], 0 at the beginning."""

    v: Tensor


@dataclass(frozen=True)
class INNA:
    """INNA [castera2021], a discretised inertial Newton flow x'' + alpha x' + beta Hess f(x) x' + grad f(x) = 0.

        d_k = beta s_k + v_k,    v_{k+1} = (1 - alpha h_k) v_k + h_k (1 - alpha beta) s_k,    v_0 = 0

    s_k, v_k and d_k are [..., n, d], and h_k is the step size of the round, so that x_{k+1} = x_k - h_k d_k. The paper carries psi beside x:

        A_k = (1/beta - alpha) x_k - psi_k / beta,    x_{k+1} = x_k + h_k (A_k - beta s_k),    psi_{k+1} = psi_k + h_k A_k

    from psi_0 = (1 - alpha beta) x_0. With v_k = -A_k this is the recursion above for every sequence of step sizes, constant or not: x and
    psi drop out. So nothing of the mixing enters the momentum, as in ``distopt.directions.momentum``.

    Near a minimum the eigenvalues of the flow are the roots of z^2 + (alpha + beta lam) z + lam, for each eigenvalue lam of the Hessian.
    So x spirals in if and only if (alpha + beta lam)^2 < 4 lam. From almost every start strict saddle points are avoided [castera2021b].

    Raises:
        InputError: ``alpha`` negative or ``beta`` not positive.

    >>> import torch
    >>> from distopt.directions import direct
    >>> from distopt.directions.inna import INNA
    >>> rule, s = INNA(alpha=0.5, beta=0.1), torch.ones(1, 1)
    >>> _, state = direct(rule, s, rule.init(s), None, lr=0.1)
    >>> round(direct(rule, s, state, None, lr=0.1)[0].item(), 4)  # 0.1 + 0.1 (1 - 0.05)
    0.195
    """

    alpha: float = 0.5
    beta: float = 0.1

    def __post_init__(self) -> None:
        not_negative("inna", alpha=self.alpha)
        positive("inna", beta=self.beta)

    def init(self, x: Tensor) -> INNAState:
        return INNAState(torch.zeros_like(x))

    def __call__(self, s: Tensor, state: INNAState, mix: DirectionRound) -> tuple[Tensor, INNAState]:
        h: Any = mix.lr
        v = (1 - self.alpha * h) * state.v + h * (1 - self.alpha * self.beta) * s
        return self.beta * s + state.v, INNAState(v)
