"""One-way links over distances 1, 2, 4, 8, ..."""

from __future__ import annotations

import numpy as np

from distopt.network.digraphs import Digraph, digraph_from_arcs


def directed_exponential(agents: int) -> Digraph:
    """The static exponential graph, directed: i sends to i + 2^k mod N for every 2^k < N [assran2019] [ying2021].

    In-degree and out-degree are ceil(log2 N), so that W is doubly stochastic, and news reaches everyone in as many rounds. In
    ``exponential`` each of these links goes both ways; in ``one_peer_exponential`` agents take turns with the distances.

    >>> from distopt.topologies.directed_exponential import directed_exponential
    >>> [b for a, b in directed_exponential(8).arcs.tolist() if a == 3]
    [4, 5, 7]
    """
    i = np.arange(max(agents, 0))
    arcs = [np.stack([i, (i + (1 << k)) % agents], 1) for k in range((agents - 1).bit_length())] if agents > 1 else []
    return digraph_from_arcs(agents, np.concatenate(arcs) if arcs else [])
