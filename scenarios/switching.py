"""Quadratics whose sample changes after random times: data subsampling as a Markov chain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from distopt.numerics.random import Key
from distopt.numerics.sums import tree_sum
from distopt.optional import ScenarioDefaults
from distopt.scenarios._ranges import one_of, real, room, whole

Chain = Literal["own", "shared"]


class Held(NamedTuple):
    """The centres of the costs, float64 [K|1, R, n, d], and what the costs are there, float64 [1, R|1, n|1, 1]."""

    centre: Tensor
    least: Tensor


@dataclass(frozen=True)
class Switching(ScenarioDefaults):
    """Follow costs of one sample at a time, each held for a random number of rounds [jin2025].

        f_{i,t}(x) = |x - a_{i,j(t)}|^2 / 2,    j(t + 1) = j(t), or a new draw with probability 1 - exp(-rate h)

    The samples a_i1, a_i2, ... of agent i are normal with standard deviation ``spread``. j(0) is uniform, and so is each new draw, which may
    be the same sample again. A round has the duration h, so there are ``rate`` draws in a unit of time, on average. An algorithm with lr = h
    is then the discretised gradient flow. Of ``rate`` = 0 the first sample stays for ever. ``rate`` = none is the limit of large rates, where
    nothing is sampled: f_i is the mean over all samples of agent i. Rounds are addressed: sample j(t) is found without those before it.

    x*_t is the mean of the present centres over the agents, so the dynamic regret measures how well they follow the sampling. The full objective
    F, the mean over all samples and agents, is another thing. It is F(x) = F(centre) + |x - centre|^2 / 2, where ``centre(key)`` is its
    minimiser. A run with rate=none has F as its cost.

    One agent that moves by dp = (m p + h g) / (m + alpha h), x <- x - h p has, for small h, the stationary variance

        Var(x) = Var(a) (alpha + m rate) / (alpha (1 + alpha rate + m rate^2))

    in each coordinate, m its mass and alpha its friction. Without mass that is Var(a) / (alpha (1 + alpha rate)), of gradient descent with
    lr = h / alpha. So the noise of subsampling falls like 1 / rate, with mass or without.

    Attributes:
        rate: mean number of draws in a unit of time; none: no sampling.
        h: duration of a round.
        samples: number of samples of each agent.
        spread: standard deviation of the samples.
        dim: d.
        chain: agents draw independently (own), or all have the same j(t) (shared).

    Raises:
        InputError: for samples < 1, dim < 1, a negative rate, h or spread, a number above 1e100, or an unknown chain.

    >>> s, key = Switching(rate=60.0, h=0.01, samples=4), Key(0, range(1), range(1), total=1)
    >>> s.sample(torch.arange(12).reshape(-1, 1, 1, 1), key).flatten().tolist()
    [1, 1, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    """

    rate: float | None = 1.0
    h: float = 0.01
    samples: int = 10
    spread: float = 1.0
    dim: int = 1
    chain: Chain = "own"

    def __post_init__(self) -> None:
        if self.rate is not None:
            real(self, "rate")
        real(self, "h", "spread")
        whole(self, "samples", high=2**24)
        whole(self, "dim")
        one_of(self, "chain", get_args(Chain))
        room(self, self.samples * self.dim, "samples", "dim")

    def sample(self, t: Tensor, key: Key) -> Tensor:
        """j(t) for rounds t [K, 1, 1, 1], int64 [K, R, n|1, 1], where there is a rate."""
        assert self.rate is not None
        who, count = key.shared if self.chain == "shared" else key, self.samples
        renewed = -math.expm1(-self.rate * self.h)

        def coded(tau: Tensor) -> Tensor:
            """tau and the sample that is drawn in round tau, as one number; 0 where none is. The largest is the last."""
            u = who.uniform("switching.turn", 2, tau)
            return torch.where(u[..., :1] < renewed, tau * count + (u[..., 1:] * count).to(torch.int64), 0)

        code = key.running_max(f"switching {self.chain} {count} {renewed}", t, coded)
        return torch.where(code > 0, code % count, who.integers("switching.first", count, 1))

    def _samples(self, key: Key) -> Tensor:
        """a, float64 [1, R, n, samples, d]."""
        room(self, self.samples * self.dim * len(key.trials) * len(key.agents), "samples", "dim")
        drawn = key.normal("switching.samples", self.samples * self.dim)
        return self.spread * drawn.reshape(*drawn.shape[:-1], self.samples, self.dim)

    def batch(self, t: Tensor, key: Key) -> Held:
        a = self._samples(key)
        if self.rate is None:
            centre = tree_sum(a).squeeze(-2) / self.samples
            return Held(centre, 0.5 * (a - centre.unsqueeze(-2)).square().sum(-1).mean(-1, keepdim=True))
        which = self.sample(t, key).unsqueeze(-1)
        shape = (len(which), *a.shape[1:3])
        found = a.expand(len(which), *a.shape[1:]).gather(-2, which.expand(*shape, 1, self.dim))
        return Held(found.squeeze(-2), torch.zeros(1, 1, 1, 1, dtype=torch.float64))

    def loss(self, x: Tensor, b: Held) -> Tensor:
        return 0.5 * (x - b.centre).square().sum(-1) + b.least[..., 0]

    def grad(self, x: Tensor, b: Held) -> Tensor:
        return x - b.centre

    def hessian(self, x: Tensor, b: Held) -> Tensor:
        return torch.diag_embed(torch.ones_like(x).sum(-2))

    def optimum(self, b: Held) -> Tensor:
        return b.centre.mean(-2)

    def modulus(self, b: Held) -> Tensor:
        return torch.full((1, 1), float(b.centre.shape[-2]), dtype=torch.float64)

    def smoothness(self, b: Held) -> Tensor:
        return self.modulus(b)

    def centre(self, key: Key) -> Tensor:
        """The minimiser of the full objective, the mean of all samples of all agents, float64 [R, d]; for the trials of ``key``."""
        every = Key(key.seed, range(key.total), key.trials.tolist(), key.total)
        return tree_sum(tree_sum(self._samples(every)).squeeze(-2))[0, :, 0] / (self.samples * key.total)
