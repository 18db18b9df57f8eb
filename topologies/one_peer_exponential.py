"""Each agent has one sender per round, at distances 1, 2, 4, ... in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from distopt.errors import InputError
from distopt.network.graphs import Arcs
from distopt.numerics.random import Key
from distopt.optional import TopologyDefaults


@dataclass(frozen=True)
class OnePeerExponential(TopologyDefaults):
    """In round t agent i receives from i + 2^(t mod ceil(log2 N)) mod N, and W_t = (I + P_t) / 2 [ying2021].

    Directed and doubly stochastic. If N is a power of two, any log2 N rounds in a row give the exact average.

    >>> import torch
    >>> from distopt.topologies.one_peer_exponential import OnePeerExponential
    >>> OnePeerExponential(8).arcs(torch.tensor([2]).reshape(1, 1, 1, 1), Key(0, range(8), [0], 8)).sender.tolist()
    [4, 5, 6, 7, 0, 1, 2, 3]
    """

    agents: int
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.agents < 1:
            raise InputError(f"a network needs at least 1 agent, not {self.agents}")

    def arcs(self, t: Tensor, key: Key) -> Arcs:
        n, trials = self.agents, len(key.trials)
        rounds = t.reshape(-1).numpy()
        if n == 1:
            none = np.empty(0, np.int64)
            return Arcs(none, none, none, none, np.empty(0))
        step = np.left_shift(1, rounds % (n - 1).bit_length())
        k, r, i = (a.ravel() for a in np.indices((len(rounds), trials, n)))
        return Arcs(k, r, i, (i + step[k]) % n, np.full(len(i), 0.5))
