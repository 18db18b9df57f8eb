"""A random graph in which all agents have equally many neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distopt.errors import InputError
from distopt.graphs import Graph, connected, graph_from_edges
from distopt.random import Key

Ints = NDArray[np.int64]


def random_regular(agents: int, key: Key, degree: int = 4) -> Graph:
    """A random graph with ``degree`` neighbours for every agent; for degree >= 3 it mixes fast at any size [bollobas1980].

    Each agent has ``degree`` stubs, which are paired at random; pairs that are self loops or repeat a link are broken up
    together with some good ones and paired again. The law is close to uniform, not exactly so. Drawn again until connected.
    N degree must be even and degree < N.

    >>> from distopt.topologies.random_regular import random_regular
    >>> len(random_regular(100, Key(0, range(100), [0], 100), degree=3).edges)
    150
    """
    if agents == 1:
        return graph_from_edges(1, [])
    if not 1 <= degree < agents:
        raise InputError(f"random_regular: degree must be at least 1 and below the number of agents {agents}, not {degree}")
    if agents * degree % 2:
        raise InputError(f"random_regular: agents x degree = {agents} x {degree} must be even; change one of them by 1")
    dense = 2 * degree > agents - 1  # then the links that are absent are the fewer, and also regular

    def draw(rng: np.random.Generator) -> Graph:
        edges = _pair(rng, agents, agents - 1 - degree if dense else degree)
        if dense:
            here = np.zeros((agents, agents), dtype=bool)
            here[edges[:, 0], edges[:, 1]] = here[edges[:, 1], edges[:, 0]] = True
            edges = np.argwhere(np.triu(~here, 1))
        return graph_from_edges(agents, edges)

    return connected(draw, key, "topologies/random_regular", "raise degree")


def _pair(rng: np.random.Generator, agents: int, degree: int) -> Ints:
    """Distinct pairs [N degree / 2, 2] without self loops."""
    stubs = np.repeat(np.arange(agents), degree)
    edges = rng.permutation(stubs).reshape(-1, 2)
    for step in range(1, 100_000):
        low, high = edges.min(1), edges.max(1)
        code = low * agents + high
        order = np.argsort(code, kind="stable")
        bad = low == high
        bad[order[1:]] |= code[order[1:]] == code[order[:-1]]
        wrong = np.flatnonzero(bad)
        if not len(wrong):
            return edges
        if step % 100 == 0:  # stuck in a corner: begin again
            edges = rng.permutation(stubs).reshape(-1, 2)
            continue
        open_ = np.unique(np.concatenate([wrong, rng.integers(len(edges), size=len(wrong) + 1)]))
        edges[open_] = rng.permutation(edges[open_].ravel()).reshape(-1, 2)
    raise InputError(f"random_regular: found no simple graph of degree {degree} on {agents} agents; change degree")
