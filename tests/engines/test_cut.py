"""Compiled rounds of workers: what fails in the midst of them is told as it is, and nothing is compiled twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import distopt
from distopt.engines import ranks
from distopt.engines.local import local
from distopt.engines.threads import ThreadGroup
from distopt.engines.workers import exchange
from distopt.engines.workers.compiled import Rounds
from distopt.engines.workers.group import LossWarning, WorkerEngine
from distopt.engines.workers.partition import Partition
from distopt.errors import InputError, WorkerLost
from distopt.experiment import Experiment
from distopt.runs.execution import Comparison, execute
from distopt.simulation.problem import Problem, build

ROUNDS, HALVES = 20, Partition.even(4, 2)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return build(Experiment("ring", 4, "moving_target:dim=3", "gtadam:lr=0.01", rounds=ROUNDS, record=("x",)))


@pytest.fixture(scope="module")
def comparison(problem: Problem) -> Comparison:
    return Comparison.of(problem)


def on_threads(problem: Problem, comparison: Comparison) -> distopt.Run:
    threads = ThreadGroup(problem, comparison.blocks, HALVES, compiled=True)
    return execute(
        problem.experiment,
        problem=problem,
        comparison=comparison,
        mode="compiled",
        engine=lambda *_: WorkerEngine(threads),
    )


ERRORS = [WorkerLost("rank 1 has gone"), InputError("no"), KeyboardInterrupt(), ZeroDivisionError("0/0")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["post", "wait"])
def test_what_fails_in_an_exchange_is_raised_as_it_is(
    where: str, error: BaseException, problem: Problem, comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = getattr(exchange.HaloExchange, where)
    reached = []

    def failing(self: exchange.HaloExchange, *args: Any) -> Any:
        reached.append(self.round)
        if self.round == 7:
            raise error
        return done(self, *args)

    monkeypatch.setattr(exchange.HaloExchange, where, failing)
    with pytest.raises(type(error)) as told:
        on_threads(problem, comparison)
    assert told.value is error
    assert max(reached) == 7, "the loop went on"


def test_a_rank_that_is_killed_in_compiled_rounds_is_replaced(
    problem: Problem, comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = execute(problem.experiment, problem=problem, comparison=comparison, engine=local)
    post, here, once = exchange.HaloExchange.post, os.getpid(), tmp_path / "once"

    def mortal(self: exchange.HaloExchange, stage: str) -> None:
        if self.round == 11 and os.getpid() != here and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        post(self, stage)

    monkeypatch.setattr(exchange.HaloExchange, "post", mortal)
    with pytest.warns(LossWarning, match="rank 1 was lost in round 1[01]; starting again"):
        shared = execute(
            problem.experiment,
            problem=problem,
            comparison=comparison,
            mode="compiled",
            engine=lambda *_: ranks.ranks(problem, comparison.blocks, "compiled", 2, 120),
        )
    assert once.exists()
    assert [name for name in alone if not np.array_equal(alone[name], shared[name], equal_nan=True)] == []


def test_a_shorter_last_block_compiles_nothing_anew(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = execute(problem.experiment, problem=problem, engine=local)
    comparison = Comparison.of(problem)
    monkeypatch.setattr(comparison.blocks, "length", 8)
    comparison.blocks.count = 3
    made: list[Rounds] = []
    init = Rounds.__init__
    monkeypatch.setattr(Rounds, "__init__", lambda self, *args: made.append(self) or init(self, *args))
    shared = on_threads(problem, comparison)
    assert [(len(rounds._rounds), len(rounds._measures)) for rounds in made] == [(1, 1), (1, 1)]
    assert np.array_equal(shared["x"], alone["x"])
    assert np.array_equal(shared["dynamic_regret"], alone["dynamic_regret"])


@pytest.mark.parametrize("scenario", ["quadratic:dim=3", "moving_target:dim=3"])
def test_where_nothing_changes_and_where_all_does_a_run_of_many_stretches_has_the_same_bits(
    scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaves of one round serve all rounds, also where there are no others."""
    monkeypatch.setattr("distopt.simulation.runner.FIRST_BYTES", 5 * 4 * 3 * 8)  # stretches of 5 rounds
    monkeypatch.setattr("distopt.simulation.runner.PATIENCE", 1e-9)  # then of one
    problem = build(Experiment("ring", 4, scenario, "gtadam:lr=0.01", rounds=9, record=("x",)))
    comparison = Comparison.of(problem)
    alone = execute(problem.experiment, problem=problem, comparison=comparison, engine=local)
    shared = on_threads(problem, comparison)
    assert [name for name in alone if not np.array_equal(alone[name], shared[name], equal_nan=True)] == []


class Asking:
    """Gradient descent that looks at a number."""

    channels = ("x",)

    def init(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., :1])

    def update(self, g: Tensor, state: Tensor, x: Tensor, mix: Any) -> tuple[Tensor, Tensor]:
        return mix("x", x - 0.1 * g) if int(state.max()) % 2 == 0 else x, state + 1


class Drawing(Asking):
    """Gradient descent that draws numbers of its own."""

    def update(self, g: Tensor, state: Tensor, x: Tensor, mix: Any) -> tuple[Tensor, Tensor]:
        return mix("x", x - 0.1 * g * torch.rand_like(g)), state


@pytest.mark.parametrize("algorithm", [Asking(), Drawing()], ids=lambda algorithm: type(algorithm).__name__)
def test_rounds_that_cannot_be_compiled_are_refused_with_what_to_do(algorithm: Any) -> None:
    problem = build(Experiment("ring", 4, "moving_target:dim=3", algorithm, rounds=ROUNDS))
    with pytest.raises(InputError, match=r"^these rounds cannot be compiled; run them eagerly: "):
        on_threads(problem, Comparison.of(problem))
