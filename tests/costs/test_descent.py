"""The preconditioner of conjugate gradients on rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distopt.costs import linear
from distopt.costs.descent import Spread, minimise
from distopt.costs.linear import Rows
from distopt.costs.products import conjugate_gradients

AGENTS = 3


@pytest.mark.parametrize("classes", [1, 4])
def test_a_preconditioner_saves_products_and_changes_no_solution(classes: int) -> None:
    """Features whose sizes lie three orders apart."""
    rng = np.random.default_rng(3)
    P, m, p = 3, 120, 30
    X = rng.standard_normal((P, AGENTS, m, p)) * np.logspace(0, -3, p)
    y = rng.choice([-1.0, 1.0], (P, AGENTS, m)) if classes == 1 else rng.integers(classes, size=(P, AGENTS, m))
    rows = Rows(X, y, np.full((1, AGENTS, m), 1 / m), 1e-4)
    at = rows.at(0.1 * rng.standard_normal((P, classes * p)))
    g, times, products = at.gradient(), at.curvature(), [0, 0]

    def solved(k: int, about: Any) -> np.ndarray:
        def counted(v: np.ndarray) -> np.ndarray:
            products[k] += 1
            return times(v)

        return conjugate_gradients(counted, g, np.full(P, 1e-10), about)

    spread = Spread.of(rows)
    assert spread is not None
    plain, helped = solved(0, None), solved(1, spread.solve(at))
    exact = np.linalg.solve(at.hessian(), g[..., None])[..., 0]
    for found in (plain, helped):
        np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-8 * np.abs(exact).max())
    assert products[1] < 0.7 * products[0]


def test_a_preconditioner_bears_features_without_values_and_costs_without_curvature() -> None:
    X = np.zeros((1, AGENTS, 4, 3))
    X[..., :2] = np.random.default_rng(0).standard_normal((1, AGENTS, 4, 2))
    rows = Rows(X, np.ones((1, AGENTS, 4)), np.ones((1, AGENTS, 4)), 0.0)
    g, spread = np.ones((1, 3)), Spread.of(rows)
    assert spread is not None
    assert np.isfinite(spread.solve(rows.at(np.zeros((1, 3))))(g)).all()
    far = rows.at(1e200 * np.array([[1.0, 0.0, 0.0]]))
    assert far.bent() == 0
    np.testing.assert_array_equal(spread.solve(far)(g), g)


def test_few_rows_make_no_preconditioner() -> None:
    """They show no direction: what is 0 in all of them may vary elsewhere."""
    rng = np.random.default_rng(0)

    def spread(agents: int) -> Spread | None:
        X, ones = rng.standard_normal((2, agents, 5, 30)), np.ones((1, agents, 5))
        return Spread.of(Rows(X, ones, ones, 0.1))

    assert spread(23) is None
    assert spread(24) is not None


def test_a_problem_that_is_solved_at_the_start_disturbs_no_other() -> None:
    """All its weights are 0, so that its gradient is exactly 0 where the search begins."""
    p = linear.DENSE + 20
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((3, AGENTS, 160, p)), rng.choice([-1.0, 1.0], (3, AGENTS, 160))
    w = np.full((3, AGENTS, 160), 1 / 160)
    w[1] = 0
    rows = Rows(X, y, w, 1e-2)
    found = Spread.of(rows)
    assert found is not None
    for spread in (None, found):
        x, residual = minimise(rows, np.zeros((3, p)), 1.0, spread)  # a warning is an error
        assert residual.max() < 1e-12 and not x[1].any() and x[::2].any(1).all()
