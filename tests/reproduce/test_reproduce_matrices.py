"""The page on random matrices: its parts in a short form, formulas against matrices, and verdicts on figures made for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.pages import measured, outcomes, shortened

import distopt
from distopt import reproduce
from distopt.report import figures_of_edges
from distopt.reproduce import random_matrix
from distopt.reproduce.landscape import HessianSpread
from distopt.reproduce.random_matrix import effective, largest
from distopt.reproduce.sgd_steps import features, mean_square, stable
from distopt.reproduce.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


# ------------------------------------------------------------------------------------------------------------------ field


def test_spikes_stand_where_the_formula_says(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, random_matrix, FIELD_BATCHES=(4, 64), DRAWS=4)
    results = measured(store, "random-matrix", "field")
    assert [each["top"] for each in results] == pytest.approx([28.28, 11.25], rel=0.05)
    assert outcomes("random-matrix", "field", results) == ["holds"]
    assert outcomes("random-matrix", "field", [{**each, "top": 9.0} for each in results]) == ["does not hold"]


def test_the_formula_is_continuous_and_the_whole_batch_has_no_noise() -> None:
    edge = 200 * 4 / 10.0**2  # B where the spike of 10 comes out of the bulk
    assert largest(10, 200, 2, edge * (1 + 1e-9)) == pytest.approx(largest(10, 200, 2, edge * (1 - 1e-9)), rel=1e-6)
    assert effective(399, 400) == pytest.approx(399 * 400)


# ------------------------------------------------------------------------------------------------------------------ steps


@pytest.mark.parametrize("batch", [1, 3])
def test_the_edge_of_the_mean_square_is_that_of_the_whole_map(batch: int) -> None:
    a = np.random.default_rng(0).normal(size=(7, 3)) * [2.0, 1.0, 0.5]
    n, one = len(a), np.eye(3)
    h = a.T @ a / n
    pairs = sum(np.kron(np.outer(row, row), np.outer(row, row)) for row in a) / n / batch
    second = (1 - 1 / batch) * np.kron(h, h) + pairs
    lr = mean_square(a, batch, rounds=2000)
    for factor, stable_there in ((0.999, True), (1.001, False)):
        whole = np.eye(9) - factor * lr * (np.kron(h, one) + np.kron(one, h)) + (factor * lr) ** 2 * second
        assert (np.abs(np.linalg.eigvals(whole)).max() < 1) == stable_there


def test_steps_grow_with_the_batch_up_to_their_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, random_matrix, STEP_ROUNDS=150, STEP_BATCHES=(1, 2, 4, 8, 64), POWERS=20)
    results = measured(store, "random-matrix", "steps")
    found = results["steps"]
    assert found == sorted(found) and found[1] / found[0] > 1.6
    assert found[-1] == pytest.approx(results["limit"], rel=0.05)
    assert results["limit"] == pytest.approx(0.7155, abs=1e-3) and features().shape == (1797, 61)


def test_on_equal_rows_the_edge_is_that_of_gradient_descent() -> None:
    rows = np.full((4, 1), 3**0.5)
    rates = 0.5 * 1.05 ** np.arange(12)
    assert stable(rows, 2, rates, 20, 1) == pytest.approx(2 / 3, rel=0.01)
    assert mean_square(rows, 2, 20) == pytest.approx(2 / 3, rel=1e-12)


def test_why_steps_are_straight_for_small_batches_only() -> None:
    """The page's rough formula for the edge, and where it bends."""
    a = features()
    squares, lam1 = (a * a).sum(1), float(np.linalg.eigvalsh(a.T @ a / len(a))[-1])
    r = float((squares**2).mean() / squares.mean())
    assert r / lam1 == pytest.approx(7, rel=0.01)
    for batch in (1, 4, 16, 64):
        rough = 2 / (r / batch + (1 - 1 / batch) * lam1)
        assert 0.8 < rough / mean_square(a, batch, 60) < 1.02, batch


def test_verdicts_on_steps() -> None:
    steps = [0.1, 0.19, 0.37, 0.7, 0.7, 0.7, 0.7, 0.7155]
    made = {"steps": steps, "squares": steps, "limit": 0.7155}
    assert outcomes("random-matrix", "steps", made) == ["holds"] * 3
    assert outcomes("random-matrix", "steps", {**made, "steps": [0.1] * 8}) == [
        "does not hold",
        "holds in part",
        "does not hold",
    ]


# ---------------------------------------------------------------------------------------------------------------- network


def test_the_spread_of_single_samples_is_that_of_their_hessians() -> None:
    """On costs a (x - c)^2 / 2 there is none; on logistic regression it is the mean of |H_r - H|^2 / P."""
    asked: dict[str, Any] = {"agents": 1, "scenario": "drifting_logistic:rows=6", "algorithm": "dgd", "rounds": 1}
    run = distopt.simulate("complete", **asked, probe=HessianSpread(1, draws=6))
    (found,) = run["hessianspread"][0]
    assert 0 < found < 10  # P = 3 numbers, of which 6 vectors estimate the norm
    seen: list[Any] = []

    class Whole:
        every = 1

        def measure(self, given: Any) -> float:
            seen.append(given)
            return 0.0

    distopt.simulate("complete", **asked, probe=Whole())
    (given,) = seen
    X, w = given.data.X[0, 0].numpy(), given.data.w.flatten().numpy()
    each = [6 * w[k] * 0.25 * np.outer(X[k], X[k]) for k in range(6)]  # at x = 0
    spread = np.mean([np.square(one - sum(each) / 6).sum() for one in each]) / 3
    many = np.random.default_rng(0).normal(size=(4000, 3))
    assert np.mean(
        [np.square((each[k % 6] - sum(each) / 6) @ v).sum() / 3 for k, v in enumerate(many)]
    ) == pytest.approx(spread, rel=0.2)
    assert 0.1 < found / spread < 5


def test_the_network_is_read_for_each_batch_size(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, random_matrix, NETWORK_ROWS=40, NETWORK_BATCHES=(4, 16), NETWORK_ROUNDS=4, DRAWS=2)
    results = measured(store, "random-matrix", "network")
    assert results["values"][0] > results["values"][1] > results["top"] > 0 and results["spread"] > 0


def test_verdicts_on_the_network() -> None:
    batches = list(random_matrix.NETWORK_BATCHES)
    made = {"top": 2.0, "spread": 40.0, "batches": batches, "values": [2 + 20 / effective(b, 400) for b in batches]}
    assert outcomes("random-matrix", "network", made) == ["holds", "holds"]
    flat = {**made, "values": [3.0] * len(batches)}
    assert outcomes("random-matrix", "network", flat) == ["does not hold", "does not hold"]


# ------------------------------------------------------------------------------------------------------ learner and floor


def test_learners_are_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    known = random_matrix.LEARNERS
    shortened(
        monkeypatch,
        random_matrix,
        LEARNERS={name: (spec, 60 * (4 - each) // 1, each) for name, (spec, _, each) in known.items()},
    )
    results = measured(store, "random-matrix", "learner")
    assert all(np.isfinite(each["cost"]).all() and each["cost"][-1] < each["cost"][0] for each in results.values())


def test_verdicts_on_learners() -> None:
    names = list(random_matrix.LEARNERS)
    made = {
        name: {"cost": [0.5, *[level] * 60], "rounds": 2 * level}
        for name, level in zip(names, (0.01, 0.02, 0.03, 0.1, 0.2), strict=True)
    }
    assert outcomes("random-matrix", "learner", made) == ["holds", "holds"]
    made[names[2]] = {"cost": [0.5, *[1e30] * 60], "rounds": 1e30}
    made[names[3]] = {"cost": [0.5, *[0.001] * 60], "rounds": 0.1}
    assert outcomes("random-matrix", "learner", made) == ["holds in part", "holds in part"]


def test_floors_are_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, random_matrix, FLOOR_ROUNDS=1500, FLOOR_TRIALS=2, FLOOR_BATCHES=(64, 256))
    shortened(monkeypatch, random_matrix, EARLIER_FLOORS={"Adam": (0.0109, 0.0224), "SGD": (0.041, 0.134)})
    part = reproduce.parts("random-matrix")["floor"]
    results = part.measure(store, None, lambda text: None)
    assert results["SGD"] == pytest.approx([0.041, 0.135], rel=0.15)
    assert results["Adam"] == pytest.approx([0.011, 0.023], rel=0.2)


def test_verdicts_on_floors() -> None:
    root = [0.003 * 2**k for k in range(4)]
    made = {"Adam": root, "SGD": [0.003 * 4**k for k in range(4)]}
    assert outcomes("random-matrix", "floor", made) == ["holds", "holds", "open", "open"]
    assert outcomes("random-matrix", "floor", {"Adam": made["SGD"], "SGD": root}) == [
        "does not hold",
        "does not hold",
        "open",
        "open",
    ]
    assert figures_of_edges.random_floor(made).axes
