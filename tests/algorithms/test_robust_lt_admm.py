"""LT-ADMM with a variable for each end of each link: against a loop over links, with lost messages and sleepers, and on all engines."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs
from helpers.battery import PARTITIONS, Case, differences, moves, on, posed, threads
from helpers.networks import SMALL, dense, key, rounds

import distopt
from distopt.engines import ranks
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.random import scattered
from distopt.simulation.problem import build

N, T, SEED = SMALL.agents, 25, 3
LR, LOCAL, DUAL = 0.05, 3, 0.8
SPEC = f"robust_lt_admm:lr={LR},local={LOCAL},dual={DUAL}"
LOSSES = [{}, {"drop_messages": 0.4}, {"sleep": 0.3}, {"drop_messages": 0.3, "sleep": 0.2}]


def arrives(t: int, i: int, j: int, asleep: np.ndarray, lost: float) -> bool:
    """Whether j's message of round t of trial 0 reaches i."""
    drawn = float(scattered(SEED, "messages", *(np.array([each]) for each in (0, t, j, i)))[0])
    return drawn >= lost and not asleep[t, i] and not asleep[t, j]


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("losses", LOSSES, ids=str)
def test_rounds_are_those_of_a_loop_over_links(losses: dict[str, float], mode: Any) -> None:
    ask: dict[str, Any] = {"scenario": "moving_target:dim=3", "rounds": T, "seed": SEED}
    run = distopt.simulate(SMALL, algorithm=SPEC, record="x", mode=mode, **losses, **ask)
    problem = build(Experiment(SMALL, None, algorithm="dgd", **ask))
    data, w = problem.scenario.batch(rounds(0, T), problem.key), dense(SMALL)
    asleep = key(N, seed=SEED).uniform("sleep", 1, rounds(0, T))[:, 0, :, 0].numpy() < losses.get("sleep", 0.0)
    x = problem.x0[0].numpy().copy()
    z = {(i, j): np.zeros(3) for i in range(N) for j in range(N) if i != j and w[i, j]}
    r = np.zeros_like(x)
    for t in range(T):
        np.testing.assert_allclose(run["x"][0, t], x, rtol=0, atol=1e-12)
        at = torch.utils._pytree.tree_map(lambda leaf, t=t: leaf[t if len(leaf) > 1 else 0], data)
        phi = x
        for _ in range(LOCAL):
            phi = phi - LR * problem.scenario.grad(torch.tensor(phi[None]), at)[0].numpy() - DUAL / LOCAL * r
        x = np.where(asleep[t][:, None], x, phi)
        told = {(j, i): value - 2 * x[j] for (j, i), value in z.items()}
        lost = losses.get("drop_messages", 0.0)
        z = {(i, j): (old - told[j, i]) / 2 if arrives(t, i, j, asleep, lost) else old for (i, j), old in z.items()}
        pulled = np.array([sum(w[i, j] * (x[i] - z[i, j]) for j in range(N) if (i, j) in z) for i in range(N)])
        r = np.where(asleep[t][:, None], r, pulled)


@pytest.mark.parametrize("network", ["ring", "star", "complete", "erdos_renyi"])
@pytest.mark.parametrize("losses", LOSSES[1:], ids=str)
def test_it_stays_exact(network: str, losses: dict[str, float]) -> None:
    ask: dict[str, Any] = {"agents": 8, "scenario": "quadratic:kappa=2", "rounds": 1500}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = distopt.simulate(network, algorithm="robust_lt_admm:lr=0.05", **losses, **ask)
    assert run["tracking_error"][0, 0] > 0.5 and run["tracking_error"][0, -1] < 1e-12


def test_bits_are_those_of_the_largest_degree() -> None:
    run = distopt.simulate("star", agents=5, scenario="moving_target:dim=3", algorithm=SPEC, rounds=2)
    assert run["bits"][0].tolist() == [4 * 3 * 64, 2 * 4 * 3 * 64]
    assert run["messages"][0, 0] == pytest.approx(8 / 5)


CASES = [
    (Case("robust_lt_admm:lr=0.01", "exact", "moving_target:dim=3", "float64", 2), "erdos_renyi", LOSSES[1]),
    (Case("robust_lt_admm:lr=0.01,local=2", "exact", "drifting_logistic", "float32"), "star", LOSSES[3]),
    (Case("robust_lt_admm:lr=0.01,local=1", "exact", "moving_target:dim=3"), "complete", LOSSES[1]),
    (Case("robust_lt_admm:lr=0.01", "exact", "moving_target:dim=3", "float64", 2), "ring", LOSSES[0]),
]


@pytest.mark.parametrize(("case", "network", "losses"), CASES, ids=str)
@pytest.mark.parametrize("part", ["3", "scattered"])
def test_threads_have_the_bits_of_one_block(case: Case, network: str, losses: dict[str, float], part: str) -> None:
    problems = posed(case, network=network, **losses)
    alone = on(problems)
    assert moves(alone)
    assert differences(alone, on(problems, threads(PARTITIONS[part], shuffled=True, seed=2))) == []


@needs.forks
def test_ranks_have_the_bits_of_one_block() -> None:
    problems = posed(CASES[0][0], network="erdos_renyi", **LOSSES[1])
    assert differences(on(problems), on(problems, partial(ranks.ranks, workers=3, timeout=20))) == []


@pytest.mark.parametrize(("case", "network", "losses"), CASES[:3], ids=str)
def test_compiled_threads_have_the_bits_of_one_compiled_block(
    case: Case, network: str, losses: dict[str, float]
) -> None:
    problems = posed(case, network=network, agents=6, rounds=4, **losses)
    part = type(PARTITIONS["2"])(((0, 3), (1, 5), (2, 4)))
    assert differences(on(problems, mode="compiled"), on(problems, threads(part), mode="compiled")) == []


def test_a_grid_has_the_bits_of_its_points() -> None:
    ask: dict[str, Any] = {"agents": 6, "scenario": "moving_target", "rounds": 20, "trials": 2, "record": "x"}
    both = distopt.simulate("ring", algorithm="robust_lt_admm:lr=[0.02,0.05],dual=[0.5,1.0]", **ask, **LOSSES[1])
    assert len(both) == 4
    for label, run in both.items():
        assert np.array_equal(run["x"], distopt.simulate("ring", algorithm=label, **ask, **LOSSES[1])["x"])


@pytest.mark.parametrize(
    ("network", "ask", "says"),
    [
        ("ring", {"delay": 2}, "which a message of its own round moves or none; use it without delay"),
        ("ring", {"drop_links": 0.1}, "but links fail or change"),
        ("ring", {"churn": 0.1}, "robust_lt_admm keeps vectors for each link, but with churn agents leave and join"),
        ("random_digraph:p=0.5", {}, "needs symmetric weights, but the graph is directed"),
        ("ring", {"channel": "choco:compressor=sign"}, "brings its own channel"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(network: str, ask: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        distopt.simulate(network, agents=6, scenario="quadratic", algorithm="robust_lt_admm", rounds=3, **ask)
