"""How long the links of a graph are, in kilometres, and how long messages are under way on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from distopt.errors import InputError
from distopt.network.graphs import Floats, Graph, Ints

G = TypeVar("G", bound=Graph)

NAMES = ("dist", "length")
"""What graph files call the length of a link, in small letters."""

SPEED = 200_000.0
"""Kilometres per second of light in a fibre, about two thirds of its speed in vacuum."""


@dataclass(frozen=True, eq=False)
class Travel:
    """How long messages are under way on each link, in both directions.

    Attributes:
        agents: N.
        codes: the numbers i N + j of all links, i < j, sorted.
        lengths: kilometres of each of them [E].

    >>> from distopt.network.graphs import graph_from_edges
    >>> path = graph_from_edges(4, [[0, 1], [1, 2], [2, 3]])
    >>> Travel.of(measured(path, [[0, 1], [1, 2], [2, 3]], [0.0, 100.0, 450.0])).rounds(pace=1e-3).tolist()
    [0, 1, 3]
    """

    agents: int
    codes: Ints
    lengths: Floats

    @classmethod
    def of(cls, graph: Graph) -> Travel:
        """The links of a graph that knows their lengths.

        Raises:
            ValueError: it does not.
        """
        if graph.lengths is None:
            raise ValueError("the graph knows no lengths")
        return cls(graph.agents, graph.edges @ np.array([graph.agents, 1]), graph.lengths)

    def rounds(self, pace: float) -> Ints:
        """How many rounds late messages are on each link, where a round lasts ``pace`` seconds.

        A message of round t leaves when the gradients of round t are there, and is used in the first round at the end of whose gradients it has
        arrived: after length / ``SPEED`` seconds, in rounds and rounded up. A billionth of a round is left to rounding.
        """
        return np.ceil(self.lengths / SPEED / pace - 1e-9).clip(0).astype(np.int64)

    def late(self, pace: float, i: Ints, j: Ints) -> Ints:
        """The same between agents i and j, arrays that are broadcast; what stands where there is no link means nothing."""
        if not len(self.codes):
            return np.zeros(np.broadcast_shapes(i.shape, j.shape), dtype=np.int64)
        place = np.searchsorted(self.codes, np.minimum(i, j) * self.agents + np.maximum(i, j))
        return self.rounds(pace)[np.minimum(place, len(self.codes) - 1)]


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
