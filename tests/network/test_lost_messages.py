"""Messages that are lost one way: what is left of W, told arc by arc, and which methods and channels it is refused to."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from helpers.digraphs import weights
from helpers.networks import SMALL, dense, key, make, mixing, rounds

import distopt
from distopt.algorithms.ab import AB
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.network.faults import Faults
from distopt.network.network import Network
from distopt.network.rows import Table, apply
from distopt.network.topology import build_topology
from distopt.numerics.random import Key, scattered

P, T, R = 0.3, 40, 3
LOSSY = Faults(drop_messages=P)
ASK: dict[str, Any] = {"agents": 6, "scenario": "moving_target", "rounds": 20}


def lost(agents: int, trial: int, t: int, seed: int = 3) -> np.ndarray:
    """[receiver, sender]: whether that message is lost, asked for one by one."""
    return np.array(
        [
            [
                i != j and scattered(seed, "messages", *(np.array([v]) for v in (trial, t, j, i)))[0] < P
                for j in range(agents)
            ]
            for i in range(agents)
        ]
    )


@pytest.mark.parametrize("name", ["small", "complete", "star"])
def test_the_receiver_keeps_its_own_value_in_the_place_of_a_missing_one(name: str) -> None:
    graph = SMALL if name == "small" else make(name, 7 if name == "complete" else 40)
    n, W = graph.agents, dense(graph)
    found = mixing(graph, trials=R, faults=LOSSY).require("doubly", "gt").dense(rounds(5, 9)).numpy()
    for k, t in enumerate(range(5, 9)):
        for trial in range(R):
            gone = lost(n, trial, t)
            left = np.where(gone, 0.0, W)
            left[np.arange(n), np.arange(n)] += (W * gone).sum(1)
            np.testing.assert_allclose(found[k, trial], left, rtol=0, atol=1e-15)
    np.testing.assert_allclose(found.sum(-1), 1.0, rtol=0, atol=1e-14)
    assert np.abs(found.sum(-2) - 1.0).max() > 0.01


def test_what_a_column_sends_is_gone() -> None:
    digraph = build_topology("random_digraph:p=0.4", 7, 1)
    C = weights("random_digraph:p=0.4", 7, 1).C
    found = mixing(digraph, faults=LOSSY).require("column", "push_diging").dense(rounds(0, T)).numpy()[:, 0]
    for t in range(T):
        np.testing.assert_allclose(found[t], np.where(lost(7, 0, t), 0.0, C), rtol=0, atol=1e-15)


def test_every_message_is_lost_by_itself_and_as_often_as_it_should() -> None:
    count, n = 3000, 6
    there = (
        mixing(make("complete", n), faults=LOSSY).require("column", "demo").dense(rounds(0, count)).numpy()[:, 0] > 0
    )
    off = ~np.eye(n, dtype=bool)
    gone = ~there[:, off]
    bound = 5 * np.sqrt(P * (1 - P) / count)
    assert np.abs(gone.mean(0) - P).max() < bound
    assert np.abs(np.corrcoef(gone.T) - np.eye(n * (n - 1))).max() < 5 / np.sqrt(
        count
    )  # one way tells nothing of the other
    assert np.abs(np.corrcoef(gone[:-1].T, gone[1:].T)[30:, :30]).max() < 5 / np.sqrt(count)


def test_one_message_carries_all_channels() -> None:
    digraph = build_topology("random_digraph:p=0.4", 9, 2)
    network = Network.of(digraph, "metropolis", AB(), "exact", key(9), faults=LOSSY)
    tables = network.rows(rounds(0, T))
    x, s = (network.mixings[network.which[name]].dense(rounds(0, T))[:, 0].numpy() for name in ("x", "s"))
    off = ~np.eye(9, dtype=bool)
    assert len(tables) == 2
    assert ((x[:, off] > 0) == (s[:, off] > 0)).all()
    np.testing.assert_allclose(x.sum(-1), 1.0, atol=1e-14)
    assert s.sum(-2).min() < 0.9


def test_no_number_depends_on_the_chunk_on_the_trials_or_on_who_asks() -> None:
    switching = make("random_matching", 12)
    for graph in (SMALL, make("star", 40), switching):
        W = mixing(graph, trials=R, faults=LOSSY)
        whole, n = W.dense(rounds(0, 30)), graph.agents
        assert torch.equal(torch.cat([W.dense(rounds(a, a + 10)) for a in (0, 10, 20)]), whole)
        assert torch.equal(W.repeated(2).dense(rounds(0, 30)), torch.cat([whole, whole], 1))
        alone = distopt.network.network.mixing_of(graph, "metropolis", Key(3, range(n), [2], n), 0.0, LOSSY)
        assert torch.equal(alone.dense(rounds(0, 30)), whole[:, 2:])
        other = distopt.network.network.mixing_of(graph, "metropolis", key(n, R, seed=4), 0.0, LOSSY)
        assert not torch.equal(other.dense(rounds(0, 30)), whole)


def test_links_may_fail_besides() -> None:
    both = mixing(SMALL, drop=0.4, faults=LOSSY).dense(rounds(0, T)).numpy()[:, 0]
    failing = mixing(SMALL, drop=0.4).dense(rounds(0, T)).numpy()[:, 0]
    off = ~np.eye(7, dtype=bool)
    for t in range(T):
        assert ((both[t] > 0) == ((failing[t] > 0) & ~lost(7, 0, t)))[off].all()
    np.testing.assert_allclose(both.sum(-1), 1.0, atol=1e-14)


def test_apply_is_dense_times_z() -> None:
    for graph in (SMALL, make("star", 40), make("complete", 7)):
        W, z = mixing(graph, trials=R, faults=LOSSY), torch.randn(R, graph.agents, 5, dtype=torch.float64)
        table = Table(*(leaf[0] for leaf in W.rows(rounds(4, 5))))
        assert (apply(table, z) - W.dense(rounds(4, 5))[0] @ z).abs().max() < 1e-14


def test_messages_count_though_they_are_lost() -> None:
    for ask in ({}, {"drop_messages": 0.4}):
        run = distopt.simulate("star", algorithm="dgd:lr=0.1", **ASK, **ask)
        assert run["messages"][0, -1] == pytest.approx(20 * 2 * 5 / 6)
    failing = {"drop_links": 0.3}
    one, other = (
        distopt.simulate("ring", algorithm="dgd", **ASK, **failing, **more) for more in ({}, {"drop_messages": 0.4})
    )
    assert np.array_equal(one["messages"], other["messages"])
    assert not np.array_equal(one["consensus_error"], other["consensus_error"])


def test_a_method_that_needs_column_sums_is_warned_of_once() -> None:
    with pytest.warns(UserWarning, match="gt does not end at the optimum with drop_messages") as told:
        run = distopt.simulate("ring", algorithm="gt:lr=0.05", drop_messages=0.3, **ASK)
    assert len(told) == 1
    assert "tracker_invariant" in str(told[0].message)
    assert run["tracker_invariant"].max() > 0.01
    for algorithm, network in (("dgd", "ring"), ("robust_push_diging", "directed_ring")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            distopt.simulate(network, algorithm=algorithm, drop_messages=0.3, **ASK)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (
            {"algorithm": "gt", "channel": "choco:compressor=sign"},
            "channel choco keeps sums of what neighbours sent.*messages do not all arrive in their round; leave drop_messages out",
        ),
        ({"algorithm": "gt", "channel": "choco:compressor=sign,resync=4"}, "channel choco keeps sums"),
        ({"algorithm": "lead"}, "keeps sums of what neighbours sent"),
        ({"algorithm": "powergossip"}, "powergossip keeps a vector at both ends of each link"),
        ({"algorithm": "ef_sgd"}, "needs the average of all workers in every round"),
        ({"algorithm": "gt", "channel": "running_sums"}, "on top of the average; use robust_push_diging"),
        ({"algorithm": "gt", "drop_messages": 1.0}, r"drop_messages=1.0: must be a probability in \[0, 1\)"),
        ({"algorithm": "gt", "drop_messages": "x"}, "drop_messages='x': must be a probability"),
    ],
    ids=str,
)
def test_who_cannot_lose_messages_is_refused(ask: dict[str, Any], says: str) -> None:
    network = "star" if ask["algorithm"] == "ef_sgd" else "ring"
    with pytest.raises(InputError, match=says):
        distopt.simulate(network, **{**ASK, "drop_messages": 0.1, **ask})


@pytest.mark.parametrize(("topology", "drop"), [("one_peer_exponential", 0.0), ("ring", 0.2)])
def test_running_sums_need_a_fixed_graph(topology: str, drop: float) -> None:
    with pytest.raises(InputError, match="robust_push_diging keeps a memory of each sender, but links fail or change"):
        distopt.simulate(topology, algorithm="robust_push_diging", drop_links=drop, **ASK)


def test_runs_without_it_keep_their_fingerprint_and_their_toml() -> None:
    plain = Experiment("ring", 4, "quadratic", "gt", rounds=3)
    assert "drop_messages" not in plain.describe()
    assert "drop_messages" not in plain.to_toml()
    lossy = Experiment("ring", 4, "quadratic", "gt", rounds=3, drop_messages=0.25)
    assert lossy.describe()["drop_messages"] == 0.25
    assert "drop_messages = 0.25" in lossy.to_toml()
    assert lossy.fingerprint() != plain.fingerprint()
