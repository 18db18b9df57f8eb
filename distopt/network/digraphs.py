"""Directed graphs, with senders and receivers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from distopt.network.graphs import Graph, Ints, graph_from_edges


def _none() -> Ints:
    return np.empty((0, 2), np.int64)


@dataclass(frozen=True)
class Digraph(Graph):
    """A fixed directed graph. It brings no weights: they are made by in-degrees or by out-degrees (``distopt.network.weights``).

    Attributes:
        edges: the pairs that are linked in at least one direction, int64 [E, 2], i < j, sorted.
        arcs: int64 [A, 2], (sender, receiver), each arc once, sorted. An arc from j to i means that j sends to i.
    """

    arcs: Ints = field(default_factory=_none)
    connection: ClassVar[tuple[str, str]] = ("strongly connected", "have no paths both there and back")

    @property
    def one_way(self) -> tuple[Ints, Ints]:
        """See ``Graph``."""
        return self.arcs[:, 1], self.arcs[:, 0]


def digraph_from_arcs(agents: int, arcs: ArrayLike, positions: ArrayLike | None = None) -> Digraph:
    """A directed graph of ``agents`` agents from pairs [A, 2], sender before receiver; repeated arcs count once.

    Raises InputError on a self loop and on an id outside 0 .. agents - 1.

    >>> ring = digraph_from_arcs(3, [[2, 0], [0, 1], [1, 2], [0, 1]])
    >>> ring.arcs.tolist(), ring.edges.tolist()
    ([[0, 1], [1, 2], [2, 0]], [[0, 1], [0, 2], [1, 2]])
    """
    graph = graph_from_edges(agents, arcs, positions)
    sender, receiver = np.asarray(arcs).astype(np.int64).reshape(-1, 2).T
    code = np.unique(sender * agents + receiver)
    each = np.stack([code // agents, code % agents], 1)
    return Digraph(agents, graph.edges, positions=graph.positions, arcs=each)


def both_directions(graph: Graph) -> Digraph:
    """An undirected graph as a directed one, with two arcs for each link.

    >>> both_directions(graph_from_edges(3, [[0, 1], [1, 2]])).arcs.tolist()
    [[0, 1], [1, 0], [1, 2], [2, 1]]
    """
    there = digraph_from_arcs(graph.agents, np.concatenate([graph.edges, graph.edges[:, ::-1]]))
    return Digraph(
        graph.agents,
        graph.edges,
        positions=graph.positions,
        names=graph.names,
        notes=graph.notes,
        lengths=graph.lengths,
        arcs=there.arcs,
    )
