"""Agents that leave and join: who is there, W among those, where the ones begin who join, and what then holds of algorithms and metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import SMALL, key, rounds

import distopt
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.network.churn import Churn, JoinMixing, present_mixing
from distopt.network.topology import build_topology
from distopt.simulation.problem import build

CHURN = Churn(0.1, 0.3)
SETTING = "leave=0.05,join=0.2"
ASK: dict[str, Any] = {"agents": 7, "rounds": 60, "seed": 3, "churn": "leave=0.1,join=0.3"}


def there(churn: Churn, n: int, T: int, trials: int = 1, seed: int = 3) -> np.ndarray:
    """Who is there, [R, T, N]."""
    return churn.present(rounds(0, T), key(n, trials, seed))[..., 0].transpose(0, 1).numpy()


def test_presence_is_a_markov_chain_that_is_addressed() -> None:
    T, n = 3000, 6
    whole = there(CHURN, n, T, 2)
    assert whole[:, 0].all()
    assert whole[:, :, 0].all()
    assert not np.array_equal(whole[0], whole[1])
    before, after = whole[:, :-1, 1:], whole[:, 1:, 1:]
    assert (~after[before]).mean() == pytest.approx(0.1, abs=0.005)
    assert after[~before].mean() == pytest.approx(0.3, abs=0.015)
    assert before.mean() == pytest.approx(0.75, abs=0.02)
    for first, last in ((1020, 1030), (2500, 2501)):
        assert np.array_equal(
            CHURN.present(rounds(first, last), key(n, 2))[..., 0].transpose(0, 1).numpy(), whole[:, first:last]
        )


def test_churn_ends() -> None:
    before, after = there(CHURN, 9, 80), there(Churn(0.1, 0.3, until=40), 9, 80)
    assert np.array_equal(before[:, :40], after[:, :40])
    assert (after[:, 39:] == after[:, 39:40]).all()
    assert not after[:, -1].all()
    assert (there(Churn(0.1, 0.0), 5, 400)[0, -1] == [True, False, False, False, False]).all()


def metropolis(edges: np.ndarray, here: np.ndarray) -> np.ndarray:
    """W among those who are there, link by link."""
    n = len(here)
    links = [(i, j) for i, j in edges.tolist() if here[i] and here[j]]
    degree = [sum(i in link for link in links) for i in range(n)]
    W = np.eye(n)
    for i, j in links:
        w = 1 / (1 + max(degree[i], degree[j]))
        W[i, j] += w
        W[j, i] += w
        W[i, i] -= w
        W[j, j] -= w
    return W


def began(edges: np.ndarray, now: np.ndarray, then: np.ndarray) -> np.ndarray:
    """What brings those who join the mean of their neighbours."""
    J = np.eye(len(now))
    for i in np.flatnonzero(then & ~now):
        heard = [j for j in range(len(now)) if [min(i, j), max(i, j)] in edges.tolist() and now[j] and then[j]]
        if heard:
            J[i] = 0
            J[i, heard] = 1 / len(heard)
    return J


def test_weights_are_made_anew_among_those_who_are_there() -> None:
    T, n = 40, SMALL.agents
    here = there(CHURN, n, T)[0]
    W = present_mixing(SMALL, "metropolis", key(n), 0.0, CHURN).require("doubly", "gt")
    found = W.dense(rounds(0, T))[:, 0].numpy()
    joins = JoinMixing(SMALL, key(n), CHURN).dense(rounds(0, T - 1))[:, 0].numpy()
    for t in range(T):
        np.testing.assert_allclose(found[t], metropolis(SMALL.edges, here[t]), rtol=0, atol=1e-15)
        assert (found[t][~here[t]] == np.eye(n)[~here[t]]).all()
    for t in range(T - 1):
        np.testing.assert_allclose(joins[t], began(SMALL.edges, here[t], here[t + 1]), rtol=0, atol=1e-15)


@pytest.mark.parametrize("network", ["star", "complete", "erdos_renyi"])
@pytest.mark.parametrize("rule", ["metropolis", "lazy_metropolis", "max_degree"])
def test_weights_stay_doubly_stochastic(network: str, rule: str) -> None:
    graph = build_topology(network, 40, 3)
    W = present_mixing(graph, rule, key(40, 2), 0.2, CHURN)
    dense = W.dense(rounds(5, 15)).numpy()
    away = ~CHURN.present(rounds(5, 15), key(40, 2))[..., 0].numpy()
    np.testing.assert_allclose(dense.sum(-1), 1.0, rtol=0, atol=1e-14)
    assert np.array_equal(dense, dense.transpose(0, 1, 3, 2))
    assert (dense[away] == np.broadcast_to(np.eye(40), (10, 2, 40, 40))[away]).all()
    assert dense.min() >= -1e-15


def test_gradient_tracking_is_what_a_loop_makes_of_it() -> None:
    """One trial of gt, agent by agent: those who are away stand still, and all begin anew where someone has left or joined."""
    T = 60
    run = distopt.simulate("ring", scenario="moving_target", algorithm="gt:lr=0.1", record="x,s", **ASK)
    graph, here = build_topology("ring", 7, 3), there(CHURN, 7, T + 1)[0]
    problem = build(Experiment("ring", 7, "moving_target", "gt", rounds=T, seed=3))
    data = problem.scenario.batch(rounds(0, T), problem.key)
    x = problem.x0[0].numpy().copy()
    s, old = np.zeros_like(x), np.zeros_like(x)
    changes = 0
    for t in range(T):
        np.testing.assert_allclose(run["x"][0, t], x, rtol=0, atol=1e-12)
        if t and (here[t] != here[t - 1]).any():
            s, old, changes = np.zeros_like(x), np.zeros_like(x), changes + 1
        at = torch.utils._pytree.tree_map(lambda leaf, t=t: leaf[t if len(leaf) > 1 else 0], data)
        g = problem.scenario.grad(torch.tensor(x[None]), at)[0].numpy() * here[t][:, None]
        W = metropolis(graph.edges, here[t])
        s = (W @ s + g - old) * here[t][:, None]
        x, old = np.where(here[t][:, None], W @ x - 0.1 * s, x), g
        np.testing.assert_allclose(run["s"][0, t], s, rtol=0, atol=1e-12)
        x = began(graph.edges, here[t], here[t + 1]) @ x
    assert 10 < changes < T - 5


@pytest.mark.parametrize("algorithm", ["gt:lr=0.05", "gt:lr=0.05,form=atc", "gtadam:lr=0.02", "push_diging:lr=0.05"])
def test_trackers_sum_to_the_gradients_of_those_who_are_there(algorithm: str) -> None:
    ask = {**ASK, "rounds": 300, "trials": 2}
    run = distopt.simulate("erdos_renyi", scenario="quadratic:kappa=2", algorithm=algorithm, record="x", **ask)
    assert run["tracker_invariant"].max() < 1e-12
    assert np.abs(np.diff(run["x"], axis=1)).max() > 1e-3


@pytest.mark.parametrize("algorithm", ["gt:lr=0.2", "extra:lr=0.2", "gtadam:lr=0.02"])
def test_agents_reach_the_minimiser_of_those_who_are_there_once_churn_ends(algorithm: str) -> None:
    ask = {"agents": 8, "scenario": "quadratic:kappa=2", "rounds": 1500, "record": "x", "seed": 1}
    run = distopt.simulate("complete", algorithm=algorithm, churn="leave=0.05,join=0.1,until=200", **ask)
    last = there(Churn(0.05, 0.1, 200), 8, 300, seed=1)[0, -1]
    assert 3 <= last.sum() <= 7
    problem = build(Experiment("complete", 8, "quadratic:kappa=2", "gt", rounds=1500, seed=1))
    data = problem.scenario.batch(rounds(0, 1), problem.key)
    x = run["x"][0, -1]
    at = torch.utils._pytree.tree_map(lambda leaf: leaf[0], data)
    g = problem.scenario.grad(torch.tensor(x[None]), at)[0].numpy()
    assert np.abs(g[last].sum(0)).max() < 1e-6
    assert np.ptp(x[last], axis=0).max() < 1e-6
    assert np.abs(g.sum(0)).max() > 0.1
    assert run["tracking_error"][0, -1] < 1e-6
    assert run["consensus_error"][0, -1] < 1e-6
    assert run["dynamic_regret"][0, -1] - run["dynamic_regret"][0, -100] < 1e-6


def test_metrics_are_of_those_who_are_there() -> None:
    T = 60
    run = distopt.simulate("ring", scenario="moving_target", algorithm="dgd:lr=0.1", record="x", **ASK)
    here = there(CHURN, 7, T)[0]
    problem = build(Experiment("ring", 7, "moving_target", "gt", rounds=T, seed=3))
    data = problem.scenario.batch(rounds(0, T), problem.key)
    regret = 0.0
    assert "churn" in run.info["left_out"]["dynamic_regret_agents"]
    for t in range(T):
        x, n = run["x"][0, t][here[t]], int(here[t].sum())
        np.testing.assert_allclose(
            run["consensus_error"][0, t], np.sqrt(((x - x.mean(0)) ** 2).sum() / n), rtol=1e-12, atol=1e-14
        )
        at = torch.utils._pytree.tree_map(lambda leaf, t=t: leaf[t if len(leaf) > 1 else 0], data)

        def cost(y: np.ndarray, at: Any = at, t: int = t) -> float:
            each = problem.scenario.loss(torch.tensor(np.broadcast_to(y, (1, 7, len(y))).copy()), at)[0].numpy()
            return float(each[here[t]].sum())

        g0, g1 = (
            problem.scenario.grad(torch.full((1, 7, x.shape[1]), a, dtype=torch.float64), at)[0].numpy()[here[t]].sum(0)
            for a in (0.0, 1.0)
        )
        best = -g0 / (g1 - g0)  # costs are |x - b|^2 / 2, coordinate by coordinate
        regret += cost(x.mean(0)) - cost(best)
        assert run["dynamic_regret"][0, t] == pytest.approx(regret, rel=1e-9, abs=1e-12)
        np.testing.assert_allclose(
            run["tracking_error"][0, t], np.sqrt(((x - best) ** 2).sum() / n), rtol=1e-9, atol=1e-12
        )


def test_messages_are_those_of_agents_who_are_there() -> None:
    run = distopt.simulate("ring", scenario="moving_target", algorithm="dgd:lr=0.1", **ASK)
    graph, here = build_topology("ring", 7, 3), there(CHURN, 7, 61)[0]
    sent = 0
    for t in range(60):
        arcs = (metropolis(graph.edges, here[t]) != 0) | (began(graph.edges, here[t], here[t + 1]) != 0)
        sent += arcs.sum() - np.trace(arcs)
    assert run["messages"][0, -1] == pytest.approx(sent / 7)


@pytest.mark.parametrize(
    ("topology", "ask", "told"),
    [
        ("ring", {"churn": "leave=2"}, "must be two probabilities per round"),
        ("ring", {"churn": "leave=0.6,join=0.6"}, "sum to at most 1"),
        ("ring", {"churn": "join=0.1"}, "must be two probabilities"),
        ("ring", {"churn": "leave=0.1,leave=0.2"}, "must be two probabilities"),
        ("ring", {"churn": "leave=0.1,until=0.5"}, "must be two probabilities"),
        ("ring", {"churn": True}, "must be two probabilities"),
        ("ring", {"churn": SETTING, "sleep": 0.1}, "churn and sleep do not go together"),
        ("ring", {"churn": SETTING, "delay": 1}, "churn and delay do not go together"),
        ("ring", {"churn": SETTING, "weights": "best_constant"}, "weight rule best_constant cannot be"),
        ("ring", {"churn": SETTING, "probe": "sharpness:every=5"}, "probes need the costs of all agents"),
        ("ring", {"churn": SETTING, "channel": "error_feedback:compressor=sign"}, "remembers what was sent"),
        (
            "ring",
            {"churn": SETTING, "channel": "choco:compressor=sign"},
            "while W does not change, but here agents come and go",
        ),
        ("ring", {"churn": SETTING, "algorithm": "nids"}, "treats round 0 differently"),
        ("ring", {"churn": SETTING, "algorithm": "robust_push_diging"}, "keeps a memory of each sender"),
        ("ring", {"churn": SETTING, "agentwise": True}, "agentwise"),
        ("ring", {"churn": SETTING, "scenario": "dirac_gan", "algorithm": "alternating"}, "is a game"),
        ("ring", {"churn": SETTING, "scenario": "feasible(moving_target)"}, "restricts the points"),
        (
            "star",
            {"churn": SETTING, "algorithm": "ef_sgd", "channel": "exact"},
            "needs the average of all workers, but with churn",
        ),
        ("random_digraph:p=0.5", {"churn": SETTING, "algorithm": "push_diging"}, "this graph is directed"),
        ("one_peer_exponential", {"churn": SETTING}, "another in each round"),
        (np.full((4, 4), 0.25), {"churn": SETTING, "agents": None}, "weights that were given cannot be"),
    ],
    ids=str,
)
def test_what_does_not_go_with_churn_is_refused_in_one_line(topology: Any, ask: dict[str, Any], told: str) -> None:
    whole = {"agents": 6, "scenario": "moving_target", "algorithm": "gt", "rounds": 5, **ask}
    with pytest.raises(InputError) as caught:
        distopt.simulate(topology, **whole)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_setting_is_noted_only_where_it_is_given() -> None:
    plain, asked = (Experiment("ring", 4, "quadratic", "gt", churn=each) for each in ("", SETTING))
    assert "churn" not in plain.describe()
    assert asked.describe()["churn"] == SETTING
    assert plain.fingerprint() != asked.fingerprint()
    assert Experiment("ring", 4, "quadratic", "gt", churn="leave=0").fingerprint() == plain.fingerprint()
    assert 'churn = "leave=0.05,join=0.2"' in asked.to_toml()
