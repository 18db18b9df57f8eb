"""The operator W against the dense matrix."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from helpers.networks import SMALL, dense, key, mixing, rounds
from scipy import sparse
from torch import Tensor

from distopt.algorithms.gt import GT
from distopt.codegen.function import compiled
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.network.graphs import (
    Arcs,
    Graph,
    check_connected,
    graph_from_edges,
    graph_from_matrix,
    graph_from_networkx,
    pair_from_number,
)
from distopt.network.mixing import ConstantMixing
from distopt.network.network import mixing_of
from distopt.network.rows import Pattern, Table, apply
from distopt.network.weights import RULES
from distopt.numerics.random import Key, words
from distopt.simulation.problem import build
from distopt.topologies.barabasi_albert import barabasi_albert
from distopt.topologies.complete import complete
from distopt.topologies.erdos_renyi import erdos_renyi
from distopt.topologies.one_peer_exponential import OnePeerExponential
from distopt.topologies.random_matching import RandomMatching
from distopt.topologies.resampled_erdos_renyi import ResampledErdosRenyi
from distopt.topologies.ring import ring
from distopt.topologies.star import star


def slices(table: Table, k: int) -> Table:
    return Table(*(leaf[k if leaf.shape[0] > 1 else 0] for leaf in table))


HUBS = {
    "star": star(300),
    "preferential": barabasi_albert(400, key(400), m=2),
    "dense": erdos_renyi(80, key(80), p=0.7),
    "star of 33": star(33),
    "star of 32": star(32),
}


UNDIRECTED = {
    **HUBS,
    "complete 3": complete(3),
    "complete 50": complete(50),
    "small": SMALL,
    "one": ring(1),
    "two": ring(2),
    "matching": RandomMatching(9),
    "all hubs": ResampledErdosRenyi(60, 0.7),
    "some hubs": ResampledErdosRenyi(60, 0.45),
}


@pytest.mark.parametrize(
    ("topology", "drop"),
    [*((topology, drop) for topology in UNDIRECTED.values() for drop in (0.0, 0.3)), (OnePeerExponential(11), 0.0)],
    ids=[*(f"{name}, drop {drop}" for name in UNDIRECTED for drop in (0.0, 0.3)), "one peer"],
)
def test_apply_is_dense_times_z(topology: Any, drop: float) -> None:
    n, R = topology.agents, 3
    W, t = mixing(topology, trials=R, drop=drop), rounds(4, 7)
    table, full = W.rows(t), W.dense(t)
    z = torch.from_numpy(words(1, "z", 0, 0, R * n * 4)).reshape(R, n, 4) - 0.5
    for k in range(3):
        now = full[k if full.shape[0] > 1 else 0]
        assert (apply(slices(table, k), z) - now @ z).abs().max() <= 1e-14
        single = apply(slices(table, k), z.float())
        assert single.dtype == torch.float32
        assert (single - now @ z).abs().max() <= 1e-5


def test_apply_does_not_depend_on_the_chunk_or_on_where_a_row_is_stored() -> None:
    topology = ResampledErdosRenyi(60, 0.45)  # degrees straddle 32: some chunks keep their rows as hubs and some do not
    W = mixing(topology, trials=2)
    z = torch.from_numpy(words(1, "z", 0, 0, 2 * 60 * 3)).reshape(2, 60, 3)
    whole = W.rows(rounds(0, 40))
    shapes = set()
    for k in range(40):
        one = W.rows(rounds(k, k + 1))
        shapes.add((one.weight.shape[-1], one.hub_rows.shape[-1]))
        assert torch.equal(apply(slices(one, 0), z), apply(slices(whole, k), z))
    assert len(shapes) > 1


@pytest.mark.parametrize(
    "topology",
    [ring(8), star(50), RandomMatching(7), ResampledErdosRenyi(12, 0.3)],
    ids=["ring", "star", "matching", "er"],
)
def test_chunks_and_trials_do_not_matter(topology: Any) -> None:
    n = topology.agents
    W = mixing(topology, trials=3, drop=0.25)
    whole = W.dense(rounds(0, 20))
    for cuts in ([0, 7, 20], [0, 1, 2, 19, 20]):
        assert torch.equal(torch.cat([W.dense(rounds(a, b)) for a, b in pairwise(cuts)]), whole)
    picked = torch.tensor([17, 3, 11]).reshape(-1, 1, 1, 1)
    assert torch.equal(W.dense(picked), whole[[17, 3, 11]])
    assert torch.equal(
        mixing_of(topology, "metropolis", Key(3, range(n), [2], n), 0.25).dense(rounds(0, 20)), whole[:, 2:]
    )
    assert not torch.equal(whole[:, 0], whole[:, 1])
    assert not torch.equal(mixing_of(topology, "metropolis", key(n, 3, seed=4), 0.25).dense(rounds(0, 20)), whole)


def test_table_shapes_and_sizes() -> None:
    constant = mixing(ring(9), trials=4)
    assert constant.constant
    assert constant.bytes_per_round == 0
    table = constant.rows(rounds(0, 50))
    assert [tuple(leaf.shape) for leaf in table[:2]] == [(1, 1, 9, 3)] * 2
    assert table.index[0, 0].tolist() == [sorted([(i - 1) % 9, i, (i + 1) % 9]) for i in range(9)]
    dropped = mixing(ring(9), trials=4, drop=0.5)
    assert not dropped.constant
    assert dropped.bytes_per_round > 4 * 9 * 3 * 8
    table = dropped.rows(rounds(0, 5))
    assert (tuple(table.index.shape), tuple(table.weight.shape)) == ((1, 1, 9, 3), (5, 4, 9, 3))
    assert mixing(OnePeerExponential(8), trials=4).rows(rounds(0, 5)).weight.shape == (5, 1, 8, 2)
    assert mixing(RandomMatching(8), trials=4).rows(rounds(0, 5)).index.shape == (5, 4, 8, 2)
    assert mixing(RandomMatching(8)).bytes_per_round > 0
    hub = mixing(star(10_000)).rows(rounds(0, 1))
    assert sum(leaf.numel() for leaf in hub) < 11 * 10_000
    everyone = mixing(complete(500)).rows(rounds(0, 1))
    assert sum(leaf.numel() for leaf in everyone) < 3 * 500
    as_matrix = mixing(graph_from_matrix(np.full((500, 500), 1 / 500))).rows(rounds(0, 1))
    assert sum(leaf.numel() for leaf in as_matrix) < 3 * 500


@pytest.mark.parametrize(
    "topology", [SMALL, star(40), complete(8), ResampledErdosRenyi(8, 0.6)], ids=["small", "star", "all", "er"]
)
def test_dropped_links(topology: Any) -> None:
    p, T, R = 0.3, 300, 2
    whole = mixing(topology, trials=R).dense(rounds(0, T)).expand(T, R, -1, -1)
    W = mixing(topology, trials=R, drop=p).dense(rounds(0, T))
    n = topology.agents
    own = torch.eye(n, dtype=torch.bool)
    assert torch.equal(W, W.transpose(-1, -2))  # both directions fail together
    assert (W.sum(-1) - 1).abs().max() < 1e-14
    kept, there = (W != 0) & ~own, (whole != 0) & ~own
    assert torch.equal(W[kept], whole[kept])  # survivors keep their weight, so what is lost went to the self weights
    assert not (kept & ~there).any()
    links, alive = int(there.sum()) / 2, int(kept.sum()) / 2
    assert abs(alive / links - (1 - p)) < 4 * math.sqrt(p * (1 - p) / links)
    if isinstance(topology, Graph):
        i, j = topology.edges.T
        up = kept[..., i, j].double()
        assert (up.mean((0, 1)) - (1 - p)).abs().max() < 4.5 * math.sqrt(p * (1 - p) / (T * R))  # every link equally
        if len(i) > 1:
            together = torch.corrcoef(up.reshape(-1, len(i)).T)
            assert (together - torch.eye(len(i))).abs().max() < 5 / math.sqrt(T * R)  # and independently
        again = torch.corrcoef(torch.stack([up[1:].reshape(-1), up[:-1].reshape(-1)]))[0, 1]
        assert abs(float(again)) < 5 / math.sqrt(up[1:].numel())


def test_dropping_from_a_symmetric_matrix_keeps_its_self_weights() -> None:
    W = dense(SMALL, "best_constant")
    W = 0.3 * np.eye(7) + 0.7 * W
    assert np.array_equal(dense(graph_from_matrix(W)), W)
    dropped = mixing(graph_from_matrix(W), drop=0.5).dense(rounds(0, 50))[:, 0]
    assert (dropped.sum(-1) - 1).abs().max() < 1e-14
    off = ~torch.eye(7, dtype=torch.bool)
    lost = torch.where(off & (dropped == 0), torch.from_numpy(W), torch.zeros((), dtype=torch.float64)).sum(-1)
    assert (dropped.diagonal(dim1=-2, dim2=-1) - (torch.from_numpy(W).diagonal() + lost)).abs().max() < 1e-15


@pytest.mark.parametrize(
    "topology",
    [ring(6), star(40), complete(5), RandomMatching(6)],
    ids=["ring", "star with a hub", "complete", "switching"],
)
def test_compiling_apply_changes_no_bit(topology: Any) -> None:
    n, R = topology.agents, 2
    table = mixing(topology, trials=R).rows(rounds(0, 4))
    assert table.hub_rows.shape[-1] == (n == 40)
    z = torch.from_numpy(words(1, "z", 0, 0, R * n * 3)).reshape(R, n, 3) - 0.5
    leaves = [*table]
    function = compiled(lambda _, data: ([], [apply(Table(*data[1:]), data[0])]), [], [z[None], *leaves])
    out = torch.empty(4, *z.shape, dtype=z.dtype)
    function.bound([], [z[None], *leaves], [out])(0, 4)
    for k in range(4):
        assert torch.equal(out[k], apply(slices(table, k), z))


def test_given_matrices() -> None:
    W = np.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75], [0.2, 0.0, 0.8]])
    for given in (W, torch.from_numpy(W), sparse.csr_array(W), sparse.coo_matrix(W), W.tolist()):
        graph = graph_from_matrix(given)
        assert np.array_equal(dense(graph, "max_degree"), W)  # the rule is ignored
        assert graph.edges.tolist() == [[0, 1], [0, 2], [1, 2]]
        check_connected(graph)
    one_way = graph_from_matrix([[1.0, 0.0], [0.5, 0.5]])
    with pytest.raises(InputError, match="2 parts"):
        check_connected(one_way)
    twice = sparse.coo_array(([0.25, 0.25, 0.5, 1.0], ([0, 0, 0, 1], [0, 0, 1, 1])), shape=(2, 2))
    assert dense(graph_from_matrix(twice)).tolist() == [[0.5, 0.5], [0, 1]]
    assert dense(graph_from_matrix([[1.0]])).tolist() == [[1]]
    negative = [[1.5, -0.5], [-0.5, 1.5]]
    assert dense(graph_from_matrix(negative)).tolist() == negative


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.full((2, 3), 1 / 3), "square"),
        (np.ones(3), "square"),
        (np.zeros((0, 0)), "square"),
        ([[0.5, 0.5], [0.5, np.nan]], r"\(1, 1\) is nan"),
        ([[0.5, 0.5], [0.5, 0.4]], "row 1 of the weights sums to 0.9"),
        (np.eye(2) * 1j, "real numbers"),
        (np.array([["a", "b"], ["c", "d"]]), "real numbers"),
    ],
)
def test_matrices_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        graph_from_matrix(given)


@dataclass(frozen=True)
class Given:
    """Agent 0 hears agent 1 from round ``start`` on; a weight of its own or none; ``sender`` may be wrong on purpose."""

    weight: float | None
    start: int = 0
    sender: int = 1
    copies: int = 1
    agents: int = 3

    def arcs(self, t: torch.Tensor, key: Key) -> Arcs:
        k, r = np.meshgrid(
            np.flatnonzero(t.reshape(-1).numpy() >= self.start), np.arange(len(key.trials)), indexing="ij"
        )
        k, r = np.tile(k.ravel(), self.copies), np.tile(r.ravel(), self.copies)
        zero = np.zeros_like(k)
        return Arcs(k, r, zero, zero + self.sender, None if self.weight is None else np.full(len(k), self.weight))


def test_require() -> None:
    skew = np.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75], [0.2, 0.0, 0.8]])
    mixing(graph_from_matrix(skew)).require("row", "push_sum")
    with pytest.raises(InputError, match=r"gtadam needs doubly stochastic weights, but column 2 of W sums to 1.55"):
        mixing(graph_from_matrix(skew)).require("doubly", "gtadam")
    cycle = graph_from_matrix(np.eye(3)[[1, 2, 0]] * 0.25 + np.eye(3) * 0.75)
    mixing(cycle).require("doubly", "gtadam")
    with pytest.raises(InputError, match=r"extra needs symmetric weights, but W\[\d, \d\] = "):
        mixing(cycle).require("symmetric", "extra")
    by_hand = Graph(2, np.array([[0, 1]]), matrix=(np.array([0, 1]), np.array([1, 0]), np.array([1.0, 0.5])))
    with pytest.raises(InputError, match=r"row 1 of W sums to 0\.5"):
        mixing(by_hand).require("row", "push_sum")
    for rule in RULES[:4]:
        mixing(SMALL, rule).require("symmetric", "extra")
    mixing(OnePeerExponential(6)).require("doubly", "gtadam")
    with pytest.raises(InputError, match="symmetric"):
        mixing(OnePeerExponential(6)).require("symmetric", "extra")
    mixing(Given(0.5)).require("row", "push_sum")
    with pytest.raises(InputError, match=r"column 0 of W sums to 0\.5"):
        mixing(Given(0.5)).require("doubly", "gtadam")
    late = mixing(Given(0.5, start=100)).require("doubly", "gtadam")
    late.rows(rounds(50, 60))
    with pytest.raises(InputError, match="gtadam needs doubly"):  # what goes wrong later is still caught
        late.rows(rounds(95, 105))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mixing(ring(4), "metropolos"), "did you mean metropolis"),
        (lambda: mixing(ring(4), "xyz"), "unknown weight rule 'xyz'"),
        (lambda: mixing(ring(4), drop=1.0), "0 <= drop_links < 1"),
        (lambda: mixing(ring(4), drop=-0.1), "0 <= drop_links < 1"),
        (lambda: mixing(ring(4), drop=math.nan), "0 <= drop_links < 1"),
        (lambda: mixing(RandomMatching(4), "best_constant"), "needs one fixed graph"),
        (lambda: mixing(RandomMatching(4), "fastest"), "needs one fixed graph"),
        (lambda: mixing(ring(200), "fastest"), "at most 100 agents"),
        (lambda: mixing(graph_from_edges(4, [[0, 1], [2, 3]]), "best_constant"), "2 parts"),
        (lambda: mixing(OnePeerExponential(5), drop=0.1), "drop_links needs symmetric weights"),
        (lambda: mixing(graph_from_matrix([[0.5, 0.5], [0.25, 0.75]]), drop=0.1), "drop_links needs symmetric weights"),
        (lambda: mixing(Graph(0, np.empty((0, 2), np.int64))), "at least 1 agent"),
        (lambda: mixing(Given(None)).rows(rounds(0, 1)), "in one direction only"),
        (lambda: mixing(Given(0.5, sender=3)).rows(rounds(0, 1)), r"outside 0 \.\. 2"),
        (lambda: mixing(Given(0.5, copies=2)).rows(rounds(0, 1)), "from agent 1 to agent 0 twice"),
        (lambda: mixing(Given(0.5, sender=0)).rows(rounds(0, 1)), "self loop"),
        (lambda: mixing(Given(math.inf)).rows(rounds(0, 1)), "not finite"),
        (lambda: graph_from_edges(0, []), "at least 1 agent"),
        (lambda: graph_from_edges(3, [[0, 3]]), r"\(0, 3\) names an agent outside 0 \.\. 2"),
        (lambda: graph_from_edges(3, [[-1, 2]]), "outside"),
        (lambda: graph_from_edges(3, [[1, 1]]), "self loop"),
        (lambda: graph_from_edges(3, [[0.5, 1]]), "whole numbers"),
        (lambda: graph_from_edges(3, [0, 1]), "pairs"),
        (lambda: graph_from_edges(3, [[0, 1]], positions=[[0, 0]]), "positions"),
        (lambda: check_connected(graph_from_edges(3, [[0, 1]])), "agent 0 and agent 2"),
        (lambda: check_connected(Graph(0, np.empty((0, 2), np.int64))), "at least 1 agent"),
    ],
)
def test_errors(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_graphs_from_networkx() -> None:
    G = nx.Graph([("b", "a"), ("c", "b")])
    G["a"]["b"]["weight"] = 7.0
    assert graph_from_networkx(G).edges.tolist() == [[0, 1], [1, 2]]
    assert graph_from_networkx(nx.Graph([(10, 2), (10, 7)])).edges.tolist() == [[0, 2], [1, 2]]
    assert graph_from_networkx(nx.Graph([("x", 1)])).agents == 2
    assert graph_from_networkx(nx.MultiGraph([(0, 1), (0, 1)])).edges.tolist() == [[0, 1]]


def test_pairs_are_numbered_without_gaps() -> None:
    i, j = pair_from_number(np.arange(50 * 49 // 2))
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == [(a, b) for a in range(50) for b in range(a + 1, 50)]
    for k in (10**6, 94_906_267, 3 * 10**9):  # around triangular numbers too large for an exact square root
        i, j = pair_from_number(np.array([k * (k - 1) // 2 - 1, k * (k - 1) // 2, k * (k - 1) // 2 + k - 1]))
        assert (i.tolist(), j.tolist()) == ([k - 2, 0, k - 1], [k - 1, k, k])


def test_one_agent() -> None:
    z = torch.tensor([[[2.5, -1.0]]], dtype=torch.float64)
    for topology in (ring(1), complete(1), OnePeerExponential(1), RandomMatching(1), ResampledErdosRenyi(1)):
        for rule in RULES if isinstance(topology, Graph) else RULES[:3]:
            W = mixing(topology, rule)
            assert (W.dense(rounds(0, 2)) == 1).all()
            assert torch.equal(apply(slices(W.rows(rounds(0, 2)), 1), z), z)
    assert (mixing(ring(1), drop=0.5).dense(rounds(0, 3)) == 1).all()


def test_a_million_agents() -> None:
    n = 10**6
    W = mixing_of(ring(n), "metropolis", Key(0, range(1), range(1), n))
    z = torch.arange(n, dtype=torch.float64).reshape(1, n, 1)
    mixed = apply(slices(W.rows(rounds(0, 1)), 0), z)[0, :, 0]
    assert mixed[1:-1].sub(z[0, 1:-1, 0]).abs().max() < 1e-9
    assert mixed[0].item() == pytest.approx((1 + n - 1) / 3)


def test_a_built_problem_holds_little_besides_what_its_rounds_need() -> None:
    made: list[weakref.ref[Tensor]] = []

    class Watched(GT):
        def init(self, x: Tensor) -> Any:
            state = super().init(x)
            made.append(weakref.ref(state.s))
            return state

    problem = build(Experiment("ring", 1000, "quadratic", Watched(), rounds=3))
    assert all(state() is None for state in made) and problem.x0.untyped_storage().nbytes() == 8
    table = problem.network.rows(torch.zeros(1, 1, 1, 1, dtype=torch.int64))[0]
    (mixing,) = problem.network.mixings
    assert isinstance(mixing, ConstantMixing)
    held = sum(value.nbytes for value in (*mixing.terms, mixing.graph.edges))
    assert not any(isinstance(value, Pattern) for value in vars(mixing).values())
    assert held <= 1.6 * (table.index.nbytes + table.weight.nbytes)
