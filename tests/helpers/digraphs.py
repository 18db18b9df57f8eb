"""Directed networks and their weights as plain arrays, for loops written from papers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distopt.network.topology import build_topology

Floats = NDArray[np.float64]


class Pair(NamedTuple):
    """Weights of one directed graph: the rows of R sum to 1, and the columns of C."""

    R: Floats
    C: Floats


def pair(arcs: Any, agents: int) -> Pair:
    """Both by degrees, arc by arc, from (sender, receiver)."""
    links = [(int(j), int(i)) for j, i in arcs]
    R, C = np.zeros((agents, agents)), np.zeros((agents, agents))
    for j, i in links:
        R[i, j] = 1 / (1 + sum(receiver == i for _, receiver in links))
        C[i, j] = 1 / (1 + sum(sender == j for sender, _ in links))
    for i in range(agents):
        R[i, i] = 1 - sum(R[i, j] for j in range(agents) if j != i)
        C[i, i] = 1 - sum(C[j, i] for j in range(agents) if j != i)
    return Pair(R, C)


def weights(topology: str, agents: int, seed: int) -> Pair:
    """Those of a directed topology by its name."""
    built: Any = build_topology(topology, agents, seed)
    return pair(built.arcs, agents)


def perron(R: Floats) -> Floats:
    """The left Perron vector of row-stochastic weights, by power iteration."""
    found = np.full(len(R), 1 / len(R))
    for _ in range(100_000):
        found = found @ R
    return found / found.sum()
