"""A tree in which every agent has up to two children."""

from __future__ import annotations

import numpy as np

from distopt.network.graphs import Graph, graph_from_edges


def binary_tree(agents: int) -> Graph:
    """The balanced binary tree: agent i > 0 is linked to its parent (i - 1) // 2; agent 0 is the root.

    >>> from distopt.topologies.binary_tree import binary_tree
    >>> binary_tree(5).edges.tolist()
    [[0, 1], [0, 2], [1, 3], [1, 4]]
    """
    i = np.arange(1, max(agents, 1))
    return graph_from_edges(agents, np.stack([(i - 1) // 2, i], 1))
