"""diffGrad, AdaBelief, ACProp and AdaShift against loops written from their papers, and what the papers say of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.descent import ROUNDS, START, Floats, gradients, simulated, walked

from distopt.directions.acprop import ACProp
from distopt.directions.adabelief import AdaBelief
from distopt.directions.adam import Adam
from distopt.directions.adashift import AdaShift
from distopt.directions.amsgrad import AMSGrad
from distopt.directions.diffgrad import DiffGrad
from distopt.schedules.inverse import Inverse
from distopt.schedules.inverse_sqrt import InverseSqrt

Gradient = Callable[[int, Floats], Floats]
Path = list[Floats]


def diffgrad(gradient: Gradient, x: Floats, lrs: Floats, b1: float, b2: float, eps: float) -> Path:
    path, m, v, old = [x], 0.0 * x, 0.0 * x, 0.0 * x
    for t, lr in enumerate(lrs, 1):
        g = gradient(t - 1, x)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        friction = 1 / (1 + np.exp(-abs(old - g)))
        x = x - lr * friction * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        old = g
        path.append(x)
    return path


def adabelief(gradient: Gradient, x: Floats, lrs: Floats, b1: float, b2: float, eps: float) -> Path:
    path, m, v = [x], 0.0 * x, 0.0 * x
    for t, lr in enumerate(lrs, 1):
        g = gradient(t - 1, x)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * (g - m) ** 2 + eps
        x = x - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        path.append(x)
    return path


def acprop(gradient: Gradient, x: Floats, lrs: Floats, b1: float, b2: float, eps: float) -> Path:
    path, m, v = [x], 0.0 * x, 0.0 * x
    for t, lr in enumerate(lrs, 1):
        g = gradient(t - 1, x)
        x = x - lr * (g if t == 1 else g / (np.sqrt(v / (1 - b2 ** (t - 1))) + eps))
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * (g - m) ** 2
        path.append(x)
    return path


def adashift(
    gradient: Gradient, x: Floats, lrs: Floats, n: int, b1: float, b2: float, eps: float, largest: bool
) -> Path:
    path, seen, v = [x], list[Floats](), 0.0 * x
    weights = np.array([b1**i for i in range(n)]) / sum(b1**i for i in range(n))
    for t, lr in enumerate(lrs, 1):
        seen.append(gradient(t - 1, x))
        if t > n:
            square = seen[-1 - n] ** 2
            v = b2 * v + (1 - b2) * (square.max() if largest else square)
            m = sum((weights[i] * seen[-1 - i] for i in range(n)), 0.0 * x)
            x = x - lr * m / (np.sqrt(v / (1 - b2 ** (t - n))) + eps)
        path.append(x)
    return path


CASES: dict[str, tuple[Any, Callable[..., Path], dict[str, Any]]] = {
    "diffgrad": (DiffGrad(), diffgrad, {"b1": 0.9, "b2": 0.999, "eps": 1e-8}),
    "diffgrad_other": (DiffGrad(0.95, 0.9, 1e-3), diffgrad, {"b1": 0.95, "b2": 0.9, "eps": 1e-3}),
    "adabelief": (AdaBelief(), adabelief, {"b1": 0.9, "b2": 0.999, "eps": 1e-8}),
    "adabelief_other": (AdaBelief(0.5, 0.9, 1e-4), adabelief, {"b1": 0.5, "b2": 0.9, "eps": 1e-4}),
    "acprop": (ACProp(), acprop, {"b1": 0.9, "b2": 0.999, "eps": 1e-8}),
    "acprop_other": (ACProp(0.8, 0.99, 0.1), acprop, {"b1": 0.8, "b2": 0.99, "eps": 0.1}),
    "adashift": (AdaShift(), adashift, {"n": 10, "b1": 0.9, "b2": 0.999, "eps": 1e-10, "largest": True}),
    "adashift_each": (
        AdaShift(4, 0.5, 0.99, 0.1, "identity"),
        adashift,
        {"n": 4, "b1": 0.5, "b2": 0.99, "eps": 0.1, "largest": False},
    ),
    "adashift_one": (AdaShift(1, 0.0), adashift, {"n": 1, "b1": 0.0, "b2": 0.999, "eps": 1e-10, "largest": True}),
}
RATES = {0.0: (0.005, Inverse(0.5, 100.0)), 0.5: (0.02, Inverse(2.0, 40.0))}
"""By noise. Without noise gradients vanish, and so do delayed denominators: larger steps would make the papers' own recursions chaotic."""


@pytest.mark.parametrize("falls", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("name", CASES)
def test_a_rule_is_the_loop_of_its_paper(name: str, noise: float, falls: bool) -> None:
    rule, loop, constants = CASES[name]
    gradient, (lr, falling) = gradients(noise), RATES[noise]
    lrs = np.array([float(falling(torch.tensor(t))) if falls else lr for t in range(ROUNDS)])
    truth = np.array(loop(gradient, START, lrs, **constants))
    assert np.isfinite(truth).all() and np.abs(truth[-1] - START).max() > 0.1
    assert np.abs(simulated(rule, falling if falls else lr, noise) - truth).max() < 1e-12
    assert np.abs(walked(rule, gradient, START, falling if falls else lr) - truth).max() < 1e-12


def test_diffgrad_remembers_a_copy() -> None:
    """If it kept what it is given, and the memory of that were used again, nothing would ever change."""
    rule, s = DiffGrad(), torch.ones(1, 1)
    _, state = rule(s, rule.init(s))
    s.fill_(100.0)
    assert state.s.item() == 1.0


def toy(number: int) -> Gradient:
    """The derivative of one of the three functions on which diffGrad's authors try it, as their notebook has it."""

    def first(x: float) -> float:
        return 2 * x + 0.6 if x <= 0 else 2 * x - 0.4

    def second(x: float) -> float:
        return -40.0 if x <= -0.9 else x * math.cos(8 * x) + math.sin(8 * x) + 3 * x**2

    def third(x: float) -> float:
        pieces = [(-0.5, 2 * x), (-0.4, 1.0), (0.0, -7 / 8), (0.4, 7 / 8), (0.5, -1.0)]
        return next((slope for end, slope in pieces if x <= end), 2 * x)

    return lambda _, x: np.array({1: first, 2: second, 3: third}[number](float(x)))


ADAM = Adam(0.95, 0.999, 1e-8, eps_inside=True, cap=None, bias_correction=True)


@pytest.mark.parametrize(
    ("number", "found", "adams"), [(1, -0.300, 0.200), (2, -0.812, 0.000), (3, 0.008, 0.002)], ids=str
)
def test_diffgrad_finds_the_minima_that_its_authors_report(number: int, found: float, adams: float) -> None:
    """From -1, 300 steps of 0.1. Adam ends in the other minimum of the first function, and passes the second's."""
    ends = [walked(rule, toy(number), -1.0, 0.1)[-1] for rule in (DiffGrad(b1=0.95), ADAM)]
    assert ends == pytest.approx([found, adams], abs=1e-3)


def family(period: int, sparse: bool = False) -> Gradient:
    """c_t of the costs c_t x on [-1, 1]: rare large slopes outweigh many small ones, so the best point is -1."""
    if sparse:
        return lambda t, _: np.array({1: period / 2, period - 2: -1.0}.get((t + 1) % period, 0.0))
    return lambda t, _: np.array(float(period) if (t + 1) % period == 1 else -1.0)


def tail(rule: Any, gradient: Gradient, rounds: int = 5000) -> float:
    """Where a rule stays with steps 1 / sqrt(t): the mean of its last points."""
    path = walked(rule, gradient, 0.0, InverseSqrt(1.0), rounds, limit=1.0)
    return float(path[-rounds // 4 :].mean())


def plain(b2: float, rule: Any = Adam) -> Any:
    return rule(b1=0.9, b2=b2, eps=1e-8, eps_inside=False, cap=None, bias_correction=True)


@pytest.mark.slow
def test_a_second_moment_that_lags_behind_finds_the_right_end() -> None:
    """Adam and AdaBelief, whose denominators know the gradient, go to the wrong one."""
    costs, b2 = family(11), 0.5
    assert tail(plain(b2), costs) > 0.95 and tail(AdaBelief(0.9, b2), costs) > 0.95
    assert tail(plain(b2, AMSGrad), costs) < -0.95
    assert tail(AdaShift(10, 0.9, b2), costs) < -0.95 and tail(ACProp(0.9, b2), costs) < -0.95


@pytest.mark.slow
def test_lagging_is_not_enough_where_slopes_are_rare() -> None:
    """A delayed second moment of the gradient itself fails, and a centred one does not."""
    costs, b2 = family(11, sparse=True), 0.2
    assert tail(AdaShift(1, 0.9, b2), costs, 20_000) > 0.8 and tail(ACProp(0.9, b2), costs) < -0.95
