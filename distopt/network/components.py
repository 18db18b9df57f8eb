"""The parts into which a graph falls."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def lowest_members(agents: int, edges: Ints) -> Ints:
    """The lowest agent that each agent is connected with by undirected edges [E, 2]: [N]. Those of a part have the same one.

    >>> lowest_members(5, np.array([[1, 4], [0, 2]])).tolist()
    [0, 1, 0, 3, 1]
    """
    lowest = np.arange(agents)
    low, high = np.ascontiguousarray(np.sort(edges, axis=1).T)
    while len(low):
        np.minimum.at(lowest, high, low)  # at least half of the parts go under a lower one
        while ((above := lowest[lowest]) != lowest).any():
            lowest = above
        a, b = lowest[low], lowest[high]
        apart = a != b
        low, high = np.minimum(a[apart], b[apart]), np.maximum(a[apart], b[apart])
    return lowest


def strong_parts(agents: int, arcs: tuple[Ints, Ints]) -> Ints:
    """The number of each agent's part [N]: from each agent of a part, arcs lead to every other.

    >>> strong_parts(3, (np.array([0, 1, 1]), np.array([1, 0, 2]))).tolist()
    [1, 1, 0]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(arcs[0])), arcs), shape=(agents, agents))
    return np.asarray(connected_components(links, True, "strong")[1], np.int64)
