"""A closed line of agents, one way around."""

from __future__ import annotations

import numpy as np

from distopt.network.digraphs import Digraph, digraph_from_arcs


def directed_ring(agents: int) -> Digraph:
    """Agents in a circle: i sends to (i + 1) mod N, and receives from (i - 1) mod N only. One agent has no arc.

    Each agent has in-degree and out-degree 1, so W = (I + P) / 2 is doubly stochastic. News needs N - 1 rounds to reach everyone.

    >>> from distopt.topologies.directed_ring import directed_ring
    >>> directed_ring(4).arcs.tolist()
    [[0, 1], [1, 2], [2, 3], [3, 0]]
    """
    i = np.arange(agents if agents > 1 else 0)
    return digraph_from_arcs(agents, np.stack([i, (i + 1) % max(agents, 1)], 1))
