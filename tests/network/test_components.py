"""The parts of a graph, against networkx."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from distopt.network.components import lowest_members, strong_parts


def expected(parts: list[set[int]]) -> dict[int, int]:
    return {member: min(part) for part in parts for member in part}


@pytest.mark.parametrize("links", [0, 1, 30, 60, 400])
def test_each_agent_knows_the_lowest_of_its_part(links: int) -> None:
    for seed in range(20):
        edges = np.random.default_rng(seed).integers(0, 60, (links, 2))
        graph = nx.empty_graph(60)
        graph.add_edges_from(edges.tolist())
        found = lowest_members(60, edges)
        assert dict(enumerate(found.tolist())) == expected(list(nx.connected_components(graph)))


def test_long_lines_in_any_order_are_one_part() -> None:
    for order in (np.arange(5000), np.arange(5000)[::-1], np.random.default_rng(0).permutation(5000)):
        assert not lowest_members(5000, np.stack([order[:-1], order[1:]], -1)).any()


@pytest.mark.parametrize("arcs", [0, 40, 80, 300])
def test_strong_parts_are_those_of_networkx(arcs: int) -> None:
    for seed in range(20):
        tails, heads = np.random.default_rng(seed).integers(0, 40, (2, arcs))
        graph = nx.empty_graph(40, nx.DiGraph)
        graph.add_edges_from(zip(tails.tolist(), heads.tolist(), strict=True))
        parts = strong_parts(40, (tails, heads))
        lowest = {part: int(np.flatnonzero(parts == part)[0]) for part in set(parts.tolist())}
        assert {i: lowest[part] for i, part in enumerate(parts.tolist())} == expected(
            list(nx.strongly_connected_components(graph))
        )
