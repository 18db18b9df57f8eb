"""Bandit feedback against a loop that draws the same directions, and around algorithms of all kinds."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from helpers.quadratics import ROUNDS, D, Floats, N, W, apart, cost, simulated

import distopt
from distopt.algorithms.bandit import Bandit, Form, direction
from distopt.algorithms.dgd import DGD
from distopt.algorithms.gt import GT
from distopt.algorithms.gt_storm import GTStorm
from distopt.algorithms.prediction_correction import PredictionCorrection
from distopt.checks.methods import check_algorithm
from distopt.errors import InputError
from distopt.network.net import Costs, Round
from distopt.numerics.random import Key

SEED = 7


def directions() -> Floats:
    """u_t [T, N, D], from the numbers that are addressed to the agents."""
    t = torch.arange(ROUNDS).reshape(-1, 1, 1, 1)
    drawn = Key(SEED, range(N), range(1), N).uniform("uniform", D, t)[:, 0].numpy()
    z = np.vectorize(NormalDist().inv_cdf)(drawn)
    unit: Floats = z / np.linalg.norm(z, axis=-1, keepdims=True)
    return unit


def by_hand(form: Form, delta: float, lr: float) -> Floats:
    x, last = np.zeros((N, D)), None
    path = [x]
    for t, u in enumerate(directions()):
        ahead = cost(x + delta * u, t)
        if form == "two_point":
            g = D / (2 * delta) * (ahead - cost(x - delta * u, t)) * u
        elif form == "one_point":
            g = D / delta * ahead * u
        else:
            g = D / delta * (ahead - last) * u if last is not None else 0 * u
        x, last = W @ x - lr * g, ahead
        path.append(x)
    return np.array(path)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize(
    ("form", "delta", "lr"), [("two_point", 0.01, 0.1), ("one_point", 1.0, 0.01), ("residual", 0.5, 0.01)]
)
def test_rounds_are_those_of_the_papers(form: Form, delta: float, lr: float, mode: str) -> None:
    found = simulated(Bandit(DGD(lr), form, delta), mode=mode, seed=SEED)
    assert apart(found, by_hand(form, delta, lr)) < 1e-12 / delta


def test_directions_are_uniform_on_the_sphere() -> None:
    drawn = torch.rand(1, 20_000, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = torch.zeros(1, 20_000, D, dtype=torch.float64)
    u = direction(Round(lambda name, z: z, torch.tensor(0), x, Costs(torch.neg), drawn), x)[0]
    assert float((u.norm(dim=-1) - 1).abs().max()) < 1e-14
    assert float(u.mean(0).abs().max()) < 0.02  # five standard errors are 0.02
    assert float((u.T @ u / len(u) - torch.eye(D) / D).abs().max()) < 0.02


def test_the_mean_of_two_point_estimates_is_the_gradient_of_a_quadratic() -> None:
    x = torch.ones(1, 50_000, D, dtype=torch.float64)
    drawn = torch.rand(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    a, bandit = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), Bandit(DGD(1.0))
    costs = Costs(torch.neg, None, lambda y: 0.5 * (a * y * y).sum(-1, keepdim=True))
    round = Round(lambda name, z: z, torch.tensor(0), x, costs, drawn)
    moved, _ = bandit.update(torch.full_like(x, torch.nan), bandit.init(x), x, round)  # gradients are not looked at
    assert float(((x - moved).mean(1)[0] - a).abs().max()) < 0.1
    assert (round.values, round.gradients) == (2, 0)


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("bandit", 2),
        ("bandit(dgd,form=one_point)", 1),
        ("bandit(gt,form=residual)", 1),
        ("bandit(gt_storm)", 4),
        ("bandit(k_gt(lr=1e-5,local=3),form=one_point)", 3),
        ("averaged(bandit(gt))", 2),
    ],
)
def test_the_metric_counts_values(spec: str, values: int) -> None:
    ask: dict[str, Any] = {"agents": 3, "scenario": "quadratic:dim=2", "rounds": 4, "mode": "eager"}
    run = distopt.simulate("ring", algorithm=spec, **ask)
    assert run["gradients"][0].tolist() == [values * t for t in range(1, 5)]
    assert "tracker_invariant" not in run.metrics


def test_leaves_of_the_algorithm_keep_their_names_and_channels_pass() -> None:
    ask: dict[str, Any] = {"agents": 4, "scenario": "moving_target", "rounds": 5, "mode": "eager"}
    run = distopt.simulate("ring", algorithm="bandit(gt(lr=0.01),form=residual)", record="s,value", **ask)
    assert run["s"].shape == (1, 5, 4, 2) and run["value"].shape == (1, 5, 4, 1)
    run = distopt.simulate("ring", algorithm="bandit(choco_sgd(lr=0.01))", **ask)
    assert run["bits"][0, -1] < 5 * 4 * 64 * 2


def test_a_grid_has_the_bits_of_its_points() -> None:
    ask: dict[str, Any] = {"agents": 4, "scenario": "moving_target:kappa=2", "rounds": 15, "trials": 2, "record": "x"}
    runs = distopt.simulate("ring", algorithm="bandit(dgd(lr=[0.02,0.05]),delta=[0.01,0.1])", mode="eager", **ask)
    assert len(runs) == 4
    for label, run in runs.items():
        np.testing.assert_array_equal(run["x"], distopt.simulate("ring", algorithm=label, mode="eager", **ask)["x"])


@pytest.mark.parametrize("algorithm", [Bandit(GT(0.1)), Bandit(GT(0.1), "residual"), Bandit(GTStorm(0.1))], ids=repr)
def test_promises_of_algorithms_hold(algorithm: Bandit) -> None:
    check_algorithm(algorithm)


def test_what_it_refuses() -> None:
    ask: dict[str, Any] = {"agents": 3, "scenario": "quadratic:dim=2", "rounds": 2}
    with pytest.raises(InputError, match="form=residual estimates one"):
        distopt.simulate("ring", algorithm=Bandit(GTStorm(), "residual"), **ask)
    with pytest.raises(InputError, match="of the round before"):
        distopt.simulate("ring", algorithm=Bandit(PredictionCorrection()), **ask)
    with pytest.raises(InputError, match="^bandit: delta must be positive"):
        Bandit(delta=0)
