"""A ring lattice with some links rewired."""

from __future__ import annotations

import numpy as np

from distopt.errors import InputError
from distopt.network.graphs import Graph, check_links, connected, graph_from_edges
from distopt.numerics.random import Key

_TRIES = 3e7  # attempts to find an agent that is not linked yet: about a minute


def watts_strogatz(agents: int, key: Key, k: int = 4, p: float = 0.1) -> Graph:
    """A small world: each agent is linked to its k nearest on a ring, then each link is rewired with probability p [watts1998].

    Rewiring moves the far end of link (i, i + s) to an agent drawn uniformly among those i is not yet linked to. The number of
    links stays N k / 2. Drawn again until connected. k must be even and below N.

    >>> from distopt.topologies.watts_strogatz import watts_strogatz
    >>> len(watts_strogatz(20, Key(0, range(20), [0], 20)).edges)
    40
    """
    if agents == 1:
        return graph_from_edges(1, [])
    if k < 2 or k % 2 or k >= agents:
        raise InputError(f"watts_strogatz: k must be even and 2 <= k < agents = {agents}, not {k}")
    if not 0 <= p <= 1:
        raise InputError(f"watts_strogatz: p is the probability that a link is rewired, 0 <= p <= 1, not {p}")
    check_links(agents * k / 2, "watts_strogatz", "lower k or the number of agents")
    if p * agents * k / 2 * agents / max(agents - 1 - k, 1) > _TRIES and k < agents - 1:
        raise InputError(
            f"watts_strogatz: with k={k} of {agents} agents there are too few free places to rewire {p:g} of the links; lower k or p"
        )

    def draw(rng: np.random.Generator) -> Graph:
        near = [{(i + s) % agents for s in range(-(k // 2), k // 2 + 1)} - {i} for i in range(agents)]
        for s in range(1, k // 2 + 1):
            for i in np.flatnonzero(rng.random(agents) < p).tolist():
                old = (i + s) % agents
                if (
                    old not in near[i] or len(near[i]) >= agents - 1
                ):  # already taken away from its other end, or nowhere to go
                    continue
                new = int(rng.integers(agents))
                while new == i or new in near[i]:
                    new = int(rng.integers(agents))
                near[i].remove(old)
                near[old].remove(i)
                near[i].add(new)
                near[new].add(i)
        return graph_from_edges(agents, [(i, j) for i in range(agents) for j in near[i] if i < j])

    return connected(draw, key, "topologies/watts_strogatz", "raise k or lower p")
