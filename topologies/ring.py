"""A closed line of agents."""

from __future__ import annotations

import numpy as np

from distopt.network.graphs import Graph, graph_from_edges


def ring(agents: int) -> Graph:
    """Agents in a circle: i and (i + 1) mod N are linked. Two agents share one link, one agent has none.

    >>> from distopt.topologies.ring import ring
    >>> ring(4).edges.tolist()
    [[0, 1], [0, 3], [1, 2], [2, 3]]
    """
    i = np.arange(max(agents - 1, 0))
    line = np.stack([i, i + 1], 1)
    if agents < 3:
        return graph_from_edges(agents, line)
    return graph_from_edges(agents, np.concatenate([line[:1], [[0, agents - 1]], line[1:]]))
