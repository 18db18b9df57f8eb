"""Every metric against a plain Python loop over rounds, trials and agents, from the recorded trajectory."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from costs.test_comparator import WithHessian

import distopt
from distopt.costs.comparator import Comparator
from distopt.costs.data import Blocks
from distopt.numerics.random import Key
from distopt.optional import ScenarioDefaults, completed

ROUNDS, AGENTS, TRIALS = 12, 4, 2


def simulated(**settings: Any) -> distopt.Run:
    ask = {"agents": AGENTS, "algorithm": "gt:lr=0.02", "rounds": ROUNDS, "trials": TRIALS, "record": ("x", "s", "g")}
    return distopt.simulate("ring", scenario=WithHessian(), x0=0.3, **ask | settings)


@pytest.fixture(scope="module")
def run() -> distopt.Run:
    return simulated()


def cost(t: int, r: int, x: torch.Tensor) -> float:
    """F_t(x) of trial r, written out."""
    features, labels = WithHessian().batch(torch.tensor([[[[t]]]]), Key(0, range(AGENTS), [r], AGENTS))
    total = 0.0
    for i in range(AGENTS):
        for k in range(6):
            margin = float(labels[0, 0, i, k]) * sum(float(features[0, 0, i, k, c]) * float(x[c]) for c in range(4))
            total += math.log1p(math.exp(-margin))
        total += 0.05 * sum(float(v) ** 2 for v in x)
    return total


def test_regrets_are_the_sums_of_their_definitions(run: distopt.Run) -> None:
    comparator = Comparator(
        Blocks(completed(ScenarioDefaults, WithHessian()), Key(0, range(AGENTS), range(TRIALS), AGENTS), ROUNDS)
    )
    best, fixed = comparator.reference(0).x, comparator.fixed()
    x = torch.from_numpy(run["x"])
    for r in range(TRIALS):
        dynamic = static = steady = 0.0
        agents = [0.0] * AGENTS
        for t in range(ROUNDS):
            low = cost(t, r, best[t, r])
            mean = x[r, t].mean(0)
            dynamic += cost(t, r, mean) - low
            static += cost(t, r, mean) - cost(t, r, fixed[r])
            steady += cost(t, r, fixed[r]) - low
            agents = [a + cost(t, r, x[r, t, j]) - low for j, a in enumerate(agents)]
            assert run["dynamic_regret"][r, t] == pytest.approx(dynamic, rel=1e-10)
            assert run["static_regret"][r, t] == pytest.approx(static, rel=1e-9, abs=1e-10)
            assert run["regret_best_fixed"][r, t] == pytest.approx(steady, rel=1e-9)
            assert run["dynamic_regret_worst"][r, t] == pytest.approx(max(agents), rel=1e-10)
            assert run["dynamic_regret_agents"][r, t] == pytest.approx(sum(agents) / AGENTS, rel=1e-10)
            assert run["average_dynamic_regret"][r, t] == pytest.approx(dynamic / (t + 1), rel=1e-10)


def test_errors_are_root_mean_squares_over_agents(run: distopt.Run) -> None:
    best = (
        Comparator(
            Blocks(completed(ScenarioDefaults, WithHessian()), Key(0, range(AGENTS), range(TRIALS), AGENTS), ROUNDS)
        )
        .reference(0)
        .x.numpy()
    )
    x = run["x"]
    for r in range(TRIALS):
        for t in range(ROUNDS):
            mean = sum(x[r, t, i] for i in range(AGENTS)) / AGENTS
            consensus = math.sqrt(sum(np.linalg.norm(x[r, t, i] - mean) ** 2 for i in range(AGENTS)) / AGENTS)
            tracking = math.sqrt(sum(np.linalg.norm(x[r, t, i] - best[t, r]) ** 2 for i in range(AGENTS)) / AGENTS)
            assert run["consensus_error"][r, t] == pytest.approx(consensus, rel=1e-9, abs=1e-12)
            assert run["tracking_error"][r, t] == pytest.approx(tracking, rel=1e-9)
            gap = np.abs(run["s"][r, t].mean(0) - run["g"][r, t].mean(0)).max()
            assert run["tracker_invariant"][r, t] == pytest.approx(gap, abs=1e-15)


def test_the_cost_of_round_t_is_seen_only_after_x_t(run: distopt.Run) -> None:
    """x_0 is the given start, and g_t is the gradient of f_t at x_t."""
    assert (run["x"][:, 0] == 0.3).all()
    scenario = WithHessian()
    data = scenario.batch(torch.arange(ROUNDS).reshape(-1, 1, 1, 1), Key(0, range(AGENTS), range(TRIALS), AGENTS))
    for t in range(ROUNDS):
        g = scenario.grad(torch.from_numpy(run["x"][:, t]), tuple(leaf[t] for leaf in data))
        assert np.allclose(run["g"][:, t], g.numpy(), rtol=0, atol=1e-13)


def test_bits_count_two_vectors_a_round_for_tracking_and_none_alone() -> None:
    alone = distopt.simulate("ring", agents=1, scenario=WithHessian(), algorithm="gt:lr=0.02", rounds=3)
    assert alone["bits"].max() == 0
    for dtype, size in (("float64", 64), ("float32", 32)):
        for algorithm, vectors in (("gt:lr=0.02", 2), ("dgd:lr=0.02", 1)):
            run = distopt.simulate("ring", agents=4, scenario=WithHessian(), algorithm=algorithm, rounds=5, dtype=dtype)
            assert np.array_equal(run["bits"], [[vectors * size * 4 * (t + 1) for t in range(5)]])


def test_every_records_the_same_numbers_less_often(run: distopt.Run) -> None:
    sparse = simulated(every=5)
    assert sparse.rounds.tolist() == [4, 9, 11]
    for name in sparse.metrics:
        assert np.array_equal(sparse[name], run[name][:, [4, 9, 11]]), name


def test_metrics_do_not_depend_on_the_block_length(run: distopt.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distopt.costs.data.LONGEST_BLOCK", 4)
    again = simulated()
    assert np.array_equal(again["x"], run["x"]) and np.array_equal(again["s"], run["s"])
    for name in run.metrics:
        assert np.allclose(again[name], run[name], rtol=1e-9, atol=1e-10), name
