"""Prediction-correction against a loop written from its recursion, and the costs of the round before on every engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.quadratics import ROUNDS, D, Drifting, Floats, N, W, apart, gradient, simulated

import distopt
from distopt.algorithms.gt import GT
from distopt.algorithms.prediction_correction import PredictionCorrection
from distopt.costs.data import Blocks
from distopt.directions.adam import Adam
from distopt.errors import InputError
from distopt.network.net import Costs, Rehearsal, Round
from distopt.numerics.random import Key
from distopt.numerics.trees import at


def by_hand(lr: float, steps: int, order: int) -> Floats:
    x, s, h = (np.zeros((N, D)) for _ in range(3))
    path = [x]
    for t in range(ROUNDS):
        for p in range(steps + 1):
            now = gradient(x, t)
            new = now if p == 0 or order == 1 else 2 * now - gradient(x, t - 1)
            s, h = W @ s + new - h, new
            x = W @ x - lr * s
        path.append(x)
    return np.array(path)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize(("steps", "order"), [(0, 2), (1, 1), (1, 2), (3, 2)])
def test_rounds_are_those_of_the_recursion(steps: int, order: int, mode: str) -> None:
    found = simulated(PredictionCorrection(0.1, steps, order), mode=mode)
    assert apart(found, by_hand(0.1, steps, order)) < 1e-12


def test_without_prediction_it_is_gradient_tracking() -> None:
    np.testing.assert_array_equal(simulated(PredictionCorrection(0.1, steps=0)), simulated(GT(0.1)))


@pytest.mark.parametrize(("steps", "order", "gradients"), [(2, 2, 5), (2, 1, 3), (0, 2, 1)])
def test_gradients_are_counted(steps: int, order: int, gradients: int) -> None:
    spec = f"prediction_correction:lr=0.05,steps={steps},order={order}"
    run = distopt.simulate("ring", agents=4, scenario="moving_target:kappa=2", algorithm=spec, rounds=3, mode="eager")
    assert run["gradients"][0, -1] == 3 * gradients


def test_a_grid_has_the_bits_of_its_points() -> None:
    ask: dict[str, Any] = {"agents": 4, "scenario": "moving_target:kappa=2", "rounds": 15, "trials": 2, "record": "x"}
    runs = distopt.simulate("ring", algorithm="prediction_correction:lr=[0.02,0.1]", **ask)
    for label, run in runs.items():
        np.testing.assert_array_equal(run["x"], distopt.simulate("ring", algorithm=label, **ask)["x"])


@pytest.mark.parametrize("scenario", ["line", "circle"])
def test_prediction_follows_more_closely_than_as_many_steps_on_the_present_cost(scenario: str) -> None:
    ask: dict[str, Any] = {"agents": 6, "scenario": f"moving_target:motion={scenario},kappa=2,period=200,speed=0.03"}
    name = "prediction_correction:lr=0.1,steps=3"
    runs = distopt.simulate("ring", algorithm=[name, f"{name},order=1"], rounds=400, **ask)
    predicted, present = (float(run["tracking_error"][0, 200:].mean()) for run in runs.values())
    assert 0 < predicted < 0.7 * present


@pytest.mark.parametrize("scenario", ["moving_target:motion=walk", "quadratic", "switching"])
def test_the_data_of_the_round_before(scenario: str) -> None:
    from distopt.catalog import registry
    from distopt.numerics.trees import tensors

    made = registry.make("scenarios", scenario)
    blocks = Blocks(made, Key(0, range(3), range(2), 3), 11, length=4)
    for t in range(11):
        b, k = divmod(t, 4)
        earlier = at(blocks.earlier(b), k)
        c, j = divmod(max(t - 1, 0), 4)
        wanted = at(blocks.get(c), j)
        assert all(map(torch.equal, tensors(earlier), tensors(wanted)))


def test_the_round_before_is_asked_for_by_its_number() -> None:
    x = torch.ones(1, 2, 3)
    round = Rehearsal(lambda name, z: z, x, grad=torch.neg, earlier=lambda y: 5 * y)
    assert round.grad(x, ago=1).unique().tolist() == [5.0] and round.earlier
    assert round.grad(x).unique().tolist() == [-1.0] and round.gradients == 2
    with pytest.raises(InputError, match="ago=2"):
        round.grad(x, ago=2)
    bare = Round(lambda name, z: z, torch.tensor(0), x, Costs(torch.neg))
    for ask in (lambda: bare.grad(x, ago=1), lambda: bare.loss(x)):
        with pytest.raises(InputError, match="only the simulator has them"):
            ask()


def test_costs_that_cannot_be_compiled_serve_as_well() -> None:
    class Uncompiled(Drifting):
        eager = "a test"

    wanted = by_hand(0.1, 1, 2)
    with pytest.warns(UserWarning, match="a test"):
        found = simulated(PredictionCorrection(0.1), scenario=Uncompiled())
    assert apart(found, wanted) < 1e-12


def test_what_it_sends_and_refuses() -> None:
    assert PredictionCorrection(steps=2).channels == ("x", "s", "x1", "s1", "x2", "s2")
    assert PredictionCorrection(direction=Adam()).tracks is None
    with pytest.raises(InputError, match="^prediction_correction: order must be a whole number from 1 to 2"):
        PredictionCorrection(order=3)
