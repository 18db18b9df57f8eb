"""Topologies: graphs that are well formed and connected, links that depend on round and trial alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distopt.checks._common import R, require
from distopt.errors import InputError
from distopt.network.digraphs import Digraph
from distopt.network.graphs import Graph, Switching, check_connected
from distopt.network.network import mixing_of
from distopt.numerics.random import Key


def check_topology(topology: Graph | Switching | Callable[..., Any], agents: int = 8, seed: int = 0) -> None:
    """Check a graph, a switching topology, or the maker of one (called twice, with ``agents`` and ``key`` if it takes them).

    Promises:

    - Edges are int64 [E, 2], i < j, sorted, within 0 .. N - 1, each once. The graph is connected.
    - A maker makes the same graph from the same key.
    - A directed graph has arcs int64 [A, 2], sorted, each once, between the pairs of its edges only, and is strongly connected.
    - The links of a switching topology depend on round and trial only. They come in both directions unless weights are given,
      and connect all agents over some rounds.
    - The weights have rows that sum to 1. On a directed graph their columns do if columns are needed.

    Raises:
        AssertionError: naming the first promise that is broken.

    >>> from distopt.network.graphs import graph_from_edges
    >>> print(check_topology(graph_from_edges(3, [(0, 1), (1, 2)])))
    None
    """
    who = getattr(topology, "__name__", type(topology).__name__)
    built = topology if isinstance(topology, Graph | Switching) else _made(topology, agents, seed, who)
    key = Key(seed, range(built.agents), range(R), built.agents)
    if isinstance(built, Graph):
        _check_graph(built, who)
        t = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    else:
        t = torch.arange(12).reshape(-1, 1, 1, 1)
        _check_switching(built, t, key, who)
    try:
        made = mixing_of(built, "metropolis", key)
        dense, columns = made.dense(t), made.require("column", who).dense(t) if isinstance(built, Digraph) else None
    except InputError as error:
        raise AssertionError(f"{who}: no weights can be made: {error}") from error
    require(float((dense.sum(-1) - 1).abs().max()) < 1e-8, f"{who}: the rows of W do not sum to one")
    exact = columns is None or float((columns.sum(-2) - 1).abs().max()) < 1e-8
    require(exact, f"{who}: the columns of W do not sum to one")


def _made(maker: Callable[..., Any], agents: int, seed: int, who: str) -> Graph | Switching:
    wanted = inspect.signature(maker).parameters
    given = {"agents": agents, "key": Key(seed, range(agents), range(R), agents)}
    build = partial(maker, **{name: value for name, value in given.items() if name in wanted})
    try:
        built, again = build(), build()
    except InputError as error:
        raise AssertionError(f"{who}: {error}") from error
    if not isinstance(built, Graph | Switching):
        raise AssertionError(f"{who}: makes a {type(built).__name__}, not a Graph or Switching")
    require(
        "agents" not in wanted or built.agents == agents, f"{who}: makes {built.agents} agents when asked for {agents}"
    )
    if isinstance(built, Graph):
        same = np.array_equal(built.edges, again.edges) and (
            not isinstance(built, Digraph) or np.array_equal(built.arcs, again.arcs)
        )
        require(same, f"{who}: makes another graph from the same key")
    return built


def _check_graph(graph: Graph, who: str) -> None:
    edges, n = graph.edges, graph.agents
    fits = isinstance(edges, np.ndarray) and edges.dtype == np.int64 and edges.ndim == 2 and edges.shape[1] == 2
    require(fits, f"{who}: edges must be an int64 array [E, 2]")
    inside = bool(((edges >= 0) & (edges < n)).all())
    require(inside, f"{who}: an edge names an agent outside 0 .. {n - 1}")
    require(bool((edges[:, 0] < edges[:, 1]).all()), f"{who}: edges must be pairs i < j (undirected, no self loop)")
    code = edges[:, 0] * n + edges[:, 1]
    require(bool((code[1:] > code[:-1]).all()), f"{who}: edges must be sorted, each once")
    if isinstance(graph, Digraph):
        _check_arcs(graph, code, who)
    require(graph.positions is None or graph.positions.shape == (n, 2), f"{who}: positions must have shape [{n}, 2]")
    try:
        check_connected(graph)
    except InputError as error:
        raise AssertionError(f"{who}: {error}") from error


def _check_arcs(graph: Digraph, edges: Any, who: str) -> None:
    """``edges`` are the numbers of its pairs."""
    arcs, n = graph.arcs, graph.agents
    fits = isinstance(arcs, np.ndarray) and arcs.dtype == np.int64 and arcs.ndim == 2 and arcs.shape[1] == 2
    require(fits, f"{who}: arcs must be an int64 array [A, 2]")
    code = arcs[:, 0] * n + arcs[:, 1]
    require(bool((code[1:] > code[:-1]).all()), f"{who}: arcs must be sorted, each once")
    pairs = np.unique(arcs.min(1) * n + arcs.max(1)) if len(arcs) else edges[:0]
    require(np.array_equal(pairs, edges), f"{who}: arcs must be between the pairs of its edges, and of each pair")


def _check_switching(topology: Switching, t: Tensor, key: Key, who: str) -> None:
    def links(t: Tensor, key: Key) -> dict[tuple[int, int], list[tuple[int, int]]]:
        rounds, trials = t.reshape(-1).tolist(), key.trials.tolist()
        out: dict[tuple[int, int], list[tuple[int, int]]] = {(k, r): [] for k in rounds for r in trials}
        arcs = topology.arcs(t, key)
        for k, r, i, j in zip(arcs.round, arcs.trial, arcs.receiver, arcs.sender, strict=True):
            out[rounds[int(k)], trials[int(r)]].append((int(i), int(j)))
        return {address: sorted(pairs) for address, pairs in out.items()}

    n, whole = topology.agents, links(t, key)
    for pairs in whole.values():
        require(all(0 <= a < n for pair in pairs for a in pair), f"{who}: a link names an agent outside 0 .. {n - 1}")
        require(all(i != j for i, j in pairs), f"{who}: lists a self loop; leave it out, self weights are added")
        require(len(set(pairs)) == len(pairs), f"{who}: lists a link twice in one round")
        both = topology.arcs(t[:1], key).weight is not None or {(j, i) for i, j in pairs} == set(pairs)
        require(both, f"{who}: lists a link in one direction only and gives no weights")
    for ks, trials in (([5], [R - 1]), ([7, 2, 3], list(range(R)))):
        part = links(t[ks], Key(key.seed, range(n), trials, n))
        require(
            all(whole[address] == pairs for address, pairs in part.items()),
            f"{who}: links depend on what else is asked for",
        )
    for r in range(R):
        ever = np.array(
            sorted({(min(p), max(p)) for (_, s), pairs in whole.items() if s == r for p in pairs}), dtype=np.int64
        )
        try:
            check_connected(Graph(n, ever.reshape(-1, 2)))
        except InputError as error:
            raise AssertionError(f"{who}: over {len(t)} rounds of trial {r}, {error}") from error
