"""The pages on the Dirac-GAN and on weight normalisation: their parts in a short form, and verdicts on figures made for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.pages import measured, shortened

from distopt import reproduce
from distopt.reproduce import dirac_gan, weight_normalisation
from distopt.reproduce.store import Store

Results = Any


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


# ------------------------------------------------------------------------------------------------------------- Dirac-GAN


@pytest.mark.slow
def test_the_forms_end_where_the_loops_ended(store: Store) -> None:
    results = measured(store, "dirac-gan", "forms")
    outcomes = {verdict.outcome for verdict in reproduce.parts("dirac-gan")["forms"].verdicts(results)}
    assert outcomes == {"holds", "open"}
    assert results["ends"]["R1, 0.3"]["together"] == pytest.approx(2.6e-6, rel=0.05)
    step = results["linear"]["R1, 1"]
    assert (step["trace"], step["det"]) == pytest.approx((1.8, 0.81), abs=1e-6)


def test_a_form_that_ends_elsewhere_is_no_confirmation(store: Store) -> None:
    results = measured(store, "dirac-gan", "forms")
    results["ends"]["R1, 0.3"]["together"] = 1.0
    results["linear"]["no regulariser"]["det"] = 1.0
    held = {each.claim: each.outcome for each in reproduce.parts("dirac-gan")["forms"].verdicts(results)}
    assert list(held.values()).count("holds in part") == 2


def test_factors_are_those_of_the_roots() -> None:
    known = [dirac_gan.factor(a, 0.25) for a in (0.0, 0.3, 1.0, 2.0)]
    np.testing.assert_allclose(known, [1.005, 0.9747, 0.9, 0.973], atol=3e-4)
    assert dirac_gan.factor(0.3, 0.25) ** 500 == pytest.approx(2.7e-6, rel=0.02)


def test_agents_play_the_game_on_all_data(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, dirac_gan, LONG=300)
    results = measured(store, "dirac-gan", "agents")
    games = {(each["regulariser"], each["lr"], each["method"]): each for each in results["games"]}
    assert len(games) == 12
    for (regulariser, lr, _), each in games.items():
        assert each["apart"] < 0.1
        assert each["whole radius"] == games[regulariser, lr, "dgd"]["whole radius"]
    assert games["r1", 0.2, "gt"]["radius"] < 1e-5 < games["r1", 0.2, "dgd"]["consensus"]
    assert results["alike"] > 1.5
    damped = [each for each in reproduce.parts("dirac-gan")["agents"].verdicts(results) if "damp" in each.claim]
    assert [each.outcome for each in damped] == ["holds"]


# --------------------------------------------------------------------------------------------------- weight normalisation


@pytest.mark.slow
def test_normalised_weights_end_near_the_shortest_solution(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, weight_normalisation, FINER=(0.02, 0.01))
    results = measured(store, "weight-normalisation", "ends")
    ends = reproduce.parts("weight-normalisation")["ends"]
    assert {verdict.outcome for verdict in ends.verdicts(results)} == {"holds", "open"}
    for each in results["starts"]:
        each["runs"]["rPGD"]["end"] = each["runs"]["gradient descent"]["end"]
    lost = [verdict.outcome for verdict in ends.verdicts(results)]
    assert lost.count("holds in part") == 2  # the formula, and that it is near


def test_the_formula_of_the_flow_is_that_of_the_flow() -> None:
    """Against rPGD in (g, w) with small steps, from the scenario's own data."""
    import torch

    from distopt.numerics.random import Key
    from distopt.scenarios.least_squares import LeastSquares

    s, key = LeastSquares(norm=4.75, begin=4.0), Key(0, range(1), range(1), 1)
    b = s.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), key)
    a, y, shortest = (each[0, 0, 0].numpy() for each in (b.a, b.y, b.shortest))
    g, w, lr = 4.0, s.start(key)[0, 0].numpy() / 4, 0.004
    for _ in range(4000):
        h = a.T @ (a @ (g * w) - y)
        w, g = w - lr * g * h, g - lr * float(w @ h)
        w = w / np.linalg.norm(w)
    assert np.linalg.norm(g * w - shortest) == pytest.approx(weight_normalisation.flow(4.0), rel=0.03)


def test_agents_agree_near_the_shortest_solution(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, weight_normalisation, AGENTS_ROUNDS=9000)
    results = measured(store, "weight-normalisation", "agents")
    assert results["runs"]["rPGD"]["end"] == pytest.approx(results["flow"], rel=0.15)
    assert results["runs"]["gradient descent"]["end"] == pytest.approx(results["hidden"], rel=0.01)
