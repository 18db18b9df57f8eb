"""Economic dispatch: the best shares against bisection and a search, and what is known of the costs of each agent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.synthetic import rounds

import distopt
from distopt.checks.scenarios import check_scenario
from distopt.costs.comparator import Comparator
from distopt.costs.data import Blocks
from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.scenarios.dispatch import Dispatch, divided
from distopt.scenarios.feasible import Feasible


def by_bisection(a: Any, b: Any) -> Any:
    """max(lambda - b, 0) / a with the sum 1, for one problem."""
    low, high = b.min(), b.max() + a.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if (np.maximum(middle - b, 0) / a).sum() > 1 else (middle, high)
    return np.maximum(low - b, 0) / a


def test_divided_has_equal_marginal_costs() -> None:
    draw = np.random.default_rng(2)
    a, b = draw.uniform(0.1, 5, (300, 6)), draw.uniform(-3, 3, (300, 6))
    found = divided(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(found, [by_bisection(*each) for each in zip(a, b, strict=True)], atol=1e-12)
    assert np.abs(found.sum(-1) - 1).max() < 1e-12 and 0 < (found == 0).mean() < 0.9


@pytest.mark.parametrize(
    "scenario", [Dispatch(), Dispatch(dim=2, swing=0.9, demand=3.0), Dispatch(dim=9, kappa=1, price=0)]
)
def test_promises_of_scenarios_hold(scenario: Dispatch) -> None:
    check_scenario(scenario)


def test_agents_know_the_costs_of_their_own_generators_alone() -> None:
    b = Dispatch(dim=5, price=2.0).batch(rounds(0, 9), Key(3, range(2), range(2), 2))
    assert b.a.shape == (1, 2, 2, 5) and b.demand.shape == (2, 2, 1, 1)
    assert (b.a[:, :, 0] > 0).tolist() == [[[True, False, True, False, True]] * 2]
    assert (b.a[:, :, 1] > 0).tolist() == [[[False, True, False, True, False]] * 2]
    many = Dispatch(dim=2).batch(rounds(0), Key(3, range(5), range(1), 5))
    assert (many.a[0, 0].sum(-1) > 0).tolist() == [True, True, False, False, False]
    whole = Dispatch(dim=5, price=2.0).batch(
        rounds(0), Key(3, range(5), range(2), 5)
    )  # the same generators for more agents
    assert torch.equal(whole.a.sum(-2), b.a.sum(-2)) and torch.equal(whole.b.sum(-2), b.b.sum(-2))


def test_the_cost_is_that_of_the_power_that_is_generated() -> None:
    s, key = Dispatch(dim=3, demand=2.0), Key(1, range(2), range(1), 2)
    b = s.batch(rounds(4), key)
    a, c, power = b.a[0, 0].numpy(), b.b[0, 0].numpy(), float(b.demand) * np.array([0.5, 0.3, 0.2])
    x = torch.tensor([[[0.5, 0.3, 0.2]] * 2], dtype=torch.float64)
    wanted = (0.5 * a * power**2 + c * power).sum(-1)
    one = b._replace(a=b.a[0], b=b.b[0], demand=b.demand[0])
    np.testing.assert_allclose(s.loss(x, one)[0].numpy(), wanted, rtol=1e-14)


def test_a_search_finds_the_same_shares() -> None:
    class Anywhere(Dispatch):
        """The same costs, without the set that ``feasible`` brings."""

        project = lmo = None

    s, key = Dispatch(period=30), Key(5, range(3), range(2), 3)
    b, searched = s.batch(rounds(*range(0, 30, 7)), key), Feasible(Anywhere(period=30), "simplex")
    torch.testing.assert_close(searched.optimum(b), s.optimum(b), rtol=0, atol=1e-13)
    torch.testing.assert_close(searched.best_fixed(47, key), s.best_fixed(47, key), rtol=0, atol=1e-12)


def test_generators_are_switched_on_and_off_and_the_regret_is_certified() -> None:
    s, key = Dispatch(), Key(0, range(8), range(1), 8)
    running = (s.optimum(s.batch(rounds(*range(200)), key))[:, 0] > 0).sum(-1)
    assert (int(running.min()), int(running.max())) == (3, 6)
    reference = Comparator(Blocks(s, key, 50)).reference(0)
    assert reference.gap is not None and float(reference.gap.max()) < 1e-12
    assert float(reference.residual.max()) < 1e-14


def test_a_network_follows_the_demand() -> None:
    ask: dict[str, Any] = {
        "agents": 6,
        "scenario": "dispatch:period=400",
        "rounds": 400,
        "mode": "eager",
        "record": "x",
    }
    run = distopt.simulate("ring", algorithm="gt:lr=0.1", **ask)
    x = run["x"]
    assert np.abs(x.sum(-1) - 1).max() < 1e-12 and x.min() >= 0
    assert np.diff(run["dynamic_regret"], axis=1).min() > -1e-12
    assert run["tracking_error"][0, -1] < 0.1 < run["tracking_error"][0, 0]


@pytest.mark.parametrize(
    ("given", "said"), [({"swing": 1.0}, "swing=1"), ({"demand": 0.0}, "demand=0"), ({"kappa": 0.5}, "kappa=0.5")]
)
def test_what_it_refuses(given: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=f"^dispatch: {said}"):
        Dispatch(**given)  # of which one is a whole number
