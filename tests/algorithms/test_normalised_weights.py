"""rPGD and weight normalisation: against loops in (g, w) and (g, v), the flow's formula, and agents on a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs
from helpers.battery import same_in_simulate
from numpy.typing import NDArray

import distopt
from distopt.catalog import registry
from distopt.checks import check_direction
from distopt.directions import direct
from distopt.numerics.random import Key
from distopt.scenarios.least_squares import LeastSquares

Floats = NDArray[np.float64]
LR = 0.02


def data(s: LeastSquares) -> tuple[Floats, Floats, Floats, Floats]:
    """A, y, x* and x_0 of one agent."""
    key = Key(0, range(1), range(1), 1)
    b = s.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), key)
    found = b.a[0, 0, 0], b.y[0, 0, 0], b.shortest[0, 0, 0], s.start(key)[0, 0]
    one, two, three, four = (each.numpy() for each in found)
    return one, two, three, four


def unit(z: Floats) -> Floats:
    return z / np.linalg.norm(z)


def projected(s: LeastSquares, rounds: int, gradient: str = "old", tangential: bool = False, hold: int = 0) -> Floats:
    """rPGD as the paper has it, in (g, w)."""
    a, y, _, x = data(s)
    g, w = float(np.linalg.norm(x)), unit(x)
    for t in range(rounds):
        h, old = a.T @ (a @ (g * w) - y), w
        w = unit(w - LR * g * (h - (w @ h) * w if tangential else h))
        if gradient == "fresh":
            h = a.T @ (a @ (g * w) - y)
        g -= LR * float((old if gradient == "old" else w) @ h) * (t >= hold)
    return g * w


def normalised(s: LeastSquares, rounds: int, length: float) -> Floats:
    """Weight normalisation, in (g, v)."""
    a, y, _, x = data(s)
    g, v = float(np.linalg.norm(x)), length * unit(x)
    for _ in range(rounds):
        w = unit(v)
        h = a.T @ (a @ (g * w) - y)
        v = v - LR * g / np.linalg.norm(v) * (h - (w @ h) * w)
        g -= LR * float(w @ h)
    return g * unit(v)


def last(s: LeastSquares, rule: str, rounds: int) -> Floats:
    run = distopt.simulate(
        "ring", agents=1, scenario=s, algorithm=f"dgd:lr={LR},direction={rule}", rounds=rounds, record="x"
    )
    found: Floats = run["x"][0, -1, 0]
    return found


@pytest.mark.parametrize("begin", [0.1, 4.0])
def test_the_rules_are_the_papers_loops(begin: float) -> None:
    s = LeastSquares(begin=begin)
    for words in ({}, {"gradient": "new"}, {"gradient": "fresh"}, {"tangential": True}, {"hold": 30}):
        given: dict[str, Any] = dict(words)
        spec = f"rpgd({','.join(f'{key}={value}' for key, value in given.items())})" if given else "rpgd"
        np.testing.assert_allclose(last(s, spec, 80), projected(s, 80, **given), atol=1e-11, err_msg=spec)
    for length in (1.0, 2.5):
        spec = f"weight_normalisation(length={length})"
        np.testing.assert_allclose(last(s, spec, 80), normalised(s, 80, length), atol=1e-11)


def test_a_length_that_falls_below_zero_is_the_other_direction() -> None:
    """(g, w) and (-g, -w) are one point: x alone is enough."""
    rule = registry.make("directions", "rpgd")
    g, w, x = 0.1, np.array([1.0, 0.0]), torch.tensor([[[0.1, 0.0]]], dtype=torch.float64)
    h = np.array([3.0, 1.0])
    for _ in range(5):
        d, _ = direct(rule, torch.from_numpy(h).reshape(1, 1, 2), (), None, lr=0.1, x=x)
        x = x - 0.1 * d
        new = unit(w - 0.1 * g * h)
        g, w = g - 0.1 * float(w @ h), new
        np.testing.assert_allclose(x.flatten().numpy(), g * w, atol=1e-14)
    assert g < 0


def test_at_zero_the_step_is_that_of_gradient_descent() -> None:
    s = torch.tensor([[[3.0, -1.0]]])
    for name in ("rpgd", "weight_normalisation"):
        rule = registry.make("directions", name)
        d, _ = direct(rule, s, rule.init(s), None, lr=0.1, x=torch.zeros(1, 1, 2))
        assert torch.equal(d, s)
        check_direction(rule)


@pytest.mark.parametrize("begin", [0.1, 1.0, 2.0, 4.0])
def test_the_end_is_near_the_shortest_solution_as_the_flow_says(begin: float) -> None:
    """What no row sees shrinks to |w_0| exp((g_0^2 - g^2) / 2) g; gradient descent keeps all of it; two phases end at the shortest."""
    s = LeastSquares(norm=4.75, begin=begin)
    a, _, shortest, x = data(s)
    hidden = float(np.linalg.norm(unit(x) - np.linalg.pinv(a) @ (a @ unit(x))))
    apart = {name: float(np.linalg.norm(last(s, name, 8000) - shortest)) for name in ("sgd", "rpgd", "rpgd(hold=4000)")}
    g = float(np.linalg.norm(last(s, "rpgd", 8000)))
    assert apart["sgd"] == pytest.approx(begin * hidden, rel=1e-3)
    formula = hidden * np.exp((begin**2 - g**2) / 2) * g
    assert 0.8 < apart["rpgd"] / formula < 1.6  # steps of 0.02 are not yet the flow
    assert apart["rpgd(hold=4000)"] < 1e-9
    if begin <= 1:
        assert apart["rpgd"] < 2e-4 and apart["sgd"] > 0.07


def test_agents_who_track_agree_near_the_shortest_solution() -> None:
    s = LeastSquares(norm=4.75)
    methods = [f"gt:lr=0.002,direction={rule}" for rule in ("sgd", "rpgd", "weight_normalisation")]
    runs = distopt.simulate("ring", agents=5, scenario=s, algorithm=methods, rounds=9000, every=1000)
    plain, *normalising = (float(run["tracking_error"][0, -1]) for run in runs.values())
    assert plain > 0.7 and max(normalising) < 1e-4  # 8.1e-5 by the formula of the flow
    assert all(run["consensus_error"][0, -1] < 1e-6 for run in runs.values())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["threads:workers=2", pytest.param("ranks:workers=2", marks=needs.forks)])
def test_engines_have_the_same_bits(engine: str) -> None:
    ask: dict[str, Any] = {"agents": 5, "scenario": "least_squares:rows=12", "rounds": 25, "record": "x", "trials": 2}
    rules = ("rpgd(gradient=fresh,hold=5)", "rpgd(tangential=true)", "weight_normalisation")
    methods = [f"gt:lr={LR},direction={rule}" for rule in rules]
    same_in_simulate(engine, algorithm=methods, **ask)


def test_a_grid_has_the_bits_of_its_points() -> None:
    ask: dict[str, Any] = {"agents": 3, "scenario": "least_squares", "rounds": 10, "record": "x"}
    for rule, field in (("rpgd", "ratio"), ("weight_normalisation", "length")):
        grid = distopt.simulate("ring", algorithm=f"dgd:lr=[0.01,0.02],direction={rule}({field}=[0.5,2.0])", **ask)
        alone = distopt.simulate("ring", algorithm=f"dgd:lr=0.02,direction={rule}({field}=0.5)", **ask)
        assert len(grid) == 4 and any(np.array_equal(run["x"], alone["x"]) for run in grid.values())
