"""Rounds whose costs cannot be compiled: torch computes the gradients, the rest is compiled, and all engines have the same bits."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import needs
from torch import Tensor

import distopt
from distopt.algorithms.gt import GT
from distopt.codegen.folder import CompileWarning
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.random import Key
from distopt.runs import execution

METHODS: dict[str, dict[str, Any]] = {
    "gtadam": {"algorithm": "gtadam:lr=0.02"},
    "signs": {"algorithm": "gtadam:lr=0.02", "channel": "choco:compressor=sign,gamma=0.4"},
    "exact diffusion": {"algorithm": "exact_diffusion:lr=0.05"},
    "one peer": {"algorithm": "gt:lr=0.05", "topology": "one_peer_exponential"},
    "dropped links": {"algorithm": "gt:lr=inverse_sqrt(0.05),form=atc", "drop_links": 0.2},
    "draws": {"algorithm": "gt:lr=0.05", "channel": "choco:compressor=qsgd,gamma=0.2", "trials": 3},
}


class Looks:
    """(x - a_{i,t})^2 / 2, by operations that look at the numbers: they cannot be recorded."""

    dim = 5
    comparator = False

    def batch(self, t: Tensor, key: Key) -> Tensor:
        return key.uniform("looks", self.dim, t)

    def loss(self, x: Tensor, a: Tensor) -> Tensor:
        return (x - a).square().sum(-1) / 2

    def grad(self, x: Tensor, a: Tensor) -> Tensor:
        return x - a if float(x.abs().max()) < 1e6 else x

    def project(self, x: Tensor) -> Tensor:
        return x.clamp(max=0.9)


def run(engine: str = "local", mode: Any = "auto", scenario: Any = None, **settings: Any) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", category=CompileWarning
        )  # these costs cannot be compiled: that is what is tested
        found = distopt.simulate(
            settings.pop("topology", "ring"),
            agents=6,
            scenario=scenario or Looks(),
            rounds=40,
            record=["x"],
            engine=engine,
            mode=mode,
            **settings,
        )
    return {name: torch.as_tensor(found[name]) for name in ("x", "cost", "consensus_error")}


@pytest.mark.parametrize("method", METHODS)
def test_all_engines_have_the_same_bits(method: str) -> None:
    settings = METHODS[method]
    local, eager = run(**settings), run(mode="eager", **settings)
    assert float(local["x"].max()) <= 0.9
    for engine in ("threads:workers=2", "threads:workers=3"):
        found = run(engine, **settings)
        assert all(torch.equal(found[name], local[name]) for name in local), engine
    for name, values in local.items():
        assert (values - eager[name]).abs().max() <= 1e-12 * max(1.0, float(eager[name].abs().max()))
    assert (local["x"] != 0).any()


@needs.forks
@pytest.mark.slow
def test_ranks_have_them_too() -> None:
    for settings in METHODS.values():
        local, found = run(**settings), run("ranks:workers=2", **settings)
        assert all(torch.equal(found[name], local[name]) for name in local)


def test_what_is_not_compiled_is_told_once_and_with_its_reason() -> None:
    with pytest.warns(CompileWarning, match="the costs are not compiled, .* the rounds look at the numbers") as seen:
        distopt.simulate("ring", agents=4, scenario=Looks(), algorithm="gt", rounds=8)
    assert len([each for each in seen if issubclass(each.category, CompileWarning)]) == 1


class Counting(GT):
    """Its own rounds cannot be compiled either."""

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> Any:
        return super().update(g if float(g.sum()) > -1e9 else x, state, x, mix)


def test_rounds_of_which_nothing_can_be_compiled_run_eagerly_or_are_refused() -> None:
    with pytest.warns(CompileWarning, match="the rounds are not compiled"):
        distopt.simulate("ring", agents=4, scenario=Looks(), algorithm=Counting(), rounds=8)
    with pytest.raises(InputError, match="the rounds cannot be compiled"):
        distopt.simulate("ring", agents=4, scenario=Looks(), algorithm=Counting(), rounds=8, mode="compiled")
    wanted, found = run(mode="eager", algorithm=Counting()), run(algorithm=Counting())
    assert torch.equal(wanted["x"], found["x"])


def test_a_run_goes_on_from_its_checkpoint_with_the_same_bits(tmp_path: Path) -> None:
    """The scenario is a file, so that a folder can be resumed."""
    (tmp_path / "looks.py").write_text(
        "import torch\n"
        "class Looks:\n"
        "    dim, comparator = 3, False\n"
        "    def batch(self, t, key): return key.uniform('looks', 3, t)\n"
        "    def loss(self, x, a): return (x - a).square().sum(-1) / 2\n"
        "    def grad(self, x, a): return x - a if float(x.abs().max()) < 1e6 else x\n"
    )
    spec = str(tmp_path / "looks.py")
    experiment = Experiment(
        topology="ring", agents=4, scenario=spec, algorithm="gtadam:lr=0.02", rounds=60, record=("x",)
    )

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "rounds" and done >= 30:
            raise KeyboardInterrupt

    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", category=CompileWarning
        )  # these costs cannot be compiled: that is what is tested
        whole = execution.execute(experiment)
        with pytest.raises(KeyboardInterrupt):
            execution.execute(experiment, folder=tmp_path / "run", checkpoint_every=10, progress=stop)
        again = distopt.resume(tmp_path / "run")
    assert torch.equal(torch.as_tensor(whole["x"]), torch.as_tensor(again["x"]))
