"""How long the links of a graph are, in kilometres."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from distopt.errors import InputError
from distopt.network.graphs import Graph

G = TypeVar("G", bound=Graph)

NAMES = ("dist", "length")
"""What graph files call the length of a link, in small letters."""


def measured(graph: G, pairs: ArrayLike, lengths: ArrayLike) -> G:
    """``graph`` with the kilometres of its links: ``lengths`` [M] are those of ``pairs`` [M, 2] of linked agents, in any order
    and direction.

    If a pair occurs several times, the shortest length counts, since one of parallel links is enough. If a length is
    nan, or a link is missing among the pairs, the graph is returned unchanged: it has lengths for all links or for
    none.

    Raises:
        InputError: a length below 0, or one that is infinite.

    >>> from distopt.network.graphs import graph_from_edges
    >>> measured(graph_from_edges(3, [[0, 1], [1, 2]]), [[2, 1], [0, 1], [1, 0]], [30.0, 20.0, 10.0]).lengths.tolist()
    [10.0, 30.0]
    """
    given = np.asarray(lengths, dtype=np.float64)
    ends = np.sort(np.asarray(pairs, dtype=np.int64).reshape(-1, 2), 1)
    bad = (given < 0) | np.isinf(given)
    if bad.any():
        a, b = (graph.called(int(end)) for end in ends[bad][0])
        raise InputError(f"the link of {a} and {b} has the length {given[bad][0]:g}; give kilometres, 0 or more")
    known = ~np.isnan(given)
    code, own = ends[known] @ (graph.agents, 1), graph.edges @ (graph.agents, 1)
    found = np.full(len(own), np.inf)
    place = np.searchsorted(own, code)
    np.minimum.at(found, place, given[known])
    return graph if np.isinf(found).any() else replace(graph, lengths=found)
