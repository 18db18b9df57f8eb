"""The corners of a cube in log2 N dimensions."""

from __future__ import annotations

import numpy as np

from distopt.errors import InputError
from distopt.network.graphs import Graph, graph_from_edges


def hypercube(agents: int) -> Graph:
    """Agents whose ids differ in exactly one bit are linked; log2 N neighbours each. N must be a power of two.

    >>> from distopt.topologies.hypercube import hypercube
    >>> len(hypercube(8).edges)
    12
    """
    if agents < 1 or agents & (agents - 1):
        below = 1 << max(agents.bit_length() - 1, 0)
        raise InputError(
            f"hypercube: the number of agents must be a power of two, such as {below} or {2 * below}, not {agents}"
        )
    i = np.arange(agents)
    bits = [1 << k for k in range(agents.bit_length() - 1)]
    links = [np.stack([i[i & bit == 0], i[i & bit != 0]], 1) for bit in bits]
    return graph_from_edges(agents, np.concatenate(links) if links else [])
