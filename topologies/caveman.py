"""Close-knit groups in a circle."""

from __future__ import annotations

import numpy as np

from distopt.errors import InputError
from distopt.network.graphs import Graph, check_links, graph_from_edges


def caveman(agents: int, size: int = 4) -> Graph:
    """The connected caveman graph: cliques of ``size`` agents in a circle, one link of each turned to its neighbour [watts1999].

    In every clique the link between its first two agents is replaced by one from the first to the last agent of the clique
    before. A single clique stays complete. ``size`` >= 3 must divide N.

    >>> from distopt.topologies.caveman import caveman
    >>> len(caveman(12).edges)  # 3 cliques of 6 links
    18
    """
    if agents == 1:
        return graph_from_edges(1, [])
    if size < 3 or agents < 1 or agents % size:
        nearest = max(round(agents / max(size, 1)), 1) * size
        advice = "take size >= 3" if size < 3 else f"take {nearest} agents, or another size"
        raise InputError(f"caveman: {agents} agents do not make whole groups of size {size} (at least 3); {advice}")
    check_links(agents * (size - 1) / 2, "caveman", "lower size or the number of agents")
    a, b = np.triu_indices(size, 1)
    first = np.arange(0, agents, size)
    if len(first) == 1:
        return graph_from_edges(agents, np.stack([a, b], 1))
    inside = np.stack([a[1:], b[1:]], 1)  # without (0, 1)
    cliques = (first[:, None, None] + inside).reshape(-1, 2)
    return graph_from_edges(agents, np.concatenate([cliques, np.stack([first, (first - 1) % agents], 1)]))
