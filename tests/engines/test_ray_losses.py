"""Actors of a Ray cluster that are lost are replaced; what ends a run is told in one line."""

from __future__ import annotations

import os
import random
import re
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.cluster import Nodes
from helpers.ranks import made
from torch import Tensor

import distopt
from distopt.engines import ray as engine_of_ray
from distopt.engines.workers.group import LossWarning
from distopt.errors import RunError
from distopt.runs.execution import Comparison
from distopt.simulation import runner

pytestmark = pytest.mark.usefixtures("cluster_is_free")


class Mortal:
    """Gradient descent in which the actor that holds agent 0, 5 or 15 is killed in the rounds that a file lists, once in each."""

    channels = ("x",)

    def __init__(self, file: Path, how: Any) -> None:
        self.file, self.how = file, how

    def init(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., :1])

    def update(self, g: Tensor, state: Tensor, x: Tensor, mix: Any) -> tuple[Tensor, Tensor]:
        due = self.file.read_text().split()
        if due and x.shape[-2] < 16 and due[0] == f"{int(state.max())}:{x.shape[-2]}":
            self.file.write_text(" ".join(due[1:]))
            self.how()
        return mix("x", x) - 0.01 * g, state + 1


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def divide() -> None:
    raise ZeroDivisionError("agent 15 has enough")


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def losses(ask: dict[str, Any], engine: str) -> tuple[distopt.Run, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = distopt.simulate("ring", engine=engine, **ask)
    assert isinstance(run, distopt.Run)
    return run, [str(each.message) for each in caught if each.category is LossWarning]


@pytest.mark.slow
def test_actors_that_are_killed_at_twenty_random_rounds_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distopt.engines.workers.group.room", lambda x: 5)
    monkeypatch.setattr("distopt.engines.ray.REPLACED", 200)  # seconds for new actors on a busy machine, or fewer go on
    rounds = sorted(random.Random(5).sample(range(100), 20))
    file = tmp_path / "rounds"
    file.write_text("")
    ask: dict[str, Any] = {
        "agents": 15,
        "scenario": "drifting_logistic",
        "algorithm": Mortal(file, die),
        "mode": "eager",
        "rounds": 100,
        "record": "x",
    }
    alone = distopt.simulate("ring", **ask)
    file.write_text(
        " ".join(f"{k}:{7 + i % 2}" for i, k in enumerate(rounds))
    )  # worker 0 holds 8 agents, worker 1 seven
    run, told = losses(ask, "ray:workers=2,timeout=300")
    assert not file.read_text(), "not all were killed"
    assert 10 <= len(told) <= 20, "two may die at once, but not always"
    assert all(re.match(r"rank [01] was lost in round \d+( or later)?; starting again", each) for each in told)
    assert [name for name in alone if not np.array_equal(alone[name], run[name], equal_nan=True)] == []


@pytest.mark.slow
def test_without_room_for_another_fewer_actors_go_on(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distopt.engines.workers.group.room", lambda x: 5)
    monkeypatch.setattr(engine_of_ray, "REPLACED", 3)
    monkeypatch.setattr(
        engine_of_ray, "ANSWER", 60
    )  # seconds: on a busy machine those who live may take long to say so
    ask: dict[str, Any] = {
        "agents": 16,
        "scenario": "moving_target",
        "algorithm": "gtadam",
        "rounds": 40,
        "record": "x",
    }
    alone = distopt.simulate("ring", **ask)
    teams = []
    form, advance = engine_of_ray.ActorGroup._form, engine_of_ray.ActorGroup.advance

    def formed(self: engine_of_ray.ActorGroup) -> None:
        form(self)
        teams.append({node for node, _ in (where for _, where in self._seats.values())})
        teams.append(len(self._actors))

    def shrinking(self: engine_of_ray.ActorGroup, start: int, *args: Any) -> Any:
        if len(teams) == 2 and args[1].start >= 15:
            nodes.shrink()
        return advance(self, start, *args)

    monkeypatch.setattr(engine_of_ray.ActorGroup, "_form", formed)
    monkeypatch.setattr(engine_of_ray.ActorGroup, "advance", shrinking)
    try:
        run, told = losses(ask, "ray:workers=4,timeout=300")
    finally:
        nodes.grow()
    assert [name for name in alone if not np.array_equal(alone[name], run[name], equal_nan=True)] == []
    assert told and len(teams[0]) == 2 and teams[1] == 4, "not spread over both nodes"
    assert len(teams[-2]) == 1 and teams[-1] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "message"),
    [
        (divide, "^rank 1 failed in round 2: ZeroDivisionError: agent 15 has enough$"),
        (die, "^rank 1 was lost in round [0-3]( or later)?; gave up after 0 restarts"),
        (stop, "^rank 1 did not answer within 3 s in round [23]; gave up after 0 restarts"),
    ],
)
def test_what_ends_a_run_is_told_in_one_line(
    how: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distopt.engines.workers.group.PATIENCE", 0)
    monkeypatch.setattr(engine_of_ray, "ANSWER", 1)
    file = tmp_path / "rounds"
    file.write_text("2:7")
    algorithm = Mortal(file, how)
    problem = made(algorithm=algorithm, agents=15)
    comparison = Comparison.of(problem)
    team = engine_of_ray.ray(problem, comparison.blocks, "eager", 2)
    team.workers.workers._timeout = 3  # of messages; the actors may take longer to start
    team.workers.workers._form()
    try:
        with pytest.raises(RunError, match=message) as caught:
            list(runner.run(problem, comparison.comparator, comparison.blocks, team))
        assert "\n" not in str(caught.value)
    finally:
        team.close()
