"""Agents meet in random pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from distopt.errors import InputError
from distopt.network.graphs import Arcs
from distopt.numerics.random import Key
from distopt.optional import TopologyDefaults


@dataclass(frozen=True)
class RandomMatching(TopologyDefaults):
    """A uniformly random matching in every round and trial: all agents pair up, one is left alone if N is odd [boyd2006].

    Metropolis and max_degree weights make both of a pair take their average. N random words per round: agents are sorted by
    them and neighbours in that order pair up.

    >>> import torch
    >>> from distopt.topologies.random_matching import RandomMatching
    >>> len(RandomMatching(7).arcs(torch.zeros(1, 1, 1, 1, dtype=torch.int64), Key(0, range(7), [0], 7)).sender)
    6
    """

    agents: int

    def __post_init__(self) -> None:
        if self.agents < 1:
            raise InputError(f"a network needs at least 1 agent, not {self.agents}")

    def arcs(self, t: Tensor, key: Key) -> Arcs:
        drawn = key.shared.uniform("topologies/random_matching", self.agents, t).numpy()[:, :, 0]
        order = np.argsort(drawn, axis=-1, kind="stable")
        half = self.agents // 2
        a, b = order[..., 0 : 2 * half : 2], order[..., 1 : 2 * half : 2]
        k, r, _ = (np.concatenate([x.ravel(), x.ravel()]) for x in np.indices(a.shape))
        a, b = a.ravel(), b.ravel()
        return Arcs(k, r, np.concatenate([a, b]), np.concatenate([b, a]))
