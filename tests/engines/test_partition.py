"""Blocks between which few links run: fewer rows travel, and no number changes."""

from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import distopt
from distopt.algorithms.gt import GT
from distopt.cli.main import cli
from distopt.engines.workers.partition import Partition, between, cut, divide
from distopt.errors import InputError
from distopt.network.network import Network
from distopt.network.topology import build_topology
from distopt.numerics.random import Key


def network_of(topology: Any, agents: int | None = None, drop_links: float = 0.0) -> Network:
    built = build_topology(topology, agents, 0)
    key = Key(0, range(built.agents), range(1), built.agents)
    return Network.of(built, "metropolis", GT(), "exact", key, drop_links)


def crossing(network: Network, partition: Partition) -> float:
    """Links between blocks; of a network that changes, over 64 rounds."""
    t = torch.arange(1 if network.constant else 64).reshape(-1, 1, 1, 1)
    return cut(between(network.rows(t), network.agents), partition) / 2


def shuffled(graph: Any, seed: int = 0) -> Any:
    """The same graph with agents numbered at random."""
    new = np.random.default_rng(seed).permutation(len(graph))
    return nx.relabel_nodes(graph, dict(enumerate(new.tolist())))


def communities(seed: int = 1) -> Any:
    """Four groups of 10: every pair inside is linked, and one pair of two groups that follow each other."""
    graph = nx.disjoint_union_all([nx.complete_graph(10)] * 4)
    graph.add_edges_from((10 * k, (10 * k + 10) % 40 + 1) for k in range(4))
    return shuffled(graph, seed)


@pytest.mark.parametrize(
    ("graph", "workers", "fewest"),
    [
        (shuffled(nx.cycle_graph(60)), 2, 2),
        (shuffled(nx.cycle_graph(60)), 4, 4),
        (shuffled(nx.path_graph(50)), 5, 4),
        (communities(), 4, 4),
        (communities(5), 2, 2),
    ],
)
def test_the_fewest_links_are_found_where_they_are_known(graph: Any, workers: int, fewest: int) -> None:
    network = network_of(graph)
    found = divide(network, workers, "cut")
    assert crossing(network, found) == 2 * fewest  # W has both directions of a link
    assert crossing(network, Partition.even(len(graph), workers)) > 4 * fewest


def test_a_grid_is_cut_across() -> None:
    network = network_of(shuffled(nx.convert_node_labels_to_integers(nx.grid_2d_graph(12, 12))))
    assert crossing(network, divide(network, 2, "cut")) <= 2 * 24  # 12 straight across, up to 24 from corner to corner
    assert crossing(network, Partition.even(144, 2)) > 200


@pytest.mark.parametrize(
    "topology", ["ring", "star", "complete", "geometric", "barabasi_albert", "random_matching", "one_peer_exponential"]
)
@pytest.mark.parametrize("workers", [1, 2, 3, 7, 32])
def test_blocks_are_even_and_cut_no_more_than_contiguous_ones(topology: str, workers: int) -> None:
    network = network_of(topology, 32)
    found = divide(network, workers, "cut")
    assert sorted(map(len, found.blocks)) == sorted(map(len, Partition.even(32, workers).blocks))
    assert crossing(network, found) <= crossing(network, Partition.even(32, workers))


def test_failing_links_and_a_network_in_pieces() -> None:
    network = network_of(shuffled(nx.cycle_graph(40)), drop_links=0.3)
    assert crossing(network, divide(network, 2, "cut")) < crossing(network, Partition.even(40, 2)) / 4


@pytest.mark.parametrize("engine", ["threads:workers=3,partition=cut", "ranks:workers=3,partition=cut"])
@pytest.mark.parametrize("drop_links", [0.0, 0.2])
def test_no_number_depends_on_the_partition(engine: str, drop_links: float) -> None:
    ask: dict[str, Any] = {
        "scenario": "drifting_logistic",
        "algorithm": "gtadam:lr=0.01",
        "rounds": 20,
        "record": "x",
        "drop_links": drop_links,
        "mode": "eager",
    }
    alone, shared = (distopt.simulate(communities(), engine=where, **ask) for where in ("local", engine))
    assert [name for name in alone if not np.array_equal(alone[name], shared[name], equal_nan=True)] == []


def test_what_cannot_be_is_refused(tmp_path: Any) -> None:
    with pytest.raises(InputError, match="no partition 'best'; partitions: contiguous, cut"):
        divide(network_of("ring", 4), 2, "best")
    with pytest.raises(InputError, match="4 agents cannot be shared among 5"):
        divide(network_of("ring", 4), 5, "cut")
    with pytest.raises(InputError, match="no partition 'best'"):
        distopt.simulate(
            "ring",
            agents=4,
            rounds=2,
            scenario="moving_target",
            algorithm="dgd",
            engine="threads:workers=2,partition=best",
        )
    asked = CliRunner().invoke(cli, ["simulate", "ring", "--agents", "4", "--partition", "cut", "--out", str(tmp_path)])
    assert asked.exit_code == 2
    assert "--partition needs an engine that has workers" in asked.output


def test_the_command_line_takes_it(tmp_path: Any) -> None:
    ask = ["simulate", "grid", "--agents", "16", "--scenario", "moving_target", "--rounds", "10", "--eager"]
    for name, engine in (("local", []), ("cut", ["--engine", "threads", "--workers", "4", "--partition", "cut"])):
        asked = CliRunner().invoke(cli, [*ask, *engine, "--out", str(tmp_path / name)])
        assert asked.exit_code == 0, asked.output
    one, other = (distopt.load(tmp_path / name) for name in ("local", "cut"))
    assert list(one) == list(other)
    assert [name for name in one if not np.array_equal(one[name], other[name], equal_nan=True)] == []
