"""Linear costs on an interval, on which Adam goes to the wrong end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.optional import ScenarioDefaults
from distopt.scenarios._ranges import LARGEST, one_of, real, whole

Form = Literal["online", "theorem", "stochastic", "family", "sparse"]
AT_ONCE = 2**16
"""Rounds whose slopes are summed at a time."""


@dataclass(frozen=True)
class Reddi(ScenarioDefaults):
    """Costs c_t x on [-1, 1] whose slope is steep and positive once in a while, and mild and negative in between [reddi2018].

        f_t(x) = c_t x,    -1 <= x <= 1,    x_0 = 0

    The steep slopes outweigh the mild ones, so x = -1 is the best fixed point. Adam divides a steep slope by its own size and soon forgets
    it. So it goes to x = 1, and its average regret against x = -1 does not go to 0. AMSGrad's does. The papers count rounds from 1, so
    their round t is round t - 1 here. All agents have the same costs. In the papers' round t the slope is:

    - online: ``high`` if t mod period = 1, else ``low``: 1010 and -10 with period 101, the paper's figure (b1 = 0.9, b2 = 0.99).
    - theorem: C if t mod 3 = 1, else -1, of its first theorem (b1 = 0, b2 = 1 / (1 + C^2)).
    - stochastic: ``high`` with probability ``probability``, else ``low``, drawn for each trial. With high=C, low=-1 and probability
      (1 + delta) / (C + 1) it is the third theorem's.
    - family: P if t mod P = 1, else -1, of the second theorem with C = P. Whether Adam fails depends on P, b1 and b2.
    - sparse: P / 2 if t mod P = 1, -1 if t mod P = P - 2, else 0. It distinguishes rules that divide by a centred second moment from
      rules that divide by an older one.

    Step sizes fall as ``lr=inverse_sqrt(1.0)`` does, and points are projected to [-1, 1] after each step. So the norm of a rule's projection does
    not matter. The paper's rules have no eps; ``adam(eps=1e-300,eps_inside=false,cap=none)`` comes to the same.

    ``static_regret`` is the papers' regret, as it compares with the best fixed point of the whole run. That is -sign(sum c_t), which is -1 but
    for short runs of the form stochastic. A round's own minimiser is -sign(c_t), so the dynamic regret is larger.

    Attributes:
        form: the sequence of costs: one of those above.
        high: the steep slope (online, stochastic).
        low: the mild slope (online, stochastic).
        period: rounds from one steep slope to the next (online).
        C: the steep slope (theorem).
        P: the rounds from one steep slope to the next, and their size (family, sparse).
        probability: probability of the steep slope (stochastic).

    Raises:
        InputError: for an unknown form, a period below 2, P below 3, or below 4 in the form sparse, a probability outside [0, 1], or a slope
            beyond 1e100.

    >>> s, key = Reddi(), Key(0, range(1), range(1), total=1)
    >>> s.batch(torch.tensor([0, 1, 100, 101]).reshape(4, 1, 1, 1), key).flatten().tolist()
    [1010.0, -10.0, -10.0, 1010.0]
    >>> s.best_fixed(20_200, key).item()
    -1.0
    """

    dim: ClassVar[int] = 1
    form: Form = "online"
    high: float = 1010.0
    low: float = -10.0
    period: int = 101
    C: float = 4.0
    P: int = 11
    probability: float = 0.01

    def __post_init__(self) -> None:
        one_of(self, "form", get_args(Form))
        real(self, "high", "low", "C", low=-LARGEST)
        whole(self, "period", low=2)
        whole(self, "P", low=3)
        if self.form == "sparse" and self.P < 4:
            raise InputError(f"reddi: P={self.P} must be at least 4 in the form sparse, or its two slopes would meet")
        real(self, "probability", high=1)

    def batch(self, t: Tensor, key: Key) -> Tensor:
        """c_t, float64 [K, R|1, 1, 1]."""
        count = t + 1  # as the papers count
        if self.form == "stochastic":
            return self._slopes(key.shared.uniform("reddi", 1, t) < self.probability, self.high, self.low)
        if self.form == "online":
            return self._slopes(count % self.period == 1, self.high, self.low)
        if self.form == "theorem":
            return self._slopes(count % 3 == 1, self.C, -1.0)
        steep = count % self.P == 1
        if self.form == "family":
            return self._slopes(steep, float(self.P), -1.0)
        return self._slopes(steep, self.P / 2, 0.0) - (count % self.P == self.P - 2).to(torch.float64)

    @staticmethod
    def _slopes(steep: Tensor, high: float, low: float) -> Tensor:
        each = torch.tensor([low, high], dtype=torch.float64)
        return each[steep.to(torch.int64)]

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        return (b * x).sum(-1)

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        return b.expand_as(x)

    def optimum(self, b: Tensor) -> Tensor:
        return -torch.sign(b.sum(2))

    def best_fixed(self, rounds: int, key: Key) -> Tensor:
        starts = range(0, rounds, AT_ONCE)
        parts = [torch.arange(t, min(t + AT_ONCE, rounds)).reshape(-1, 1, 1, 1) for t in starts]
        return -torch.sign(torch.stack([self.batch(t, key).sum(0) for t in parts]).sum(0).sum(1))

    def project(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1)

    def start(self, key: Key) -> Tensor:
        return torch.zeros(1, 1, 1, dtype=torch.float64)
