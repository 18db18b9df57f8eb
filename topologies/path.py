"""A line of agents."""

from __future__ import annotations

import numpy as np

from distopt.network.graphs import Graph, graph_from_edges


def path(agents: int) -> Graph:
    """Agents in a line: i and i + 1 are linked. The slowest to mix of all connected graphs of its size.

    >>> from distopt.topologies.path import path
    >>> len(path(5).edges)
    4
    """
    i = np.arange(max(agents - 1, 0))
    return graph_from_edges(agents, np.stack([i, i + 1], 1))
