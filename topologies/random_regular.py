"""A random graph in which all agents have equally many neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distopt.errors import InputError
from distopt.network.graphs import MOST_LINKS, Graph, check_links, connected, graph_from_edges
from distopt.numerics.random import Key

Ints = NDArray[np.int64]

_WORK = 5_000_000  # links that are looked at before mending is given up


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
        raise InputError(
            f"random_regular: degree must be at least 1 and below the number of agents {agents}, not {degree}"
        )
    if agents * degree % 2:
        raise InputError(f"random_regular: agents x degree = {agents} x {degree} must be even; change one of them by 1")
    check_links(
        agents * degree / 2, "random_regular", "lower degree or the number of agents", most=MOST_LINKS // 4
    )  # sorted again and again
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
    """Distinct pairs [N degree / 2, 2] without self loops; where the degree is too large for mending, switched from a circle."""
    stubs = np.repeat(np.arange(agents), degree)
    edges = rng.permutation(stubs).reshape(-1, 2)
    for step in range(1, max(100, _WORK // max(len(edges), 1))):
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
    return _switched(rng, agents, degree)


def _switched(rng: np.random.Generator, agents: int, degree: int) -> Ints:
    """A circle of ``degree`` nearest neighbours in which the ends of random pairs of links are exchanged ten times for each link."""
    i = np.arange(agents)
    near = [np.stack([i, (i + s) % agents], 1) for s in range(1, degree // 2 + 1)]
    across = [np.stack([i[: agents // 2], i[agents // 2 :]], 1)] if degree % 2 else []
    edges = np.concatenate([*near, *across]).tolist()
    there = {(min(a, b), max(a, b)) for a, b in edges}
    pairs, turns = rng.integers(len(edges), size=(10 * len(edges), 2)), rng.integers(2, size=10 * len(edges))
    for (e, f), turned in zip(pairs.tolist(), turns.tolist(), strict=True):
        (a, b), (c, d) = edges[e], edges[f][:: -1 if turned else 1]
        one, other = (min(a, d), max(a, d)), (min(b, c), max(b, c))
        if a == d or b == c or one in there or other in there:
            continue
        there -= {(min(a, b), max(a, b)), (min(c, d), max(c, d))}
        there |= {one, other}
        edges[e], edges[f] = list(one), list(other)
    return np.array(edges)
