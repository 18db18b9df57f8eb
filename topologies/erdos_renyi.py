"""Every pair is linked with the same probability."""

from __future__ import annotations

import numpy as np

from distopt.errors import InputError
from distopt.network.graphs import Graph, check_links, connected, graph_from_edges, pair_from_number
from distopt.numerics.random import Key
from distopt.topologies._draws import thinned


def erdos_renyi(agents: int, key: Key, p: float = 0.3) -> Graph:
    """G(N, p): each of the N (N - 1) / 2 pairs is linked with probability p, independently [gilbert1959].

    Drawn again until connected (at most 100 times), so p should be above log(N) / N. Work grows with the number of links:
    the gaps between linked pairs are geometric and are drawn directly.

    >>> from distopt.topologies.erdos_renyi import erdos_renyi
    >>> len(erdos_renyi(100, Key(0, range(100), [0], 100), p=1.0).edges)
    4950
    """
    if not 0 < p <= 1:
        raise InputError(f"erdos_renyi: p is the probability of a link, 0 < p <= 1, not {p}")
    pairs = agents * (agents - 1) // 2
    check_links(p * pairs, "erdos_renyi", "lower p or the number of agents")

    def draw(rng: np.random.Generator) -> Graph:
        return graph_from_edges(agents, np.stack(pair_from_number(thinned(rng, p, pairs)), 1))

    enough = np.log(max(agents, 2)) / max(agents, 2)
    return connected(
        draw, key, "topologies/erdos_renyi", f"raise p above log(N) / N = {enough:.3g}", likely=p * pairs, agents=agents
    )
