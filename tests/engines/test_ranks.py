"""One experiment has the same bits on torch.distributed ranks."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs
from helpers.battery import Problems, differences, moves, on
from helpers.ranks import Fails, Sparing, divide, made

import distopt
from distopt.engines import local, ranks
from distopt.engines.ranks.orders import Order, Orders
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.trees import tensors
from distopt.runs.execution import Comparison, execute
from distopt.simulation import runner
from distopt.simulation.problem import build

pytestmark = [needs.forks, pytest.mark.usefixtures("nothing_stays")]


@pytest.mark.parametrize(
    ("network", "scenario", "algorithm", "settings"),
    [
        ("ring", "flights", "gtadam", {"x0": None}),
        ("ring", "drifting_logistic", "gtadam:lr=0.01", {"trials": 2}),
        ("erdos_renyi", "digits:window=2", "nids:lr=0.01", {}),
        ("random_matching", "moving_target:dim=3", "gt:lr=0.01,form=atc", {}),
        ("ring", "drifting_logistic", "gt:lr=0.01", {"drop_links": 0.3}),
        ("complete", "moving_target:dim=3", "gtadam:lr=0.01", {"dtype": "float32", "trials": 2}),
    ],
)
def test_ranks_have_the_bits_of_one_block(
    network: str, scenario: str, algorithm: str, settings: dict[str, Any]
) -> None:
    problem = made(network, scenario, algorithm, **settings)
    problems = Problems(problem, Comparison.of(problem))
    alone = on(problems)
    assert moves(alone)
    for workers in (2, 4):
        shared = on(problems, partial(ranks.ranks, workers=workers, timeout=20))
        assert differences(alone, shared) == []
        assert shared.run.info["fingerprint"] == alone.run.info["fingerprint"]


def test_uneven_blocks_a_grid_and_several_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    ask: dict[str, Any] = {
        "agents": 7,
        "scenario": "drifting_logistic",
        "algorithm": "gt:lr=[0.01,0.02]",
        "rounds": 11,
        "record": "x",
    }
    alone = distopt.simulate("star", **ask)
    for module in ("local.eager", "workers.group"):
        monkeypatch.setattr(f"distopt.engines.{module}.room", lambda x: 3)
    shared = distopt.simulate("star", engine="ranks:workers=3", **ask)
    assert list(shared) == list(alone) == ["gt:lr=0.01", "gt:lr=0.02"]
    for name, run in alone.items():
        assert [key for key in run if not np.array_equal(run[key], shared[name][key], equal_nan=True)] == []


@pytest.mark.parametrize("network", ["ring", "random_matching"])
def test_rounds_that_send_nothing_leave_nothing_for_the_next_run(network: str) -> None:
    problem = made(network, algorithm=Sparing(), rounds=8)
    comparison = Comparison.of(problem)
    alone, _ = on(Problems(problem, comparison))
    engine = ranks.ranks(problem, comparison.blocks, "eager", 3, 20)
    try:
        for _ in range(2):  # the same rounds again, between the same processes
            *_, last = runner.run(problem, comparison.comparator, comparison.blocks, engine)
            assert np.array_equal(last.trajectories["x"], alone["x"][:, : last.stop])
            assert all(np.array_equal(last.metrics[name], alone[name]) for name in last.metrics)
    finally:
        engine.close()


def test_a_run_goes_on_from_what_all_agents_hold() -> None:
    problem = made()
    comparison = Comparison.of(problem)
    alone = local.local(problem, comparison.blocks, "eager")
    list(runner.run(problem, comparison.comparator, comparison.blocks, alone))
    early = build(Experiment("ring", 16, "moving_target:dim=3", "gtadam:lr=0.01", rounds=2, x0=0.3))
    start = Comparison.of(early)
    half_way = local.local(early, start.blocks, "eager")
    *_, half = runner.run(early, start.comparator, start.blocks, half_way)
    assert half.stop == 2
    engine = ranks.ranks(problem, comparison.blocks, "eager", 3, 20)
    try:
        *_, rest = runner.run(
            problem, comparison.comparator, comparison.blocks, engine, start=half.carry(half_way.fetch())
        )
        assert rest.start == 2
        assert all(torch.equal(a, b) for a, b in zip(tensors(engine.fetch()), tensors(alone.fetch()), strict=True))
    finally:
        engine.close()


def test_the_garbage_of_an_earlier_group_harms_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Orders.take

    def collecting(self: Orders) -> Order:
        gc.collect()
        return take(self)

    monkeypatch.setattr(Orders, "take", collecting)
    problem = made()
    comparison = Comparison.of(problem)
    gc.disable()
    try:
        for _ in range(2):
            engine: Any = ranks.ranks(problem, comparison.blocks, "eager", 2, 20)
            engine.itself = engine  # garbage, once it is dropped
            list(runner.run(problem, comparison.comparator, comparison.blocks, engine))
            engine.close()
    finally:
        gc.enable()


@pytest.mark.slow
def test_new_processes_are_told_the_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    ask: dict[str, Any] = {
        "agents": 6,
        "scenario": "drifting_logistic",
        "algorithm": "gt:lr=[0.01,0.02]",
        "rounds": 5,
        "dtype": "float32",
    }
    alone = distopt.simulate("ring", **ask)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    shared = distopt.simulate("ring", engine="ranks:workers=2", **ask)
    for name, run in alone.items():
        assert [key for key in run if not np.array_equal(run[key], shared[name][key], equal_nan=True)] == []
    with pytest.raises(InputError, match="algorithm was given as a Python object"):
        distopt.simulate("ring", **{**ask, "algorithm": Fails(divide)}, engine="ranks:workers=2")


@pytest.mark.slow
def test_compiled_rounds_have_the_same_bits_on_ranks() -> None:
    problem = made("ring", "drifting_logistic")
    comparison = Comparison.of(problem)
    alone = execute(problem.experiment, problem=problem, comparison=comparison, engine=local.local)
    shared = execute(
        problem.experiment,
        problem=problem,
        comparison=comparison,
        mode="compiled",
        engine="ranks:workers=2,timeout=300",
    )
    assert [name for name in alone if not np.array_equal(alone[name], shared[name], equal_nan=True)] == []
