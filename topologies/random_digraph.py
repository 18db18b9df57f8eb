"""Every ordered pair is linked with the same probability."""

from __future__ import annotations

import numpy as np

from distopt.errors import InputError
from distopt.network.digraphs import Digraph, digraph_from_arcs
from distopt.network.graphs import Graph, check_links, connected
from distopt.numerics.random import Key
from distopt.topologies._draws import thinned


def random_digraph(agents: int, key: Key, p: float = 0.3) -> Graph:
    """The directed G(N, p): each of the N (N - 1) ordered pairs has an arc with probability p, independently [gilbert1959].

    Drawn again until strongly connected (at most 100 times), so p should be above log(N) / N; no arc is added. An agent's numbers
    of senders and receivers differ, so W by degrees is almost never doubly stochastic. Work grows with the number of arcs.

    >>> from distopt.topologies.random_digraph import random_digraph
    >>> len(random_digraph(100, Key(0, range(100), [0], 100), p=1.0).arcs)
    9900
    """
    if not 0 < p <= 1:
        raise InputError(f"random_digraph: p is the probability of an arc, 0 < p <= 1, not {p}")
    pairs = agents * (agents - 1)
    check_links(p * pairs, "random_digraph", "lower p or the number of agents")

    def draw(rng: np.random.Generator) -> Digraph:
        sender, other = np.divmod(
            thinned(rng, p, pairs), max(agents - 1, 1)
        )  # pair (i, k) is i and the k-th of the others
        return digraph_from_arcs(agents, np.stack([sender, other + (other >= sender)], 1))

    enough = np.log(max(agents, 2)) / max(agents, 2)
    advice = f"raise p above log(N) / N = {enough:.3g}"
    return connected(draw, key, "topologies/random_digraph", advice, likely=p * pairs, agents=agents)
