"""The Dirac-GAN: fields against loops and derivatives, eigenvalues, the ends of the paper's methods, and agents with data of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.synthetic import at, rounds
from numpy.typing import NDArray

import distopt
from distopt.checks import check_scenario
from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.scenarios.dirac_gan import DiracGAN, Form, Regulariser

Floats = NDArray[np.float64]
Field = Callable[[float, float], tuple[float, float]]
ONE = Key(0, range(1), range(1), 1)


def slope(a: Any) -> Any:
    return 1 / (1 + np.exp(a))


def plain(theta: float, psi: float) -> tuple[float, float]:
    return -psi * slope(theta * psi), theta * slope(theta * psi)


def ridged(gamma: float) -> Field:
    def field(theta: float, psi: float) -> tuple[float, float]:
        one, other = plain(theta, psi)
        return one, other - gamma * psi

    return field


def noisy(theta: float, psi: float) -> tuple[float, float]:
    """The expectation by a sum over a fine grid, another rule than the scenario's."""
    z, step = np.linspace(-9, 9, 4001, retstep=True)
    w = np.exp(-z * z / 2) * step / math.sqrt(2 * math.pi)
    fake, real = theta + 0.7 * z, 0.7 * z
    seen = slope(psi * fake)
    return -psi * float((w * seen).sum()), float((w * (fake * seen - real * slope(-psi * real))).sum())


def consensus(theta: float, psi: float) -> tuple[float, float]:
    one, other = plain(theta, psi)
    seen = slope(theta * psi)
    bent, square = -seen * (1 - seen), theta * theta + psi * psi
    both = seen * seen, square * seen * bent
    return one - theta * both[0] - psi * both[1], other - psi * both[0] - theta * both[1]


CASES: dict[str, tuple[Field, float, float, float]] = {
    "dirac_gan": (plain, 3.10, 1.42, 1.85),
    "dirac_gan:form=nsgan": (
        lambda theta, psi: (-psi * slope(-theta * psi), theta * slope(theta * psi)),
        0.64,
        0.28,
        0.14,
    ),
    "dirac_gan:form=wgan,clip=1": (lambda theta, psi: (-psi, theta), 1.00, 1.02, 0.92),
    "dirac_gan:form=wgan,regulariser=gp,gamma=0.7": (
        lambda theta, psi: (-psi, theta - 0.7 * (abs(psi) - 1) * np.sign(psi)),
        1.80,
        1.22,
        0.72,
    ),
    "dirac_gan:regulariser=r1,gamma=0.3": (ridged(0.3), 2.6e-6, 2.3e-7, 9e-34),
    "dirac_gan:regulariser=r2": (ridged(1.0), 9.5e-22, 7e-17, 5e-12),
    "dirac_gan:regulariser=noise": (noisy, 5.7e-5, 4e-6, 7e-17),
    "dirac_gan:regulariser=consensus": (consensus, 2.6e-10, 1.7e-11, 11),
}
"""The field, and the radii after 500 steps from (1, 1) with h = 0.2: together, in turn, and in turn with five steps of the critic."""


def ends(field: Field, critic: int, clip: float) -> float:
    theta, psi = 1.0, 1.0
    for _ in range(500):
        one, other = field(theta, psi)
        theta += 0.2 * one
        for _ in range(max(critic, 1)):
            psi = float(np.clip(psi + 0.2 * (field(theta, psi)[1] if critic else other), -clip, clip))
    return math.hypot(theta, psi)


@pytest.mark.parametrize("spec", CASES)
def test_radii_after_500_steps_are_those_of_loops_and_of_earlier_ones(spec: str) -> None:
    field, *known = CASES[spec]
    methods = ["dgd:lr=0.2", "alternating:lr=0.2", "alternating:lr=0.2,critic=5"]
    runs = distopt.simulate("ring", agents=1, scenario=spec, algorithm=methods, rounds=501)
    for critic, run, expected in zip((0, 1, 5), runs.values(), known, strict=True):
        radius = float(run["radius"][0, 500])
        assert radius == pytest.approx(expected, rel=0.06)
        if expected > 1e-16:  # a loop in another order differs by what rounding makes of it
            assert radius == pytest.approx(ends(field, critic, 1 if "clip" in spec else math.inf), rel=1e-6)


def jacobian(s: DiracGAN, x: tuple[float, float] = (0.0, 0.0), agents: int = 1) -> Floats:
    """Of the mean of the agents' fields, by central differences."""
    b = at(s.batch(rounds(0), Key(3, range(agents), range(1), agents)), 0)
    columns = []
    for k in range(2):
        step = 1e-5 * torch.eye(2, dtype=torch.float64)[k]
        point = torch.tensor(x, dtype=torch.float64).expand(1, agents, 2)
        columns.append((s.grad(point - step, b) - s.grad(point + step, b)).mean(1)[0].numpy() / 2e-5)
    return np.stack(columns, 1)


@pytest.mark.parametrize(
    ("s", "expected"),
    [
        (DiracGAN(), [-0.5j, 0.5j]),
        (DiracGAN(form="nsgan"), [-0.5j, 0.5j]),
        (DiracGAN(regulariser="r1", gamma=0.3), [-0.15 - 0.477j, -0.15 + 0.477j]),
        (DiracGAN(regulariser="r2", gamma=2.0), [-1.866, -0.134]),
        (DiracGAN(regulariser="noise", sigma=0.7), [-0.1225 - 0.4848j, -0.1225 + 0.4848j]),
        (DiracGAN(regulariser="consensus", gamma=0.4), [-0.1 - 0.5j, -0.1 + 0.5j]),
    ],
)
def test_eigenvalues_at_the_equilibrium(s: DiracGAN, expected: list[complex]) -> None:
    found = sorted(np.linalg.eigvals(jacobian(s)), key=lambda z: (round(z.real, 6), z.imag))
    np.testing.assert_allclose(found, expected, atol=6e-4)


def test_at_the_critical_strength_both_eigenvalues_are_one() -> None:
    a = jacobian(DiracGAN(regulariser="r1", gamma=1.0))
    assert np.trace(a) == pytest.approx(-1) and np.linalg.det(a) == pytest.approx(0.25)


@pytest.mark.parametrize("form", ["gan", "nsgan", "wgan"])
def test_consensus_is_the_derivative_of_the_squared_field(form: Form) -> None:
    bare, full = DiracGAN(form=form), DiracGAN(form=form, regulariser="consensus", gamma=0.8)
    x = torch.tensor([[[0.7, -1.3]], [[-0.2, 0.4]]], dtype=torch.float64, requires_grad=True)
    b = at(bare.batch(rounds(0), ONE), 0)
    (more,) = torch.autograd.grad(0.5 * bare.grad(x, b).square().sum(), x)
    torch.testing.assert_close(full.grad(x, b), (bare.grad(x, b) + 0.8 * more).detach())


@pytest.mark.parametrize("form", ["gan", "wgan"])
def test_players_follow_the_value_in_opposite_senses(form: Form) -> None:
    s, who = DiracGAN(form=form, regulariser="noise", spread=2.0), Key(1, range(3), range(2), 3)
    b = at(s.batch(rounds(0), who), 0)
    x = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    (value,) = torch.autograd.grad(s.loss(x, b).sum(), x)
    torch.testing.assert_close(s.grad(x.detach(), b), value * torch.tensor([1.0, -1.0], dtype=torch.float64))


REGULARISERS: tuple[Regulariser, ...] = ("none", "r1", "r2", "gp", "noise", "sampled_noise", "consensus")


@pytest.mark.parametrize("regulariser", REGULARISERS)
def test_it_keeps_the_promises_of_a_scenario(regulariser: Regulariser) -> None:
    spread = 0.0 if regulariser == "consensus" else 1.5
    check_scenario(DiracGAN("nsgan", regulariser, spread=spread, clip=0.5))
    check_scenario(DiracGAN("gan", regulariser), agents=1)


class Displaced(DiracGAN):
    def equilibrium(self, b: Any) -> torch.Tensor:
        return b.rest + 0.1


class Flat(DiracGAN):
    def equilibrium(self, b: Any) -> torch.Tensor:
        return b.rest[0]


def test_an_equilibrium_that_is_none_is_found_out() -> None:
    for wrong, words in (
        (Displaced(), "the gradients at the equilibrium sum to"),
        (Flat(), "equilibrium has shape"),
        (type("Known", (DiracGAN,), {"comparator": True})(), "a game has no minimiser"),
    ):
        with pytest.raises(AssertionError, match=words):
            check_scenario(wrong)


@pytest.mark.parametrize("agents", [1, 2, 5])
def test_data_points_differ_and_their_mean_is_zero(agents: int) -> None:
    c = DiracGAN(spread=2.0).batch(rounds(0, 4), Key(1, range(agents), range(3), agents)).c
    assert c.shape == (1, 3, agents, 1) and float(c.mean(-2).abs().max()) < 1e-15
    assert agents == 1 or float(c.std()) > 0.5


def test_an_agent_alone_is_drawn_to_its_own_point() -> None:
    s = DiracGAN(regulariser="r1", gamma=0.5, spread=1.0)
    b = at(s.batch(rounds(0), Key(0, range(3), range(1), 3)), 0)
    x = torch.cat([b.c, 0 * b.c], -1)
    assert float(s.grad(x, b).abs().max()) < 1e-15 and float(b.c.abs().min()) > 0.05


def test_sampled_noise_is_drawn_anew_and_is_the_expectation_on_average() -> None:
    many = DiracGAN(regulariser="sampled_noise", draws=20_000)
    b = many.batch(rounds(0, 1), ONE)
    assert b.fake.shape == (2, 1, 1, 20_000) and not torch.equal(b.fake[0], b.fake[1])
    assert b.fake.std().item() == pytest.approx(0.7, rel=0.02)
    x, exact = torch.ones(1, 1, 2, dtype=torch.float64), DiracGAN(regulariser="noise")
    expected = exact.grad(x, at(exact.batch(rounds(0), ONE), 0))
    torch.testing.assert_close(many.grad(x, at(b, 0)), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DiracGAN(form="lsgan"), "dirac_gan: form='lsgan' must be one of gan, nsgan, wgan"),
        (lambda: DiracGAN(regulariser="r3"), "dirac_gan: regulariser='r3' must be one of none, r1"),
        (lambda: DiracGAN(gamma=-1.0), "dirac_gan: gamma=-1.0"),
        (lambda: DiracGAN(regulariser="consensus", spread=1.0), "consensus with spread=1.0 is not supported"),
    ],
)
def test_bad_parameters_are_named(make: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


def test_a_game_has_a_radius_and_no_regret_and_no_hessian() -> None:
    ask: dict[str, Any] = {"agents": 3, "scenario": "dirac_gan", "algorithm": "dgd", "rounds": 4}
    run = distopt.simulate("ring", **ask)
    assert run["radius"][0, 0] == pytest.approx(math.sqrt(2)) and "cost" in run
    assert "dynamic_regret" not in run and "tracking_error" not in run
    assert run.leading == "radius"  # the cost of a game ranks nobody
    other = distopt.simulate("ring", **{**ask, "scenario": "quadratic"})
    assert "radius" not in other and other.leading == "average_dynamic_regret"
    for probe in ("sharpness", "spherical_sharpness", "spectrum", "preconditioned_sharpness"):
        with pytest.raises(InputError, match=f"^probe {probe}: dirac_gan is a game"):
            distopt.simulate("ring", probe=f"{probe}:every=2", **ask)
