"""TheoPouLa, losing momentum and INNA against loops written from their papers, and what the papers say of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from helpers.descent import ROUNDS, START, Floats, gradients, simulated, uniforms, walked

from distopt.directions import direct
from distopt.directions.adam import Adam
from distopt.directions.inna import INNA
from distopt.directions.losing_momentum import LosingMomentum
from distopt.directions.sgd import SGD
from distopt.directions.theopoula import TheoPouLa
from distopt.network.net import Rehearsal
from distopt.schedules.inverse import Inverse
from distopt.schedules.inverse_sqrt import InverseSqrt
from distopt.schedules.step import Step

Gradient = Callable[[int, Floats], Floats]
Path = list[Floats]


def theopoula(
    gradient: Gradient, x: Floats, lrs: Floats, eps: float, eta: float, r: int, beta: float, xi: Floats
) -> Path:
    path = [x]
    for t, lr in enumerate(lrs):
        g, q = gradient(t, x), math.sqrt(lr)
        radius = np.linalg.norm(x) ** (2 * r)
        drift = g / (1 + q * abs(g)) * (1 + q / (eps + abs(g))) + eta * x * radius / (1 + q * radius)
        x = x - lr * drift + math.sqrt(2 * lr / beta) * xi[t]
        path.append(x)
    return path


def losing(gradient: Gradient, x: Floats, lrs: Floats, alpha: float, mass: Callable[[float], float]) -> Path:
    """In the momentum p of the paper's flow, x' = p and m p' = -s - alpha p."""
    path, p, time = [x], 0.0 * x, 0.0
    for t, h in enumerate(lrs):
        m = mass(time)
        p = (m * p - h * gradient(t, x)) / (m + alpha * h)
        x = x + h * p
        time += h
        path.append(x)
    return path


def inna(gradient: Gradient, x: Floats, lrs: Floats, alpha: float, beta: float) -> Path:
    """In the paper's two variables."""
    path, psi = [x], (1 - alpha * beta) * x
    for t, h in enumerate(lrs):
        a = (1 / beta - alpha) * x - psi / beta
        x, psi = x + h * (a - beta * gradient(t, x)), psi + h * a
        path.append(x)
    return path


XI = np.vectorize(NormalDist().inv_cdf)(uniforms())
POULA = {"eps": 1e-8, "eta": 0.0, "r": 3, "beta": math.inf, "xi": XI}
CASES: dict[str, tuple[Any, Callable[..., Path], dict[str, Any]]] = {
    "theopoula": (TheoPouLa(), theopoula, POULA),
    "theopoula_bounded": (TheoPouLa(1e-2, 0.3, 2), theopoula, POULA | {"eps": 1e-2, "eta": 0.3, "r": 2}),
    "theopoula_warm": (TheoPouLa(1e-2, beta=50.0), theopoula, POULA | {"eps": 1e-2, "beta": 50.0}),
    "losing": (LosingMomentum(), losing, {"alpha": 1.0, "mass": lambda t: math.exp(-t / 10)}),
    "losing_fast": (LosingMomentum(2.0, 3.0, 0.5), losing, {"alpha": 2.0, "mass": lambda t: 3 * math.exp(-2 * t)}),
    "losing_inverse": (
        LosingMomentum(0.5, 2.0, 3.0, "inverse", 1.5),
        losing,
        {"alpha": 0.5, "mass": lambda t: 2 / (1 + t / 3) ** 1.5},
    ),
    "constant": (LosingMomentum(0.7, 1.5, decay="constant"), losing, {"alpha": 0.7, "mass": lambda _: 1.5}),
    "inna": (INNA(), inna, {"alpha": 0.5, "beta": 0.1}),
    "inna_other": (INNA(1.3, 0.4), inna, {"alpha": 1.3, "beta": 0.4}),
    "inna_free": (INNA(0.0, 0.2), inna, {"alpha": 0.0, "beta": 0.2}),
}
RATES = {
    "constant": 0.05,
    "inverse": Inverse(3.0, 30.0),
    "inverse_sqrt": InverseSqrt(0.1),
    "step": Step(0.05, every=60, factor=0.3),
}


@pytest.mark.parametrize("schedule", RATES)
@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("name", CASES)
def test_a_rule_is_the_loop_of_its_paper(name: str, noise: float, schedule: str) -> None:
    """For INNA that holds for step sizes that change, too, though it carries one variable in the place of the paper's two."""
    rule, loop, constants = CASES[name]
    gradient, lr = gradients(noise), RATES[schedule]
    lrs = np.array([lr if isinstance(lr, float) else float(lr(torch.tensor(t))) for t in range(ROUNDS)])
    truth = np.array(loop(gradient, START, lrs, **constants))
    assert np.isfinite(truth).all() and np.abs(truth[-1] - START).max() > 0.1
    assert np.abs(simulated(rule, lr, noise) - truth).max() < 1e-12
    assert np.abs(walked(rule, gradient, START, lr, drawn=uniforms()) - truth).max() < 1e-12


# TheoPouLa


def poula(s: torch.Tensor, lr: float, **fields: Any) -> torch.Tensor:
    return direct(TheoPouLa(**fields), s, (), Rehearsal(lambda _, z: z, torch.zeros_like(s)), lr)[0]


@pytest.mark.parametrize("lr", [1e-4, 0.01, 0.1, 1.0, 4.0])
def test_theopoula_is_bounded_whatever_the_gradient(lr: float) -> None:
    q, s = math.sqrt(lr), torch.logspace(-30, 30, 2001, dtype=torch.float64).reshape(1, 1, -1)
    d = poula(s, lr)
    assert float(d.max()) < (1 / q + q) * (1 + 1e-15) and float(d.min()) > 0
    assert torch.equal(poula(-s, lr), -d)


def power(k: int, scale: float = 1.0) -> Gradient:
    """The derivative of scale x^k / k."""
    return lambda _, x: scale * x ** (k - 1)


@pytest.mark.slow
def test_theopoula_comes_back_from_where_the_gradient_explodes() -> None:
    """x^4 / 4 from 100: plain descent leaves, and Adam is still on its way after 5,000 steps. x^30 from 2 likewise."""
    adam = Adam(eps_inside=False, cap=None, bias_correction=True)
    assert walked(TheoPouLa(), power(4), 100.0, 0.01, 5000)[-1] == pytest.approx(3.8e-5, abs=1e-6)
    assert walked(adam, power(4), 100.0, 0.01, 5000)[-1] == pytest.approx(60.5, abs=0.1)
    with np.errstate(over="ignore", invalid="ignore"):
        assert not np.isfinite(walked(SGD(), power(4), 100.0, 0.01, 20)[-1])
        assert not np.isfinite(walked(SGD(), power(30, 30.0), 2.0, 0.01, 20)[-1])
    assert walked(TheoPouLa(), power(30, 30.0), 2.0, 0.01, 5000)[-1] == pytest.approx(0.386, abs=1e-3)


@pytest.mark.slow
def test_theopoula_boosts_gradients_only_if_eps_is_below_them() -> None:
    """5e-7 x^2 from 5: the gradient is a few millionths."""
    flat = power(2, 1e-6)
    ends = [walked(rule, flat, 5.0, 0.01, 5000)[-1] for rule in (SGD(), TheoPouLa(eps=1e-8), TheoPouLa(eps=1e-2))]
    assert ends == pytest.approx([5.0, 0.047, 5.0], abs=3e-3)


def test_the_regulariser_of_theopoula_pulls_towards_0_in_either_precision() -> None:
    """It is bounded by eta |x| / q where |x|^(2 r) is no number of the precision any more, and is 0 at 0."""
    for dtype in (torch.float32, torch.float64):
        for size in (0.0, 1e-30, 1.0, 1e10, 1e30):
            x = torch.full((1, 1, 2), size, dtype=dtype)
            d, _ = direct(TheoPouLa(eta=0.5), torch.zeros_like(x), (), Rehearsal(lambda _, z: z, x), 0.25)
            expected = size / 2 / (0.5 + 1 / (2 * size**2) ** 3) if size > 1e-20 else 0.0
            assert d.flatten().tolist() == pytest.approx([expected] * 2, rel=1e-5 if dtype == torch.float32 else 1e-12)


def test_the_noise_of_theopoula_has_the_size_that_beta_says() -> None:
    """Without gradients the points are a random walk of steps sqrt(2 lr / beta)."""
    rounds, drawn = 200, np.random.default_rng(3).random((200, 500))
    rule = TheoPouLa(beta=8.0)
    path = walked(rule, lambda _, x: np.zeros_like(x), np.zeros(500), 0.04, rounds, drawn)
    steps = np.diff(path, axis=0)
    assert steps.std() == pytest.approx(0.1, rel=0.01) and abs(steps.mean()) < 0.001  # of 1e5 numbers


# Losing momentum


def test_without_mass_it_is_gradient_descent() -> None:
    """With the step size h / alpha, for every kind of mass."""
    gradient = gradients(0.5)
    plain = walked(SGD(), gradient, START, 0.05 / 4)
    for decay in ("exponential", "constant", "inverse"):
        rule = LosingMomentum(alpha=4.0, m0=0.0, decay=decay)
        assert np.abs(walked(rule, gradient, START, 0.05) - plain).max() < 1e-13


@pytest.mark.parametrize(("m0", "rate"), [(0.0, 1.0), (1.0, 0.3), (1.0, 10.0)])
def test_the_stationary_variance_is_that_of_the_flow(m0: float, rate: float) -> None:
    """f_a(x) = (x - a)^2 / 2, where a = -1 or 1 is drawn anew at the given rate: Var x = (1 + m rate) / (1 + rate + m rate^2).

    3,000 copies over a time of 30, after one of 15.
    """
    h, shape, draw = 0.005, (1, 3000, 1), np.random.default_rng(11)
    rule, renewed = LosingMomentum(m0=m0, decay="constant"), 1 - math.exp(-rate * h)
    a, x = torch.from_numpy(draw.choice([-1.0, 1.0], shape)), torch.zeros(shape, dtype=torch.float64)
    state, squares = rule.init(x), []
    for k in range(round(45 / h)):
        u = torch.from_numpy(draw.random(shape))
        a = torch.where(u < renewed, torch.where(u < renewed / 2, -1.0, 1.0), a)
        d, state = direct(rule, x - a, state, Rehearsal(lambda _, z: z, x, k), h)
        x = x - h * d
        if k * h > 15:
            squares.append(float(x.square().mean()))
    assert np.mean(squares) == pytest.approx((1 + m0 * rate) / (1 + rate + m0 * rate**2), rel=0.03)


def well(_: int, x: Floats) -> Floats:
    """The derivative of x^4 / 4 - x^2 / 2 + 0.15 x, whose lower minimum is at -1.068 and the other one at 0.914."""
    return x**3 - x + 0.15


def settled(path: Floats, h: float) -> float:
    """When the points are within 1e-3 of the last one for good."""
    away = np.flatnonzero(np.abs(path - path[-1]) >= 1e-3)
    return float((away[-1] + 1) * h)


@pytest.mark.slow
def test_mass_carries_over_the_hill_and_losing_it_lets_the_point_settle() -> None:
    h, rounds = 0.02, 5000
    stuck, swinging, losing_it = (
        walked(rule, well, 1.6, h, rounds)
        for rule in (
            LosingMomentum(m0=0.0, decay="constant"),
            LosingMomentum(m0=4.0, decay="constant"),
            LosingMomentum(m0=4.0, T=10.0),
        )
    )
    assert stuck[-1] == pytest.approx(0.914, abs=1e-3)
    assert swinging[-1] == pytest.approx(-1.068, abs=1e-3) and losing_it[-1] == pytest.approx(-1.068, abs=1e-3)
    assert settled(swinging, h) == pytest.approx(57.5, abs=0.2) and settled(losing_it, h) == pytest.approx(
        21.1, abs=0.2
    )
    lighter = walked(LosingMomentum(decay="constant"), well, 2.2, h, rounds)
    assert lighter[-1] == pytest.approx(-1.068, abs=1e-3) and settled(lighter, h) == pytest.approx(13.6, abs=0.1)


def test_it_stays_stable_as_the_mass_falls_to_nothing() -> None:
    """Explicit friction would be unstable where alpha h / m > 2: here it is above 1e11 in the end."""
    path = walked(LosingMomentum(T=0.5), lambda _, x: 10 * x, 1.0, 0.05)
    assert abs(path[-1]) < 1e-60 and np.abs(path).max() == 1.0


# INNA


@pytest.mark.parametrize(
    ("alpha", "beta", "curvature", "gap", "turns"),
    [(0.5, 0.1, 1.0, -3.64, 61), (0.5, 0.1, 0.05, 0.06, 0), (2.1, 0.1, 1.0, 0.84, 0)],
)
def test_inna_spirals_just_where_the_eigenvalues_are_complex(
    alpha: float, beta: float, curvature: float, gap: float, turns: int
) -> None:
    """(alpha + beta lam)^2 < 4 lam: then x passes the minimum again and again, and else never."""
    assert (alpha + beta * curvature) ** 2 - 4 * curvature == pytest.approx(gap, abs=0.005)
    path = walked(INNA(alpha, beta), lambda _, x: curvature * x, 1.0, 0.01, 20_000)
    assert np.count_nonzero(np.diff(np.sign(path))) == turns


@pytest.mark.parametrize(("alpha", "beta", "lr", "curvature"), [(0.5, 0.1, 0.1, 1.0), (1.3, 0.4, 0.05, -2.0)])
def test_the_step_of_inna_changes_volumes_as_the_step_of_the_paper_does(
    alpha: float, beta: float, lr: float, curvature: float
) -> None:
    """The determinant of (x, v) -> (x, v) is 1 - lr alpha - lr lam (beta - lr), that of (x, psi) -> (x, psi)."""
    columns = []
    for x, v in ((1.0, 0.0), (0.0, 1.0)):
        rule, point = INNA(alpha, beta), torch.full((1, 1, 1), x, dtype=torch.float64)
        state = rule.init(point)._replace(v=torch.full((1, 1, 1), v, dtype=torch.float64))
        d, after = direct(rule, curvature * point, state, Rehearsal(lambda _, z: z, point), lr)
        columns.append([float(point - lr * d), float(after.v)])
    found = float(np.linalg.det(np.array(columns).T))
    assert found == pytest.approx(1 - lr * alpha - lr * curvature * (beta - lr), abs=1e-14)
    if (alpha, beta, lr, curvature) == (0.5, 0.1, 0.1, 1.0):
        assert found == pytest.approx(0.95, abs=1e-14)


@pytest.mark.parametrize(("alpha", "beta", "lr"), [(0.5, 0.1, 0.1), (1.3, 0.4, 0.05), (0.1, 1.0, 0.1)])
def test_inna_leaves_saddle_points(alpha: float, beta: float, lr: float) -> None:
    """x^2/2 - y^2/2 + y^4/4 has one at 0 and minima at (0, 1) and (0, -1). None of 1,000 random starts ends at the saddle point."""
    start = np.random.default_rng(2).normal(size=(1, 1000, 2))

    def slope(_: int, z: Floats) -> Floats:
        x, y = z[..., 0], z[..., 1]
        return np.stack([x, y**3 - y], -1)

    end = walked(INNA(alpha, beta), slope, start, lr, 4000)[-1]
    assert np.abs(end[:, 0]).max() < 1e-6 and np.abs(np.abs(end[:, 1]) - 1).max() < 1e-6
    assert 0 < np.count_nonzero(end[:, 1] > 0) < 1000
