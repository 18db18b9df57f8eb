"""Reddi's linear costs: slopes, comparators, and the ends to which Adam and AMSGrad go, against plain loops."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs
from helpers.synthetic import rounds, same
from numpy.typing import NDArray
from torch import Tensor

import distopt
from distopt.checks import check_scenario
from distopt.costs.comparator import Comparator
from distopt.costs.data import Blocks
from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.scenarios.reddi import Form, Reddi

Floats = NDArray[np.float64]
FORMS: tuple[Form, ...] = ("online", "theorem", "stochastic", "family", "sparse")
ADAM = "adam(b1={b1},b2={b2},eps=1e-300,eps_inside=false,cap=none{more})"
AMSGRAD = "amsgrad(b1={b1},b2={b2},eps=1e-300,eps_inside=false,cap=none{more})"
ONE = Key(0, range(1), range(1), 1)


def slope(s: Reddi, t: int) -> float:
    """c_t as the papers have it, t = 1, 2, ..."""
    if s.form == "online":
        return s.high if t % s.period == 1 else s.low
    if s.form == "theorem":
        return s.C if t % 3 == 1 else -1
    if s.form == "family":
        return s.P if t % s.P == 1 else -1
    return s.P / 2 if t % s.P == 1 else -1 if t % s.P == s.P - 2 else 0


@pytest.mark.parametrize(
    "s",
    [Reddi(), Reddi(high=0.3, low=-0.1, period=2), Reddi("theorem", C=2.5), Reddi("family", P=3), Reddi("sparse", P=5)],
)
def test_slopes_are_those_of_the_papers(s: Reddi) -> None:
    c = s.batch(rounds(*range(400)), ONE)
    assert c.shape == (400, 1, 1, 1) and c.dtype == torch.float64
    assert c.flatten().tolist() == [slope(s, t) for t in range(1, 401)]
    assert torch.equal(s.batch(rounds(399, 3), ONE), c[[399, 3]])
    for T in (1, 7, 50, 101, 399):
        best = -math.copysign(1, sum(slope(s, t) for t in range(1, T + 1)))
        assert s.best_fixed(T, ONE).item() == best


def test_stochastic_slopes_have_their_probability_and_are_the_trials_own() -> None:
    s, key = Reddi("stochastic", probability=0.05), Key(3, range(4), range(3), 4)
    c = s.batch(rounds(*range(20_000)), key)
    assert c.shape == (20_000, 3, 1, 1) and set(c.flatten().tolist()) == {1010.0, -10.0}
    assert float((c > 0).double().mean()) == pytest.approx(0.05, rel=0.05)
    assert not torch.equal(c[:, 0], c[:, 1])
    same((s.batch(rounds(5, 9), Key(3, [2], [1], 4)),), (c[[5, 9]][:, 1:2],))
    short = s.best_fixed(12, key)
    assert short.shape == (3, 1) and torch.equal(short[:, 0], -torch.sign(c[:12].sum((0, 2, 3))))


@pytest.mark.parametrize("form", FORMS)
def test_it_keeps_the_promises_of_a_scenario(form: Form) -> None:
    check_scenario(Reddi(form))
    check_scenario(Reddi(form, P=31), agents=1)


def test_a_wrong_best_fixed_point_is_noticed() -> None:
    class Wrong(Reddi):
        def best_fixed(self, rounds: int, key: Key) -> Tensor:
            return torch.zeros(1, 1, dtype=torch.float64)

    class Flat(Reddi):
        def best_fixed(self, rounds: int, key: Key) -> Tensor:
            return torch.zeros(1, dtype=torch.float64)

    class Inside(Reddi):
        def optimum(self, b: Tensor) -> Tensor:
            return 0.5 * super().optimum(b)

    with pytest.raises(AssertionError, match="over 41 rounds another fixed point is better than best_fixed"):
        check_scenario(Wrong())
    with pytest.raises(AssertionError, match=r"best_fixed has shape \[1\], not \[2\|1, 1\]"):
        check_scenario(Flat())
    with pytest.raises(AssertionError, match="gradients at optimum sum to"):
        check_scenario(Inside())
    it = Comparator(Blocks(Wrong(), ONE, 50))
    assert it.fixed() is None and it.reference(0).residual.max() == 0
    it = Comparator(Blocks(Inside(), ONE, 50))
    assert it.reference(0).residual.max() == 0.5

    class Wide(Reddi):
        def best_fixed(self, rounds: int, key: Key) -> Tensor:
            return torch.zeros(2, dtype=torch.float64)

    with pytest.raises(InputError, match=r"scenario Wide: best_fixed has shape \[2\], not \[1 or 1, 1\]"):
        Comparator(Blocks(Wide(), ONE, 50)).fixed()


@pytest.mark.parametrize("form", FORMS)
def test_regrets_compare_with_the_ends_and_nobody_is_warned(form: Form) -> None:
    T, s = 303, Reddi(form)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = distopt.simulate(
            "ring", agents=1, scenario=s, algorithm="dgd:lr=inverse_sqrt(0.1)", rounds=T, trials=2, record="x", seed=4
        )
    c = s.batch(rounds(*range(T)), Key(4, range(1), range(2), 1))[..., 0, 0].T.expand(2, T).numpy()
    x = run["x"][:, :-1, 0, 0]
    best = -np.sign(c.sum(1, keepdims=True))
    assert np.abs(run["static_regret"] - np.cumsum(c * (x - best), 1)).max() < 1e-8
    assert np.abs(run["dynamic_regret"] - np.cumsum(c * x + np.abs(c), 1)).max() < 1e-8
    assert np.allclose(run["average_static_regret"], run["static_regret"] / (run.rounds + 1))
    assert np.abs(run["x"]).max() <= 1 and run.info["certificate"] == 0
    assert np.abs(run["regret_best_fixed"] - np.cumsum(c * best + np.abs(c), 1)).max() < 1e-8


def test_agents_share_the_costs() -> None:
    ask: dict[str, Any] = {
        "scenario": "reddi:form=stochastic",
        "algorithm": "gtadam:lr=0.1",
        "rounds": 60,
        "record": "x",
    }
    one, many = (distopt.simulate("complete", agents=n, trials=2, **ask) for n in (1, 4))
    assert np.abs(one["x"] - many["x"]).max() < 1e-12
    assert np.allclose(4 * one["static_regret"], many["static_regret"])


@pytest.mark.parametrize("engine", ["threads:workers=2", pytest.param("ranks:workers=2", marks=needs.forks)])
def test_engines_have_the_same_bits(engine: str) -> None:
    ask: dict[str, Any] = {"agents": 5, "scenario": "reddi:form=stochastic", "rounds": 40, "record": "x", "trials": 2}
    here, there = (
        distopt.simulate("ring", algorithm="gt:lr=0.02", mode="eager", engine=each, **ask) for each in ("local", engine)
    )
    assert all(np.array_equal(here[name], there[name], equal_nan=True) for name in here)


# What the papers say


def looped(s: Reddi, T: int, lr: float, b1: float, b2: float, largest: bool, corrected: bool) -> tuple[Floats, float]:
    """x_1 .. x_T of projected Adam or AMSGrad, and the average regret against x = -1, number by number."""
    x = m = v = top = regret = 0.0
    points = np.empty(T)
    for t in range(1, T + 1):
        points[t - 1] = x
        g = float(slope(s, t))
        regret += g * (x + 1)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        top = max(top, v) if largest else v
        first, second = (m / (1 - b1**t), top / (1 - b2**t)) if corrected else (m, top)
        x = min(1.0, max(-1.0, x - lr / math.sqrt(t) * first / math.sqrt(second)))
    return points, regret / T


def ran(spec: str, rule: str, T: int, lr: float, b1: float, b2: float, corrected: bool) -> Any:
    more = ",bias_correction=true" if corrected else ""
    return distopt.simulate(
        "ring",
        agents=1,
        scenario=spec,
        algorithm=f"dgd:lr=inverse_sqrt({lr}),direction={rule.format(b1=b1, b2=b2, more=more)}",
        rounds=T,
        record="x",
    )


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("rule", [ADAM, AMSGRAD])
def test_rules_are_those_of_a_loop(rule: str, corrected: bool) -> None:
    points, regret = looped(Reddi(), 2020, 1.0, 0.9, 0.99, rule is AMSGRAD, corrected)
    run = ran("reddi", rule, 2020, 1.0, 0.9, 0.99, corrected)
    assert np.abs(run["x"][0, :-1, 0, 0] - points).max() < 1e-11
    assert run["average_static_regret"][0, -1] == pytest.approx(regret, rel=1e-11)


@pytest.mark.parametrize(("rule", "end", "regret"), [(ADAM, 1.0, 0.623), (AMSGRAD, -0.870, 0.502)])
def test_adam_goes_to_the_wrong_end_and_amsgrad_does_not(rule: str, end: float, regret: float) -> None:
    """After 200 periods of the paper's figure, with bias correction. AMSGrad as in the paper, without it, is slower."""
    run = ran("reddi", rule, 20_200, 1.0, 0.9, 0.99, True)
    assert run["x"][0, -1, 0, 0] == pytest.approx(end, abs=6e-4)
    assert run["average_static_regret"][0, -1] == pytest.approx(regret, abs=6e-4)
    if rule is AMSGRAD:
        plain = ran("reddi", rule, 20_200, 1.0, 0.9, 0.99, False)
        assert plain["x"][0, -1, 0, 0] == pytest.approx(-0.670, abs=6e-4)
        assert plain["average_static_regret"][0, -1] == pytest.approx(0.521, abs=6e-4)


@pytest.mark.parametrize(("rule", "tail", "regret"), [(ADAM, 0.9987, 1.335), (AMSGRAD, -0.9992, 0.004)])
def test_the_first_theorem(rule: str, tail: float, regret: float) -> None:
    T = 30_000
    run = ran("reddi:form=theorem", rule, T, 0.5, 0.0, 1 / 17, False)
    assert run["x"][0, T // 2 :, 0, 0].mean() == pytest.approx(tail, abs=1e-3)
    assert run["average_static_regret"][0, -1] == pytest.approx(regret, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("P", "b2", "adam", "amsgrad"), [(11, 0.5, 1.0, -1.0), (31, 0.9, 0.99, -1.0), (31, 0.99, -0.63, -1.0)]
)
def test_whether_adam_fails_on_the_family_depends_on_b2(P: int, b2: float, adam: float, amsgrad: float) -> None:
    for rule, tail in ((ADAM, adam), (AMSGRAD, amsgrad)):
        run = ran(f"reddi:form=family,P={P}", rule, 20_000, 1.0, 0.9, b2, True)
        assert run["x"][0, -2000:, 0, 0].mean() == pytest.approx(tail, abs=0.01)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Reddi("wrong"), "reddi: form='wrong' must be one of online, theorem"),
        (lambda: Reddi(period=1), "reddi: period=1"),
        (lambda: Reddi(P=2), "reddi: P=2"),
        (lambda: Reddi("sparse", P=3), "reddi: P=3 must be at least 4 in the form sparse"),
        (lambda: Reddi(probability=1.5), "reddi: probability=1.5"),
        (lambda: Reddi(high=math.inf), "reddi: high=inf"),
    ],
)
def test_bad_parameters_of_reddi_are_named(make: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()
