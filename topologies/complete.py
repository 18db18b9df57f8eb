"""Everyone hears everyone."""

from __future__ import annotations

import numpy as np

from distopt import room
from distopt.graphs import Graph, graph_from_edges


def complete(agents: int) -> Graph:
    """All N (N - 1) / 2 links. Metropolis weights are then 1 / N and one round of mixing is the exact average.

    Memory grows as N^2 while the graph is made (800 MB at 10,000 agents); a round of mixing costs only N d.

    >>> from distopt.topologies.complete import complete
    >>> len(complete(10).edges)
    45
    """
    room.memory(room.COMPLETE * agents**2, f"the links of a complete graph of {agents:,} agents", "agents")
    return graph_from_edges(agents, np.stack(np.triu_indices(max(agents, 0), 1), 1))
