"""A fresh random graph in every round."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from distopt.errors import InputError
from distopt.network.graphs import Arcs, check_links, pair_from_number
from distopt.numerics.random import Key
from distopt.optional import TopologyDefaults


@dataclass(frozen=True)
class ResampledErdosRenyi(TopologyDefaults):
    """A fresh G(N, p) in every round and trial: each of the M = N (N - 1) / 2 pairs is linked with probability p [gilbert1959].

    A single round need not be connected; over many rounds all agents reach each other. The gaps between linked pairs are
    geometric and are drawn directly, so a round costs about M p, not M. It uses a fixed number of random words, B = ceil(M
    p + 9 sqrt(M p) + 30) or M if that is less; a graph with more links than B (by Chernoff's bound rarer than exp(-40)) would
    lose the rest.

    >>> import torch
    >>> from distopt.topologies.resampled_erdos_renyi import ResampledErdosRenyi
    >>> t = torch.arange(100).reshape(100, 1, 1, 1)
    >>> arcs = ResampledErdosRenyi(20, p=0.3).arcs(t, Key(0, range(20), [0], 20))
    >>> round(len(arcs.sender) / (100 * 20 * 19), 1)
    0.3
    """

    agents: int
    p: float = 0.3

    def __post_init__(self) -> None:
        if self.agents < 1:
            raise InputError(f"a network needs at least 1 agent, not {self.agents}")
        if not 0 < self.p <= 1:
            raise InputError(f"resampled_erdos_renyi: p is the probability of a link, 0 < p <= 1, not {self.p}")
        check_links(
            self.p * self.agents * (self.agents - 1) / 2, "resampled_erdos_renyi", "lower p or the number of agents"
        )

    def arcs(self, t: Tensor, key: Key) -> Arcs:
        pairs = self.agents * (self.agents - 1) // 2
        mean = pairs * self.p
        count = min(pairs, math.ceil(mean + 9 * math.sqrt(mean) + 30))
        drawn = key.shared.uniform("topologies/resampled_erdos_renyi", count, t).numpy()[:, :, 0]
        if self.p < 1:
            with np.errstate(over="ignore"):  # a tiny p overflows
                gap = np.floor(np.log1p(-drawn) / math.log1p(-self.p)).clip(max=pairs).astype(np.int64)
        else:
            gap = np.zeros(drawn.shape, np.int64)
        number = (gap + 1).cumsum(-1) - 1
        k, r, slot = np.nonzero(number < pairs)
        i, j = pair_from_number(number[k, r, slot])
        k, r = np.concatenate([k, k]), np.concatenate([r, r])
        return Arcs(k, r, np.concatenate([i, j]), np.concatenate([j, i]))
