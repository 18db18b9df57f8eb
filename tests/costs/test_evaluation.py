"""What is made of the costs at points of many rounds: compiled it is what it is without, and a scenario that cannot be compiled is none the worse."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import distopt
from distopt.costs import evaluation
from distopt.costs.evaluation import Evaluator


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs are large."""
    monkeypatch.setattr(evaluation, "LARGE", 0)


def both(monkeypatch: pytest.MonkeyPatch, **asked: Any) -> tuple[distopt.Run, distopt.Run]:
    """A run whose costs are evaluated eagerly, and one whose costs are compiled."""
    runs = []
    for large in (2**62, 0):
        monkeypatch.setattr(evaluation, "LARGE", large)
        runs.append(distopt.simulate("ring", agents=5, algorithm="gt:lr=0.02", rounds=30, record="x", **asked))
    return runs[0], runs[1]


@pytest.mark.parametrize("trials", [1, 2])
@pytest.mark.parametrize("scenario", ["moving_target:dim=3", "localization", "quadratic", "drifting_logistic"])
def test_a_run_has_the_same_figures(scenario: str, trials: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, compiled = both(monkeypatch, scenario=scenario, trials=trials)
    assert list(plain) == list(compiled)
    assert np.array_equal(plain["x"], compiled["x"]), "the agents know nothing of it"
    for name in plain:
        scale = max(1.0, float(np.nanmax(np.abs(plain[name]))))
        np.testing.assert_allclose(compiled[name], plain[name], rtol=0, atol=1e-9 * scale, err_msg=name)


class Own:
    """A user's costs with an odd data leaf for each agent alone, no minimiser, and one that changes with the round for all."""

    dim = 2
    linear_rows = None

    def batch(self, t: Tensor, key: Any) -> dict[str, Tensor]:
        own = torch.linspace(0, 1, key.total)[None, None, :, None]
        return {"own": own, "all": 0.1 * torch.sin(0.3 * t.to(torch.float64)).expand(-1, 1, 1, 2)}

    def loss(self, x: Tensor, b: dict[str, Tensor]) -> Tensor:
        z = x - b["own"] - b["all"]
        return (0.5 * z.square() + torch.log1p(z.square())).sum(-1)

    def grad(self, x: Tensor, b: dict[str, Tensor]) -> Tensor:
        z = x - b["own"] - b["all"]
        return z + 2 * z / (1 + z.square())


class Looks(Own):
    """The same, but it looks at the numbers of a tensor."""

    def loss(self, x: Tensor, b: dict[str, Tensor]) -> Tensor:
        return super().loss(x, b) * (1.0 if float(x.sum()) < 1e9 else 2.0)


def test_costs_of_a_user_that_have_no_known_minimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, compiled = both(monkeypatch, scenario=Own())
    for name in plain:
        np.testing.assert_allclose(compiled[name], plain[name], rtol=0, atol=1e-8, err_msg=name)
    assert plain.info["certificate"] < 1e-9 and compiled.info["certificate"] < 1e-9


@pytest.mark.filterwarnings("ignore::distopt.codegen.folder.CompileWarning")  # the rounds say it
def test_costs_that_cannot_be_compiled_are_evaluated_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, compiled = both(monkeypatch, scenario=Looks())
    for name in plain:
        np.testing.assert_allclose(compiled[name], plain[name], rtol=0, atol=1e-8, err_msg=name)


def test_a_function_is_compiled_once_for_a_scenario_and_a_form(compiles: None) -> None:
    held, made = [Own()], []
    data = {"own": torch.rand(1, 1, 3, 1, dtype=torch.float64), "all": torch.rand(4, 1, 1, 2, dtype=torch.float64)}

    def f(x: Tensor, b: Any) -> Tensor:
        made.append(x.shape)
        return held[0].loss(x, b)

    x = torch.rand(4, 2, 1, 2, dtype=torch.float64)
    expected = torch.stack(
        [held[0].loss(x[k].expand(2, 3, 2), {"own": data["own"][0], "all": data["all"][k]}) for k in range(4)]
    )
    for _ in range(3):  # a new evaluator for each run
        found = Evaluator(held[0], 1)("f", f, x, data, 3)
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    assert len(made) == 2, "recorded twice, and never called again"
    Evaluator(held[0], 1)("f", f, x[:2], {**data, "all": data["all"][:2]}, 3)
    assert len(made) == 2, "the number of rounds is data"
    place = id(held[0])
    assert place in evaluation._functions
    held.clear()
    gc.collect()
    assert place not in evaluation._functions
