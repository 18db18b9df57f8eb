"""Extreme parameters of topologies: an answer at once, or a refusal in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distopt.errors import InputError
from distopt.network.graphs import is_connected
from distopt.network.topology import build_topology
from distopt.numerics.random import Key
from distopt.topologies import random_regular as regular
from distopt.topologies.erdos_renyi import erdos_renyi
from distopt.topologies.resampled_erdos_renyi import ResampledErdosRenyi

TINY = ("5e-324", "1e-320", "1e-300", "1e-17", "1e-9")


@pytest.mark.parametrize("agents", [2, 50, 100_000])
@pytest.mark.parametrize("spec", [*(f"erdos_renyi:p={p}" for p in TINY), *(f"geometric:radius={r}" for r in TINY)])
def test_too_few_links(spec: str, agents: int) -> None:
    with pytest.raises(InputError, match=r"none of 100 random graphs was connected; raise (p|radius) above"):
        build_topology(spec, agents, 0)


@pytest.mark.parametrize(
    ("spec", "agents"),
    [
        ("erdos_renyi:p=0.5", 1_000_000),
        ("erdos_renyi:p=1", 100_000),
        ("resampled_erdos_renyi:p=0.5", 1_000_000),
        ("complete", 100_000),
        ("geometric:radius=1e308", 100_000),
        ("geometric:radius=1e308", 10**7),
        ("watts_strogatz:k=50000,p=0.1", 100_000),
        ("watts_strogatz:k=998,p=1", 1000),
        ("barabasi_albert:m=50000", 100_000),
        ("random_regular:degree=50000", 100_000),
        ("caveman:size=100000", 100_000),
    ],
)
def test_too_many_links(spec: str, agents: int) -> None:
    with pytest.raises(InputError, match=r"more than the limit of .*; lower|too few free places to rewire"):
        build_topology(spec, agents, 0)


@pytest.mark.parametrize(
    ("spec", "links"),
    [
        ("erdos_renyi:p=1", 1225),
        ("geometric:radius=1e308", 1225),
        ("watts_strogatz:k=48,p=1e-320", 1200),
        ("watts_strogatz:k=2,p=0", 50),
        ("barabasi_albert:m=49", 49),
        ("random_regular:degree=49", 1225),
        ("random_regular:degree=48", 1200),
    ],
)
def test_extremes_that_are_graphs(spec: str, links: int) -> None:
    graph: Any = build_topology(spec, 50, 0)
    assert len(graph.edges) == links


def test_links_that_never_come() -> None:
    import torch

    for p in TINY[:3]:
        arcs = ResampledErdosRenyi(20, float(p)).arcs(torch.arange(50).reshape(-1, 1, 1, 1), Key(0, range(20), [0], 20))
        assert len(arcs.sender) == 0


def test_regular_graphs_of_a_degree_near_half() -> None:
    graph = regular.random_regular(90, Key(0, range(90), [0], 90), 44)
    assert (np.bincount(graph.edges.ravel()) == 44).all() and is_connected(graph)
    for agents, degree in ((12, 5), (13, 6), (40, 3)):
        edges = regular._switched(np.random.default_rng(1), agents, degree)
        codes = {(min(a, b), max(a, b)) for a, b in edges.tolist()}
        assert len(codes) == len(edges) == agents * degree // 2 and all(a != b for a, b in codes)
        assert (np.bincount(edges.ravel()) == degree).all()


def test_a_draw_keeps_its_bits_where_no_gap_overflows() -> None:
    key = Key(3, range(40), [0], 40)
    graph = erdos_renyi(40, key, 0.2)
    assert (len(graph.edges), int((graph.edges[:, 0] * 40 + graph.edges[:, 1]).sum())) == (130, 75945)
