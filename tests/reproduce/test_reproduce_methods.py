"""The pages on AIDA, Super-Adam, Gadam, Adan and INNA: their parts in a short form, their costs, and verdicts on figures made for them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest
import torch
from helpers.pages import measured, shortened

from distopt import reproduce
from distopt.cli.main import cli
from distopt.numerics.random import Key
from distopt.report.claims import Verdict
from distopt.reproduce import adan, aida, gadam, inna, superadam
from distopt.reproduce.claimed import Number
from distopt.reproduce.smooth import Bowl, Waves, changes, curve, points, run, with_unreached
from distopt.reproduce.store import Store

Results = Any
PAPERS = ("aida", "superadam", "gadam", "adan", "inna")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def by_claim(numbers: list[Number]) -> Mapping[str, list[Number]]:
    return {each.claim: [other for other in numbers if other.claim == each.claim] for each in numbers}


# ----------------------------------------------------------------------------------------------------------------- costs


@pytest.mark.parametrize(
    "problem",
    [Bowl(dim=3, low=0.5, high=4.0, noise=2.0, growth=0.5), Bowl(dim=2), Waves(noise=0.7), Waves(), inna.Saddle()],
    ids=["bowl", "quiet bowl", "waves", "quiet waves", "saddle"],
)
def test_gradients_are_those_of_the_costs(problem: Any) -> None:
    key, t = Key(1, range(1), range(2), 1), torch.arange(3).reshape(-1, 1, 1, 1)
    b = problem.batch(t, key)
    leaves = (b,) if isinstance(b, torch.Tensor) else b
    last = [leaf[-1] for leaf in leaves]
    data = last[0] if isinstance(b, torch.Tensor) else type(b)(*last)
    x = torch.randn(2, 1, problem.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(problem.loss(x, data).sum(), x)
    assert torch.allclose(slope, problem.grad(x.detach(), data), atol=1e-12)


def test_waves_are_what_they_are_said_to_be() -> None:
    waves = Waves()
    np.testing.assert_allclose(np.linalg.eigvalsh(waves.matrix), np.geomspace(0.3, 10, 10), rtol=1e-10)
    assert np.abs(waves.slope(waves.minimiser)).max() < 1e-12
    x = np.random.default_rng(0).normal(size=(4, 10))
    data = type(b := waves.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), Key(0, range(1), range(1), 1)))(
        *(leaf[0] for leaf in b)
    )
    given = torch.from_numpy(x).reshape(4, 1, 10)
    np.testing.assert_allclose(waves.grad(given, data)[:, 0].numpy(), waves.slope(x), atol=1e-12)
    gaps = waves.objective(x)
    assert (gaps > 0).all() and waves.objective(waves.minimiser) == 0
    np.testing.assert_allclose(np.diff(waves.loss(given, data)[:, 0].numpy()), np.diff(gaps), atol=1e-12)


def test_noise_is_drawn_anew_in_each_round_and_grows_with_x() -> None:
    bowl, key = Bowl(dim=400, noise=2.0, growth=0.5), Key(0, range(1), range(1), 1)
    b = bowl.batch(torch.arange(50).reshape(-1, 1, 1, 1), key)
    assert b.xi.std().item() == pytest.approx(1, abs=0.02) and not torch.equal(b.xi[0], b.xi[1])
    for x, spread in ((0.0, 2.0), (2.0, 4.0)):
        noise = bowl.grad(torch.full((1, 1, 400), x, dtype=torch.float64), b) - x
        assert noise.std().item() == pytest.approx(spread, rel=0.02)


def test_a_run_that_diverges_is_filled_up() -> None:
    x = points(run(Bowl(), "dgd:lr=1e10", 60))
    assert x.shape == (1, 61, 1) and not np.isfinite(x[0, -1, 0])


def test_changes_of_sign_leave_out_zeros() -> None:
    assert changes(np.array([1.0, 0.0, -1.0, 0.0, 0.0, -2.0, 3.0])) == 2
    assert curve(np.arange(3.0)) == {"t": [1, 2, 3], "values": [0.0, 1.0, 2.0]}


# ------------------------------------------------------------------------------------------------------------------ AIDA


def test_aida_contracts_with_decay_and_adamw_cycles(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, aida, PAIRS=((1.0, 2.0), (1.5, 1.5)), RATES=((0.1, 0.1),), ROUNDS=2500, LONG=3000)
    results = measured(store, "aida", "stability")
    assert [each["factor"] for each in results["decayed"]] == pytest.approx([0.99] * 2, abs=1e-3)
    assert all(each["factor"] > 0.995 for each in results["without"])
    assert all(each["end"] > 1e3 * results["decayed"][0]["end"] for each in results["without"])
    assert min(each["burst"] for each in results["cycles"]) > aida.START
    assert results["adamw"] < 1e-13


def test_verdicts_on_aida() -> None:
    each = {"p": 1.0, "q": 2.0, "lr": 0.1, "decay": 0.1, "eps": 1e-8, "inside": False, "burst": 1.0}
    made = {
        "adamw": 1e-16,
        "decayed": [{**each, "factor": 0.99}, {**each, "lr": 1.0, "factor": 0.95}],
        "without": [{**each, "factor": 0.9}],
        "cycles": [{**each, "cycle": size} for *_, size in aida.CYCLES],
    }
    outcomes = [verdict.outcome for verdict in aida.PARTS["stability"].verdicts(made)]
    assert outcomes == ["holds", "holds in part", "does not hold", "holds", "open"]


# ------------------------------------------------------------------------------------------------------------ Super-Adam


def test_estimators_have_the_errors_of_their_weights(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, superadam, TRIALS=16, ROUNDS=600, AT=(100, 300, 600), STEPS=100, GAMMAS=(0.1, 0.2), TUNED=2)
    results = measured(store, "superadam", "estimators")
    for name, each in results["noisy"].items():
        asked = zip(superadam.AT, each["variance"], strict=True)
        assert each["at"] == pytest.approx([superadam.at_rest(name, *two) for two in asked], rel=0.35), name
    ends = [each["at"][-1] for each in results["noisy"].values()]
    assert ends == sorted(ends) and ends[1] > 2 * ends[0] and ends[2] > 5 * ends[1]
    exact = results["exact"]
    assert exact["storm"] < 1e-12 and exact["capped"] < 1e-12
    assert exact["moved"] > 1e-3 and exact["uncapped"] > 1e6


def test_verdicts_on_superadam() -> None:
    noisy = {
        name: {"at": [superadam.at_rest(name, t, 20) for t in superadam.AT], "variance": [20.0] * 3, "power": power}
        for name, power in (("STORM", -0.66), ("momentum", -0.1), ("raw gradient", 0.0))
    }
    tuned = {"STORM": [0.9, 0.5], "momentum": [0.4, 0.9]}
    made = {"noisy": noisy, "tuned": tuned, "exact": {"storm": 0.0, "capped": 0.0, "uncapped": 1e9}}
    outcomes = [verdict.outcome for verdict in superadam.PARTS["estimators"].verdicts(made)]
    assert outcomes == ["holds", "holds in part", "does not hold", "holds", "holds", "open"]


# ----------------------------------------------------------------------------------------------------------------- Gadam


def test_the_mean_is_better_on_a_noisy_quadratic(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, gadam, TRIALS=4, ROUNDS=1000, OFTEN=(1, 10))
    results = measured(store, "gadam", "quadratic")
    assert results["SGD"]["last"] == pytest.approx(gadam.floor(), rel=0.15)
    for each in results.values():
        assert each["last"] > 4 * each["means"][0]
        assert each["means"][1] == pytest.approx(each["means"][0], rel=0.25)


def test_the_mean_is_worse_on_a_short_run(store: Store) -> None:
    results = measured(store, "gadam", "short")
    assert results["output"]["end"] > 1.5 * results["x"]["end"] > 0
    half = gadam.SHORT // 2
    assert results["output"]["values"][:half] == results["x"]["values"][:half]


@pytest.mark.slow
def test_the_mean_of_epochs_is_tested(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a mean that is taken by hand of the points after epochs 2, 3 and 4."""
    (name,) = [each for each in gadam.TRAINED if "0.003" in each]
    shortened(monkeypatch, gadam, EPOCHS=4, SEEDS=2, TRAINED={name: gadam.TRAINED[name]})
    results = measured(store, "gadam", "digits")
    accuracy = results[name][1]
    assert len(accuracy["x"]) == len(accuracy["output"]) == 5 and accuracy["x"][:2] == accuracy["output"][:2]
    network = gadam.Network(data=gadam.mislabelled(1), alpha=float("inf"), batch_size=gadam.BATCH, init=1)
    x = points(run(network, "dgd:lr=0.003,direction=adamw(decay=0)", 80, seed=1, dtype="float32"))[0, ::20]
    assert gadam._accuracy(network, x) == accuracy["x"]
    (expected,) = gadam._accuracy(network, x[2:].mean(0, keepdims=True))
    assert accuracy["output"][-1] == pytest.approx(expected, abs=0.003)  # a sample may lie on the edge


def test_labels_are_wrong_as_often_as_said() -> None:
    x, y, x_test, _ = gadam.mislabelled(3)
    whole = gadam.digits()
    places = [int((whole.x == each).flatten(1).all(1).nonzero()[0]) for each in x]
    assert len(set(places)) >= gadam.ROWS - 5  # a few pictures are there twice
    assert (y != whole.y[places]).sum().item() == pytest.approx(0.3 * gadam.ROWS, abs=5)
    assert torch.equal(x_test, whole.x_test) and int(y.min()) >= 0 and int(y.max()) == 9
    assert not torch.equal(gadam.mislabelled(4)[1], y)


def test_verdicts_on_gadam() -> None:
    quadratic = {name: {"last": 1.0, "means": [1 / ratio, 0.1, 0.1]} for name, (_, ratio) in gadam.METHODS.items()}
    quadratic["SGD"]["last"], quadratic["SGD"]["means"] = gadam.floor(), [gadam.floor() / 39, 0.1, 1.0]
    far, often = gadam.PARTS["quadratic"].verdicts(quadratic)
    assert (far.outcome, often.outcome) == ("holds", "holds in part")
    trained = {
        name: [{"x": [0.5], "output": [0.5 + 0.1 * (-1) ** place + 0.001 * k]} for k in range(3)]
        for place, name in enumerate(gadam.TRAINED)
    }
    outcomes = [verdict.outcome for verdict in gadam.PARTS["digits"].verdicts(trained)]
    assert outcomes == ["holds in part", "does not hold", "open"]
    made = {"x": {"end": 2.0}, "output": {"end": 1.0}}
    assert gadam.PARTS["short"].verdicts(made)[0].outcome == "does not hold"


# ------------------------------------------------------------------------------------------------------------------ Adan


def test_differences_of_gradients_are_nesterov(store: Store) -> None:
    results = measured(store, "adan", "nesterov")
    assert max(results["differences"]) < 1e-12
    assert max(results["none first"]) > 0.01 and max(results["printed"]) > 0.01


def test_nesterov_here_is_nesterovs_method() -> None:
    """x_{k+1} = y_k - lr grad f(y_k), y_{k+1} = x_{k+1} + b (x_{k+1} - x_k): the paths are those of y."""
    waves, b, lr = Waves(), 0.9, 0.02
    x = y = np.ones(10)
    path = [y]
    for _ in range(100):
        new = y - lr * waves.slope(y)
        x, y = new, new + b * (new - x)
        path.append(y)
    np.testing.assert_allclose(points(run(waves, f"dgd:lr={lr},direction=nesterov(b={b})", 100))[0], path, atol=1e-12)


@pytest.mark.parametrize("kind", ["waves", pytest.param("digits", marks=pytest.mark.slow)])
def test_both_methods_are_tuned_alike(kind: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, adan, STEPS=(1.0,), RATES={kind: (-3, -1)}, TRIALS={kind: (2, 6)}, LENGTH={kind: 60})
    methods = measured(store, "adan", "contest")[kind]
    for each in methods.values():
        assert each["rates"] == [0.001, 0.01, 0.1] and len(each["tuned"]) == 3 and len(each["figures"]) == 6
        assert each["lr"] == each["rates"][int(np.argmin(each["tuned"]))]
        assert np.mean(each["figures"]) == pytest.approx(min(each["tuned"]), rel=0.3)
        assert len(each["accuracy"]) == (6 if kind == "digits" else 0)


def test_a_difference_must_be_significant() -> None:
    low, high = [1.0 + 0.01 * k for k in range(8)], [2.0 + 0.02 * k for k in range(8)]
    mixed = [value + (0.1 if k % 2 else -0.1) for k, value in enumerate(low)]
    tell: Callable[..., Number] = adan.better
    assert tell("", "", "", low, high).good and not tell("", "", "", high, low).good
    assert not tell("", "", "", low, mixed).good and tell("", "", "", low, mixed, tied=True).good
    assert not tell("", "", "", high, low, tied=True).good
    assert not tell("", "", "", low[:5], high[:5]).good  # five pairs cannot be significant
    assert tell("", "", "", low, [np.inf] * 8).good and tell("", "", "", low, low, tied=True).good


def test_verdicts_on_adan() -> None:
    figures = {"Adan": [1.0 + 0.01 * k for k in range(8)], "AdamW": [2.0 + 0.02 * k for k in range(8)]}
    methods = {name: {"figures": each, "lr": 0.1, "accuracy": [0.9] * 8} for name, each in figures.items()}
    made = {"waves": methods, "digits": {**methods, "Adan": {**methods["Adan"], "lr": 0.5}}}
    outcomes = [verdict.outcome for verdict in adan.PARTS["contest"].verdicts(made)]
    assert outcomes == ["holds", "holds", "holds in part", "open"]


# ------------------------------------------------------------------------------------------------------------------ INNA


def test_inna_spirals_where_it_should(store: Store) -> None:
    results = measured(store, "inna", "spirals")
    for each, expected, det in zip(results, (62, 0, 0), (0.95, 0.95, 0.79), strict=True):
        assert each["changes"] == pytest.approx(expected, abs=1 if expected else 0)
        assert each["det"] == pytest.approx(det, abs=1e-9)
        spiral = each["trace"] ** 2 < 4 * each["det"]
        assert spiral == (inna.discriminant(each["alpha"], each["beta"], each["curvature"]) < 0)


def test_inna_avoids_the_saddle_and_newton_does_not(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, inna, STARTS=200, SADDLE_ROUNDS=1500, SETTINGS=((0.5, 0.1, 0.1),))
    results = measured(store, "inna", "saddle")
    (each,), (line,), newton = results["inna"], results["line"], results["newton"]
    assert (each["saddle"], each["minimum"]) == (0, 200)
    assert (line["saddle"], line["minimum"]) == (200, 0)
    assert newton["saddle"] + newton["minimum"] == 200
    assert newton["saddle"] == pytest.approx(200 * newton["chance"], abs=4 * (200 * 0.35 * 0.65) ** 0.5)


def test_newtons_chance_does_not_depend_on_the_grid() -> None:
    assert inna.newton_chance(20_001) == pytest.approx(0.351, abs=0.01)
    assert inna.newton_chance(20_001) == pytest.approx(inna.newton_chance(40_003), abs=1e-3)


def test_verdicts_on_inna() -> None:
    setting = (0.5, 0.1, 0.1)
    good, bad = {"setting": setting, "saddle": 0, "minimum": 1000}, {"setting": setting, "saddle": 3, "minimum": 996}
    line = {"setting": setting, "saddle": 1000, "minimum": 0}
    newton = {"setting": (), "saddle": 350, "minimum": 650, "chance": 0.35}
    tell = inna.PARTS["saddle"].verdicts
    holds = tell({"inna": [good], "line": [line], "newton": newton})
    assert [verdict.outcome for verdict in holds] == ["holds", "holds", "holds", "open"]
    lost = tell({"inna": [bad], "line": [good], "newton": {**newton, "saddle": 0}})
    assert [verdict.outcome for verdict in lost] == ["does not hold"] * 3 + ["open"]


# ----------------------------------------------------------------------------------------------------------------- pages


def test_claims_out_of_reach_are_open() -> None:
    plain = reproduce.Part(lambda *_: 0, lambda results: [{"claim": "a"}], "", "", lambda results: [])
    part = with_unreached(plain, {"it is the best of all": "too large"})
    assert part.verdicts(0) == [Verdict("it is the best of all", "not run here", "open", "too large")]
    assert [row["claim"] for row in part.rows(0)] == ["a", "it is the best of all"]


@pytest.mark.parametrize("paper", PAPERS)
def test_every_paper_has_a_reference_and_a_claim_that_nobody_can_test_here(paper: str) -> None:
    module = reproduce._module(paper)
    assert module.REFERENCE and module.NOTE and module.PARTS is reproduce.parts(paper)


def test_the_command_writes_table_figure_and_page(tmp_path: Path) -> None:
    words = ["reproduce", "inna", "--only", "spirals", "--out", str(tmp_path)]
    done = click.testing.CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    table = list(csv.DictReader((tmp_path / "spirals.csv").open()))
    assert list(table[0]) == ["claim", "our set-up", "number expected", "number measured", "verdict"]
    assert (tmp_path / "spirals.png").stat().st_size > 10_000
    assert "spirals.png" in (tmp_path / "index.html").read_text()
