"""One agent in the middle."""

from __future__ import annotations

import numpy as np

from distopt.network.graphs import Graph, graph_from_edges


def star(agents: int) -> Graph:
    """Agent 0 is linked to all others, which have no other link.

    >>> from distopt.topologies.star import star
    >>> star(4).edges.tolist()
    [[0, 1], [0, 2], [0, 3]]
    """
    i = np.arange(1, max(agents, 1))
    return graph_from_edges(agents, np.stack([0 * i, i], 1))
