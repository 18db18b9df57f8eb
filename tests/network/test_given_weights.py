"""Weight matrices that users give: in every precision, adjacency by mistake, and powers that do not settle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from helpers.networks import dense, mixing
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import distopt
from distopt.errors import InputError
from distopt.network.graphs import graph_from_edges, graph_from_matrix
from distopt.topologies.erdos_renyi import erdos_renyi
from distopt.topologies.file import file
from distopt.topologies.one_peer_exponential import OnePeerExponential
from distopt.topologies.random_matching import RandomMatching
from distopt.topologies.ring import ring

RUN: dict[str, Any] = {"scenario": "quadratic", "algorithm": "gt:lr=0.1", "rounds": 2}


def parts(W: np.ndarray) -> Any:
    return graph_from_matrix(W).matrix


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 40),
    seed=st.integers(0, 99),
    rule=st.sampled_from(["metropolis", "lazy", "max_degree", "best_constant"]),
    kind=st.sampled_from([np.float16, np.float32, ">f4", torch.bfloat16]),
)
def test_symmetric_weights_of_any_precision(n: int, seed: int, rule: str, kind: Any) -> None:
    exact = dense(erdos_renyi(n, distopt.numerics.random.Key(seed, range(n), [0], n), p=0.9), rule)
    rounded: Any = torch.from_numpy(exact).to(kind) if kind is torch.bfloat16 else exact.astype(kind)
    W = dense(graph_from_matrix(rounded))
    assert np.array_equal(W, W.T)
    assert max(np.abs(W.sum(0) - 1).max(), np.abs(W.sum(1) - 1).max()) < 1e-12
    near = 0.03 if kind is torch.bfloat16 else 8 * float(np.finfo(kind).eps)
    assert np.abs(W - exact).max() < near
    mixing(graph_from_matrix(rounded)).require("symmetric", "extra")


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_other_weights_of_low_precision(kind: Any) -> None:
    rng = np.random.default_rng(0)
    row = rng.random((30, 30))
    row /= row.sum(1, keepdims=True)
    doubly = sum(rng.random() * np.eye(30)[rng.permutation(30)] for _ in range(40))
    doubly /= doubly.sum(1)[0]
    mixing(graph_from_matrix(row.astype(kind))).require("row", "push_sum")
    mixing(graph_from_matrix(doubly.astype(kind))).require("doubly", "gtadam")
    assert np.abs(dense(graph_from_matrix(row.astype(kind))).sum(1) - 1).max() < 1e-14
    assert np.abs(dense(graph_from_matrix(doubly.astype(kind))).sum(0) - 1).max() < 1e-12
    given = sparse.csr_array(doubly.astype(np.float32))
    mixing(graph_from_matrix(given)).require("doubly", "gtadam")


def test_float64_keeps_its_bits_and_low_precision_that_is_exact_too() -> None:
    W = dense(ring(7))
    assert np.array_equal(parts(W)[2], W[np.nonzero(W)])
    halves = np.array([[0.5, 0.5, 0], [0.5, 0.25, 0.25], [0, 0.25, 0.75]])
    for kind in (np.float16, np.float32, np.float64):
        assert np.array_equal(dense(graph_from_matrix(halves.astype(kind))), halves)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.longdouble])
def test_a_row_that_is_off_stays_refused(kind: Any) -> None:
    for n in (2, 5, 400):
        W = np.full((n, n), 1 / n)
        W[1] *= 0.99
        with pytest.raises(InputError, match=r"row 1 of the weights sums to 0\.9[89]"):
            graph_from_matrix(W.astype(kind))
    with pytest.raises(InputError, match="row 1 of the weights"):
        graph_from_matrix(torch.tensor([[0.5, 0.5], [0.5, 0.48]], dtype=torch.bfloat16))
    with pytest.raises(InputError, match=r"sums to 1\.00000003"):
        graph_from_matrix(np.full((3, 3), 1 / 3, np.float32).astype(np.float64))


def test_thirds_in_single_precision(tmp_path: Path) -> None:
    np.save(tmp_path / "W.npy", np.full((3, 3), 1 / 3, np.float32))
    assert mixing(file(path=tmp_path / "W.npy")).spectral_gap() == pytest.approx(1, abs=1e-15)
    run = distopt.simulate(torch.full((5, 5), 0.2), **RUN)
    assert np.array_equal(run["consensus_error"], distopt.simulate("complete", agents=5, **RUN)["consensus_error"])


@pytest.mark.parametrize("kind", [np.bool_, np.int64, np.uint8, np.float16, np.float64])
def test_an_adjacency_matrix_is_told_from_weights(tmp_path: Path, kind: Any) -> None:
    np.save(tmp_path / "A.npy", nx.to_numpy_array(nx.cycle_graph(4)).astype(kind))
    with pytest.raises(
        InputError,
        match=r"A\.npy: the matrix holds 0 and 1 only \(row 0 sums to 2\): it is an adjacency matrix.*; save it as \.csv",
    ):
        file(path=tmp_path / "A.npy")
    with pytest.raises(InputError, match="adjacency"):
        graph_from_matrix(
            nx.to_scipy_sparse_array(nx.star_graph(3)).astype(kind if kind is not np.float16 else np.float32)
        )


def walk(G: Any, lazy: float = 0.0) -> np.ndarray:
    A = nx.to_numpy_array(G, weight=None)
    return lazy * np.eye(len(A)) + (1 - lazy) * A / A.sum(1, keepdims=True)


NEVER = {
    "even ring": (walk(nx.cycle_graph(4)), "eigenvalue -1 "),
    "bipartite": (walk(nx.complete_bipartite_graph(3, 3)), "eigenvalue -1 "),
    "single precision": (walk(nx.complete_bipartite_graph(3, 3)).astype(np.float32), "eigenvalue -1 "),
    "rounded": (walk(nx.cycle_graph(4), 1e-15), "eigenvalue -1 "),
    "two": (np.array([[0.0, 1.0], [1.0, 0.0]]), "eigenvalue -1 "),
    "directed cycle": (np.eye(5)[[1, 2, 3, 4, 0]], "5 eigenvalues of size 1"),
    "unstable": (np.array([[1.5, -0.5], [-0.5, 1.5]]), "size 2 (differences would grow)"),
    "beyond -1": (np.array([[-0.2, 1.2], [1.2, -0.2]]), "size 1.4 (differences would grow)"),
    "too long a step": (
        np.eye(4) - 0.6 * nx.laplacian_matrix(nx.cycle_graph(4)).toarray(),
        "size 1.4 (differences would grow)",
    ),
    "just too long a step": (np.eye(4) - 0.5 * nx.laplacian_matrix(nx.cycle_graph(4)).toarray(), "eigenvalue -1 "),
    "negative and periodic": (
        np.eye(6) - nx.laplacian_matrix(nx.complete_bipartite_graph(3, 3)).toarray() / 3,
        "eigenvalue -1 ",
    ),
}


@pytest.mark.parametrize("name", NEVER)
def test_weights_that_do_not_settle(name: str) -> None:
    W, message = NEVER[name]
    with pytest.raises(InputError) as caught:
        mixing(graph_from_matrix(W)).require("row", "gtadam")
    assert message in str(caught.value) and str(caught.value).startswith("gtadam needs weights whose powers converge")
    with pytest.raises(InputError, match="whose powers converge"):
        distopt.simulate(W, **RUN)


def test_weights_that_settle() -> None:
    for W in (
        walk(nx.cycle_graph(5)),
        walk(nx.cycle_graph(4), 0.01),
        walk(nx.petersen_graph()),
        np.array([[1.0]]),
        np.full((2, 2), 0.5),
        np.array([[0.1, 0.9], [0.6, 0.4]]),
        dense(ring(9), "best_constant"),
        (np.eye(3)[[1, 2, 0]] + np.eye(3)) / 2,
    ):
        mixing(graph_from_matrix(W)).require("row", "push_sum")
    two_lengths = np.eye(5)[[1, 2, 3, 4, 0]]
    two_lengths[0] = [0, 0.5, 0.5, 0, 0]  # cycles of length 5 and 4
    mixing(graph_from_matrix(two_lengths)).require("row", "push_sum")
    mixing(graph_from_matrix(walk(nx.cycle_graph(4))), drop=0.1).require(
        "doubly", "gtadam"
    )  # what fails goes to the self weights
    with pytest.raises(InputError, match="grow"):
        mixing(graph_from_matrix(np.array([[1.5, -0.5], [-0.5, 1.5]])), drop=0.1).require("doubly", "gtadam")
    for changing in (
        OnePeerExponential(8),
        RandomMatching(8),
    ):  # a single round settles nothing, which is how they are meant
        mixing(changing).require("doubly", "gtadam")


def test_the_period_agrees_with_the_spectrum() -> None:
    for seed in range(60):
        n = 3 + seed % 6
        G = nx.gnp_random_graph(n, 0.4, seed=seed, directed=True)
        if not nx.is_strongly_connected(G):
            G.add_edges_from((i, (i + 1) % n) for i in range(n))
        W = walk(G)
        size = np.sort(np.abs(np.linalg.eigvals(W)))
        settles = nx.is_aperiodic(G)
        assert (size[-2] < 1 - 1e-9) == settles
        if settles:
            mixing(graph_from_matrix(W)).require("row", "push_sum")
        else:
            with pytest.raises(InputError, match="powers converge"):
                mixing(graph_from_matrix(W)).require("row", "push_sum")


def test_a_hundred_thousand_agents() -> None:
    n = 100_000
    i = np.arange(n)
    W = sparse.coo_array(
        (np.full(2 * n, 0.5), (np.tile(i, 2), np.concatenate([(i + 1) % n, (i - 1) % n]))), shape=(n, n)
    )
    with pytest.raises(InputError, match="eigenvalue -1"):
        mixing(graph_from_matrix(W)).require("doubly", "gtadam")
    lazy = 0.5 * W.tocsr() + 0.5 * sparse.eye_array(n)
    mixing(graph_from_matrix(lazy.astype(np.float32))).require("symmetric", "extra")


def test_a_graph_names_the_nodes_of_networkx() -> None:
    with pytest.raises(InputError, match="'Bergen' and 'Milan' cannot reach each other"):
        distopt.simulate(nx.Graph([("Oslo", "Bergen"), ("Rome", "Milan")]), **RUN)
    with pytest.raises(InputError, match="node 'Oslo' of the networkx graph is linked to itself"):
        distopt.simulate(nx.Graph([("Oslo", "Oslo")]), **RUN)
    with pytest.raises(InputError, match="cannot be sorted"):
        distopt.simulate(nx.Graph([(object(), object())]), **RUN)
    assert graph_from_edges(2, [[0, 1]]).called(1) == "agent 1"
