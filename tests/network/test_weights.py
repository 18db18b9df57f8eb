"""Weights against independent loops, closed forms and a semidefinite program."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest
from helpers.networks import SMALL, dense, key, mixing, rounds
from scipy import sparse

from distopt.errors import InputError
from distopt.network.graphs import Graph, graph_from_edges, graph_from_matrix
from distopt.numerics.random import Key
from distopt.topologies.complete import complete
from distopt.topologies.erdos_renyi import erdos_renyi
from distopt.topologies.hypercube import hypercube
from distopt.topologies.path import path
from distopt.topologies.random_matching import RandomMatching
from distopt.topologies.random_regular import random_regular
from distopt.topologies.resampled_erdos_renyi import ResampledErdosRenyi
from distopt.topologies.ring import ring
from distopt.topologies.star import star
from distopt.topologies.torus import torus


def slow(graph: Graph, rule: str) -> np.ndarray:
    """The degree rules from their definition, pair by pair."""
    n, links = graph.agents, {tuple(sorted(edge)) for edge in graph.edges.tolist()}
    degree = [sum(i in link for link in links) for i in range(n)]
    W = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j and tuple(sorted((i, j))) in links:
                W[i, j] = 1 / (1 + (max(degree) if rule == "max_degree" else max(degree[i], degree[j])))
                W[i, j] *= 0.5 if rule.startswith("lazy") else 1
        W[i, i] = 1 - sum(W[i, j] for j in range(n) if j != i)
    return W


@pytest.mark.parametrize("rule", ["metropolis", "lazy_metropolis", "lazy", "max_degree"])
@pytest.mark.parametrize(
    "graph", [SMALL, ring(1), ring(2), ring(3), star(40), complete(5), path(6)], ids=lambda g: str(g.agents)
)
def test_degree_rules_against_a_double_loop(graph: Graph, rule: str) -> None:
    np.testing.assert_allclose(dense(graph, rule), slow(graph, rule), rtol=0, atol=2e-16 * graph.agents)


def test_switching_degree_rules_against_a_double_loop() -> None:
    topology = ResampledErdosRenyi(9, 0.4)
    t, arcs = rounds(5, 9), topology.arcs(rounds(5, 9), key(9, 2))
    for rule in ("metropolis", "lazy", "max_degree"):
        W = mixing(topology, rule, trials=2).dense(t)
        for k in range(4):
            for r in range(2):
                here = (arcs.round == k) & (arcs.trial == r)
                graph = graph_from_edges(9, np.stack([arcs.receiver[here], arcs.sender[here]], 1))
                np.testing.assert_allclose(W[k, r].numpy(), slow(graph, rule), rtol=0, atol=1e-15)


def test_spectra_against_closed_forms() -> None:
    n = 11
    cosines = np.cos(2 * np.pi * np.arange(n) / n)
    np.testing.assert_allclose(np.linalg.eigvalsh(dense(ring(n))), np.sort((1 + 2 * cosines) / 3), atol=1e-14)
    # the path's Laplacian has eigenvalues 2 - 2 cos(pi k / n), and Metropolis weights are 1/3 on every link
    np.testing.assert_allclose(
        np.linalg.eigvalsh(dense(path(n))), np.sort(1 - (2 - 2 * np.cos(np.pi * np.arange(n) / n)) / 3), atol=1e-14
    )
    np.testing.assert_allclose(np.linalg.eigvalsh(dense(complete(n))), [0] * (n - 1) + [1], atol=1e-14)
    cube = [1 - 2 * k / 5 for k in range(5) for _ in range(math.comb(4, k))]
    np.testing.assert_allclose(np.linalg.eigvalsh(dense(hypercube(16))), np.sort(cube), atol=1e-14)
    a, b = np.cos(2 * np.pi * np.arange(4) / 4), np.cos(2 * np.pi * np.arange(5) / 5)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(dense(torus(20))), np.sort(((1 + 2 * a[:, None] + 2 * b) / 5).ravel()), atol=1e-14
    )


@pytest.mark.slow
def test_spectral_gap() -> None:
    assert mixing(ring(1)).spectral_gap() == 1
    assert mixing(complete(30)).spectral_gap() == pytest.approx(1, abs=1e-14)
    assert mixing(ring(12)).spectral_gap() == pytest.approx(2 / 3 * (1 - math.cos(math.pi / 6)), abs=1e-14)
    # sparse solvers: a crowded spectrum that needs the shifted solver, and an expander that does not
    assert mixing(ring(1601)).spectral_gap() == pytest.approx(2 / 3 * (1 - math.cos(2 * math.pi / 1601)), rel=1e-6)
    expander = random_regular(1600, Key(0, range(1600), [0], 1600))
    exact = np.linalg.eigvalsh(dense(expander) - 1 / 1600)
    assert mixing(expander).spectral_gap() == pytest.approx(1 - np.abs(exact).max(), abs=1e-12)
    adjacency = nx.to_numpy_array(nx.Graph(expander.edges.tolist()), range(1600))
    second = np.linalg.eigvalsh(4.0 * np.eye(1600) - adjacency)
    weight = dense(expander, "best_constant")[tuple(expander.edges[0])]
    assert weight == pytest.approx(2 / (second[1] + second[-1]), rel=1e-10)
    cycle = graph_from_matrix(np.eye(3)[[1, 2, 0]] * 0.5 + np.eye(3) * 0.5)  # eigenvalues (1 + w) / 2, w^3 = 1
    assert mixing(cycle).spectral_gap() == pytest.approx(0.5, abs=1e-12)
    n = 1600
    steps = (
        0,
        1,
        7,
        50,
        401,
        900,
    )  # agent i hears i + step: a circulant matrix, whose spectrum is a sum of roots of unity
    heard = np.concatenate([(np.arange(n) + step) % n for step in steps])
    circulant = sparse.csr_array((np.full(6 * n, 1 / 6), (np.tile(np.arange(n), 6), heard)), shape=(n, n))
    size = np.abs(sum(np.exp(2j * np.pi * step * np.arange(1, n) / n) for step in steps)) / 6
    assert mixing(graph_from_matrix(circulant)).spectral_gap() == pytest.approx(1 - size.max(), rel=1e-6)
    for changing in (mixing(ring(5), drop=0.1), mixing(RandomMatching(5))):
        with pytest.raises(InputError, match="no spectral gap"):
            changing.spectral_gap()


def test_best_constant_is_the_best_constant() -> None:
    for graph in (SMALL, path(9), star(6), erdos_renyi(12, key(12))):
        L = np.diag(np.bincount(graph.edges.ravel())) - nx.to_numpy_array(
            nx.Graph(graph.edges.tolist()), range(graph.agents)
        )
        scan = [
            1 - np.abs(np.linalg.eigvalsh(np.eye(len(L)) - a * L - 1 / len(L))).max() for a in np.linspace(0.01, 1, 400)
        ]
        gap = mixing(graph, "best_constant").spectral_gap()
        assert max(scan) <= gap + 1e-12
        assert gap == pytest.approx(max(scan), abs=2e-2)
        off = dense(graph, "best_constant")[tuple(graph.edges.T)]
        assert (off == off[0]).all()
    np.testing.assert_allclose(dense(complete(6), "best_constant"), np.full((6, 6), 1 / 6), atol=1e-15)


def test_fastest_agrees_with_mixingmatrix() -> None:
    import mixingmatrix

    for graph in (SMALL, path(6), erdos_renyi(10, key(10))):
        ours, W = mixing(graph, "fastest"), dense(graph, "fastest")
        other = mixingmatrix.solve(nx.Graph(graph.edges.tolist()), method="cvxpy", tol=1e-8)
        assert 1 - ours.spectral_gap() == pytest.approx(other.slem, abs=1e-4)
        assert W.min() >= -1e-12
        assert (W[~np.eye(len(W), dtype=bool)] > 1e-6).sum() <= 2 * len(graph.edges)
        for rule in ("metropolis", "lazy", "max_degree"):
            assert ours.spectral_gap() >= mixing(graph, rule).spectral_gap() - 1e-6
