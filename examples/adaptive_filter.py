"""A scenario of one's own: agents identify a filter whose taps drift (Lopes and Sayed, 2008: least-mean squares over networks)."""

from dataclasses import dataclass
from math import tau
from typing import NamedTuple

import torch


class Batch(NamedTuple):
    u: torch.Tensor  # what goes into the filter, [K, R, n, samples, dim]
    y: torch.Tensor  # what comes out of it, [K, R, n, samples]


@dataclass(frozen=True)
class AdaptiveFilter:
    """f_{i,t}(x) = half the mean of (u x - y)^2 over agent i's samples of round t, where y = u w_t + noise."""

    dim: int = 4
    samples: int = 8
    period: int = 500
    noise: float = 0.1

    def batch(self, t, key):
        u = key.normal("adaptive_filter.u", self.samples * self.dim, t).unflatten(-1, (self.samples, self.dim))
        turn = t.double() / self.period + torch.arange(self.dim) / self.dim
        taps = torch.cos(tau * turn).unsqueeze(-2)  # w_t, the same for all agents
        return Batch(u, (u * taps).sum(-1) + self.noise * key.normal("adaptive_filter.noise", self.samples, t))

    def loss(self, x, b):
        return self.errors(x, b).square().mean(-1) / 2

    def grad(self, x, b):
        return (self.errors(x, b).unsqueeze(-1) * b.u).mean(-2)

    def errors(self, x, b):
        return (b.u * x.unsqueeze(-2)).sum(-1) - b.y
