"""Links over distances 1, 2, 4, 8, ..."""

from __future__ import annotations

import numpy as np

from distopt.network.graphs import Graph, graph_from_edges


def exponential(agents: int) -> Graph:
    """The static exponential graph, undirected: i is linked to i +- 2^k mod N for every 2^k < N [ying2021].

    About 2 log2 N neighbours, and a spectral gap that shrinks only as 1 / log N.

    >>> from distopt.topologies.exponential import exponential
    >>> sorted(b for a, b in exponential(8).edges.tolist() if a == 0)
    [1, 2, 4, 6, 7]
    """
    i = np.arange(max(agents, 0))
    links = [np.stack([i, (i + (1 << k)) % agents], 1) for k in range((agents - 1).bit_length())] if agents > 1 else []
    return graph_from_edges(agents, np.concatenate(links) if links else [])
