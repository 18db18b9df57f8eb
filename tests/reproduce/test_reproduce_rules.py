"""The experiments with one agent and a direction rule: costs, formulas, figures and verdicts, in short forms."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest
import torch

from distopt import reproduce
from distopt.cli.main import cli
from distopt.numerics.random import Key
from distopt.reproduce import acprop, amsgrad, claimed, diffgrad, losing_momentum, theopoula
from distopt.reproduce.claimed import Number, above, below, diverges, near
from distopt.reproduce.linear_costs import average_regret, directions, path, periodic
from distopt.reproduce.one_agent import averaged, marks, paths
from distopt.reproduce.store import Store

PAPERS = {
    "amsgrad": amsgrad,
    "acprop": acprop,
    "theopoula": theopoula,
    "diffgrad": diffgrad,
    "losing-momentum": losing_momentum,
}


def silent(text: str) -> None:
    """Nobody listens."""


def failing(numbers: Sequence[Number]) -> list[str]:
    """What is not as expected, in words."""
    return [f"{each.claim}: {each.what} {each.measured}, expected {each.expected}" for each in numbers if not each.good]


# ----------------------------------------------------------------------------------------------- numbers become verdicts


def test_numbers_become_rows_and_verdicts() -> None:
    numbers = [
        near("a", "set-up", "x", expected=1.0, measured=1.05, within=0.1, source="loop"),
        near("a", "set-up", "y", expected=1.0, measured=1.2, within=0.1),
        below("b", "one", "z", bound=0.5, measured=0.4),
        above("b", "two", "z", bound=0.5, measured=0.6, source="derived"),
        diverges("c", "set-up", "x", measured=math.inf),
        below("d", "set-up", "x", bound=1.0, measured=math.inf),
    ]
    first, second, *_, last = claimed.rows(numbers)
    assert list(first) == ["claim", "our set-up", "number expected", "number measured", "verdict"]
    assert list(first.values()) == ["a", "set-up: x", "1 ± 0.1 (loop)", "1.05", "as expected"]
    assert second["verdict"] == "NOT as expected" and last["number measured"] == "diverges"
    a, b, c, d = claimed.verdicts(numbers)
    assert (a.outcome, b.outcome, c.outcome, d.outcome) == ("holds in part", "holds", "holds", "does not hold")
    assert a.why == "not as expected: y 1.2, expected 1 ± 0.1. as expected: x 1.05, expected 1 ± 0.1 (loop)"
    assert b.setup == "one; two" and "one: z 0.4, expected < 0.5; two: z 0.6, expected > 0.5 (derived)" in b.why


def test_a_verdict_names_all_that_is_not_as_expected() -> None:
    good = [below("a", "set-up", f"x{k}", bound=1.0, measured=0.0) for k in range(8)]
    bad = [below("a", "set-up", f"y{k}", bound=1.0, measured=2.0) for k in range(7)]
    (verdict,) = claimed.verdicts([*good, *bad])
    assert all(each.what in verdict.why for each in bad) and "; and 3 more" in verdict.why
    assert sum(each.what in verdict.why for each in good) == claimed.NAMED


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_number_that_diverges_is_only_what_diverges_expects(value: float) -> None:
    made: list[Callable[..., Number]] = [near, below, above]
    more: list[dict[str, float]] = [{"expected": 1.0, "within": 1e9}, {"bound": 1e300}, {"bound": -1e300}]
    for make, each in zip(made, more, strict=True):
        assert not make("a", "set-up", "x", measured=value, **each).good
    assert diverges("a", "set-up", "x", measured=value).good and not diverges("a", "set-up", "x", measured=1.0).good


def test_curves_keep_the_mean_between_marks() -> None:
    values = np.arange(1000.0)
    at = marks(len(values))
    assert at[0] == 0 and at[-1] == 999 and (np.diff(at) > 0).all()
    found = averaged(values, at)
    assert found[-1] == 999 and found[-2] == pytest.approx(values[at[-2] : 999].mean())


def test_a_path_that_diverges_ends_at_infinity() -> None:
    cost = theopoula.Power(0.25, 4)
    bad, good = paths(cost, "dgd:lr=[1.0,0.01]", 50, x0=3.0)
    assert bad.shape == good.shape == (1, 51, 1)
    assert math.isinf(bad[0, -1, 0]) and np.isfinite(good).all() and good[0, 0, 0] == 3.0


# -------------------------------------------------------------------------------------------------------------- costs


@pytest.mark.parametrize(
    "cost", [*diffgrad.TOYS.values(), *(cost for cost, _ in theopoula.COSTS.values()), losing_momentum.FiniteSum()]
)
def test_gradients_are_derivatives(cost: Any) -> None:
    key, t = Key(0, range(1), range(1), 1), torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    b = cost.batch(t, key)[0]
    x = torch.tensor([-1.03, -0.7, -0.45, -0.2, 0.1, 0.37, 0.44, 0.8, 1.04], dtype=torch.float64).reshape(-1, 1, 1)
    slope = (cost.loss(x + 1e-6, b) - cost.loss(x - 1e-6, b)) / 2e-6
    assert torch.allclose(slope, cost.grad(x, b)[..., 0], rtol=1e-6, atol=1e-7)


def test_the_toys_have_their_least_values_where_they_say() -> None:
    x = torch.linspace(-1.5, 1.5, 300_001, dtype=torch.float64).reshape(-1, 1, 1)
    for toy in diffgrad.TOYS.values():
        cost = toy.loss(x, x)
        assert x[cost.argmin()].item() == pytest.approx(toy.best, abs=1e-4)
        assert (cost[1:] - cost[:-1]).abs().max() < 1e-3  # its pieces meet
        low, high = toy.well
        inside = (x > low) & (x < high) & ((x - toy.best).abs() > 1e-4)
        assert (toy.grad(x, x)[inside].sign() == (x - toy.best)[inside].sign()).all()
        assert torch.equal(
            toy.grad(high + torch.full((1, 1, 1), 1e-3).double(), x).sign(), -torch.ones(1, 1, 1).double()
        )


def test_the_finite_sum_has_the_mean_and_the_variance_it_says() -> None:
    a = losing_momentum.FiniteSum().a
    assert a.mean().abs() < 1e-15 and a.var(unbiased=False).item() == pytest.approx(losing_momentum.VARIANCE)
    drawn = losing_momentum.FiniteSum().batch(torch.arange(5000).reshape(-1, 1, 1, 1), Key(0, range(1), range(1), 1))
    assert set(drawn.unique().tolist()) == set(a.tolist())
    assert drawn.mean().abs().item() < 5 * (losing_momentum.VARIANCE / 5000) ** 0.5


@pytest.mark.parametrize("mass", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("rate", [0.3, 1.0, 10.0])
def test_the_variance_formula_is_the_integral_of_the_spectrum(
    rate: float, mass: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """|H|^2 = 1/((1 - m w^2)^2 + w^2) is the gain of m x'' + x' + x, 2 g/(g^2 + w^2) the spectrum of jumps at rate g."""
    w = np.tan(np.linspace(0, math.pi / 2, 400_001)[:-1])
    inside = 2 * rate / (rate**2 + w**2) / ((1 - mass * w**2) ** 2 + w**2) * (1 + w**2)  # dw = (1 + w^2) du
    monkeypatch.setattr(losing_momentum, "STEP", 1e-5)
    assert losing_momentum.stepped(rate, mass) == pytest.approx(losing_momentum.formula(rate, mass), rel=1e-4)
    assert losing_momentum.formula(rate, mass) == pytest.approx(
        float(inside.mean() * (math.pi / 2) / math.pi), rel=1e-4
    )


# --------------------------------------------------------------------------------------------------- loops, by hand


def by_hand(name: str, slopes: Any, b1: float, b2: float) -> list[float]:
    """x_1 .. x_{T+1} of Adam or AMSGrad without bias correction, steps 1/sqrt(t), clamped to [-1, 1]."""
    x, m, v, top, out = 0.0, 0.0, 0.0, 0.0, [0.0]
    for t, c in enumerate(slopes, 1):
        m, v = b1 * m + (1 - b1) * c, b2 * v + (1 - b2) * c * c
        top = max(top, v) if name == "AMSGrad" else v
        x = min(max(x - m / math.sqrt(top) / math.sqrt(t), -1.0), 1.0)
        out.append(x)
    return out


@pytest.mark.parametrize("name", ["Adam", "AMSGrad"])
def test_the_periodic_costs_against_a_loop(name: str) -> None:
    slopes = periodic(500, amsgrad.PERIOD, amsgrad.HIGH, amsgrad.LOW)
    ((x,),) = path("reddi:form=online", amsgrad.ONLINE[name], 500, alpha=1.0)
    expected = by_hand(name, slopes, 0.9, 0.99)
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(x, expected, atol=1e-12)
    paid = sum(c * (y + 1) for c, y in zip(slopes, expected, strict=False)) / 500
    assert average_regret(x, slopes)[-1] == pytest.approx(paid)


@pytest.mark.parametrize(
    ("scenario", "slopes"),
    [
        ("reddi:form=theorem,C=4", periodic(60, 3, 4, -1)),
        ("reddi:form=family,P=11", periodic(60, 11, 11, -1)),
        ("reddi:form=sparse,P=11", periodic(60, 11, 5.5, 0) - (np.arange(1, 61) % 11 == 9)),
    ],
)
def test_the_forms_are_those_of_the_pages(scenario: str, slopes: Any) -> None:
    ((x,),) = path(scenario, directions(0.5, "0.5", 1, corrected=False)["Adam"], 60, alpha=0.3)
    y, m, v = 0.0, 0.0, 0.0
    for t, c in enumerate(slopes, 1):
        m, v = 0.5 * m + 0.5 * c, 0.5 * v + 0.5 * c * c
        y = min(max(y - 0.3 * m / math.sqrt(v) / math.sqrt(t), -1.0), 1.0)
    assert x[-1] == pytest.approx(y, abs=1e-12)


# ------------------------------------------------------------------------------------------------------- short forms


@pytest.mark.slow
def test_online_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first horizon, with all its figures."""
    monkeypatch.setattr(amsgrad, "HORIZONS", (20_200,))
    results = amsgrad.online(Store(tmp_path), None, silent)
    numbers = amsgrad.online_numbers(results)
    assert len(numbers) == 15 and not failing(numbers)
    for each in results:  # a method that goes the other way loses its claim
        each["ends"] = [[horizon, -x, regret] for horizon, x, regret in each["ends"]]
    outcomes = [verdict.outcome for verdict in claimed.verdicts(amsgrad.online_numbers(results))]
    assert outcomes == ["holds in part"] * 4


@pytest.mark.slow
def test_theorem_1(tmp_path: Path) -> None:
    numbers = amsgrad.theorem_numbers(amsgrad.theorem(Store(tmp_path), None, silent))
    assert len(numbers) == 5 and not failing(numbers)


def test_stochastic_verdicts_ask_all_draws() -> None:
    adam = [[0.97, 0.88], [0.99, 0.95], [1.0, 1.0]]
    results = [
        {"method": "Adam", "tails": adam},
        {"method": "AMSGrad", "tails": [[-0.25, 0.58], [-0.95, -0.93], [-1, -1]]},
    ]
    wrong, right = claimed.verdicts(amsgrad.stochastic_numbers(results))
    assert wrong.outcome == "holds" and right.outcome == "holds in part"
    assert "60,000 rounds, largest draw 0.58, expected < 0" in right.why
    results[0]["tails"] = [[-0.1, 0.5]] * 3
    assert claimed.verdicts(amsgrad.stochastic_numbers(results))[0].outcome == "does not hold"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["family", "sparse"])
def test_families_short(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pairs of P and b2 with known figures."""
    monkeypatch.setattr(acprop, "HORIZONS", (20_000,))
    monkeypatch.setattr(acprop, "B2", (0.2, 0.5, 0.9, 0.99))
    results = acprop.measure(form, Store(tmp_path), None, silent)
    known = acprop.family_numbers if form == "family" else acprop.sparse_numbers
    numbers = [each for each in known(results) if "loop" in each.expected]
    assert len(numbers) == (15 if form == "family" else 4) and not failing(numbers)


def crafted(ends: dict[str, float]) -> list[dict[str, Any]]:
    """Results in which each method ends at one place, whatever P and b2 are."""
    return [
        {"method": name, "period": period, "b2": acprop.B2, "ends": [[ends[name]] * len(acprop.B2)] * 2}
        for period in acprop.PERIODS
        for name in directions(0.9, "0.5", 1, corrected=True)
    ]


def test_families_verdicts() -> None:
    right = {"Adam": -0.985, "AMSGrad": -1.0, "AdaBelief": -0.985, "AdaShift": -0.985, "ACProp": -0.985}
    delayed, fresh, control = claimed.verdicts(acprop.family_numbers(crafted(right)))
    assert (delayed.outcome, fresh.outcome, control.outcome) == ("holds", "holds in part", "holds")
    apart, both, adam = claimed.verdicts(acprop.sparse_numbers(crafted(right)))
    assert (apart.outcome, both.outcome, adam.outcome) == ("holds in part", "holds", "holds")
    wrong = dict.fromkeys(right, 1.0)
    outcomes = [each.outcome for each in claimed.verdicts(acprop.sparse_numbers(crafted(wrong)))]
    assert outcomes == ["holds in part", "does not hold", "does not hold"]


@pytest.mark.slow
def test_theopoula(tmp_path: Path) -> None:
    numbers = theopoula.numbers(theopoula.measure(Store(tmp_path), None, silent))
    assert len(numbers) == 13 and not failing(numbers)


def test_diffgrad_ends_where_the_notebook_does(tmp_path: Path) -> None:
    results = diffgrad.ways(Store(tmp_path), None, silent)
    numbers = diffgrad.ways_numbers(results)
    assert len(numbers) == 6 and not failing(numbers)
    for each in results:  # the other way round
        each["x"] = dict(zip(each["x"], list(each["x"].values())[::-1], strict=True))
    assert [each.outcome for each in claimed.verdicts(diffgrad.ways_numbers(results))] == ["does not hold"] * 2


@pytest.mark.parametrize(("adam", "outcome"), [([0.2] * 9, "holds"), ([0.2] * 8 + [-0.3], "holds in part")])
def test_step_sizes_are_counted(adam: list[float], outcome: str) -> None:
    result = {"toy": "F1", "well": [-math.inf, 0.0], "ends": {"diffGrad": [-0.3] * 9, "Adam": adam}}
    (verdict,) = claimed.verdicts(diffgrad.rates_numbers([result]))
    assert verdict.outcome == outcome
    assert f"Adam ends there {sum(end < 0 for end in adam)}, expected 0" in verdict.why


@pytest.mark.slow
def test_rates_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer trials, so a wider tolerance: 40 trials of 200 units of time are about 2,000 independent points, 3 % of a variance."""
    monkeypatch.setattr(losing_momentum, "TRIALS", 40)
    monkeypatch.setattr(losing_momentum, "WITHIN", 0.1)
    results = losing_momentum.rates(Store(tmp_path), None, silent)
    numbers = losing_momentum.rates_numbers(results)
    assert len(numbers) == 25 and not failing(numbers)


def test_the_double_well(tmp_path: Path) -> None:
    numbers = losing_momentum.well_numbers(losing_momentum.well(Store(tmp_path), None, silent))
    assert len(numbers) == 7 and not failing(numbers)


@pytest.mark.slow
def test_the_finite_sum_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losing_momentum, "SUM_ROUNDS", 2000)
    numbers = losing_momentum.floor_numbers(losing_momentum.floor(Store(tmp_path), None, silent))
    assert len(numbers) == 18 and not failing(numbers)


# ------------------------------------------------------------------------------------------------------- command line


def call(*words: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli, ["reproduce", *words])


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rounds of everything."""
    values: dict[Any, dict[str, Any]] = {
        amsgrad: {"HORIZONS": (20_200,), "THEOREM_ROUNDS": 300, "STOCHASTIC_ROUNDS": (300, 600), "SEEDS": 2},
        acprop: {"HORIZONS": (300, 600)},
        theopoula: {"ROUNDS": 300, "LAST": 100},
        diffgrad: {"LONG": 300, "LRS": (0.05, 0.1)},
        losing_momentum: {
            "SPAN": 2.0,
            "BURN": 1.0,
            "TRIALS": 2,
            "WELL_ROUNDS": 300,
            "SUM_ROUNDS": 200,
            "FIXED_ROUNDS": 200,
            "SUM_TRIALS": 10,
        },
    }
    for module, each in values.items():
        for name, value in each.items():
            monkeypatch.setattr(module, name, value)


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("paper", list(PAPERS))
def test_each_part_writes_a_table_and_a_figure(paper: str, tmp_path: Path) -> None:
    done = call(paper, "--out", str(tmp_path), "--traceback")
    assert done.exit_code == 0, done.output
    for name in reproduce.parts(paper):
        table = list(csv.DictReader((tmp_path / f"{name}.csv").open()))
        assert list(table[0]) == ["claim", "our set-up", "number expected", "number measured", "verdict"]
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        assert f"\n{name}: " in done.output
    again = call(paper, "--out", str(tmp_path))
    assert again.exit_code == 0 and again.output.count("verdict:") == done.output.count("verdict:")


@pytest.mark.parametrize("paper", list(PAPERS))
def test_the_command_line_names_the_parts(paper: str) -> None:
    told = " ".join(call("--help").output.split())
    assert f"{paper}: " in told and f"Parts: {', '.join(reproduce.parts(paper))}." in told
