"""Newton's method for costs without a Hessian: the products are right, however a user's gradients are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distopt.costs import evaluation, newton
from distopt.costs.comparator import Comparator
from distopt.costs.data import Blocks
from distopt.numerics.random import Key
from distopt.optional import ScenarioDefaults, completed

AGENTS, ROUNDS, DIM = 3, 6, 24


@dataclass(frozen=True)
class Own:
    """sum_k a_k (x_k - c_k)^2 / 2 + log cosh(x_k), with curvatures from 1 to ``steep``."""

    dim: int = DIM
    steep: float = 30.0

    def batch(self, t: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        return self.steep ** key.uniform("a", self.dim, t), key.normal("c", self.dim, t)

    def loss(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        a, c = b
        return (a * (x - c).square() / 2 + x.cosh().log()).sum(-1)

    def grad(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        return b[0] * (x - b[1]) + x.tanh()


class ByNumPy(Own):
    """Torch can neither record nor differentiate it."""

    def grad(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        return b[0] * (x - b[1]) + torch.from_numpy(np.tanh(x.numpy()))


class Detached(Own):
    """Torch finds a derivative, but not all of it."""

    def grad(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        with torch.autograd.forward_ad._set_fwd_grad_enabled(False):
            bend = x.tanh()
        return b[0] * (x - b[1]) + bend


class ByTorch(Own):
    """Its gradients are derivatives themselves."""

    def grad(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        found: Tensor = torch.func.grad(lambda at: self.loss(at, b).sum())(x)
        return found


def comparator(scenario: Any, trials: int = 2) -> Comparator:
    key = Key(0, range(AGENTS), range(trials), AGENTS)
    return Comparator(Blocks(completed(ScenarioDefaults, scenario), key, ROUNDS))


def true_minimisers(scenario: Own, it: Comparator) -> np.ndarray:
    """By bisection in each coordinate, [K, R, d]: the slope of a sum of convex functions rises."""
    a, c = (each.numpy() for each in it.blocks.get(0))
    low, high = np.full((*a.shape[:2], scenario.dim), -50.0), np.full((*a.shape[:2], scenario.dim), 50.0)
    for _ in range(200):
        middle = (low + high) / 2
        slope = (a * (middle[:, :, None] - c) + np.tanh(middle[:, :, None])).sum(2)
        low, high = np.where(slope < 0, middle, low), np.where(slope < 0, high, middle)
    return low


@pytest.mark.slow
@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize(
    ("kind", "differentiable"), [(Own, True), (ByTorch, True), (ByNumPy, False), (Detached, False)]
)
def test_minimisers_without_a_hessian(
    kind: type[Own], differentiable: bool, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "LARGE", 0 if large else 2**62)
    scenario = kind()
    it = comparator(scenario)
    found = it.reference(0)
    assert it._evaluator.differentiable is (differentiable and large), "derivatives are for those who compile"
    np.testing.assert_allclose(found.x.numpy(), true_minimisers(scenario, it), rtol=0, atol=1e-7)
    assert it.certificate() < 1e-8
    fixed = it.fixed()
    assert fixed is not None
    a, c = (each.numpy() for each in it.blocks.get(0))
    at = fixed.numpy()[None, :, None]
    assert np.abs((a * (at - c) + np.tanh(at)).sum((0, 2))).max() < 1e-6 * np.abs(a * c).sum((0, 2)).max()


def test_costs_that_conjugate_gradients_do_not_solve_are_solved_by_hessians(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a few steps nobody comes far where curvatures lie 10 orders apart."""
    scenario, columns = Own(steep=1e10), []
    made = newton._by_columns

    def counting(*args: Any) -> Any:
        columns.append(1)
        return made(*args)

    monkeypatch.setattr(newton, "_by_columns", counting)
    monkeypatch.setattr(newton, "conjugate_gradients", lambda times, g, exact, about: 1e-12 * g)
    it = comparator(scenario)
    np.testing.assert_allclose(it.reference(0).x.numpy(), true_minimisers(scenario, it), rtol=0, atol=1e-6)
    assert columns


def test_one_problem_whose_hessian_is_not_finite_leaves_the_others_alone() -> None:
    H = torch.tensor([[[2.0, 0.0], [0.0, 4.0]], [[torch.nan, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [0.0, 1.0]]]).double()
    g = torch.ones(3, 2, dtype=torch.float64)
    step = newton._cholesky(H, g)
    np.testing.assert_allclose(step[0], [0.5, 0.25])
    assert step[1].tolist() == [1.0, 1.0], "steepest descent"
    np.testing.assert_allclose(step[2], [1.0, 1 / 3])  # H + 2 I
