"""Gradient descent, heavy ball and Nesterov on quadratics: formulas against eigenvalues, runs against formulas, and the guide's numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

from distopt import reproduce
from distopt.numerics.random import Key
from distopt.report import figures_of_glm
from distopt.reproduce import quadratics
from distopt.reproduce.quadratics import CASES, FLOORS, Shared, factor, floor, limit, settings, step_map
from distopt.reproduce.store import Store

DOCS = Path(__file__).parents[2] / "docs"
GUIDE, PAGE = ((DOCS / name).read_text() for name in ("choosing.md", "reproduce-glm.md"))


def measured(folder: Path, name: str) -> Any:
    """The results of a part; its table, verdicts and figure are made, too, and all numbers are as expected."""
    part = reproduce.parts("quadratics")[name]
    results = part.measure(Store(folder), None, lambda text: None)
    assert {row["verdict"] for row in part.rows(results)} == {"as expected"}
    assert {verdict.outcome for verdict in part.verdicts(results)} == {"holds"}
    figure = getattr(figures_of_glm, part.figure.partition(":")[2])(results)
    assert all(panel.lines for panel in figure.axes)
    return results


def told(page: str, *cells: str) -> None:
    """A row of a table of the page has these cells, one after the other."""
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in page.splitlines() if row.startswith("|")]
    assert any(list(cells) == row[k : k + len(cells)] for row in rows for k in range(len(row))), cells


# ---------------------------------------------------------------------------------------------------------------- formulas


def test_the_best_settings_have_the_rates_that_are_told() -> None:
    curvatures = np.geomspace(quadratics.MU, quadratics.L, 400)
    for name, (kind, lr, b, expected) in settings().items():
        worst = max(factor(kind, lr, b, float(each)) for each in curvatures)
        assert worst == pytest.approx(expected, abs=1e-7), name
    assert settings()["heavy ball"][3] == pytest.approx(0.9387, abs=5e-5)
    assert settings()["Nesterov"][3] == pytest.approx(0.9684, abs=5e-5)


def test_no_other_step_of_gradient_descent_is_faster_than_the_best() -> None:
    best = settings()["gradient descent, 2/(L+mu)"]
    for lr in np.linspace(1.8, 2.0, 50):
        both = max(factor("gradient descent", float(lr), 0.0, each) for each in (quadratics.MU, quadratics.L))
        assert both >= best[3] - 1e-12


@pytest.mark.parametrize("b", [0.0, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("kind", [kind for kind, _ in CASES])
def test_limits_are_where_the_largest_eigenvalue_is_one(kind: str, b: float) -> None:
    b = 0.0 if kind == "gradient descent" else b
    for smoothness in (1.0, 7.0):
        edge = limit(kind, b, smoothness)
        assert factor(kind, edge, b, smoothness) == pytest.approx(1, abs=1e-9)
        assert factor(kind, 0.999 * edge, b, smoothness) < 1 < factor(kind, 1.001 * edge, b, smoothness)
        assert all(factor(kind, edge * part, b, smoothness) < 1 for part in (0.01, 0.3, 0.7))
        assert all(factor(kind, 0.999 * edge, b, smoothness * part) < 1 for part in (0.01, 0.5))


@pytest.mark.parametrize("b", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("lr", [0.01, 0.1, 1.5])
def test_the_floor_is_the_covariance_that_a_step_keeps(b: float, lr: float) -> None:
    for curvature, variance in ((1.0, 1.0), (0.3, 4.0)):
        matrix, noise = step_map("heavy ball", lr, b, curvature)
        kept = solve_discrete_lyapunov(matrix, variance * np.outer(noise, noise))
        assert floor(b, lr, curvature, variance) == pytest.approx(kept[0, 0], rel=1e-9)


def test_a_step_is_what_the_rules_do() -> None:
    """One round of ``simulate`` after the other is the linear map that all formulas are about."""
    for kind, b in CASES:
        (run,) = quadratics.taken(Shared(low=0.7, high=0.7), [quadratics.rule(kind, 0.4, b)], 6, 1)
        matrix, _ = step_map(kind, 0.4, b, 0.7)
        state = np.array([1.0, 0.0])
        for x in run["x"][0, :, 0, 0]:
            assert x == pytest.approx(state[0], rel=1e-12)
            state = matrix @ state


# ------------------------------------------------------------------------------------------------------------------- costs


def test_agents_share_the_cost() -> None:
    shared, t = Shared(dim=3, low=0.5, high=2.0, noise=1.5), torch.arange(4000).reshape(-1, 1, 1, 1)
    b = shared.batch(t, Key(0, range(5), range(1), 5))
    torch.testing.assert_close(b.c.mean(2).squeeze(), shared.curvatures)
    assert float(b.xi.std()) == pytest.approx(1.5, rel=0.02)
    last = quadratics.Parts(b.c[0], b.xi[-1])
    x = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(shared.loss(x, last).sum(), x)
    torch.testing.assert_close(slope, shared.grad(x.detach(), last))


# ---------------------------------------------------------------------------------------------------------------- the pages


def test_rates_and_the_numbers_of_the_guide(tmp_path: Path) -> None:
    results = measured(tmp_path, "rates")
    for each in results:
        expected = settings()[each["name"]][3]
        told(GUIDE, f"{expected:.5f}", f"{each['rounds']:,}")
        told(PAGE, f"{expected:.5f}", f"{each['one']:.5f}", f"{each['several']:.5f}")
        assert each["apart"] < 3e-10
    assert results[-1]["one"] / settings()["heavy ball"][3] == pytest.approx(4 ** (1 / 4000), abs=2e-6)


def test_limits_and_the_numbers_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere = quadratics._measured
    monkeypatch.setattr(
        quadratics, "_measured", lambda kind, b, lr, rounds: 0.5 if rounds == 300 else everywhere(kind, b, lr, rounds)
    )
    for each in measured(tmp_path, "limits"):
        told(PAGE, f"{each['limit']:.4g}", *(f"{side:.5f}" for side in each["sides"]))
        told(GUIDE, f"{each['limit']:.4g}")
        assert each["sides"][0] < 1 < each["sides"][1]


@pytest.mark.slow
def test_floors_and_the_numbers_of_the_guide(tmp_path: Path) -> None:
    for (b, lr), each in zip(FLOORS, measured(tmp_path, "floors"), strict=True):
        one, several = each["one"], each["several"]
        assert several["expected"] == pytest.approx(floor(b, lr) / 8)
        cells = [f"{b:g}", f"{lr:g}", f"{lr / (1 - b):g}", f"{floor(b, lr):.4f}"]
        cells += [f"{one['mean']:.4f} ± {one['error']:.4f}", f"{several['expected']:.5f}"]
        told(GUIDE, *cells, f"{several['mean']:.5f} ± {several['error']:.5f}")


def test_verdicts_follow_the_numbers() -> None:
    made = [
        {
            "b": b,
            "lr": lr,
            **{
                name: {"mean": floor(b, lr), "error": 1e-4, "expected": floor(b, lr) / agents}
                for name, agents in (("one", 1), ("several", 8))
            },
        }
        for b, lr in FLOORS
    ]
    part = reproduce.parts("quadratics")["floors"]
    assert [verdict.outcome for verdict in part.verdicts(made)] == ["holds", "does not hold"]


def test_the_guide_has_the_formulas_limits_are_from() -> None:
    assert all(
        words in GUIDE for words in ("2(1 + b)/L", "2(1 + b)/((1 + 2b)L)", "2(1 + b)/((1 − b)L)", "(√κ − 1)/(√κ + 1)")
    )
    assert re.search(r"lr s² / \(λ \(2\(1 \+ b\) − lr λ\)\) · \(1 \+ b\)/\(1 − b\)", GUIDE)
