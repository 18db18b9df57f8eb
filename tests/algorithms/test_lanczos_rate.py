"""Heavy ball that finds its step size: the eigenvalues that it finds, its path beside an independent loop, and networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import distopt
from distopt.algorithms.lanczos_rate import LanczosRate, extremes
from distopt.costs.data import Blocks
from distopt.experiment import Experiment
from distopt.numerics.trees import at
from distopt.simulation.problem import build

Floats = NDArray[np.float64]
ONE: dict[str, Any] = {"agents": 1, "scenario": "quadratic:dim=6,kappa=40", "x0": 3.0}


def quadratic(asked: dict[str, Any]) -> tuple[Floats, Floats]:
    """Curvatures and centres [d] of the only agent."""
    problem = build(Experiment("complete", **asked, algorithm="dgd", rounds=1))
    a, c = at(Blocks(problem.scenario, problem.key, 1).get(0), 0)
    return a[0, 0].numpy(), c[0, 0].numpy()


@pytest.mark.parametrize("k", [2, 3, 10])
def test_extremes_are_those_of_the_tridiagonal_matrix(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    a, b = (torch.randn(20, k, generator=generator, dtype=torch.float64) for _ in range(2))
    b[3] = 0  # of a matrix that falls apart
    inner = torch.diag_embed(b[:, : k - 1], 1)
    values = torch.linalg.eigvalsh(torch.diag_embed(a) + inner + inner.mT)
    reach = a.abs().amax(-1) + 2 * b.abs().amax(-1)
    for found, exact in zip(
        extremes(a, b.abs(), torch.linspace(0, 1, 33, dtype=a.dtype)), values[:, [-1, 0]].T, strict=True
    ):
        assert float(((found[:, 0] - exact).abs() / reach).max()) < 2 / 32**3


def independent(a: Floats, c: Floats, x: Floats, k: int, rounds: int, lr: float) -> list[Floats]:
    """Heavy ball by its two-point form, with the whole Lanczos matrix every k rounds, of exact products, from the gradient."""
    path, before, rho, found = [x], x, 0.0, (lr, 0.0)
    for t in range(rounds):
        if t % k == 0:
            q, basis = a * (x - c), []
            for _ in range(min(k, len(a))):
                q = q / np.linalg.norm(q)
                basis.append(q)
                q = a * q - sum((each @ (a * q)) * each for each in basis)
            inner = np.array(basis) @ (a[:, None] * np.array(basis).T)
            low, top = np.linalg.eigvalsh(inner)[[0, -1]]
            root, least = np.sqrt(top), np.sqrt(max(abs(low), 1e-3 * top))
            found = (2 / (root + least)) ** 2, ((root - least) / (root + least)) ** 2
        if t % k == k - 1:
            lr, rho = found
        # m is the last displacement
        x, before = x - lr * a * (x - c) + rho * (x - before), x
        path.append(x)
    return path


@pytest.mark.parametrize("k", [3, 5])
def test_the_path_is_that_of_an_independent_loop(k: int) -> None:
    run = distopt.simulate("complete", **ONE, algorithm=f"lanczos_rate:steps={k},lr=0.01", rounds=30, record="x")
    expected = independent(*quadratic(ONE), np.full(6, 3.0), k, 30, 0.01)
    np.testing.assert_allclose(run["x"][0, :, 0], expected, rtol=1e-3, atol=1e-4)


def test_it_finds_the_extreme_curvatures_and_is_fast() -> None:
    asked = {**ONE, "scenario": "quadratic:dim=8,kappa=100"}
    a, c = quadratic(asked)
    run = distopt.simulate("complete", **asked, algorithm="lanczos_rate:steps=8", rounds=160, record=("x", "curvature"))
    top, low = run["curvature"][0, 7, 0]
    assert top == pytest.approx(a.max(), rel=1e-3) and low == pytest.approx(a.min(), abs=1e-3 * a.max())
    root, least = np.sqrt(a.max()), np.sqrt(a.min())
    rate = (root - least) / (root + least)
    away = np.linalg.norm(run["x"][0, :, 0] - c, axis=-1)
    assert away[-1] / away[40] < 20 * rate**120, "the best rate, up to the growth of the beginning"
    descent = (a.max() - a.min()) / (a.max() + a.min())
    assert rate**120 < 1e-3 * descent**120


def test_a_reading_that_is_not_positive_changes_nothing() -> None:
    """On a concave cost, and where the gradient vanishes, the step size stays that of the field."""
    rule, x = LanczosRate(lr=0.5, steps=2), torch.ones(1, 1, 3, dtype=torch.float64)
    for slope in (-1.0, 0.0):

        class Round:
            x = torch.ones(1, 1, 3, dtype=torch.float64)

            def __init__(self, t: int) -> None:
                self.t = torch.tensor(t)

            def __call__(self, name: str, z: torch.Tensor) -> torch.Tensor:
                return z

            def grad(self, y: torch.Tensor, slope: float = slope) -> torch.Tensor:
                return slope * y

        point, state = x, rule.init(x)
        for t in range(4):
            point, state = rule.update(slope * point, state, point, Round(t))
        expected = (1 - 0.5 * slope) ** 4
        torch.testing.assert_close(point, torch.full_like(x, expected), rtol=1e-6, atol=0)


def test_agents_average_their_curvatures_and_take_three_gradients() -> None:
    asked: dict[str, Any] = {"agents": 5, "scenario": "quadratic:dim=3", "rounds": 12, "record": "curvature"}
    run = distopt.simulate("ring", **asked, algorithm="lanczos_rate:steps=4,lr=0.01")
    assert run["gradients"][0, -1] == 36
    curvature = run["curvature"][0]  # after each round [T, N, 2]
    assert (curvature[:3] == 0).all() and (curvature[3, :, 0] > curvature[3, :, 1]).all()
    np.testing.assert_allclose(curvature[3].mean(0), curvature[6].mean(0), rtol=1e-12)
    assert np.ptp(curvature[6, :, 0]) < 0.5 * np.ptp(curvature[3, :, 0])
    problem = build(Experiment("ring", 5, "quadratic:dim=3", "dgd", rounds=1))
    a = at(Blocks(problem.scenario, problem.key, 1).get(0), 0).a[0].numpy()
    assert curvature[6, :, 0].mean() == pytest.approx(a.max(-1).mean(), rel=1e-3)


@pytest.mark.parametrize("scenario", ["drifting_logistic", "moving_target:dim=3"])
def test_threads_have_the_same_bits(scenario: str) -> None:
    asked: dict[str, Any] = {
        "agents": 6,
        "scenario": scenario,
        "algorithm": "lanczos_rate:steps=3,lr=0.02",
        "rounds": 12,
    }
    one, other = (
        distopt.simulate("ring", **asked, record="x", engine=engine) for engine in ("local", "threads:workers=3")
    )
    np.testing.assert_array_equal(one["x"], other["x"])
    assert np.isfinite(one["x"]).all()


@pytest.mark.parametrize("network", ["ring", "complete", "star"])
def test_agents_with_a_common_cost_meet_at_its_minimiser(network: str) -> None:
    """With steps as long as for one agent, agents come together only because (I + W)/2 has no negative eigenvalue."""
    start = np.random.default_rng(2).normal(0, 3, (6, 4))
    asked = {"agents": 6, "scenario": "quadratic:dim=4,kappa=30,spread=0", "rounds": 400, "weights": "metropolis"}
    run = distopt.simulate(network, **asked, algorithm="lanczos_rate:steps=4,lr=0.01", x0=start)
    assert run["consensus_error"][0, 0] > 1 and run["consensus_error"][0, -1] < 1e-9
    assert run["tracking_error"][0, -1] < 1e-9
