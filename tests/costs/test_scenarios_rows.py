"""Scenarios whose costs are sums over the same rows in all rounds: the rows are counted, and their weights have a name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.synthetic import rounds

import distopt
from distopt.checks.scenarios import check_scenario
from distopt.numerics.random import Key
from distopt.numerics.trees import at, reweighted
from distopt.scenarios.drifting_logistic import DriftingLogistic
from distopt.scenarios.feasible import Feasible
from distopt.scenarios.least_squares import LeastSquares
from distopt.scenarios.normalised import Normalised
from distopt.scenarios.teacher_student import TeacherStudent

KNOWN: list[Any] = [
    LeastSquares(rows=11, dim=4),
    TeacherStudent(dim=4, alpha=2.7),
    TeacherStudent(dim=4, alpha=2.7, model="logistic"),
    Normalised(LeastSquares(rows=11, dim=4)),
    Feasible(DriftingLogistic(rows=3), "ball", 2.0),
]


@pytest.mark.parametrize("scenario", KNOWN, ids=lambda each: repr(each)[:60])
def test_gradients_of_single_rows_have_the_gradient_as_their_mean(scenario: Any) -> None:
    assert scenario.terms(4) == 3
    check_scenario(scenario)


def test_a_row_alone_is_its_own_loss() -> None:
    s = LeastSquares(rows=6, dim=3)
    b = at(s.batch(rounds(0), Key(0, range(2), range(1), 2)), 0)
    x, v = torch.ones(1, 2, 3, dtype=torch.float64), torch.zeros(1, 2, 3, dtype=torch.float64)
    v[..., 1] = 3.0
    wanted = 3 * (2 * ((b.a[:, :, 1] * x).sum(-1) - b.y[:, :, 1]))  # w = N = 2
    torch.testing.assert_close(s.grad(x, reweighted(b, "w", v)), wanted.unsqueeze(-1) * b.a[:, :, 1])


@pytest.mark.parametrize(
    ("scenario", "lr"), [("teacher_student:dim=5,alpha=4", 0.05), ("teacher_student:dim=5,alpha=4,model=logistic", 0.2)]
)
def test_sampled_rows_lead_to_the_optimum(scenario: str, lr: float) -> None:
    ask: dict[str, Any] = {"agents": 4, "scenario": scenario, "rounds": 3000, "every": 100, "mode": "compiled"}
    run = distopt.simulate("complete", algorithm=f"gt_saga:lr={lr}", **ask)
    assert run["tracking_error"][0, -1] < 1e-9 < run["tracking_error"][0, 0]
    np.testing.assert_allclose(run["gradients"][0, -1], 3000 / 5, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"row_weights": None},
            "terms says that costs are sums over rows; name the leaf of their weights, row_weights",
        ),
        ({"terms": lambda self, agents: 4}, "terms says 4 rows, and the leaf 'w' of row_weights has 3 places"),
        ({"terms": lambda self, agents: 0}, "terms must say how many rows an agent has, not 0"),
    ],
)
def test_rows_that_are_none_are_found(change: dict[str, Any], said: str) -> None:
    wrong = type("Wrong", (DriftingLogistic,), change)
    with pytest.raises(AssertionError, match=f"Wrong: {said}"):
        check_scenario(wrong(rows=3))
