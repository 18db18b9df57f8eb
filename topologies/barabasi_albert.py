"""Agents join one by one and prefer those with many links."""

from __future__ import annotations

import numpy as np

from distopt.errors import InputError
from distopt.network.graphs import MOST_LINKS, Graph, check_links, generator, graph_from_edges
from distopt.numerics.random import Key


def barabasi_albert(agents: int, key: Key, m: int = 2) -> Graph:
    """Preferential attachment: each new agent links to m distinct earlier ones, likelier the more links they have [barabasi1999].

    It begins with a star of m + 1 agents, so the graph is always connected and has m (N - m) links; a few agents become hubs.
    1 <= m < N.

    >>> from distopt.topologies.barabasi_albert import barabasi_albert
    >>> len(barabasi_albert(50, Key(0, range(50), [0], 50)).edges)
    96
    """
    if agents == 1:
        return graph_from_edges(1, [])
    if not 1 <= m < agents:
        raise InputError(
            f"barabasi_albert: m is the number of links of a new agent, 1 <= m < agents = {agents}, not {m}"
        )
    check_links(
        m * (agents - m), "barabasi_albert", "lower m or the number of agents", most=MOST_LINKS // 8
    )  # kept in a list
    rng = generator(key, "topologies/barabasi_albert")
    ends = [end for leaf in range(1, m + 1) for end in (0, leaf)]  # every agent as often as it has links
    for new in range(m + 1, agents):
        chosen: set[int] = set()
        while len(chosen) < m:
            chosen.update(ends[int(u * len(ends))] for u in rng.random(m - len(chosen)))
        for old in sorted(chosen):
            ends += (old, new)
    return graph_from_edges(agents, np.array(ends).reshape(-1, 2))
