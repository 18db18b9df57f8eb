"""Costs on sets of allowed points: projections, linear minimisers, and the best allowed points, against other ways to find them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.quadratics import Drifting
from torch import Tensor

import distopt
from distopt.catalog import registry
from distopt.checks.scenarios import check_scenario
from distopt.costs.comparator import Comparator
from distopt.costs.data import Blocks
from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.scenarios._sets import Form, least, nearest
from distopt.scenarios.drifting_logistic import DriftingLogistic
from distopt.scenarios.feasible import Feasible
from distopt.scenarios.moving_target import MovingTarget

FORMS: tuple[Form, ...] = ("ball", "box", "simplex", "l1")
draw = np.random.default_rng(4)


def inside(form: Form, radius: float, count: int, d: int) -> Any:
    """Random allowed points, some of them at the edge."""
    x = draw.normal(size=(count, d))
    if form == "simplex":
        x = draw.exponential(size=(count, d)) * (draw.random((count, d)) < 0.7) + 1e-12
        return radius * x / x.sum(-1, keepdims=True)
    norm = {"ball": 2, "box": np.inf, "l1": 1}[form]
    size = np.linalg.norm(x, norm, axis=-1, keepdims=True)
    return radius * x / size * np.maximum(draw.random((count, 1)), draw.random((count, 1)) < 0.5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("radius", [0.7, 3.0])
def test_the_nearest_point_makes_an_obtuse_angle_with_all_others(form: Form, radius: float) -> None:
    x, others = draw.normal(0, 2, (200, 5)), inside(form, radius, 300, 5)
    found = nearest(form, radius, torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(nearest(form, radius, torch.from_numpy(others)).numpy(), others, atol=1e-12)
    angles = np.einsum("nd,nmd->nm", x - found, others[None] - found[:, None])
    assert angles.max() < 1e-12  # this makes a point of a convex set the nearest one
    if form == "simplex":
        assert np.abs(found.sum(-1) - radius).max() < 1e-12 and found.min() >= 0


@pytest.mark.parametrize("form", FORMS)
def test_the_least_point_is_allowed_and_below_all_others(form: Form) -> None:
    s, others = draw.normal(size=(200, 5)), inside(form, 1.5, 300, 5)
    s[0] = 0
    v = least(form, 1.5, torch.from_numpy(s)).numpy()
    np.testing.assert_allclose(nearest(form, 1.5, torch.from_numpy(v)).numpy(), v, atol=1e-12)
    assert ((v * s).sum(-1)[:, None] <= s @ others.T + 1e-12).all()


@pytest.mark.parametrize("form", FORMS)
def test_promises_of_scenarios_hold(form: Form) -> None:
    check_scenario(Feasible(MovingTarget(dim=3, kappa=3), form, 0.7))


def by_multiplier(a: Any, c: Any, total: float) -> Any:
    """The minimiser of sum_k a_k (x_k - c_k)^2 / 2 on the simplex: x_k = max(c_k - m / a_k, 0), m by bisection."""
    low, high = -1e3, 1e3
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(c - middle / a, 0).sum() > total else (low, middle)
    return np.maximum(c - low / a, 0)


def test_the_best_points_on_box_and_simplex() -> None:
    inner, key, rounds = MovingTarget(dim=3, kappa=4, period=20), Key(1, range(4), range(2), 4), 30
    b = inner.batch(torch.arange(rounds).reshape(-1, 1, 1, 1), key)
    a, free = b.a.sum(-2)[0].numpy(), inner.optimum(b).numpy()  # [R, d], [K, R, d]
    boxed, simplex = Feasible(inner, "box", 0.4), Feasible(inner, "simplex", 2.0)
    found = boxed.optimum(b).numpy()
    np.testing.assert_allclose(found, free.clip(-0.4, 0.4), atol=1e-12)  # coordinates are apart
    assert 0.1 < (np.abs(found) == 0.4).mean() < 1
    best = boxed.best_fixed(rounds, key).numpy()
    np.testing.assert_allclose(best, free.mean(0).clip(-0.4, 0.4), atol=1e-12)
    found, best = simplex.optimum(b).numpy(), simplex.best_fixed(rounds, key).numpy()
    for r in range(2):
        np.testing.assert_allclose(best[r], by_multiplier(a[r], free[:, r].mean(0), 2.0), atol=1e-10)
        for k in range(0, rounds, 7):
            np.testing.assert_allclose(found[k, r], by_multiplier(a[r], free[k, r], 2.0), atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_gaps_certify_the_best_points_of_logistic_costs(form: Form) -> None:
    scenario = Feasible(DriftingLogistic(), form, 0.5)
    reference = Comparator(Blocks(scenario, Key(0, range(4), range(1), 4), 12)).reference(0)
    assert reference.gap is not None and 0 < float(reference.gap.max()) < 1e-9
    assert float(reference.residual.max()) < 1e-9


@pytest.mark.parametrize("form", FORMS)
def test_points_stay_allowed_and_no_allowed_point_is_better(form: Form) -> None:
    spec = f"feasible(moving_target(kappa=2,dim=3,period=50),form={form},radius=0.8)"
    ask: dict[str, Any] = {"agents": 4, "scenario": spec, "rounds": 40, "trials": 2, "record": "x", "every": 1}
    run = distopt.simulate("ring", algorithm="dgd:lr=0.1", mode="eager", **ask)
    x = torch.from_numpy(run["x"])
    assert float((nearest(form, 0.8, x) - x).abs().max()) < 1e-12  # the start too
    costs = np.diff(run["dynamic_regret"], axis=1)
    assert costs.min() > -1e-9 and costs.max() > 1e-3
    compiled = distopt.simulate("ring", algorithm="dgd:lr=0.1", mode="compiled", **ask)
    assert np.abs(compiled["x"] - run["x"]).max() < 1e-12
    many = distopt.simulate("ring", algorithm="dgd:lr=0.1", mode="compiled", engine="threads:workers=2", **ask)
    np.testing.assert_array_equal(compiled["x"], many["x"])


def test_costs_without_a_comparator_stay_without_one() -> None:
    class Unknown(Drifting):
        comparator = False
        optimum = None

        def start(self, key: Key) -> Tensor:
            return torch.full((1, 1, self.dim), 9.0, dtype=torch.float64)

    scenario = Feasible(Unknown(), "ball", 2.0)
    assert scenario.optimum is None and scenario.best_fixed is None
    assert abs(float(scenario.start(Key(0, range(1), range(1), 1)).norm()) - 2) < 1e-12


def test_a_scenario_inside_is_made_for_as_many_agents() -> None:
    made = registry.make("scenarios", "feasible(rbf_drift(features=2),form=l1,radius=2)", {"agents": 5})
    assert (made.form, made.radius, made.dim) == ("l1", 2.0, made.scenario.dim)
    for spec, said in (("feasible(x)", "x"), ("feasible:form=cube", "cube"), ("feasible:radius=0", "radius=0")):
        with pytest.raises(InputError, match=said):
            registry.make("scenarios", spec, {"agents": 5})
