"""The limit of generalised linear models: against closed forms, another theory, other integrals, and numbers that simulations gave."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from distopt.costs import glm
from distopt.costs.glm import Problem, Spectrum, State, angle_error, marchenko_pastur, solve, uniform
from distopt.errors import InputError, RunError

LOW, HIGH = 0.2, 2.0


def problem(alpha: float, **asked: Any) -> Problem:
    return Problem(alpha, uniform(alpha, LOW, HIGH), **asked)


# ----------------------------------------------------------------------------------------------------------- known numbers


def test_ridge_and_lasso_have_the_numbers_that_simulations_gave() -> None:
    ridge = solve(problem(0.6, l2=0.1, noise=0.1))  # simulated with N = 600: mse .418 +- .008
    assert (ridge.x.m, ridge.x.q, ridge.mse) == pytest.approx((0.535, 0.485, 0.4151), abs=5e-4)
    lasso = solve(
        problem(0.6, l1=0.05, rho=0.2, noise=0.1)
    )  # N = 1,200: .1703 +- .0008, .1573 +- .0012, .0166 +- .0004
    assert (lasso.x.m, lasso.x.q, lasso.mse) == pytest.approx((0.17002, 0.15724, 0.01721), abs=5e-6)


@pytest.mark.parametrize(
    ("alpha", "l2", "m", "q", "error"),
    [(2.0, 0.1, 1.852, 4.605, 0.168), (2.0, 0.01, 4.578, 27.40, 0.161), (1.0, 0.1, 1.231, 2.537, 0.219)],
)
def test_logistic_regression_has_the_numbers_that_simulations_gave(
    alpha: float, l2: float, m: float, q: float, error: float
) -> None:
    """N = 600: m 1.858 +- .029, 4.57 and 1.209; q 4.608 +- .017, 27.2 and 2.530; errors .169 +- .002, .163 and .223 +- .003."""
    found = solve(problem(alpha, loss="logistic", l2=l2))
    assert (found.x.m, found.x.q, found.fresh_error) == pytest.approx((m, q, error), rel=5e-4, abs=5e-4)
    assert found.fitted_error < found.fresh_error - 0.015


def test_the_rows_that_were_fitted_flatter() -> None:
    assert solve(problem(2.0, loss="logistic", l2=0.1)).fitted_error == pytest.approx(0.148, abs=5e-4)


# ------------------------------------------------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("noise", [0.0, 0.4])
@pytest.mark.parametrize("rho", [1.0, 0.3])
def test_ridge_is_its_closed_form(alpha: float, noise: float, rho: float) -> None:
    """x1 = (F'F + l2)^-1 F' (F x0 + noise xi), eigenvalue by eigenvalue."""
    l2, spectrum = 0.07, uniform(alpha, LOW, HIGH)
    lam, mean = spectrum.values, spectrum.mean
    found = solve(Problem(alpha, spectrum, l2=l2, noise=noise, rho=rho))
    kept = lam / (lam + l2)
    assert found.x.m == pytest.approx(rho * mean(kept), rel=1e-9)
    q = rho * mean(kept**2) + noise**2 * mean(lam / (lam + l2) ** 2)
    assert found.x.q == pytest.approx(q, rel=1e-8)  # a difference of large numbers where there is little noise
    assert found.x.chi == pytest.approx(mean(1 / (lam + l2)), rel=1e-9)
    assert found.z.m == pytest.approx(rho * mean(lam * kept) / alpha, rel=1e-9)


def other_theory(delta: float, l1: float, rho: float, noise: float) -> tuple[float, float]:
    """The error of the LASSO by approximate message passing, for entries of variance 1 / M: its own equations and integrals."""

    def soft(tau: float, theta: float) -> tuple[float, float]:
        """E (soft(x0 + tau xi) - x0)^2 and E soft', by sums over a fine grid."""
        xi = np.linspace(-9, 9, 6001)
        weight = norm.pdf(xi) / norm.pdf(xi).sum()
        error = slope = 0.0
        for part, variance in ((rho, 1.0), (1 - rho, 0.0)):
            h = math.sqrt(variance + tau * tau) * xi
            about, left = variance / (variance + tau * tau) * h, variance * tau * tau / (variance + tau * tau)
            shrunk = np.sign(h) * np.maximum(np.abs(h) - theta, 0)
            error += part * float(weight @ ((shrunk - about) ** 2 + left))
            slope += part * float(weight @ (np.abs(h) > theta))
        return error, slope

    def at(theta: float) -> tuple[float, float, float]:
        tau = 1.0
        for _ in range(200):
            error, slope = soft(tau, theta)
            new = math.sqrt(noise**2 + error / delta)
            if abs(new - tau) < 1e-11:
                break
            tau = new
        return theta * (1 - slope / delta) - l1, error, slope

    theta = brentq(lambda each: at(each)[0], 0.02, 2.0, xtol=1e-7)
    return at(theta)[1:]


def test_the_lasso_on_independent_entries_is_that_of_message_passing() -> None:
    error, _ = other_theory(0.8, 0.1, 0.2, 0.2)
    found = solve(Problem(0.8, marchenko_pastur(0.8), l1=0.1, rho=0.2, noise=0.2))
    assert found.mse == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize("alpha", [0.4, 1.0, 3.0])
def test_spectra_are_distributions_with_the_right_moments(alpha: float) -> None:
    flat, random = uniform(alpha, LOW, HIGH), marchenko_pastur(alpha)
    held = min(alpha, 1.0)
    for spectrum, first, second in (
        (flat, held * 1.1, held * (1.1**2 + 1.8**2 / 12)),
        (random, 1.0, 1 + 1 / alpha),  # E tr (F'F)^2 / N
    ):
        assert spectrum.parts.sum() == pytest.approx(1, abs=1e-12)
        assert spectrum.mean(spectrum.values) == pytest.approx(first, rel=1e-9)
        assert spectrum.mean(spectrum.values**2) == pytest.approx(second, rel=1e-9)
        assert spectrum.parts[0] == pytest.approx(max(0.0, 1 - alpha))


# --------------------------------------------------------------------------------------------------------------- integrals


def test_the_logistic_integrals_are_those_over_the_plane() -> None:
    own, it = State(0.8, 0.6, 0.7), problem(2.0, loss="logistic", l2=0.1, noise=0.3)

    u, xi = np.linspace(-7, 7, 701)[:, None], np.linspace(-7, 7, 351)
    z0 = math.sqrt(it.rho_z) * u
    h = (own.m * z0 + math.sqrt(own.X) * xi) / own.Q
    low, high = h, h + 1 / own.Q
    for _ in range(50):  # the root of a rising function, by halving
        z1 = (low + high) / 2
        above = own.Q * (z1 - h) > 1 / (1 + np.exp(z1))
        low, high = np.where(above, low, z1), np.where(above, z1, high)
    weight = norm.cdf(z0 / it.noise) * norm.pdf(u) * norm.pdf(xi)
    weight = weight / weight.sum()
    found = glm._logistic(own, it)
    assert found.m == pytest.approx(float((weight * z0 * z1).sum()), abs=1e-7)
    assert found.q == pytest.approx(float((weight * z1 * z1).sum()), abs=1e-7)


def test_the_derivative_of_the_logistic_prox_is_a_difference_quotient() -> None:
    h, step = np.linspace(-30, 30, 13), 1e-5
    for Q in (0.05, 1.0, 20.0):
        z = glm._near(h, Q)
        np.testing.assert_allclose(Q * (z - h), 1 / (1 + np.exp(z)), atol=1e-12)
        slope = (glm._near(h + step, Q) - glm._near(h - step, Q)) / (2 * step)
        np.testing.assert_allclose(slope, Q / (Q + np.exp(z) / (1 + np.exp(z)) ** 2), atol=1e-6)


def test_the_lasso_integrals_are_those_of_many_draws() -> None:
    own, it = State(1.3, 0.9, 0.5), problem(0.6, l1=0.4, rho=0.3)
    rng = np.random.default_rng(0)
    x0 = rng.normal(size=2_000_000) * (rng.random(2_000_000) < 0.3)
    h = (own.m * x0 + math.sqrt(own.X) * rng.normal(size=x0.size)) / own.Q
    x1 = np.sign(h) * np.maximum(np.abs(h) - it.l1 / own.Q, 0)
    found = glm._penalised(own, it)
    assert found.m == pytest.approx((x0 * x1).mean(), abs=2e-3)
    assert found.q == pytest.approx((x1**2).mean(), abs=2e-3)
    assert found.chi == pytest.approx((x1 != 0).mean() / own.Q, abs=2e-3)


def test_more_nodes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = solve(problem(2.0, loss="logistic", l2=0.1, noise=0.2))
    monkeypatch.setattr(glm, "NODES", 200)
    monkeypatch.setattr(glm, "POINTS", 3001)
    after = solve(problem(2.0, loss="logistic", l2=0.1, noise=0.2))
    assert after.x == pytest.approx(before.x, rel=1e-9) and after.z == pytest.approx(before.z, rel=1e-9)


# ------------------------------------------------------------------------------------------------------------------ errors


def test_errors_of_signs_are_angles() -> None:
    rng = np.random.default_rng(1)
    x0, x1 = np.array([1.0, 0.0]), np.array([0.6, 0.8])
    rows = rng.normal(size=(400_000, 2))
    counted = ((rows @ x0 + 0.5 * rng.normal(size=len(rows)) > 0) != (rows @ x1 > 0)).mean()
    assert angle_error(0.6, 1.0, 1.0, 1.0, 0.5) == pytest.approx(counted, abs=3e-3)
    each = angle_error(np.array([0.0, 1.0]), np.array([1.0, 1.0]), 1.0)
    assert np.asarray(each).tolist() == [0.5, 0.0]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"loss": "hinge", "l2": 1.0}, "loss='hinge' must be one of squared, logistic"),
        ({"l2": 1.0, "l1": 1.0}, "one of l1 and l2"),
        ({}, "one of l1 and l2"),
        ({"l2": -1.0}, "one of l1 and l2"),
        ({"l2": 1.0, "rho": 0.0}, "rho in"),
        ({"l2": 1.0, "noise": -1.0}, "noise at least 0"),
    ],
)
def test_what_is_out_of_range_is_refused(asked: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        problem(1.0, **asked)


def test_without_a_fixed_point_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glm, "ITERATIONS", 3)
    with pytest.raises(RunError, match="no fixed point in 3 iterations"):
        solve(problem(1.0, l2=0.1))
    with pytest.raises(RunError, match="no fixed point"):
        solve(Problem(1.0, Spectrum(np.array([np.nan]), np.array([1.0])), l2=0.1))
    monkeypatch.undo()
    with pytest.raises(RunError, match="or a smaller one where it makes all coordinates 0"):
        solve(problem(0.3, l1=5.0, noise=0.1, rho=0.5))
