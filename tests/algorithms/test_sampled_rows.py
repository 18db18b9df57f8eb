"""GT-SAGA, GT-SARAH and GT-VR against loops written from their papers, on rows of data that are drawn by address."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs
from helpers.trained import Small

import distopt
from distopt.algorithms.gt_saga import GTSaga, gt_saga
from distopt.algorithms.gt_sarah import gt_sarah
from distopt.algorithms.gt_vr import gt_vr
from distopt.checks import check_algorithm, check_scenario
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.random import Key
from distopt.optim import Decentralized
from distopt.simulation.problem import build

N, M, ROUNDS, L2 = 5, 7, 60, 0.1
W = np.zeros((N, N))
for i in range(N):
    W[i, i] = W[i, (i + 1) % N] = W[i, (i - 1) % N] = 1 / 3
STATIC, MOVING = (f"drifting_logistic:rows={M},speed={speed}" for speed in ("0", "0.05"))
ASK: dict[str, Any] = {"agents": N, "rounds": ROUNDS, "seed": 4, "topology": "ring"}
SPECS = ("gt_saga:lr=0.1", "gt_sarah:lr=0.1", "gt_vr:lr=0.1")


class Data:
    """The rows of a scenario, and the gradients of some of them, as NumPy's numbers."""

    def __init__(self, scenario: str, words: int) -> None:
        problem = build(Experiment(algorithm="dgd", scenario=scenario, **ASK))
        t = torch.arange(ROUNDS).reshape(-1, 1, 1, 1)
        b = problem.scenario.batch(t, problem.key)
        self.X, self.y = b.X.expand(ROUNDS, 1, N, M, 3)[:, 0].numpy(), b.y[0, 0, 0].numpy()
        self.u = Key(4, range(N), range(1), N).uniform("uniform", words, t)[:, 0].numpy()

    def row(self, t: int, x: Any, k: Any) -> Any:
        """The gradient of row k[i] of each agent, with the ridge."""
        X, y = self.X[t][np.arange(N), k], self.y[k]
        return -(y / (1 + np.exp(y * (X * x).sum(-1))))[:, None] * X + L2 * x

    def rows(self, t: int, x: Any, ks: Any) -> Any:
        return np.mean([self.row(t, x, k) for k in ks.T], 0)

    def full(self, t: int, x: Any) -> Any:
        return np.mean([self.row(t, x, np.full(N, k)) for k in range(M)], 0)


def tracked(data: Data, lr: Any, form: str, estimate: Any) -> Any:
    """Gradient tracking of estimates, in the order of the papers."""
    x, s, v, path = np.zeros((N, 3)), np.zeros((N, 3)), np.zeros((N, 3)), [np.zeros((N, 3))]
    for t in range(ROUNDS):
        fresh = estimate(t, x, v)
        s = W @ (s + fresh - v) if form == "atc" else W @ s + fresh - v
        x = W @ (x - lr(t) * s) if form == "atc" else W @ x - lr(t) * s
        v = fresh
        path.append(x)
    return np.array(path)


def saga(data: Data, batch: int) -> Any:
    table = np.zeros((N, M, 3))

    def estimate(t: int, x: Any, v: Any) -> Any:
        ks = np.floor(M * data.u[t]).astype(int)
        found = table.mean(1) + np.mean([data.row(t, x, k) - table[np.arange(N), k] for k in ks.T], 0)
        for k in ks.T:
            table[np.arange(N), k] = data.row(t, x, k)
        return found

    return estimate


def sarah(data: Data, period: int) -> Any:
    before: list[Any] = [None]

    def estimate(t: int, x: Any, v: Any) -> Any:
        ks, last = np.floor(M * data.u[t]).astype(int), before[0]
        before[0] = x
        return data.full(t, x) if t % period == 0 else v + data.rows(t, x, ks) - data.rows(t, last, ks)

    return estimate


def vr(data: Data, p: float) -> Any:
    known: list[Any] = [np.zeros((N, 3)), np.zeros((N, 3))]

    def estimate(t: int, x: Any, v: Any) -> Any:
        ks, coin = np.floor(M * data.u[t][:, :-1]).astype(int), data.u[t][:, -1:]
        new = (coin < p) | (t == 0)
        tau, full = (np.where(new, a, b) for a, b in zip((x, data.full(t, x)), known, strict=True))
        known[:] = tau, full
        return data.rows(t, x, ks) - data.rows(t, tau, ks) + full

    return estimate


@pytest.mark.parametrize("scenario", [STATIC, MOVING])
@pytest.mark.parametrize("form", ["cta", "atc"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["gt_saga", "gt_sarah:period=6", "gt_vr:p=0.3"])
@pytest.mark.parametrize("lr", ["0.2", "inverse_sqrt(0.5)"])
def test_rounds_are_those_of_the_paper(lr: str, name: str, batch: int, form: str, scenario: str) -> None:
    spec = f"{name}{',' if ':' in name else ':'}lr={lr},batch={batch},form={form}"
    data = Data(scenario, batch + ("gt_vr" in name))
    estimate = saga(data, batch) if "saga" in name else sarah(data, 6) if "sarah" in name else vr(data, 0.3)
    wanted = tracked(data, lambda t: 0.2 if lr == "0.2" else 0.5 / math.sqrt(1 + t), form, estimate)
    run = distopt.simulate(algorithm=spec, scenario=scenario, record="x", mode="eager", **ASK)
    assert (
        np.abs(run["x"][0] - wanted).max() < 1e-12 * max(1.0, np.abs(wanted).max()) and np.abs(wanted[-1]).max() > 0.1
    )
    each = {"gt_saga": batch / M, "gt_sarah": 1 / 6 + 2 * batch / M, "gt_vr": 0.3 + 2 * batch / M}
    np.testing.assert_allclose(run["gradients"][0, -1], ROUNDS * each[name.partition(":")[0]], rtol=1e-12)


@pytest.mark.parametrize("spec", ["gt_saga:lr=0.15", "gt_sarah:lr=0.15", "gt_vr:lr=0.15"])
def test_all_find_the_optimum_itself_where_the_data_stay(spec: str) -> None:
    ask = {**ASK, "rounds": 3000, "mode": "compiled", "scenario": STATIC}
    run = distopt.simulate(algorithm=spec, **ask)
    assert run["tracking_error"][0, -1] < 1e-12 < run["tracking_error"][0, 0]
    assert "tracker_invariant" not in run.metrics


@pytest.mark.parametrize("engine", ["threads:workers=3", pytest.param("ranks:workers=2", marks=needs.forks)])
@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("spec", SPECS)
def test_every_engine_draws_the_same_rows(spec: str, mode: str, engine: str) -> None:
    ask = {
        **ASK,
        "rounds": 8,
        "scenario": MOVING,
        "trials": 2,
        "dtype": "float32",
        "mode": mode,
        "record": "x,estimate",
    }
    ask |= {"algorithm": f"{spec},batch=2,direction=momentum", "channel": "choco:compressor=sign,gamma=0.3"}
    here, there = (distopt.simulate(engine=each, **ask) for each in ("local", engine))
    assert all(np.array_equal(here[name], there[name]) for name in ("x", "estimate", "gradients"))
    assert np.isfinite(here["x"]).all()


def test_one_row_is_the_whole_cost() -> None:
    """SAGA's table then holds the gradient itself, and what is left is gradient tracking."""
    ask = {**ASK, "scenario": "drifting_logistic:rows=1", "record": "x", "mode": "eager"}
    mine, known = (distopt.simulate(algorithm=f"{each}:lr=0.1,form=cta", **ask)["x"] for each in ("gt_saga", "gt"))
    assert np.abs(mine - known).max() < 1e-13


def test_samples_of_unequal_shares_are_rows_too() -> None:
    from distopt.scenarios.digits_mlp import DigitsMlp

    assert DigitsMlp(rows=11).terms(4) == 3
    check_scenario(DigitsMlp(rows=11))
    run = distopt.simulate(algorithm="gt_vr:lr=0.01", scenario="digits_mlp:rows=13", **{**ASK, "rounds": 3})
    assert run["cost"][0, -1] < run["cost"][0, 0]
    np.testing.assert_allclose(run["gradients"][0, -1], 3 * (0.05 + 2 / 3), rtol=1e-12)


@pytest.mark.parametrize("scenario", ["digits", "moving_target", "flights", "network"])
@pytest.mark.parametrize("spec", [*SPECS, "averaged(gt_vr)"])
def test_data_that_come_and_go_are_refused(spec: str, scenario: str) -> None:
    name = spec.partition(":")[0]
    told = f"algorithm {name.replace('(', '.').replace(')', '.')} takes gradients of single rows .* scenario {scenario} has none; .*gt_storm"
    with pytest.raises(InputError, match=told):
        distopt.simulate(algorithm=spec, scenario=scenario, **ASK)


def test_training_has_no_rows() -> None:
    with pytest.raises(InputError, match="gt_saga needs gradients of single rows of fixed data.*use gt_storm"):
        Decentralized(Small().named_parameters(), "gt_saga")


def test_the_mean_of_the_points_samples_as_well() -> None:
    ask = {**ASK, "scenario": STATIC, "mode": "eager", "record": "x"}
    mean, plain = (distopt.simulate(algorithm=each, **ask) for each in ("averaged(gt_vr(lr=0.1))", "gt_vr(lr=0.1)"))
    assert np.array_equal(mean["x"], plain["x"]) and np.array_equal(mean["gradients"], plain["gradients"])


def test_tuning_gives_all_as_many_gradients() -> None:
    tuned = distopt.tune(
        "ring",
        algorithm=["gt_saga", "gt"],
        grid=[0.1, 0.2],
        agents=N,
        scenario=STATIC,
        rounds=70,
        trials=1,
        mode="eager",
    )
    assert tuned.runs["gt_saga"].info["rounds"] == 70 and tuned.runs["gt"].info["rounds"] == 10


def test_rules_and_names() -> None:
    for make in (gt_saga, gt_sarah, gt_vr):
        check_algorithm(make(lr=0.1))
        check_algorithm(make(lr=0.1, batch=2, form="cta").for_rows(4))
        assert make().for_rows(9).rows == 9 and make().weights == "doubly"
    assert isinstance(gt_saga(), GTSaga)
    with pytest.raises(InputError, match=r"^gt_vr: p must lie in \(0, 1\], got 0"):
        gt_vr(p=0)
    with pytest.raises(InputError, match="^gt_sarah: period must be a whole number from 1 to"):
        gt_sarah(period=0)


class Late:
    """Samples rows after its first round only."""

    channels = ("x",)

    def for_rows(self, rows: int) -> Any:
        return self

    def init(self, x: Any) -> tuple[()]:
        return ()

    def update(self, g: Any, state: Any, x: Any, mix: Any) -> Any:
        return mix("x", x) - 0.1 * (mix.grad(x, torch.zeros_like(x[..., :1])) if mix.t > 0 else g), state


def test_as_many_rows_in_every_round() -> None:
    with pytest.raises(InputError, match="takes gradients of 1 rows in one round, and of 0 in the first"):
        distopt.simulate(algorithm=Late(), scenario=STATIC, mode="eager", **ASK)
