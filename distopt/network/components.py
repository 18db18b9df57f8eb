"""Which agents can reach each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from distopt.network.graphs import Graph

Ints = NDArray[np.int64]


def components(graph: Graph) -> Ints:
    """A number for each agent [N]; those that can reach each other have the same.

    >>> from distopt.network.graphs import graph_from_edges
    >>> components(graph_from_edges(5, [[0, 3], [2, 4]])).tolist()
    [0, 1, 2, 0, 2]
    """
    if graph.one_way is None:
        return _joined(graph.agents, graph.edges)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(graph.one_way[0])), graph.one_way), shape=(graph.agents, graph.agents))
    return np.asarray(connected_components(links, True, "strong")[1], np.int64)


def _joined(agents: int, edges: Ints) -> Ints:
    """The least agent of the part that each agent is in [N]. Most networks need no more of scipy, whose import takes 25 MB.

    Each part goes under the lowest one that it has a link to, until no link is between two. Two turns at least halve the parts.
    """
    part = np.arange(agents)
    low, high = np.ascontiguousarray(edges.T)
    while len(low):
        np.minimum.at(part, high, low)
        while ((above := part[part]) != part).any():
            part = above
        a, b = part[low], part[high]
        apart = a != b
        low, high = np.minimum(a[apart], b[apart]), np.maximum(a[apart], b[apart])
    return part
