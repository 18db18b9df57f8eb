"""Agents on a ring against the fixed point: the parts in a short form, the ways to find minimisers, verdicts, and the page's numbers."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest
from helpers.pages import measured

from distopt import reproduce
from distopt.cli.main import cli
from distopt.numerics.random import Key
from distopt.reproduce import glm
from distopt.reproduce.glm import Case
from distopt.reproduce.store import Store

KINDS = ("ridge", "logistic", "lasso")
PAGE = (Path(__file__).parents[2] / "docs" / "reproduce-glm.md").read_text()
SHORT = {
    "RIDGE": (Case(0.6, 0.1, 0.1, 0.0, 300),),
    "LOGISTIC": (Case(2.0, 0.1, 0.3, 0.0, 200), Case(2.0, 0.01, 0.1, 0.8, 800)),
    "LASSO": (Case(1.0, 0.05, 0.1, 0.0, 300),),
}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SHORT, "DIM": 40, "TRIALS": 4, "SWEEP": np.array([0.5, 1.0])}.items():
        monkeypatch.setattr(glm, name, value)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("kind", KINDS)
def test_agents_find_the_minimiser_and_are_near_the_limit(kind: str, tmp_path: Path) -> None:
    for each in measured(Store(tmp_path), "glm", kind)["runs"]:
        assert each["apart"] < glm.SOLVED
        for name in ("m", "q", "error"):  # 40 coordinates are few
            own = each[name]
            assert own["mean"] == pytest.approx(own["expected"], rel=0.35, abs=0.01), (kind, name)
        assert each["course"]["values"][-1] < each["course"]["values"][0]


def test_minimisers_have_no_descent() -> None:
    rng = np.random.default_rng(0)
    F, z = rng.normal(size=(40, 25)) / 6, rng.normal(size=40)
    x = glm._ridge(F, z, 0.1)
    np.testing.assert_allclose(F.T @ (F @ x - z) + 0.1 * x, 0, atol=1e-12)
    y = np.sign(z)
    x = glm._logistic(F, y, 0.1)
    np.testing.assert_allclose(-F.T @ (y / (1 + np.exp(y * (F @ x)))) + 0.1 * x, 0, atol=1e-12)
    x = glm._lasso(F, z, 0.3)
    slope = F.T @ (F @ x - z)
    assert 0 < (x != 0).sum() < 25
    np.testing.assert_allclose(slope[x != 0], -0.3 * np.sign(x[x != 0]), atol=1e-7)
    assert np.abs(slope[x == 0]).max() < 0.3


def test_the_rows_are_those_of_the_limit() -> None:
    """The scenario of each kind has the spectrum, the teacher and the noise of the problem that is solved for it."""
    for kind, cases in (("ridge", glm.RIDGE), ("logistic", glm.LOGISTIC), ("lasso", glm.LASSO)):
        for case in cases:
            asked = glm.scenario(kind, case)
            it = glm.limit(kind, case.alpha, case.penalty)
            values = asked.eigenvalues.numpy()
            assert it.rho == asked.rho and it.noise == asked.noise
            assert values.sum() / (asked.dim * case.alpha) * asked.rho == pytest.approx(it.rho_z, rel=1e-12)
            x0 = asked.teacher(Key(0, range(2), range(2), 2))
            assert float(x0.square().mean()) == pytest.approx(it.rho)


def test_verdicts_follow_the_numbers() -> None:
    good = {"mean": 0.52, "error": 0.02, "expected": 0.5}
    bad = {**good, "mean": 0.55}

    def outcomes(kind: str, error: dict[str, float], apart: float = 1e-6) -> list[str]:
        each = {"alpha": 1.0, "penalty": 0.1, "apart": apart, "m": good, "q": good, "error": error, "fitted": 0.4}
        return [verdict.outcome for verdict in reproduce.parts("glm")[kind].verdicts({"runs": [each]})]

    assert outcomes("ridge", good) == ["holds", "holds"]
    assert outcomes("lasso", bad, 0.1) == ["holds in part", "does not hold"]
    assert outcomes("logistic", good) == ["holds", "holds", "holds"]
    assert outcomes("logistic", {**good, "mean": 0.43}) == ["holds in part", "holds", "does not hold"]


# ----------------------------------------------------------------------------------------------------------------- the page


def cells(kind: str) -> list[list[str]]:
    """The rows of the page's table that begin with this kind."""
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in PAGE.splitlines() if row.startswith("|")]
    return [row for row in rows if row[0] == kind]


def row(kind: str, each: Any) -> list[str]:
    """The same from results."""
    told = [kind, f"{each['alpha']:g}", f"{each['penalty']:g}"]
    for name in ("m", "q", "error"):
        digits = 5 if kind == "lasso" or (kind == "ridge" and each["error"]["expected"] < 0.1) else 4
        own = each[name]
        told += [f"{own['expected']:.{digits}f}", f"{own['mean']:.{digits}f} ± {own['error']:.{digits}f}"]
    return told


@pytest.mark.parametrize(("kind", "cases"), [("ridge", glm.RIDGE), ("logistic", glm.LOGISTIC), ("lasso", glm.LASSO)])
def test_the_page_has_the_fixed_points(kind: str, cases: tuple[Case, ...]) -> None:
    found = cells(kind)
    assert [each[1:3] for each in found] == [[f"{case.alpha:g}", f"{case.penalty:g}"] for case in cases]
    for case, told in zip(cases, found, strict=True):
        it = glm.limit(kind, case.alpha, case.penalty)
        for expected, shown in zip((it.x.m, it.x.q, glm._expected(kind, it)), told[3::2], strict=True):
            assert f"{expected:.{len(shown.partition('.')[2])}f}" == shown


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_page_has_what_was_measured(kind: str, tmp_path: Path) -> None:
    results = measured(Store(tmp_path), "glm", kind)
    assert [row(kind, each) for each in results["runs"]] == cells(kind)
    assert {verdict.outcome for verdict in reproduce.parts("glm")[kind].verdicts(results)} == {"holds"}


@pytest.mark.usefixtures("short")
def test_the_command_writes_table_figure_and_page(tmp_path: Path) -> None:
    done = click.testing.CliRunner().invoke(cli, ["reproduce", "glm", "--only", "ridge", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    table = list(csv.DictReader((tmp_path / "ridge.csv").open()))
    assert list(table[0]) == ["claim", "our set-up", "number expected", "number measured", "verdict"]
    assert "ridge.png" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize("paper", ["quadratics", "glm"])
def test_the_command_line_names_the_parts(paper: str) -> None:
    told = " ".join(click.testing.CliRunner().invoke(cli, ["reproduce", "--help"]).output.split())
    assert f"{paper}: " in told and f"Parts: {', '.join(reproduce.parts(paper))}." in told
    module = reproduce._module(paper)
    assert module.REFERENCE and module.NOTE
