"""Agents scattered over a square hear those nearby."""

from __future__ import annotations

import math

import numpy as np

from distopt.errors import InputError
from distopt.network.graphs import Graph, check_links, connected, graph_from_edges
from distopt.numerics.random import Key


def geometric(agents: int, key: Key, radius: float | None = None) -> Graph:
    """A random geometric graph: N points uniform in the unit square, linked when at most ``radius`` apart [penrose2003].

    ``radius`` None takes 2 sqrt(log N / (pi N)), twice the radius at which large graphs become connected. Drawn again until
    connected. The points are the graph's positions.

    >>> from distopt.topologies.geometric import geometric
    >>> geometric(50, Key(0, range(50), [0], 50)).positions.shape
    (50, 2)
    """
    if radius is not None and not radius > 0:
        raise InputError(f"geometric: radius must be positive (the square has side 1), not {radius}")
    enough = math.sqrt(math.log(max(agents, 2)) / (math.pi * max(agents, 2)))
    reach = 2 * enough if radius is None else min(radius, 2.0)
    mean = agents * (agents - 1) / 2 * min(1.0, math.pi * reach**2)
    check_links(mean, "geometric", "lower radius or the number of agents")

    def draw(rng: np.random.Generator) -> Graph:
        from scipy.spatial import cKDTree

        points = rng.random((max(agents, 0), 2))
        return graph_from_edges(agents, cKDTree(points).query_pairs(reach, output_type="ndarray"), positions=points)

    return connected(draw, key, "topologies/geometric", f"raise radius above {enough:.3g}", likely=mean, agents=agents)
