"""Where agents start, what is allowed to them, and where their answer is measured: the same on every engine."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import needs
from torch import Tensor

import distopt
from distopt.catalog import registry
from distopt.cli.main import cli
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.random import Key
from distopt.simulation.problem import build

MovingTarget = registry.maker("scenarios", "moving_target")
N, D, ROUNDS = 6, 3, 24
PLACES = ["local", "threads:workers=3", pytest.param("ranks:workers=2", marks=needs.forks)]


def asked(**settings: Any) -> Any:
    given: dict[str, Any] = {
        "scenario": f"moving_target:dim={D}",
        "algorithm": "gt:lr=0.05",
        "record": "x",
        "mode": "eager",
    }
    return distopt.simulate("ring", **(given | {"agents": N, "rounds": ROUNDS} | settings))


class Averaged(NamedTuple):
    total: Tensor
    count: Tensor


@dataclass(frozen=True)
class Averaging:
    """Gradient descent whose answer is the mean of its points so far."""

    lr: float = 0.05
    channels: ClassVar[tuple[str, ...]] = ("x",)

    def init(self, x: Tensor) -> Averaged:
        return Averaged(torch.zeros_like(x), torch.zeros_like(x[..., :1]))

    def update(self, g: Tensor, state: Averaged, x: Tensor, mix: Any) -> tuple[Tensor, Averaged]:
        return mix("x", x) - self.lr * g, Averaged(state.total + x, state.count + 1)

    def output(self, x: Tensor, state: Averaged) -> Tensor:
        return (state.total + x) / (state.count + 1)


def means(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.cumsum(x, 1) / np.arange(1, x.shape[1] + 1)[None, :, None, None]


@pytest.mark.parametrize("engine", PLACES)
@pytest.mark.parametrize("agentwise", [True, False])
def test_the_answer_is_what_is_measured(engine: str, agentwise: bool) -> None:
    run = asked(algorithm=Averaging(), engine=engine, record=("output", "x"), agentwise=agentwise)
    plain = asked(algorithm="dgd:lr=0.05", agentwise=agentwise)
    assert np.array_equal(run["x"], plain["x"])
    assert run["output"].shape == (1, ROUNDS, N, D)
    assert np.abs(run["output"] - means(run["x"][:, :-1])).max() < 1e-13
    spread = run["output"] - run["output"].mean(2, keepdims=True)
    assert np.abs(run["consensus_error"] - np.sqrt((spread**2).sum((2, 3)) / N)).max() < 1e-13
    scenario = build(Experiment("ring", N, f"moving_target:dim={D}", "gt", rounds=ROUNDS)).scenario
    batch = scenario.batch(torch.arange(ROUNDS).reshape(-1, 1, 1, 1), Key(0, range(N), range(1), N))
    a, c = batch.a[0, 0].numpy(), batch.c[:, 0].numpy()

    def cost(point: Any) -> Any:  # F_t at one point [..., T, D]
        return (0.5 * a * (point[..., None, :] - c) ** 2).sum((-1, -2))

    centre = run["output"][0].mean(1)
    best = (a * c).sum(1) / a.sum(0)
    assert np.abs(run["dynamic_regret"][0] - np.cumsum(cost(centre) - cost(best))).max() < 1e-11
    if agentwise:
        own = np.stack([cost(run["output"][0, :, i]) for i in range(N)], -1)
        assert np.abs(run["dynamic_regret_worst"][0] - np.cumsum(own - cost(best)[:, None], 0).max(-1)).max() < 1e-11
    local = asked(algorithm=Averaging(), record=("output", "x"), agentwise=agentwise)
    assert all(np.array_equal(local[name], run[name], equal_nan=True) for name in local)


@pytest.mark.slow
def test_compiled_rounds_measure_the_answer_in_the_same_place() -> None:
    ask = {"algorithm": Averaging(), "record": ("output", "x"), "scenario": Boxed(dim=D)}
    eager, compiled, cut = (
        asked(mode=mode, engine=engine, **ask)
        for mode, engine in (("eager", "local"), ("compiled", "local"), ("compiled", "threads:workers=2"))
    )
    for name in eager:
        np.testing.assert_allclose(eager[name], compiled[name], rtol=0, atol=1e-11)  # a gap without a bound is infinite
        assert np.array_equal(compiled[name], cut[name], equal_nan=True)


def test_an_answer_of_another_form_is_refused() -> None:
    class Flat(Averaging):
        def output(self, x: Tensor, state: Averaged) -> Tensor:
            return x[..., :1]

    with pytest.raises(InputError, match=r"flat: output gives \[1, 6, 1\] and torch.float64, not \[1, 6, 3\]"):
        asked(algorithm=Flat())


# What is allowed


class Boxed(MovingTarget):  # a class that the catalogue gave
    """A moving target outside the box [-1, 1]^d, whose agents may not leave it."""

    def project(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1)


@pytest.mark.parametrize("engine", PLACES)
@pytest.mark.parametrize("algorithm", ["dgd:lr=0.2", "dgd:lr=0.2,form=atc"])
def test_agents_are_projected_after_each_round(algorithm: str, engine: str) -> None:
    run = asked(scenario=Boxed(dim=D), algorithm=algorithm, engine=engine)
    scenario = Boxed(dim=D)
    batch = scenario.batch(torch.arange(ROUNDS).reshape(-1, 1, 1, 1), Key(0, range(N), range(1), N))
    a, c = batch.a[0, 0].numpy(), batch.c[:, 0].numpy()
    W = sum(np.roll(np.eye(N), k, 1) for k in (-1, 0, 1)) / 3
    x = np.zeros((N, D))
    for t in range(ROUNDS):
        assert np.abs(run["x"][0, t] - x).max() < 1e-12
        step = 0.2 * a * (x - c[t])
        x = np.clip(W @ (x - step) if "atc" in algorithm else W @ x - step, -1, 1)
    assert np.abs(run["x"]).max() == 1
    free = asked(scenario=MovingTarget(dim=D), algorithm=algorithm)["x"]
    assert np.abs(free).max() > 1
    assert np.array_equal(run["x"], asked(scenario=Boxed(dim=D), algorithm=algorithm)["x"])


# Where agents start


class Scattered(MovingTarget):  # a class that the catalogue gave
    """Agents start at random points."""

    def start(self, key: Key) -> Tensor:
        return key.normal("start", self.dim)[0]


@pytest.mark.parametrize("engine", PLACES)
def test_a_scenario_says_where_agents_start(engine: str) -> None:
    run = asked(scenario=Scattered(dim=D), trials=2, engine=engine)
    drawn = Key(0, range(N), range(2), N).normal("start", D)[0].numpy()
    assert np.array_equal(run["x"][:, 0], drawn) and len(np.unique(drawn)) == drawn.size
    assert np.array_equal(asked(scenario=Scattered(dim=D), x0=0.25, engine=engine)["x"][:, 0], np.full((1, N, D), 0.25))


def test_a_wrong_start_is_refused_in_the_scenarios_name() -> None:
    class Wrong(Scattered):
        def start(self, key: Key) -> Tensor:
            return torch.zeros(3, 5, dtype=torch.float64)

    with pytest.raises(InputError, match=r"scenario Wrong: start has shape \[3, 5\]; give"):
        asked(scenario=Wrong(dim=D))

    class Broken(Scattered):
        def start(self, key: Key) -> Tensor:
            return torch.full((N, D), torch.nan)

    with pytest.raises(InputError, match="scenario Broken: start is not finite in float64"):
        asked(scenario=Broken(dim=D))


@pytest.mark.parametrize("shape", [(), (D,), (N, D), (2, N, D)])
def test_a_file_says_where_agents_start(shape: tuple[int, ...], tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=shape)
    np.save(tmp_path / "start.npy", values)
    for given in (str(tmp_path / "start.npy"), tmp_path / "start.npy", values):
        run = asked(x0=given, trials=2)
        assert np.array_equal(run["x"][:, 0], np.broadcast_to(values, (2, N, D)))


def test_the_command_line_and_toml_say_where_agents_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(N, D))
    np.save(tmp_path / "start.npy", values)
    common = ["--agents", str(N), "--scenario", f"moving_target:dim={D}", "--rounds", "5", "--record", "x", "--eager"]

    def run(*arguments: str) -> Any:
        done = CliRunner().invoke(cli, ["simulate", *arguments, "--out", "out"])
        assert done.exit_code == 0, done.output
        loaded = distopt.load(next((tmp_path / "out").rglob("manifest.json")).parent)
        read = loaded["x"]
        import shutil

        shutil.rmtree(tmp_path / "out")
        return read[0, 0]

    assert np.array_equal(run("ring", *common, "--x0", "start.npy"), values)
    assert np.array_equal(run("ring", *common, "--x0", "0.5"), np.full((N, D), 0.5))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    np.save(folder / "mine.npy", -values)
    (folder / "ask.toml").write_text('topology = "ring"\nx0 = "mine.npy"\n')
    assert np.array_equal(run("elsewhere/ask.toml", *common), -values)
    assert np.array_equal(run("elsewhere/ask.toml", *common, "--x0", "start.npy"), values)


def test_the_fingerprint_knows_the_file_and_not_its_spelling(tmp_path: Path) -> None:
    def fingerprint(x0: Any) -> str:
        return Experiment("ring", N, "moving_target", "gt", x0=x0, folder=str(tmp_path)).fingerprint()

    np.save(tmp_path / "a.npy", np.zeros(2))
    first = fingerprint("a.npy")
    assert fingerprint("file:path=a.npy") == first and fingerprint("0.5") == fingerprint(0.5)
    np.save(tmp_path / "a.npy", np.ones(2))
    assert fingerprint("a.npy") != first
    experiment = Experiment("ring", N, "moving_target", "gt", x0="a.npy", folder=str(tmp_path))
    assert dataclasses.asdict(Experiment.from_mapping(dict(__import__("tomllib").loads(experiment.to_toml())), "x"))[
        "x0"
    ] == ("file:path=a.npy")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "x0: there is no file 'start.npy' in .*; give a number, or a .npy file"),
        (b"no array", "start.npy cannot be read"),
        ([1 + 2j], "it holds no array of real numbers"),
        (["a"], "it holds no array of real numbers"),
        ([True], "it holds no array of real numbers"),
        ([[1.0, 2.0]], r"x0 has shape \[1, 2\]; give a number, \[3\], \[6, 3\] or"),
        ([np.nan] * 3, "x0 is not finite in float64"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    content: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if isinstance(content, bytes):
        (tmp_path / "start.npy").write_bytes(content)
    elif content is not None:
        np.save(tmp_path / "start.npy", np.array(content))
    with pytest.raises(InputError, match=told):
        asked(x0="start.npy")
