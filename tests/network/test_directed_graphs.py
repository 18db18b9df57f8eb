"""Directed topologies and their weights: against networkx and double loops, by channel, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from helpers.asking import call, many, one
from helpers.digraphs import pair, perron, weights
from helpers.networks import dense, key, make, mixing, rounds

import distopt
from distopt.algorithms.ab import AB
from distopt.algorithms.dgd import DGD
from distopt.algorithms.gt import GT
from distopt.algorithms.push_diging import PushDIGing
from distopt.checks import check_topology
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.network.digraphs import Digraph, both_directions, digraph_from_arcs
from distopt.network.directed import METHODS, DirectedMixing
from distopt.network.graphs import check_connected, graph_from_edges, graph_from_matrix, graph_from_networkx
from distopt.network.network import Network
from distopt.network.topology import build_topology
from distopt.network.weights import perron as solved
from distopt.topologies.random_digraph import random_digraph
from distopt.topologies.random_matching import RandomMatching
from distopt.topologies.ring import ring
from distopt.topologies.star import star

FAMILIES = ["directed_ring", "directed_exponential", "random_digraph"]
SKEWED = "random_digraph:p=0.3"
N = 12


def network(topology: Any, algorithm: Any, rule: str = "metropolis", drop: float = 0.0) -> Network:
    return Network.of(topology, rule, algorithm, "exact", key(topology.agents), drop)


def arcs(graph: Any) -> set[tuple[int, int]]:
    return {(a, b) for a, b in graph.arcs.tolist()}


# ---------------------------------------------------------------------------------------------------------- topologies


@pytest.mark.parametrize("n", [2, 3, 5, 8, 16, 21])
def test_fixed_families_against_their_definition(n: int) -> None:
    assert arcs(make("directed_ring", n)) == set(nx.cycle_graph(n, create_using=nx.DiGraph).edges())
    far = {(i, (i + 2**k) % n) for i in range(n) for k in range(8) if 2**k < n}
    graph = make("directed_exponential", n)
    assert arcs(graph) == far
    assert set(np.bincount(graph.arcs[:, 0])) == set(np.bincount(graph.arcs[:, 1])) == {(n - 1).bit_length()}


def test_random_digraphs_repeat_and_vary_and_are_strongly_connected() -> None:
    for n in (2, 5, 8, 40):
        same, again, other = (make("random_digraph", n, seed) for seed in (1, 1, 2))
        assert np.array_equal(same.arcs, again.arcs)
        for each in (same, other):
            assert nx.is_strongly_connected(nx.DiGraph(each.arcs.tolist())) and len(each.arcs) == len(arcs(each))
    assert not np.array_equal(same.arcs, other.arcs)


def test_random_digraphs_have_each_ordered_pair_equally_often() -> None:
    n, p, draws = 8, 0.5, 400
    counts = np.zeros((n, n))
    for seed in range(draws):
        graph = make("random_digraph", n, seed, p=p)
        counts[graph.arcs[:, 0], graph.arcs[:, 1]] += 1
    shares = counts[~np.eye(n, dtype=bool)] / draws
    # keeping only connected ones raises the rate slightly: by less than P(one hears or is heard by nobody) < 2 n (1 - p)^(n - 1) = 0.13
    assert shares.min() > p - 4 * np.sqrt(0.25 / draws) and shares.max() < p + 0.03 + 4 * np.sqrt(0.25 / draws)
    big = make("random_digraph", 1000, p=0.02)
    assert abs(len(big.arcs) - 19_980) < 4 * np.sqrt(19_980)
    assert (big.edges[:, 0] < big.edges[:, 1]).all() and len(big.edges) < len(big.arcs)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_keep_the_promises_of_topologies(name: str) -> None:
    module = __import__(f"distopt.topologies.{name}", fromlist=[name])
    check_topology(vars(module)[name], agents=9)
    lone = make(name, 1)
    assert lone.arcs.shape == (0, 2) and (mixing(lone).dense(rounds(0, 2)) == 1).all()
    for n in (0, -4):
        with pytest.raises(InputError):
            make(name, n)


@pytest.mark.parametrize("p", [0.0, -0.1, 1.5, float("nan")])
def test_no_probability_of_an_arc(p: float) -> None:
    with pytest.raises(InputError, match="random_digraph: p is the probability of an arc, 0 < p <= 1"):
        make("random_digraph", 5, p=p)


def test_too_few_and_too_many_arcs() -> None:
    for p in (5e-324, 1e-9, 0.01):
        with pytest.raises(InputError, match=r"none of 100 random graphs was connected; raise p above log\(N\) / N"):
            make("random_digraph", 50, p=p)
    with pytest.raises(InputError, match=r"more than the limit of .*; lower p or the number of agents"):
        make("random_digraph", 1_000_000, p=0.5)
    assert len(make("random_digraph", 50, p=1.0).arcs) == 2450


def test_graphs_from_arcs() -> None:
    graph = digraph_from_arcs(4, [[3, 0], [0, 1], [1, 0], [1, 2], [2, 3], [0, 1]], positions=np.zeros((4, 2)))
    assert arcs(graph) == {(0, 1), (1, 0), (1, 2), (2, 3), (3, 0)} and len(graph.arcs) == 5
    assert graph.edges.tolist() == [[0, 1], [0, 3], [1, 2], [2, 3]] and graph.positions is not None
    check_connected(graph)
    for wrong, message in (([[1, 1]], "self loop"), ([[0, 4]], "outside"), ([[0.5, 1]], "whole numbers")):
        with pytest.raises(InputError, match=message):
            digraph_from_arcs(4, wrong)
    with pytest.raises(
        InputError, match=r"not strongly connected: it falls into 2 parts \(agent 0 and agent 2 have no"
    ):
        check_connected(digraph_from_arcs(3, [[0, 1], [1, 0], [1, 2]]))


def test_broken_digraphs_are_told() -> None:
    good = digraph_from_arcs(3, [[0, 1], [1, 2], [2, 0]])
    check_topology(good)
    for broken, words in (
        (replace(good, arcs=good.arcs[::-1]), "arcs must be sorted"),
        (replace(good, arcs=good.arcs.astype(np.float64)), "int64 array"),
        (replace(good, arcs=good.arcs[:2]), "between the pairs of its edges"),
        (digraph_from_arcs(3, [[0, 1], [1, 2]]), "not strongly connected"),
    ):
        with pytest.raises(AssertionError, match=words):
            check_topology(broken)


# ------------------------------------------------------------------------------------------------------------ networkx


def test_directed_graphs_of_networkx() -> None:
    graph = graph_from_networkx(nx.DiGraph([("b", "c"), ("c", "a"), ("a", "b"), ("a", "c")]))
    assert isinstance(graph, Digraph) and graph.names == ("a", "b", "c")
    assert arcs(graph) == {(0, 1), (0, 2), (1, 2), (2, 0)}
    twice = graph_from_networkx(nx.MultiDiGraph([(0, 1), (0, 1), (1, 0)]))
    assert arcs(twice) == {(0, 1), (1, 0)}
    with pytest.raises(InputError, match="linked to itself"):
        graph_from_networkx(nx.DiGraph([(0, 0), (0, 1), (1, 0)]))
    with pytest.raises(
        InputError, match=r"not strongly connected: .* \('x' and 'y' have no paths both there and back\)"
    ):
        build_topology(nx.DiGraph([("x", "y")]), None, 0)


def test_a_directed_graph_of_networkx_is_simulated() -> None:
    G = nx.DiGraph([(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)])
    ask: dict[str, Any] = {"scenario": "quadratic:dim=2,kappa=2", "rounds": 800, "record": "x", "mode": "eager"}
    given, named = (
        distopt.simulate(each, algorithm="ab:lr=0.05", **ask) for each in (G, digraph_from_arcs(4, list(G.edges())))
    )
    assert np.array_equal(given["x"], named["x"]) and given["tracking_error"][0, -1] < 1e-9
    one_way, back = (
        Experiment(each, None, "quadratic", "ab").fingerprint() for each in (nx.DiGraph(G), G.reverse(copy=True))
    )
    assert one_way != back


# ------------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("topology", ["directed_ring", "directed_exponential", SKEWED, "random_digraph:p=1"])
def test_degree_rules_against_a_double_loop(topology: str) -> None:
    graph, right = build_topology(topology, N, 0), weights(topology, N, 0)
    for rule, W in (("metropolis", right.R), ("in_degree", right.R), ("out_degree", right.C), ("in-degree", right.R)):
        np.testing.assert_allclose(dense(graph, rule), W, rtol=0, atol=1e-15)
    W = mixing(graph).require("column", "demo").dense(rounds(0, 1))[0, 0].numpy()
    np.testing.assert_allclose(W, right.C, rtol=0, atol=1e-15)
    second = sorted(np.abs(np.linalg.eigvals(right.R)))[-2]
    assert mixing(graph).spectral_gap() == pytest.approx(1 - second, abs=1e-9)


def test_an_undirected_graph_by_degrees_has_two_arcs_for_each_link() -> None:
    graph = graph_from_edges(5, [[0, 1], [1, 2], [2, 3], [3, 4], [1, 4]])
    both = [*graph.edges.tolist(), *graph.edges[:, ::-1].tolist()]
    right = pair(both, 5)
    np.testing.assert_allclose(dense(graph, "in_degree"), right.R, rtol=0, atol=1e-15)
    np.testing.assert_allclose(dense(graph, "out_degree"), right.C, rtol=0, atol=1e-15)
    assert arcs(both_directions(graph)) == {(a, b) for a, b in both}
    run = distopt.simulate(
        star(6), algorithm="push_diging:lr=0.05", weights="out_degree", scenario="quadratic:kappa=2", rounds=9
    )
    assert run["tracker_invariant"].max() < 1e-12
    with pytest.raises(
        InputError, match=r"gt needs doubly .*by weight rule out_degree row 0 of W .*; leave weights= out"
    ):
        network(star(6), GT(), "out_degree")


def test_each_channel_has_the_weights_that_it_needs() -> None:
    graph, right = build_topology(SKEWED, N, 0), weights(SKEWED, N, 0)
    ab = network(graph, AB())
    assert ab.which == {"x": 0, "s": 1} and ab.doubts == ()
    for W, table in zip((right.R, right.C), ab.mixings, strict=True):
        np.testing.assert_allclose(table.dense(rounds(0, 1))[0, 0].numpy(), W, rtol=0, atol=1e-15)
    push = network(graph, PushDIGing())
    assert len(push.mixings) == 1 and set(push.which.values()) == {0}
    np.testing.assert_allclose(push.mixings[0].dense(rounds(0, 1))[0, 0].numpy(), right.C, rtol=0, atol=1e-15)
    assert len(network(build_topology("directed_ring", N, 0), AB()).mixings) == 1  # R = C


def test_balanced_digraphs_serve_what_needs_doubly_stochastic_weights() -> None:
    for name in ("directed_ring", "directed_exponential", "random_digraph:p=1"):
        graph = build_topology(name, N, 0)
        assert network(graph, GT()).doubts == network(graph, DGD()).doubts == ()
    run = distopt.simulate("random_digraph:p=1", agents=5, algorithm="ef21:lr=0.1", scenario="quadratic", rounds=3)
    assert run.status == "done"  # everyone hears everyone


MEANT = f"use a method for directed graphs \\({', '.join(METHODS)}\\), or an undirected topology"


@pytest.mark.parametrize(
    ("topology", "settings", "message"),
    [
        (
            SKEWED,
            {"algorithm": "gtadam"},
            rf"^gtadam needs doubly stochastic weights, but .*column \d+ of W sums.*{MEANT}$",
        ),
        (
            SKEWED,
            {"algorithm": "beer"},
            rf"^beer needs doubly stochastic weights, but the graph is directed and .*{MEANT}$",
        ),
        ("directed_ring", {"algorithm": "extra"}, rf"^extra needs symmetric weights, but .* W\[.*{MEANT}$"),
        (SKEWED, {"algorithm": "ef21"}, "ef21 needs averaging weights, but agent"),
        (
            SKEWED,
            {"algorithm": "ab", "weights": "out_degree"},
            r"^ab \(channel 'x'\) needs row-stochastic weights, but by weight rule out",
        ),
        (
            SKEWED,
            {"algorithm": "push_diging", "weights": "in_degree"},
            "needs column-stochastic weights, .* leave weights= out: a rule that fits",
        ),
        (
            SKEWED,
            {"algorithm": "ab", "weights": "lazy"},
            "weight rule lazy_metropolis needs links in both directions, and the graph is directed",
        ),
        (SKEWED, {"algorithm": "ab", "drop_links": 0.1}, "drop_links makes links fail in both directions"),
        ("ring", {"algorithm": "ab", "drop_links": 0.1, "weights": "in_degree"}, "drop_links makes links fail in both"),
        (RandomMatching(N), {"algorithm": "ab", "weights": "in_degree"}, "rule in_degree needs one fixed graph"),
        (SKEWED, {"algorithm": "ab", "weights": "indegree"}, "unknown weight rule 'indegree'; did you mean in_degree"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(topology: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        distopt.simulate(
            topology,
            agents=None if isinstance(topology, RandomMatching) else N,
            scenario="quadratic",
            rounds=2,
            **settings,
        )
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_given_weights_take_no_rule() -> None:
    W = np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.25, 0.25, 0.5]])
    assert np.array_equal(dense(graph_from_matrix(W), "out_degree"), W)


# --------------------------------------------------------------------------------------------------- weighted objectives


@pytest.mark.parametrize("seed", range(4))
def test_the_left_perron_vector(seed: int) -> None:
    R = weights(SKEWED, N, seed).R
    terms = DirectedMixing(random_digraph(N, key(N, seed=seed), 0.3), "in_degree").terms
    found = solved(*terms)
    assert np.abs(found - perron(R)).max() < 1e-12 and np.abs(found @ R - found).max() < 1e-14 and found.min() > 0


def test_methods_with_rows_alone_are_told_what_they_minimise() -> None:
    graph = build_topology(SKEWED, N, 0)
    (doubt,) = network(graph, DGD()).doubts
    share = N * perron(weights(SKEWED, N, 0).R)
    low, high = int(share.argmin()), int(share.argmax())
    assert doubt.startswith(
        f"dgd approaches the minimiser of a weighted sum of the costs, in which they count from {share[low]:.3g} (agent {low})"
    )
    assert f"to {share[high]:.3g} (agent {high}) times as much as in their mean" in doubt
    assert doubt.endswith("for their mean use ab, push_diging, push_sum_sgd, robust_push_diging or subgradient_push")
    rows = graph_from_matrix(weights(SKEWED, N, 0).R)
    assert network(rows, DGD()).doubts[0].endswith("give weights whose columns also sum to 1, and they count alike")
    assert network(ring(5), DGD()).doubts == network(graph, AB()).doubts == network(graph, PushDIGing()).doubts == ()
    many_agents = build_topology("random_digraph:p=0.01", 1600, 0)
    assert (
        network(many_agents, DGD())
        .doubts[0]
        .startswith("dgd approaches the minimiser of a weighted sum of the costs, not")
    )


# --------------------------------------------------------------------------------------------------------- command line


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "directed_ring --agents 8 --scenario moving_target --algorithm ab:lr=0.004",
        "directed_exponential --agents 16 --algorithm push_diging:lr=0.02",
        "random_digraph:p=0.3 --agents 16 --scenario moving_target --algorithm subgradient_push:lr=0.02",
        "random_digraph:p=0.3 --agents 16 --scenario moving_target --algorithm push_sum_sgd:lr=0.02 --weights out_degree",
    ],
)
def test_directed_commands(words: str, own_folder: None) -> None:
    result = call("simulate", *words.split(), "--rounds", "200", "--eager", "--out", "run")
    assert result.exit_code == 0, result.output
    assert "warning" not in result.output
    run = one("run")
    regret = np.diff(run["dynamic_regret"][0])
    assert np.isfinite(regret).all()
    assert "moving_target" not in words or regret[-20:].mean() < 0.5 * regret[:20].mean()


def test_the_command_warns_once_of_a_weighted_objective(own_folder: None) -> None:
    words = "random_digraph:p=0.3 --agents 16 --scenario moving_target --algorithm dgd:lr=[0.01,0.02] --algorithm ab:lr=0.02"
    result = call("simulate", *words.split(), "--rounds", "5", "--eager", "--out", "run")
    assert result.exit_code == 0, result.output
    assert result.output.count("distopt: warning: dgd approaches the minimiser of a weighted sum") == 1
    assert len(many("run")) == 3
    refused = call("simulate", "random_digraph:p=0.3", "--agents", "16", "--rounds", "5", "--out", "other")
    assert refused.exit_code == 2 and refused.output.startswith("distopt: gtadam needs doubly stochastic weights")
    by_rule = call("simulate", *words.split(), "--weights", "out_degree", "--rounds", "5", "--out", "third")
    assert by_rule.exit_code == 2 and "leave --weights out" in by_rule.output


def test_a_table_of_rows_and_one_of_columns_are_used_in_float32_too() -> None:
    found = distopt.simulate(
        SKEWED,
        agents=N,
        algorithm="ab:lr=0.02",
        scenario="quadratic:kappa=2",
        rounds=30,
        dtype="float32",
        record="s",
        mode="eager",
    )
    assert found["tracker_invariant"].max() < 1e-5
    assert torch.isfinite(torch.as_tensor(np.asarray(found["s"]))).all()
