"""The friendships of a karate club."""

from __future__ import annotations

from distopt.errors import InputError
from distopt.network.graphs import Graph, graph_from_networkx


def karate(agents: int | None = None) -> Graph:
    """The 34 members and 78 friendships of a university karate club, which later split in two [zachary1977].

    ``agents`` may be left out; if given it must be 34.

    >>> from distopt.topologies.karate import karate
    >>> len(karate().edges)
    78
    """
    import networkx as nx

    if agents not in (None, 34):
        raise InputError(f"karate: the club has 34 agents, not {agents}; leave the number out")
    return graph_from_networkx(nx.karate_club_graph())
