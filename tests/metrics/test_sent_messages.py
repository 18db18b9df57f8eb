"""The metric ``messages`` against weights that are counted one by one, and ``relative_cost_error`` against its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs

import distopt
from distopt.experiment import Experiment
from distopt.simulation.problem import build

N, ROUNDS, TRIALS = 7, 9, 3
ASK: dict[str, Any] = {"agents": N, "scenario": "moving_target", "rounds": ROUNDS, "trials": TRIALS, "seed": 4}
PUSH_PULL = str(Path(__file__).parents[2] / "examples" / "push_pull.py")


def counted(topology: Any, algorithm: str, **more: Any) -> np.ndarray:
    """The neighbours of each agent in each round, one by one: [R, T], summed over the rounds."""
    ask = {**ASK, **more, "agents": None if isinstance(topology, dict) else N}
    network = build(Experiment(topology, algorithm=algorithm, **ask)).network
    found = np.zeros((TRIALS, ROUNDS))
    dense = [
        each.dense(torch.arange(ROUNDS).reshape(-1, 1, 1, 1)).expand(ROUNDS, TRIALS, N, N) for each in network.mixings
    ]
    for t in range(ROUNDS):
        for r in range(TRIALS):
            pairs = {(i, j) for W in dense for i in range(N) for j in range(N) if i != j and W[t, r, i, j] != 0}
            found[r, t] = len(pairs) / N
    return found.cumsum(1)


@pytest.mark.parametrize("algorithm", ["gt", "dgd", "powergossip", "k_gt:local=3"])
def test_a_fixed_network_sends_to_every_neighbour(algorithm: str) -> None:
    found = distopt.simulate("grid", algorithm=algorithm, **{**ASK, "agents": 9})["messages"]
    np.testing.assert_allclose(found, np.tile(np.arange(1, ROUNDS + 1) * 24 / 9, (TRIALS, 1)), rtol=1e-14)


@pytest.mark.parametrize("topology", ["ring", "complete", "star", "random_matching", "path"])
@pytest.mark.parametrize("drop", [0.0, 0.4])
def test_only_neighbours_that_are_there_are_counted(topology: str, drop: float) -> None:
    found = distopt.simulate(topology, algorithm="gt", drop_links=drop, **ASK)["messages"]
    np.testing.assert_allclose(found, counted(topology, "gt", drop_links=drop), rtol=1e-14)
    assert not drop or len(set(found[:, -1])) > 1, "trials lose links of their own"


def test_an_agent_of_many_links_is_counted_too() -> None:
    for drop in (0.0, 0.3):
        run = distopt.simulate("star", agents=60, scenario="quadratic", algorithm="dgd", rounds=4, drop_links=drop)
        network = build(Experiment("star", 60, "quadratic", "dgd", rounds=4, drop_links=drop)).network
        W = network.mixings[0].dense(torch.arange(4).reshape(-1, 1, 1, 1)).expand(4, 1, 60, 60)
        there = (W != 0).sum((-2, -1))[:, 0] - 60
        np.testing.assert_allclose(run["messages"][0], there.cumsum(0).numpy() / 60, rtol=1e-14)


def test_channels_with_weights_of_their_own_share_a_message() -> None:
    draw = np.random.default_rng(0)
    R, C = (np.eye(N) + np.roll(np.eye(N), 1, 1) + (draw.random((N, N)) < 0.2) for _ in range(2))
    topology = {"x": R / R.sum(1, keepdims=True), "s": C / C.sum(0)}
    found = distopt.simulate(topology, algorithm=PUSH_PULL, **{**ASK, "agents": None})["messages"]
    np.testing.assert_allclose(found, counted(topology, PUSH_PULL), rtol=1e-14)
    alone = ((R > 0) & ~np.eye(N, dtype=bool)).sum() / N
    assert found[0, 0] > alone, "the second network has links of its own"


@pytest.mark.parametrize("algorithm", ["ef_sgd", "ef21", "signsgd"])
@pytest.mark.parametrize("topology", ["star", "complete"])
def test_a_worker_sends_one_message_to_its_server(algorithm: str, topology: str) -> None:
    found = distopt.simulate(topology, algorithm=algorithm, **ASK)["messages"]
    assert np.array_equal(found, np.tile(np.arange(1.0, ROUNDS + 1), (TRIALS, 1)))


def test_who_sends_no_bits_sends_no_messages() -> None:
    class Alone:
        """Everyone goes downhill without the others."""

        channels = ("x",)

        def init(self, x: Any) -> tuple[()]:
            return ()

        def update(self, g: Any, state: Any, x: Any, mix: Any) -> Any:
            return x - 0.01 * g, state

    for run in (
        distopt.simulate("ring", algorithm=Alone(), **ASK),
        distopt.simulate("complete", algorithm="gt", **{**ASK, "agents": 1}),
    ):
        assert not run["bits"].any() and not run["messages"].any()


@pytest.mark.parametrize(
    "engine",
    [
        "threads:workers=3",
        pytest.param("ranks:workers=2", marks=needs.forks),
        pytest.param("ray:workers=2", marks=pytest.mark.slow),
    ],
)
def test_every_engine_counts_alike(engine: str) -> None:
    for drop, topology in ((0.0, "ring"), (0.3, "ring"), (0.0, "random_matching")):
        ask = {**ASK, "topology": topology, "algorithm": "gt", "drop_links": drop}
        assert np.array_equal(distopt.simulate(engine=engine, **ask)["messages"], distopt.simulate(**ask)["messages"])


def test_a_point_of_a_grid_counts_as_it_does_alone() -> None:
    ask = {**ASK, "topology": "ring", "drop_links": 0.3}
    both = distopt.simulate(algorithm="gt:lr=[0.01,0.02]", **ask)
    for label, run in both.items():
        assert np.array_equal(run["messages"], distopt.simulate(algorithm=label, **ask)["messages"])


def test_the_relative_cost_error_is_of_a_round_alone() -> None:
    run = distopt.simulate("ring", algorithm="gt", record="x", **ASK)
    problem = build(Experiment("ring", algorithm="gt", **ASK))
    data = problem.scenario.batch(torch.arange(ROUNDS).reshape(-1, 1, 1, 1), problem.key)
    a, c = data.a.expand(ROUNDS, TRIALS, N, -1).numpy(), data.c.numpy()
    best = (a * c).sum(2) / a.sum(2)
    for r in range(TRIALS):
        for t in range(ROUNDS):
            at, least = (0.5 * (a[t, r] * (x - c[t, r]) ** 2).sum() for x in (run["x"][r, t].mean(0), best[t, r]))
            assert run["relative_cost_error"][r, t] == pytest.approx((at - least) / least, rel=1e-9)


class Sunk:
    """(x - 1)^2 / 2 - level: the least cost is -level for each agent."""

    dim = 1

    def __init__(self, level: float) -> None:
        self.level = level

    def batch(self, t: Any, key: Any) -> Any:
        return torch.ones(1, 1, len(key.agents), 1, dtype=torch.float64)

    def loss(self, x: Any, b: Any) -> Any:
        return 0.5 * (x - b).square().sum(-1) - self.level

    def grad(self, x: Any, b: Any) -> Any:
        return x - b


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_it_is_nan_where_no_cost_is_above_zero_and_the_run_goes_on(level: float) -> None:
    run = distopt.simulate("ring", algorithm="gt", **{**ASK, "scenario": Sunk(level)})
    assert run.status == "done" and np.isnan(run["relative_cost_error"]).all()
    above = distopt.simulate("ring", algorithm="gt", **{**ASK, "scenario": Sunk(-1.0)})
    assert np.isfinite(above["relative_cost_error"]).all()


def test_they_are_no_columns_of_the_closing_table() -> None:
    from distopt.report.summary import columns, summary

    run = distopt.simulate("ring", algorithm="gt", **ASK)
    assert not {"messages", "relative_cost_error"} & {*summary(run)}
    assert not [each for each in columns([run]) if "message" in str(each) or "relative" in str(each)]
