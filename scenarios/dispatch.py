"""Economic dispatch: a demand that changes is divided among generators whose costs are quadratic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.numerics.random import Key
from distopt.optional import ScenarioDefaults
from distopt.scenarios._ranges import real, room, whole
from distopt.scenarios._sets import least, nearest

AT_ONCE = 2**12
"""Rounds whose demands are added at a time, for the best fixed shares."""


class Generation(NamedTuple):
    """What generators cost their agents, and the demand.

    Attributes:
        a: the slopes of marginal costs, 0 for generators of other agents, float64 [1, R, n, d].
        b: the marginal costs at no output, 0 for generators of other agents [1, R, n, d].
        demand: D_t [K, R, 1, 1].
    """

    a: Tensor
    b: Tensor
    demand: Tensor


@dataclass(frozen=True)
class Dispatch(ScenarioDefaults):
    """Divide a demand D_t among d generators so that they cost least together: economic dispatch [wood1996] [boyd2004convex].

        f_{i,t}(x) = sum_{k of agent i} a_k/2 (D_t x_k)^2 + b_k D_t x_k,    x_k >= 0, sum_k x_k = 1

    x are shares: generator k produces D_t x_k. All agents know the demand, but each knows only the costs of its own generators, k = i, i + N,
    i + 2N, ... So agents hold copies of the whole division and must agree on one. With more agents than generators, those without any have no
    costs and still take part. No f_i is strongly convex, but their sum is.

    The demand is D_t = demand (1 + swing cos(2 pi t / period + phase)), with a phase of each trial. Slopes a_k are uniform in [1, kappa], and
    marginal costs b_k at no output are uniform in [0, ``price``]. They do not change. At the minimiser all running generators have the same
    marginal cost, and the others cost more even at no output: x_k = max(lambda - b_k D_t, 0) / (a_k D_t^2). While demand is low only the
    cheapest run, so generators are switched on and off in every period. Our set-up.

    After each round points go to the nearest ones with shares that are not negative and sum to 1, and agents start with equal shares. Shares without
    these bounds, or on another set, has ``feasible(dispatch,form=...)``.

    Attributes:
        dim: d, the number of generators.
        demand: the mean demand.
        swing: the largest deviation of the demand from its mean, as a fraction of the mean.
        period: rounds of a cycle, such as a day.
        kappa: the largest slope a_k, at least 1.
        price: the largest b_k.

    Raises:
        InputError: for dim < 1, a demand that is not positive, a swing outside of [0, 0.99], period < 1, kappa < 1, a negative price, or a number
            above 1e30.

    >>> s, key = Dispatch(dim=4), Key(0, range(2), range(1), total=2)
    >>> x = s.optimum(s.batch(torch.tensor([0, 100]).reshape(2, 1, 1, 1), key))
    >>> [[round(v, 3) for v in row] for row in x[:, 0].tolist()]
    [[0.048, 0.474, 0.219, 0.26], [0.078, 0.451, 0.22, 0.252]]
    """

    dim: int = 6
    demand: float = 1.0
    swing: float = 0.5
    period: int = 200
    kappa: float = 4.0
    price: float = 1.0

    def __post_init__(self) -> None:
        whole(self, "dim", "period")
        real(self, "demand", low=1e-30, high=1e30)
        real(self, "swing", high=0.99)
        real(self, "kappa", low=1, high=1e30)
        real(self, "price", high=1e30)
        room(self, self.dim, "dim")

    def batch(self, t: Tensor, key: Key) -> Generation:
        room(self, 2 * self.dim * len(key.trials) * len(key.agents), "dim")
        a = 1 + (self.kappa - 1) * key.shared.uniform("dispatch.slope", self.dim)
        b = self.price * key.shared.uniform("dispatch.price", self.dim)
        own = torch.arange(self.dim) % key.total == key.agents.reshape(-1, 1)
        return Generation(a * own, b * own, self.demands(t, key))

    def demands(self, t: Tensor, key: Key) -> Tensor:
        """D_t [K, R, 1, 1] of rounds t [K, 1, 1, 1]."""
        phase = 2 * math.pi * key.shared.uniform("dispatch.phase", 1)
        angle = 2 * math.pi * (t % self.period).to(torch.float64) / self.period + phase
        return self.demand * (1 + self.swing * angle.cos())

    def loss(self, x: Tensor, b: Generation) -> Tensor:
        output = b.demand * x
        return ((0.5 * b.a * output + b.b) * output).sum(-1)

    def grad(self, x: Tensor, b: Generation) -> Tensor:
        return b.demand * (b.a * (b.demand * x) + b.b)

    def project(self, x: Tensor) -> Tensor:
        """The nearest shares."""
        return nearest("simplex", 1.0, x)

    def lmo(self, s: Tensor) -> Tensor:
        """All demand on the generator with the least s_k."""
        return least("simplex", 1.0, s)

    def start(self, key: Key) -> Tensor:
        """Equal shares."""
        return torch.full((1, 1, self.dim), 1 / self.dim, dtype=torch.float64)

    def optimum(self, b: Generation) -> Tensor:
        """The shares at which all generators that run have the same marginal cost."""
        demand = b.demand.squeeze(-2)
        return divided(b.a.sum(-2) * demand * demand, b.b.sum(-2) * demand)

    def best_fixed(self, rounds: int, key: Key) -> Tensor:
        """The shares that cost least over so many rounds: the sums of a_k D_t^2 and of b_k D_t decide."""
        whole_network = self.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), key)
        once = twice = torch.zeros(1, 1, dtype=torch.float64)
        for first in range(0, rounds, AT_ONCE):
            t = torch.arange(first, min(first + AT_ONCE, rounds)).reshape(-1, 1, 1, 1)
            demand = self.demands(t, key)[:, :, 0]
            once, twice = once + demand.sum(0), twice + demand.square().sum(0)
        return divided(whole_network.a.sum(-2)[0] * twice, whole_network.b.sum(-2)[0] * once)

    def modulus(self, b: Generation) -> Tensor:
        return b.a.sum(-2).amin(-1) * b.demand[..., 0, 0].square()

    def smoothness(self, b: Generation) -> Tensor:
        return b.a.sum(-2).amax(-1) * b.demand[..., 0, 0].square()


def divided(a: Tensor, b: Tensor) -> Tensor:
    """The minimiser of sum_k a_k/2 x_k^2 + b_k x_k over x >= 0 with sum 1, for a > 0 and b [..., d]: x_k = max(lambda - b_k, 0) / a_k.

    The sum of these is convex in lambda and the largest of the lines sum_{k in S} (lambda - b_k) / a_k over all sets S. So lambda is the least
    number at which one of them is 1, and the sets of the m cheapest generators, m = 1 ... d, are enough.

    >>> divided(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.0, 0.5, 3.0])).tolist()
    [0.75, 0.25, 0.0]
    """
    cheap, order = torch.sort(b, -1)
    slopes = 1 / a.gather(-1, order)
    level = ((1 + (cheap * slopes).cumsum(-1)) / slopes.cumsum(-1)).amin(-1, keepdim=True)
    return (level - b).clamp(min=0) / a
