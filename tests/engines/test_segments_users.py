"""Compiled rounds of workers have the bits of one block with what users bring: algorithms, weights, metrics, grids, and what they record."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers.users import InPlace
from torch import Tensor

import distopt
from distopt.engines.local import local
from distopt.engines.threads import ThreadGroup
from distopt.engines.workers.group import WorkerEngine
from distopt.engines.workers.partition import Partition
from distopt.experiment import Experiment
from distopt.metrics import Metric, View
from distopt.runs.execution import Comparison, execute
from distopt.simulation.problem import build

PUSH_PULL = f"{Path(__file__).parents[2] / 'examples' / 'push_pull.py'}:lr=0.05"
ASK: dict[str, Any] = {"scenario": "moving_target:dim=3", "rounds": 12, "x0": 0.5}


def alike(engine: str = "threads:workers=3", **asked: Any) -> None:
    alone, shared = (distopt.simulate(engine=where, mode="compiled", **{**ASK, **asked}) for where in (local, engine))
    runs = [(alone, shared)] if isinstance(alone, distopt.Run) else zip(alone.values(), shared.values(), strict=True)
    for one, other in runs:
        assert [name for name in one if not np.array_equal(one[name], other[name], equal_nan=True)] == []
        assert np.abs(one["tracking_error"][:, -1] - one["tracking_error"][:, 0]).max() > 0


class Extragradient:
    """What asks for all that a round has: gradients elsewhere, numbers, the round, and a result of its own."""

    channels: ClassVar[tuple[str, ...]] = ("x", "y")

    def init(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def update(self, g: Tensor, state: Tensor, x: Tensor, mix: Any) -> tuple[Tensor, Tensor]:
        lr = 0.1 / (1 + mix.t)
        middle = mix("y", mix.x - lr * g)
        return mix("x", x) - lr * mix.grad(middle) * (0.5 + mix.uniform(1)), middle

    def output(self, x: Tensor, state: Tensor) -> Tensor:
        return x + 0.5 * state


class Swapping:
    """Gradient descent whose state turns round: leaves become others as they stand."""

    channels: ClassVar[tuple[str, ...]] = ("x",)

    def init(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros_like(x), torch.ones_like(x), torch.zeros_like(x)

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        last, other, kept = state
        return mix("x", x) - 0.1 * g + 0.01 * (x - last) * other, (x, last, kept)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("algorithm", [Extragradient, InPlace, Swapping])
def test_users_algorithms(algorithm: Any, dtype: str) -> None:
    alike(topology="ring", agents=5, algorithm=algorithm(), dtype=dtype, trials=2, record="x")


def test_weights_of_each_channel() -> None:
    rng = np.random.default_rng(0)
    rows, columns = (
        rng.uniform(0.2, 1.0, (7, 7)) * (rng.uniform(size=(7, 7)) < 0.5) + np.eye(7) + np.eye(7)[[*range(1, 7), 0]]
        for _ in "xs"
    )
    topology = {"x": rows / rows.sum(1, keepdims=True), "s": columns / columns.sum(0)}
    alike(topology=topology, algorithm=PUSH_PULL, record=("x", "s"))


def test_points_of_a_grid_and_what_is_recorded() -> None:
    asked: dict[str, Any] = {"topology": "ring", "agents": 5, "scenario": "drifting_logistic", "trials": 2}
    alike(**asked, algorithm="gtadam:lr=[0.01,0.03]", channel="choco(sign)", record=("x", "s", "memory.x.copy"))


def test_an_agent_alone() -> None:
    alike("threads:workers=1", topology="ring", agents=1, algorithm="gtadam", record="x")


class Reach(Metric):
    """Two columns."""

    def term(self, view: View) -> Tensor:
        return (view.x - view.best)[..., :2].abs()

    def columns(self, dim: int) -> int:
        return 2

    def finish(self, sums: Tensor, agents: int) -> Tensor:
        return sums.amax(-1) / agents


class Length:
    """A term of the algorithm's state after the round."""

    def round_term(self, algorithm: Any, state: Any, g: Tensor) -> Tensor:
        return (state.s.double() - g.double()).square().sum(-1)


def test_users_metrics() -> None:
    alike(topology="grid", agents=9, algorithm="gt", metrics=[Reach(), Length()], record="s")


@pytest.mark.parametrize("network", ["resampled_erdos_renyi", "random_matching", "ring"])
def test_blocks_whose_messages_have_other_sizes(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = build(Experiment(network, 12, "moving_target:dim=3", "gtadam:lr=0.01", rounds=22, record=("x",)))
    comparison = Comparison.of(problem)
    monkeypatch.setattr(comparison.blocks, "length", 3)
    comparison.blocks.count = 8
    alone = execute(problem.experiment, problem=problem, comparison=comparison, engine=local)
    group = ThreadGroup(problem, comparison.blocks, Partition.even(12, 3), compiled=True, shuffled=True)
    shared = execute(problem.experiment, problem=problem, comparison=comparison, engine=lambda *_: WorkerEngine(group))
    assert [name for name in alone if not np.array_equal(alone[name], shared[name], equal_nan=True)] == []
