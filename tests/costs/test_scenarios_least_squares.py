"""Least squares with more columns than rows: its shortest solution, its shards, and where gradient descent ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.synthetic import at, rounds

import distopt
from distopt.checks import check_scenario
from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.scenarios.least_squares import LeastSquares


@pytest.mark.parametrize("s", [LeastSquares(), LeastSquares(rows=7, dim=3, norm=0.5), LeastSquares(rows=4, dim=1)])
def test_it_keeps_the_promises_of_a_scenario(s: LeastSquares) -> None:
    check_scenario(s)
    check_scenario(s, agents=1)


def parts(s: LeastSquares, agents: int, trials: int = 2) -> tuple[Any, Any]:
    key = Key(3, range(agents), range(trials), agents)
    b = s.batch(rounds(0), key)
    return b, s.start(key)


@pytest.mark.parametrize(("rows", "dim"), [(20, 50), (8, 3)])
def test_the_optimum_is_the_shortest_solution(rows: int, dim: int) -> None:
    b, _ = parts(LeastSquares(rows, dim, norm=4.0), 1)
    for r in range(2):
        a, y = b.a[0, r, 0].numpy(), b.y[0, r, 0].numpy()
        shortest = np.linalg.pinv(a) @ y
        np.testing.assert_allclose(b.shortest[0, r, 0].numpy(), shortest, atol=1e-12)
        assert np.linalg.norm(shortest) == pytest.approx(4)


def test_shards_have_all_rows_and_their_mean_is_the_whole_cost() -> None:
    s = LeastSquares(rows=7, dim=9)
    alone, start = parts(s, 1)
    shared, same = parts(s, 3)
    assert torch.equal(start, same)
    assert shared.w[0, 0].gt(0).sum(-1).tolist() == [2, 2, 3]
    x = start.expand(2, 3, 9)
    torch.testing.assert_close(s.loss(x, at(shared, 0)).mean(1), s.loss(start, at(alone, 0))[:, 0])
    rows = alone.a[0, 0, 0] @ start[0, 0] - alone.y[0, 0, 0]
    assert float(s.loss(start, at(alone, 0))[0, 0]) == pytest.approx(float(rows.square().sum()) / 2)


def test_gradient_descent_keeps_what_no_row_sees() -> None:
    s = LeastSquares(begin=0.5)
    run = distopt.simulate("ring", agents=4, scenario=s, algorithm="gt:lr=0.01", rounds=9000, record="x")
    key = Key(0, range(1), range(1), 1)
    a, start = s.batch(rounds(0), key).a[0, 0, 0].numpy(), s.start(key)[0, 0].numpy()
    hidden = start - np.linalg.pinv(a) @ (a @ start)
    shortest = s.batch(rounds(0), key).shortest[0, 0, 0].numpy()
    np.testing.assert_allclose(run["x"][0, -1, 2], shortest + hidden, atol=1e-4)
    assert run["tracking_error"][0, -1] == pytest.approx(np.linalg.norm(hidden), rel=1e-3)
    assert run["static_regret"][0, -1] == pytest.approx(run["dynamic_regret"][0, -1])


def test_more_agents_than_rows_are_refused() -> None:
    with pytest.raises(InputError, match="^least_squares: rows=3 for 4 agents"):
        distopt.simulate("ring", agents=4, scenario="least_squares:rows=3", algorithm="dgd", rounds=2)
