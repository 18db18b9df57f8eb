"""Messages that are late and agents that sleep: which message a receiver takes, told one by one, and which methods stay right."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from helpers.digraphs import weights
from helpers.networks import SMALL, dense, key, mixing, rounds

import distopt
from distopt.algorithms.push_diging import PushDIGing
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.network.faults import Faults
from distopt.network.network import Network
from distopt.network.topology import build_topology
from distopt.numerics.random import scattered

ASK: dict[str, Any] = {"agents": 6, "scenario": "moving_target", "rounds": 20}
EXACT: dict[str, Any] = {"agents": 8, "scenario": "quadratic:kappa=2", "rounds": 1000}


def drawn(stream: str, *address: int) -> float:
    return float(scattered(3, stream, *(np.array([each]) for each in address))[0])


def newest(faults: Faults, t: int, j: int, i: int) -> int:
    """How old the newest message from j is that i has in round t of trial 0, by going through all that were sent; -1 if there is none."""
    least, most = faults.delay
    there = []
    for sent in range(t + 1):
        late = least + int(drawn("delays", 0, sent, j, i) * (most - least + 1))
        gone = drawn("messages", 0, sent, j, i) < faults.drop_messages
        if not gone and sent + late <= t:
            there.append(t - sent)
    return min((age for age in there if age <= most), default=-1)


@pytest.mark.parametrize("faults", [Faults(delay=(2, 2)), Faults(delay=(0, 3)), Faults(0.3, delay=(1, 2))], ids=str)
def test_a_receiver_takes_the_newest_message_that_has_arrived(faults: Faults) -> None:
    n, T, most = SMALL.agents, 12, faults.late
    row = mixing(SMALL, faults=faults).require("doubly", "gt")
    column = mixing(SMALL, faults=faults).require("column", "push_diging")
    W = dense(SMALL)
    for whole, back in ((row, True), (column, False)):
        ages = [whole.aged(age).dense(rounds(0, T))[:, 0].numpy() for age in range(most + 1)]
        for t in range(T):
            expected = [np.zeros((n, n)) for _ in ages]
            np.fill_diagonal(expected[0], W.diagonal())
            for i in range(n):
                for j in range(n):
                    if i == j or not W[i, j]:
                        continue
                    age = newest(faults, t, j, i)
                    place = (age, i, j) if age >= 0 else (0, i, i)
                    if age >= 0 or back:
                        expected[place[0]][place[1:]] += W[i, j]
            for found, wanted in zip(ages, expected, strict=True):
                np.testing.assert_allclose(found[t], wanted, rtol=0, atol=1e-15)


def test_late_values_are_those_of_their_round() -> None:
    """A loop that remembers every x: x_{t+1,i} = sum_j w_ij x_{t - age, j} - lr g_i."""
    T = 15
    run = distopt.simulate("ring", algorithm="dgd:lr=0.1", record="x", delay="0..2", seed=3, **{**ASK, "rounds": T})
    W, faults = dense(build_topology("ring", 6, 3)), Faults(delay=(0, 2))
    problem = distopt.simulation.problem.build(Experiment("ring", 6, "moving_target", "dgd", rounds=T, seed=3))
    data = problem.scenario.batch(rounds(0, T), problem.key)
    xs = [problem.x0[0].numpy()]
    for t in range(T):
        np.testing.assert_allclose(run["x"][0, t], xs[t], rtol=0, atol=1e-12)
        at = torch.utils._pytree.tree_map(lambda leaf, t=t: leaf[t if len(leaf) > 1 else 0], data)
        g = problem.scenario.grad(torch.tensor(xs[t][None]), at)[0].numpy()
        after = np.zeros_like(xs[t])
        for i in range(6):
            for j in range(6):
                age = 0 if i == j else newest(faults, t, j, i)
                after[i] += W[i, j] * (xs[t - age][j] if age >= 0 else xs[t][i])
        xs.append(after - 0.1 * g)


def test_a_sleeper_neither_computes_nor_sends_nor_receives() -> None:
    T = 30
    run = distopt.simulate("ring", algorithm="gt:lr=0.05", record="x,s,g", sleep=0.4, **{**ASK, "rounds": T})
    asleep = key(6, seed=0).uniform("sleep", 1, rounds(0, T))[:, 0, :, 0].numpy() < 0.4
    assert 0.2 < asleep.mean() < 0.6
    for name in ("x", "s", "g"):
        before, after = run[name][0, :-1], run[name][0, 1:]
        gone = (
            asleep if name == "x" else asleep[1:]
        )  # leaves are recorded after their round; x before it, and at the end
        assert np.array_equal(before[gone], after[gone])
        assert (before[~gone] != after[~gone]).any(-1).mean() > 0.9
    W = mixing(build_topology("ring", 6, 0), faults=Faults(sleep=0.4)).require("symmetric", "gt")
    dense_ = W.dense(rounds(0, T))[:, 0].numpy()
    np.testing.assert_allclose(dense_, dense_.transpose(0, 2, 1), atol=1e-16)
    np.testing.assert_allclose(dense_.sum(-1), 1.0, atol=1e-14)
    mine = key(6).uniform("sleep", 1, rounds(0, T))[:, 0, :, 0].numpy() < 0.4
    for t in range(T):
        for i in np.flatnonzero(mine[t]):
            assert dense_[t, i, i] == pytest.approx(1.0)
    awake = 1 - asleep.mean()
    assert run["messages"][0, -1] == pytest.approx(2 * T * awake)


def test_sleep_keeps_the_mean_of_trackers_that_of_the_gradients_they_took() -> None:
    run = distopt.simulate("ring", algorithm="gt:lr=0.05", record="s,g", sleep=0.4, **ASK)
    np.testing.assert_allclose(run["s"].mean(2), run["g"].mean(2), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("algorithm", "ask", "right"),
    [
        ("robust_push_diging:lr=0.05", {"delay": "0..3", "drop_messages": 0.3}, True),
        ("robust_push_diging:lr=0.05", {"delay": 2}, True),
        ("robust_push_diging:lr=0.05", {"sleep": 0.3}, True),
        ("gt:lr=0.05", {"sleep": 0.3}, True),
        ("push_diging:lr=0.05", {"delay": 2}, True),
        ("push_diging:lr=0.05", {"delay": "0..3"}, False),
        ("gt:lr=0.05", {"delay": 2}, False),
        ("gt:lr=0.05", {"delay": "0..3"}, False),
        ("ab:lr=0.05", {"sleep": 0.3}, False),
    ],
    ids=str,
)
def test_who_stays_exact(algorithm: str, ask: dict[str, Any], right: bool) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run = distopt.simulate("ring", algorithm=algorithm, **EXACT, **ask)
    assert run["tracking_error"][0, 0] > 0.5
    last = run["tracking_error"][0, -1]
    assert last < 1e-9 if right else last > 0.05
    assert len(told) == (0 if right else 1), "who is warned of does not stay exact"


def test_weights_of_all_ages_serve_each_channel() -> None:
    digraph = build_topology("random_digraph:p=0.4", 7, 1)
    network = Network.of(digraph, "metropolis", PushDIGing(), "exact", key(7), faults=Faults(delay=(0, 2)))
    assert len(network.mixings) == 3
    total = sum(each.dense(rounds(9, 12)) for each in network.mixings)
    np.testing.assert_allclose(total[0, 0], weights("random_digraph:p=0.4", 7, 1).C, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("network", "ask", "says"),
    [
        ("ring", {"delay": 2, "sleep": 0.1}, "sleep and delay do not go together"),
        ("ring", {"delay": "3..1"}, r"delay='3..1': must be a number of rounds, at most 64"),
        ("ring", {"delay": 65}, "at most 64"),
        ("ring", {"delay": -1}, "must be a number of rounds"),
        ("ring", {"delay": True}, "must be a number of rounds"),
        ("ring", {"sleep": 1.0}, "sleep=1.0: must be a probability"),
        ("ring", {"delay": 2, "drop_links": 0.1}, "delay needs the same links in every round"),
        ("one_peer_exponential", {"delay": 2}, "delay needs the same links in every round"),
        ("ring", {"delay": 2, "channel": "naive:compressor=randomk(k=1)"}, "a late message cannot be decoded"),
        (
            "ring",
            {"delay": 2, "channel": "choco:compressor=sign"},
            "messages do not all arrive in their round; leave delay out",
        ),
        (
            "star",
            {"sleep": 0.2, "algorithm": "ef_sgd"},
            "needs the average of all workers in every round; use it without sleep",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(network: str, ask: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        distopt.simulate(network, **{**ASK, "algorithm": "gt", **ask})
