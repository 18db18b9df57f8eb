"""Every file in topologies/ but the directed ones against its definition, networkx, and double stochasticity under every rule."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from helpers.networks import make

import distopt.topologies
from distopt.errors import InputError
from distopt.network.graphs import Graph, Switching, is_connected
from distopt.network.network import mixing_of
from distopt.numerics.random import Key

DIRECTED = ("directed_ring", "directed_exponential", "random_digraph")
"""Those whose links have a direction, which no rule makes doubly stochastic: see test_directed_graphs.py."""

FAMILIES = sorted(
    p.stem
    for p in Path(next(iter(distopt.topologies.__path__))).glob("*.py")
    if not p.stem.startswith("_") and p.stem not in DIRECTED
)
RANDOM = ["barabasi_albert", "erdos_renyi", "geometric", "random_regular", "watts_strogatz"]
SWITCHING = ["one_peer_exponential", "random_matching", "resampled_erdos_renyi"]


def rounds(start: int, stop: int) -> torch.Tensor:
    return torch.arange(start, stop).reshape(-1, 1, 1, 1)


@pytest.fixture(scope="module")
def triangle(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("graphs") / "kite.edges"
    path.write_text("0 1\n1 2\n2 0\n2 3\n")
    return str(path)


def usual(name: str, triangle: str) -> Any:
    fixed = {"karate": {}, "topohub": {}, "file": {"path": triangle}}
    return make(name, None, **fixed[name]) if name in fixed else make(name, 16)


def networkx_graph(graph: Graph) -> nx.Graph:
    out = nx.Graph()
    out.add_nodes_from(range(graph.agents))
    out.add_edges_from(graph.edges.tolist())
    return out


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_under_every_rule_and_with_dropped_links(name: str, triangle: str) -> None:
    topology = usual(name, triangle)
    n, t = topology.agents, rounds(0, 60)
    moves = isinstance(topology, Switching) and not isinstance(topology, Graph)
    directed = name == "one_peer_exponential"
    if not moves:
        assert is_connected(topology)
        edges = topology.edges
        assert edges.dtype == np.int64
        assert (edges[:, 0] < edges[:, 1]).all()
        assert sorted({(a, b) for a, b in edges.tolist()}) == [tuple(edge) for edge in edges.tolist()]
    rules = ["metropolis", "lazy_metropolis", "max_degree", *([] if moves else ["best_constant"])]
    for rule in [*rules, *(["fastest"] if not moves and n <= 16 else [])]:
        for drop in [0.0] if directed else [0.0, 0.4]:
            mixing = mixing_of(topology, rule, Key(5, range(n), range(2), n), drop)
            mixing.require("doubly" if directed else "symmetric", "the test")
            W = mixing.dense(t)
            assert (W.sum(-1) - 1).abs().max() < 1e-14
            assert (W.sum(-2) - 1).abs().max() < 1e-14
            if rule != "best_constant":
                assert W.min() >= -1e-14
            if not moves and not drop:
                assert mixing.spectral_gap() > 1e-4
                there = W[0, 0].numpy() != 0
                allowed = nx.to_numpy_array(networkx_graph(topology)) + np.eye(n) != 0
                assert not (there & ~allowed).any()
                assert rule == "fastest" or (there | np.eye(n, dtype=bool))[allowed].all()


@pytest.mark.parametrize("name", [f for f in FAMILIES if f not in ("karate", "topohub", "file")])
def test_one_agent_and_no_agent(name: str) -> None:
    one = make(name, 1)
    mixing = mixing_of(one, "metropolis", Key(0, range(1), range(2), 1))
    assert (mixing.dense(rounds(0, 3)) == 1).all()
    with pytest.raises(InputError):
        make(name, 0)
    with pytest.raises(InputError):
        make(name, -4)


@pytest.mark.parametrize(
    ("name", "n", "other"),
    [
        *(("path", n, nx.path_graph(n)) for n in (2, 3, 9)),
        *(("ring", n, nx.cycle_graph(n)) for n in (3, 4, 9)),
        ("ring", 2, nx.path_graph(2)),
        *(("star", n, nx.star_graph(n - 1)) for n in (2, 3, 9)),
        *(("complete", n, nx.complete_graph(n)) for n in (2, 3, 9)),
        *(("grid", a * b, nx.grid_2d_graph(a, b)) for a, b in ((1, 2), (1, 3), (2, 2), (3, 4), (4, 4), (2, 13))),
        *(("torus", a * b, nx.grid_2d_graph(a, b, periodic=True)) for a, b in ((3, 4), (4, 4), (1, 3), (5, 7))),
        ("torus", 4, nx.cycle_graph(4)),
        ("torus", 6, nx.circular_ladder_graph(3)),
        *(("hypercube", 2**k, nx.hypercube_graph(k)) for k in (1, 2, 3, 5)),
        *(
            ("exponential", n, nx.circulant_graph(n, [1 << k for k in range(8) if 1 << k < n]))
            for n in (2, 3, 5, 8, 16, 21)
        ),
        *(("caveman", 4 * k, nx.connected_caveman_graph(k, 4)) for k in (2, 3, 5)),
        ("caveman", 4, nx.complete_graph(4)),
        ("binary_tree", 15, nx.balanced_tree(2, 3)),
        ("karate", None, nx.karate_club_graph()),
    ],
)
def test_fixed_families_against_networkx(name: str, n: int | None, other: nx.Graph) -> None:
    ours = make(name, n)
    plain = nx.convert_node_labels_to_integers(other, ordering="sorted")
    plain.remove_edges_from(list(nx.selfloop_edges(plain)))
    if name in ("torus", "grid") and n in (4, 6):
        assert nx.is_isomorphic(networkx_graph(ours), plain)
    else:
        assert {tuple(sorted(edge)) for edge in plain.edges()} == {tuple(edge) for edge in ours.edges.tolist()}
    assert ours.agents == len(plain)


@pytest.mark.parametrize("name", RANDOM)
def test_random_families_repeat_and_vary(name: str) -> None:
    for n in (5, 6, 8, 40):
        same, again, other = make(name, n, 1), make(name, n, 1), make(name, n, 2)
        assert np.array_equal(same.edges, again.edges)
        assert is_connected(same)
        assert is_connected(other)
    assert not np.array_equal(same.edges, other.edges)


def test_erdos_renyi_links_every_pair_equally_often() -> None:
    p, n, draws = 0.5, 8, 400
    counts: Counter[tuple[int, int]] = Counter()
    for seed in range(draws):
        counts.update(tuple(edge) for edge in make("erdos_renyi", n, seed, p=p).edges.tolist())
    # keeping only connected graphs raises the rate slightly: by less than P(disconnected) < n (1 - p)^(n - 1) = 0.07
    shares = np.array([counts[i, j] / draws for i in range(n) for j in range(i + 1, n)])
    assert shares.min() > p - 4 * math.sqrt(0.25 / draws)
    assert shares.max() < p + 0.03 + 4 * math.sqrt(0.25 / draws)
    big = make("erdos_renyi", 1000, p=0.02)
    assert abs(len(big.edges) - 9990) < 4 * math.sqrt(9990)
    degree = np.bincount(big.edges.ravel(), minlength=1000)
    assert abs(degree.var() - 999 * 0.02 * 0.98) < 4


def test_random_regular() -> None:
    for n, degree in (
        (2, 1),
        (3, 2),
        (4, 3),
        (5, 2),
        (5, 4),
        (6, 3),
        (7, 4),
        (10, 7),
        (10, 8),
        (50, 3),
        (60, 2),
        (1000, 10),
    ):
        graph = make("random_regular", n, degree=degree)
        assert (np.bincount(graph.edges.ravel(), minlength=n) == degree).all()
        assert is_connected(graph)
    counts = Counter(make("random_regular", 5, seed, degree=2).edges.tobytes() for seed in range(240))
    assert len(counts) == 12  # all Hamiltonian cycles on 5 agents ...
    assert max(counts.values()) < 45  # ... about 20 times each


def test_random_regular_of_many_agents() -> None:
    graph = make("random_regular", 100_000, degree=3)
    assert (np.bincount(graph.edges.ravel()) == 3).all()


def test_watts_strogatz() -> None:
    lattice = make("watts_strogatz", 20, k=4, p=0.0)
    assert {tuple(sorted(e)) for e in nx.watts_strogatz_graph(20, 4, 0).edges()} == {
        tuple(e) for e in lattice.edges.tolist()
    }
    for p in (0.1, 0.5, 1.0):
        graph = make("watts_strogatz", 400, k=6, p=p)
        assert len(graph.edges) == 1200
        distance = (graph.edges[:, 1] - graph.edges[:, 0]) % 400
        moved = (np.minimum(distance, 400 - distance) > 3).mean()
        assert abs(moved - p * (1 - 6 / 400)) < 5 * math.sqrt(0.25 / 1200)
    assert len(make("watts_strogatz", 5, k=4, p=1.0).edges) == 10  # complete: nowhere to rewire to


def test_barabasi_albert() -> None:
    for n, m in ((2, 1), (5, 4), (50, 1), (50, 3)):
        graph = make("barabasi_albert", n, m=m)
        assert len(graph.edges) == m * (n - m)
    degree = np.bincount(make("barabasi_albert", 3000, m=2).edges.ravel())
    theirs = np.bincount(np.array(nx.barabasi_albert_graph(3000, 2, seed=1).edges()).ravel())
    for d in (2, 3, 4):  # the law 2 m (m + 1) / (d (d + 1) (d + 2)) of the limit, and networkx
        share = 12 / (d * (d + 1) * (d + 2))
        assert (degree == d).mean() == pytest.approx(share, abs=0.03)
        assert (theirs == d).mean() == pytest.approx(share, abs=0.03)
    assert degree.max() > 60


def test_geometric_links_exactly_those_in_reach() -> None:
    graph = make("geometric", 30, radius=0.4)
    x = graph.positions
    assert ((x >= 0) & (x < 1)).all()
    near = {(i, j) for i in range(30) for j in range(i + 1, 30) if math.dist(x[i], x[j]) <= 0.4}
    assert near == {tuple(edge) for edge in graph.edges.tolist()}


def test_one_peer_exponential() -> None:
    for n in (2, 4, 16, 64):
        depth = n.bit_length() - 1
        W = mixing_of(make("one_peer_exponential", n), "metropolis", Key(0, range(n), range(1), n)).dense(
            rounds(3, 3 + depth)
        )[:, 0]
        product = torch.eye(n, dtype=torch.float64)
        for one in W:
            product = one @ product
        assert torch.equal(product, torch.full((n, n), 1 / n, dtype=torch.float64))
    W = mixing_of(make("one_peer_exponential", 11), "lazy", Key(0, range(11), range(1), 11)).dense(rounds(0, 9))[:, 0]
    for t in range(9):
        for i in range(11):
            heard = (i + 2 ** (t % 4)) % 11
            assert {j: float(W[t, i, j]) for j in range(11) if W[t, i, j]} == {i: 0.5, heard: 0.5}


def test_random_matching_is_uniform() -> None:
    arcs = make("random_matching", 4).arcs(rounds(0, 600), Key(0, range(4), range(2), 4))
    meets = {}
    for k, r, i, j in zip(
        arcs.round.tolist(), arcs.trial.tolist(), arcs.receiver.tolist(), arcs.sender.tolist(), strict=True
    ):
        assert (k, r, i) not in meets
        meets[k, r, i] = j
    assert all(meets[k, r, j] == i for (k, r, i), j in meets.items())
    partner = Counter(meets[k, r, 0] for k in range(600) for r in range(2))
    assert all(abs(partner[j] - 400) < 4 * math.sqrt(1200 * 2 / 9) for j in (1, 2, 3))
    assert [meets[k, 0, 0] for k in range(600)] != [meets[k, 1, 0] for k in range(600)]
    odd = make("random_matching", 5).arcs(rounds(0, 500), Key(0, range(5), range(1), 5))
    alone = 500 - np.bincount(odd.receiver, minlength=5)
    assert alone.sum() == 500
    assert (abs(alone - 100) < 4 * math.sqrt(500 * 0.16)).all()


def test_resampled_erdos_renyi_is_g_n_p() -> None:
    n, p, T = 7, 0.35, 1500
    arcs = make("resampled_erdos_renyi", n, p=p).arcs(rounds(0, T), Key(0, range(n), range(1), n))
    linked = np.zeros((T, n, n))
    np.add.at(linked, (arcs.round, arcs.receiver, arcs.sender), 1)
    assert linked.max() == 1
    assert (linked == linked.transpose(0, 2, 1)).all()
    upper = linked[:, *np.triu_indices(n, 1)]
    assert abs(upper.mean(0) - p).max() < 4 * math.sqrt(p * (1 - p) / T)
    assert abs(np.corrcoef(upper.T) - np.eye(upper.shape[1])).max() < 4.5 / math.sqrt(T)
    assert upper.sum(1).var() == pytest.approx(21 * p * (1 - p), rel=0.15)
    full = make("resampled_erdos_renyi", n, p=1.0).arcs(rounds(0, 3), Key(0, range(n), range(1), n))
    assert len(full.sender) == 3 * n * (n - 1)
    rare = make("resampled_erdos_renyi", n, p=1e-9).arcs(rounds(0, 50), Key(0, range(n), range(1), n))
    assert len(rare.sender) == 0


@pytest.mark.parametrize("name", SWITCHING)
def test_switching_rounds_do_not_depend_on_the_chunk(name: str) -> None:
    topology, key = make(name, 9), Key(2, range(9), range(2), 9)
    whole = topology.arcs(rounds(0, 12), key)
    part = topology.arcs(rounds(5, 8), key)
    here = (whole.round >= 5) & (whole.round < 8)
    expected = sorted(
        zip(whole.round[here] - 5, whole.trial[here], whole.receiver[here], whole.sender[here], strict=True)
    )
    assert sorted(zip(part.round, part.trial, part.receiver, part.sender, strict=True)) == expected


@pytest.mark.parametrize(
    ("name", "n", "parameters", "message"),
    [
        ("grid", 7, {}, "use 6 or 8 agents, or topology path"),
        ("torus", 13, {}, "use 12 or 14 agents, or topology ring"),
        ("hypercube", 12, {}, "such as 8 or 16"),
        ("random_regular", 5, {"degree": 3}, "must be even"),
        ("random_regular", 4, {"degree": 4}, "below the number of agents 4"),
        ("random_regular", 12, {"degree": 1}, "none of 100 random graphs was connected; raise degree"),
        ("erdos_renyi", 50, {"p": 0.01}, r"raise p above log\(N\) / N = 0\.0782"),
        ("erdos_renyi", 50, {"p": 0.0}, "0 < p <= 1"),
        ("erdos_renyi", 50, {"p": math.nan}, "0 < p <= 1"),
        ("resampled_erdos_renyi", 5, {"p": 1.5}, "0 < p <= 1"),
        ("geometric", 50, {"radius": 0.01}, "raise radius above"),
        ("geometric", 50, {"radius": -1.0}, "must be positive"),
        ("watts_strogatz", 10, {"k": 3}, "k must be even"),
        ("watts_strogatz", 4, {}, "k must be even and 2 <= k < agents = 4"),
        ("watts_strogatz", 10, {"p": 2.0}, "0 <= p <= 1"),
        ("barabasi_albert", 3, {"m": 3}, "1 <= m < agents = 3"),
        ("caveman", 10, {}, "take 8 agents"),
        ("caveman", 10, {"size": 2}, "take size >= 3"),
        ("caveman", 10, {"size": 0}, "take size >= 3"),
        ("karate", 35, {}, "34 agents, not 35"),
        ("topohub", 12, {}, "has 11 agents, not 12"),
        ("topohub", None, {"name": "topozoo/Nowhere"}, "no network 'topozoo/Nowhere'"),
        ("topohub", None, {"name": "../secret"}, "not of the form group/name"),
        ("file", None, {}, "path is missing"),
        ("file", None, {"path": "graph.xls"}, "suffix '.xls'"),
        ("file", None, {"path": "missing.csv"}, "does not exist"),
    ],
)
def test_errors(name: str, n: int | None, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(name, n, **parameters)


@pytest.mark.parametrize("name", ["topozoo/Abilene", "topozoo/Geant2012", "sndlib/polska"])
def test_topohub(name: str) -> None:
    import topohub

    read, ours = topohub.get(name), make("topohub", None, name=name)
    theirs = nx.Graph([(int(e["source"]), int(e["target"])) for e in read["edges"]])
    theirs.remove_edges_from(list(nx.selfloop_edges(theirs)))
    assert nx.is_isomorphic(networkx_graph(ours), theirs)
    assert ours.positions.tolist() == [node["pos"] for node in read["nodes"]]
