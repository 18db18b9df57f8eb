"""Ader against a loop written from its recursion, with and without a tracker, and without a step size that was tuned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.quadratics import ROUNDS, D, Drifting, Floats, N, W, apart, gradient, simulated
from torch import Tensor

import distopt
from distopt.algorithms.ader import Ader
from distopt.algorithms.dgd import DGD
from distopt.checks.methods import check_algorithm
from distopt.errors import InputError


def by_hand(lr: float, experts: int, eps: float, tracking: bool, radius: float = np.inf) -> Floats:
    z, lost, x = np.zeros((experts, N, D)), np.zeros((N, experts)), np.zeros((N, D))
    s, last, path = np.zeros((N, D)), np.zeros((N, D)), [x]
    rates = lr * 2.0 ** np.arange(experts)
    for t in range(ROUNDS):
        g = gradient(x, t)
        s, last = (W @ s + g - last if tracking else g), g
        lost = W @ lost + np.einsum("nd,mnd->nm", s, z - x)
        z = np.clip(np.einsum("ij,mjd->mid", W, z) - rates[:, None, None] * s, -radius, radius)
        p = np.exp(-eps * (lost - lost.min(1, keepdims=True)))
        x = np.einsum("nm,mnd->nd", p / p.sum(1, keepdims=True), z)
        path.append(x)
    return np.array(path)


class Boxed(Drifting):
    """Only points within [-0.3, 0.3] are allowed."""

    comparator = False

    def project(self, x: Tensor) -> Tensor:
        return x.clamp(-0.3, 0.3)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize(("experts", "tracking"), [(4, False), (4, True)])
def test_rounds_are_those_of_the_recursion(experts: int, tracking: bool, mode: str) -> None:
    found = simulated(Ader(0.02, experts, 0.1, tracking), mode=mode)
    assert apart(found, by_hand(0.02, experts, 0.1, tracking)) < 1e-12


def test_experts_stay_where_points_are_allowed() -> None:
    found = simulated(Ader(0.05, 3, 0.1), scenario=Boxed(), mode="eager")
    assert apart(found, by_hand(0.05, 3, 0.1, False, radius=0.3)) < 1e-12


def test_one_expert_is_descent() -> None:
    assert apart(simulated(Ader(0.1, 1), mode="eager"), simulated(DGD(0.1), mode="eager")) < 1e-14


def test_without_tuning_it_is_as_good_as_the_best_step_size() -> None:
    ask: dict[str, Any] = {"agents": 6, "scenario": "moving_target:kappa=2,period=100", "rounds": 300}
    runs = distopt.simulate("ring", algorithm=["ader", "dgd:lr=[0.0125,0.05,0.2]"], mode="eager", **ask)
    own, *others = (float(run["average_dynamic_regret"][0, -1]) for run in runs.values())
    assert own < 1.2 * min(others) < 0.3 * max(others)


def test_a_grid_has_the_bits_of_its_points() -> None:
    ask: dict[str, Any] = {"agents": 4, "scenario": "moving_target:kappa=2", "rounds": 15, "trials": 2, "record": "x"}
    runs = distopt.simulate("ring", algorithm="ader:lr=[0.01,0.02],eps=[0.03,0.1]", mode="eager", **ask)
    for label, run in runs.items():
        np.testing.assert_array_equal(run["x"], distopt.simulate("ring", algorithm=label, mode="eager", **ask)["x"])


@pytest.mark.parametrize("tracking", [False, True])
def test_promises_of_algorithms_hold(tracking: bool) -> None:
    check_algorithm(Ader(experts=3, tracking=tracking))


def test_what_it_sends_and_refuses() -> None:
    assert Ader().channels == ("z", "loss") and Ader(tracking=True).tracks == "s"
    with pytest.raises(InputError, match="^ader: experts must be a whole number from 1 to 64"):
        Ader(experts=0)
