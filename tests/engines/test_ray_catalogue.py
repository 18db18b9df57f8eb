"""Every algorithm of the catalogue has the same bits on two Ray actors as on one block. The actors serve one problem after another.

conftest.py keeps the tests of a cluster in one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from helpers.battery import Case, Problems, differences, moves, on, posed
from helpers.cluster import Kept
from helpers.ranks import made
from helpers.spelling import stepping, suited

from distopt.catalog import registry
from distopt.engines.workers.partition import divide as shares
from distopt.network.graphs import graph_from_edges
from distopt.network.lengths import measured
from distopt.runs.execution import Comparison

ROADS = {(0, 1): 100.0, (1, 2): 700.0, (2, 3): 300.0, (3, 4): 1000.0, (4, 5): 40.0, (0, 5): 400.0}


@pytest.fixture(scope="module")
def actors(nodes: Any) -> Iterator[Kept]:
    """Two actors, which take seconds to start."""
    first = made()
    blocks = Comparison.of(first).blocks
    group = Kept(first, blocks, False, 2, partial(shares, first.network), 300, lambda: None)
    yield group
    group.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names("algorithms"))
def test_an_algorithm_has_the_bits_of_one_block(name: str, actors: Kept) -> None:
    case = Case(stepping(name, 0.01), "exact", suited(name, "moving_target:dim=3"), "float64", 2)
    problems = posed(case, network="ring", agents=6, rounds=4)
    alone = on(problems)
    assert moves(alone)
    assert differences(alone, on(problems, actors.engine)) == []


@pytest.mark.slow
def test_delays_by_the_lengths_of_links_have_the_bits_of_one_block(actors: Kept) -> None:
    graph = measured(graph_from_edges(6, list(ROADS)), list(ROADS), list(ROADS.values()))
    late = {"delay": "length", "clock": "compute=1e-3", "drop_messages": 0.2}
    problem = made(graph, algorithm="robust_push_diging:lr=0.01", agents=None, rounds=9, **late)
    problems = Problems(problem, Comparison.of(problem))
    alone = on(problems)
    assert moves(alone)
    assert differences(alone, on(problems, actors.engine)) == []
