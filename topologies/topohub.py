"""Real networks of the topohub collection."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from distopt.errors import InputError
from distopt.network.graphs import Graph, check_connected, graph_from_edges
from distopt.network.lengths import measured


def topohub(agents: int | None = None, name: str = "topozoo/Abilene") -> Graph:
    """A network of the topohub package, such as topozoo/Abilene or sndlib/polska, with longitude and latitude [jurkiewicz2023].

    Needs ``pip install "distopt[topohub]"``. ``agents`` may be left out; if given it must be the network's. The lengths of links are kept, in
    kilometres, for clocks (docs/clock.md); demands are not used. Raises InputError for an unknown name and for a network that is not connected.

    >>> from distopt.topologies.topohub import topohub
    >>> len(topohub(name="topozoo/Abilene").edges)
    14
    """
    try:
        import topohub as collection
    except ImportError as error:
        raise InputError('topohub: the package topohub is missing; pip install "distopt[topohub]"') from error
    if not re.fullmatch(r"[\w-]+(/[\w-]+)+", name):
        raise InputError(f"topohub: {name!r} is not of the form group/name, such as topozoo/Abilene")
    try:
        read: dict[str, Any] = collection.get(name)
    except (KeyError, OSError):
        raise InputError(
            f"topohub: no network {name!r}; names are group/name, such as topozoo/Abilene, sndlib/polska"
        ) from None
    number = {node["id"]: i for i, node in enumerate(read["nodes"])}
    if len(number) < len(read["nodes"]):
        raise InputError(f"topohub: {name} has two nodes with the same id; use another network")
    if agents not in (None, len(number)):
        raise InputError(f"topohub: {name} has {len(number)} agents, not {agents}; leave the number out")
    edges = [link for link in read["edges"] if link["source"] != link["target"]]
    links = [(number[link["source"]], number[link["target"]]) for link in edges]
    where = np.array([node["pos"] for node in read["nodes"]]) if all("pos" in node for node in read["nodes"]) else None
    graph = graph_from_edges(len(number), links, positions=where)
    graph = replace(graph, names=tuple(str(node.get("name", node["id"])) for node in read["nodes"]))
    try:
        graph = measured(graph, links, [link.get("dist", np.nan) for link in edges])
        check_connected(graph)
    except InputError as error:
        raise InputError(f"topohub: {name}: {error}") from error
    return graph
