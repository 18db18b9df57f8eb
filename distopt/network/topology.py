"""A topology as a user gives it becomes a checked graph."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from distopt.catalog import registry
from distopt.catalog.parts import label, of_path
from distopt.catalog.spec import shown
from distopt.errors import InputError, either
from distopt.network.graphs import Graph, Switching, check_connected, graph_from_matrix, graph_from_networkx
from distopt.numerics.random import Key

EVERY = ""
"""Stands for every channel where there is one topology for all."""


def build_topologies(topology: Any, agents: int | None, seed: int) -> dict[str, Graph | Switching]:
    """A topology, or a dict of one for each channel, as checked graphs by channel; ``EVERY`` names the one for all.

    Raises:
        InputError: see ``build_topology``; or the topologies have not the same number of agents.

    >>> list(build_topologies("ring", 4, 0)), list(build_topologies({"x": "ring", "s": "star"}, 4, 0))
    ([''], ['x', 's'])
    """
    if not isinstance(topology, Mapping):
        return {EVERY: build_topology(topology, agents, seed)}
    built: dict[str, Graph | Switching] = {}
    for name, each in topology.items():
        built[name] = build_topology(each, agents, seed)
        agents = built[name].agents
    if not built:
        raise InputError("topology is an empty dict; give a topology, or one for each channel")
    return built


def build_topology(topology: Any, agents: int | None, seed: int) -> Graph | Switching:
    """A spec string, path, networkx graph, weight matrix, Graph or Switching as a checked Graph or Switching of ``agents`` agents.

    Raises:
        InputError: it is none of these, is not connected, or has another number of agents.

    >>> len(build_topology("ring", 4, 0).edges)
    4
    """
    topology = of_path("topology", topology) if isinstance(topology, Path) else topology
    built = (
        registry.make("topologies", topology, _given(topology, agents, seed)) if isinstance(topology, str) else topology
    )
    if isinstance(built, type):
        raise InputError(f"topology {built.__name__} was given as a class; give an object of it")
    if hasattr(built, "nodes") and hasattr(built, "edges"):
        built = graph_from_networkx(built)
    elif hasattr(built, "to_numpy"):  # a data frame
        built = graph_from_matrix(built.to_numpy())
    elif isinstance(built, np.ndarray | Tensor) or hasattr(built, "tocsr"):
        built = graph_from_matrix(built)
    elif isinstance(built, list | tuple):
        try:
            given = np.asarray(built)
            if given.dtype.kind not in "biuf":  # texts, which numpy would read as numbers
                raise TypeError(given.dtype)
            built = graph_from_matrix(given)
        except (TypeError, ValueError) as error:
            raise (
                error
                if isinstance(error, InputError)
                else InputError("topology is a list, but not an [N, N] matrix of numbers; rows must have equal lengths")
            ) from error
    if not isinstance(built, Graph | Switching):
        if built is not topology or isinstance(topology, int | float | str | None):
            raise InputError(
                f"topology={shown(topology)}: must be a name such as ring, or the path of a file, as in file:path=graph.edges"
            )
        raise InputError(
            f"topology {label(topology)} is neither a graph nor a weight matrix; give a name, a networkx graph or an [N, N] array"
        )
    if agents is not None and built.agents != agents:
        raise InputError(
            f"topology {label(topology)} has {built.agents} agents, not {agents}; leave agents out or make them equal"
        )
    if isinstance(built, Graph):
        check_connected(built)
    return built


def _given(topology: str, agents: int | None, seed: int) -> dict[str, Any]:
    parameter = inspect.signature(registry.maker("topologies", registry.Spec.parse(topology).name)).parameters.get(
        "agents"
    )
    if parameter is not None and parameter.default is parameter.empty and agents is None:
        raise InputError(
            f"topology {topology}: the number of agents is missing; add it, as in {either('--agents 16', 'agents=16')}"
        )
    return {"agents": agents, "key": Key(seed, range(max(agents or 1, 1)), range(1), max(agents or 1, 1))}
