"""Signum: signSGD with momentum."""

from __future__ import annotations

from distopt.algorithms.signsgd import SignSGD
from distopt.directions.momentum import Momentum
from distopt.protocols import Schedule
from distopt.ranges import named


def signum(lr: float | Schedule = 0.01, b: float = 0.9, vote: bool = False) -> SignSGD:
    """Signum: the signs of accumulated gradients [bernstein2018].

        m_{i,t} = b m_{i,t-1} + g_{i,t},    x_{t+1} = x_t - lr (1/N) sum_i sign(m_{i,t})

    ``SignSGD`` with heavy-ball momentum as direction rule; see there for the symbols. The sign forgets the scale of m, so an averaging form
    of the momentum would be the same method.

    Raises:
        InputError: as ``SignSGD`` and ``Momentum``.

    >>> from distopt.algorithms.signum import signum
    >>> signum(b=0.5).direction.b
    0.5
    """
    with named("signum"):
        return SignSGD(lr, vote, direction=Momentum(b))
