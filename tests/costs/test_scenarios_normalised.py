"""Costs on a sphere: what they are, that they are those of digits_mlp, how they are spelled, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs
from helpers.battery import same_in_simulate
from helpers.synthetic import N, R, at, key, points, rounds

import distopt
from distopt.catalog import entries, registry
from distopt.catalog.spec import Spec
from distopt.checks import check_scenario
from distopt.errors import InputError
from distopt.scenarios.digits_mlp import DigitsMlp
from distopt.scenarios.dirac_gan import DiracGAN
from distopt.scenarios.localization import Localization
from distopt.scenarios.normalised import Normalised
from distopt.scenarios.quadratic import Quadratic
from distopt.scenarios.reddi import Reddi
from distopt.scenarios.sea import Sea


@pytest.mark.parametrize("inner", [Quadratic(dim=3), Localization(), Sea(rows=3, window=4), DigitsMlp(rows=12)])
def test_it_keeps_the_promises_of_a_scenario(inner: Any) -> None:
    check_scenario(Normalised(inner, radius=2.0))


def test_costs_do_not_depend_on_the_length_and_lie_on_the_sphere() -> None:
    inner = Quadratic(dim=4)
    s, b = Normalised(inner, radius=3.0), at(inner.batch(rounds(0), key()), 0)
    x = torch.randn(R, N, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(s.loss(x, b), s.loss(7.5 * x, b))
    torch.testing.assert_close(s.loss(x, b), inner.loss(3 * x / x.norm(dim=-1, keepdim=True), b))
    torch.testing.assert_close(s.grad(x, b), 7.5 * s.grad(7.5 * x, b))
    assert float((s.grad(x, b) * x).sum(-1).abs().max()) < 1e-12


def test_it_is_the_normalised_form_of_digits_mlp_bit_for_bit() -> None:
    ask: dict[str, Any] = {"agents": 3, "algorithm": "gt:lr=0.05", "rounds": 12, "record": "x", "trials": 2}
    one, other = (
        distopt.simulate("ring", scenario=each, **ask)
        for each in ("digits_mlp:rows=20,normalised=8", "normalised(digits_mlp(rows=20),radius=8)")
    )
    assert all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)
    assert list(one) == list(other)


def test_a_scenario_without_a_start_begins_on_the_sphere_at_one_point() -> None:
    s = Normalised(Quadratic(dim=5), radius=2.0)
    start = s.start(key())
    assert start.shape == (R, 1, 5) and not torch.equal(start[0], start[1])
    torch.testing.assert_close(start.norm(dim=-1), torch.full((R, 1), 2.0, dtype=torch.float64))


def test_steps_make_the_point_longer() -> None:
    scenario, method = "normalised(quadratic(dim=6),radius=2)", "dgd:lr=0.05"
    run = distopt.simulate("ring", agents=1, scenario=scenario, algorithm=method, rounds=200, record="x")
    length = np.linalg.norm(run["x"][0, :, 0], axis=-1)
    assert length[0] == pytest.approx(2) and (np.diff(length) > -1e-12).all() and length[-1] > 2.01


@pytest.mark.parametrize("engine", ["threads:workers=2", pytest.param("ranks:workers=2", marks=needs.forks)])
@pytest.mark.parametrize("scenario", ["normalised(quadratic(dim=3))", "normalised(sea,radius=2.5)"])
def test_engines_have_the_same_bits(scenario: str, engine: str) -> None:
    ask: dict[str, Any] = {"agents": 5, "scenario": scenario, "rounds": 12, "record": "x", "algorithm": "gt:lr=0.02"}
    same_in_simulate(engine, **ask)


def test_its_accuracy_is_that_on_the_sphere() -> None:
    inner = Sea(rows=30, window=2)
    s, b = Normalised(inner, radius=2.0), at(inner.batch(rounds(3), key()), 0)
    x = points(inner.dim)
    assert s.accuracy is not None and s.persistence is not None and s.length(4) == inner.length(4)
    scaled = 2 * x / x.norm(dim=-1, keepdim=True)
    assert torch.equal(s.accuracy(x, b), inner.accuracy(scaled, b))
    assert Normalised(Quadratic()).accuracy is None


def test_a_users_file_can_be_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "import torch\n\n\nclass Mine:\n    dim = 2\n\n    def batch(self, t, key):\n        return torch.zeros(1, 1, 1, 1)\n\n"
        "    def loss(self, x, b):\n        return (x + b).square().sum(-1)\n\n    def grad(self, x, b):\n        return 2 * (x + b)\n"
    )
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    run = distopt.simulate("ring", agents=1, scenario="normalised(mine.py,radius=3)", algorithm="dgd", rounds=3)
    np.testing.assert_allclose(run["cost"], 9, rtol=1e-6)  # |x|^2 on the sphere


def test_a_spec_has_a_scenario_inside() -> None:
    made = registry.make("scenarios", "normalised:scenario=quadratic(dim=3),radius=2")
    assert made == Normalised(Quadratic(dim=3), radius=2.0)
    assert str(Spec.parse("normalised(quadratic(dim=3))").replace("radius", "2.0")).count("radius=2.0") == 1
    (parameter, _) = entries.entry("scenarios", "normalised").parameters
    assert parameter.values == "a scenario"
    with pytest.raises(InputError, match="scenario quadratic: no parameter 'dims' .did you mean dim"):
        registry.make("scenarios", "normalised(quadratic(dims=3))")
    with pytest.raises(InputError, match="no 'quadrtic' among the scenarios .did you mean quadratic"):
        registry.make("scenarios", "normalised(quadrtic)")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Normalised(Reddi()), "^normalised: reddi restricts its points"),
        (lambda: Normalised(DiracGAN()), "^normalised: dirac_gan is a game"),
        (lambda: Normalised(Quadratic), "^normalised: scenario must be an object such as Quadratic"),
        (lambda: Normalised("quadratic"), "^normalised: scenario must be an object .*, got 'quadratic'"),
        (lambda: Normalised(radius=0.0), "^normalised: radius=0.0 must be a number of at least"),
    ],
)
def test_what_cannot_be_normalised_is_refused(make: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()
