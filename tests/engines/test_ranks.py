"""One experiment has the same bits on torch.distributed ranks; what goes wrong among them ends the run with one line."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs
from helpers.battery import Problems, differences, moves, on
from torch import Tensor

import distopt
from distopt import engines
from distopt.engines import local, ranks
from distopt.engines.ranks.orders import Order, Orders
from distopt.engines.transports import gloo
from distopt.engines.workers.exchange import Transport
from distopt.engines.workers.group import LossWarning
from distopt.engines.workers.halo import FRONT
from distopt.errors import InputError, RunError
from distopt.experiment import Experiment
from distopt.numerics.trees import tensors
from distopt.runs.execution import Comparison, execute
from distopt.simulation import runner
from distopt.simulation.problem import Problem, build

pytestmark = [needs.forks, pytest.mark.usefixtures("nothing_stays")]


def made(
    network: str = "ring", scenario: Any = "moving_target:dim=3", algorithm: Any = "gtadam:lr=0.01", **settings: Any
) -> Problem:
    ask = {"agents": 16, "rounds": 6, "x0": 0.3, **settings}
    return build(Experiment(network, scenario=scenario, algorithm=algorithm, record=("x",), **ask))


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


class Sparing:
    """Gradient descent that mixes every third round: what other rounds expect is left out."""

    channels = ("x",)

    def init(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., :1])

    def update(self, g: Tensor, state: Tensor, x: Tensor, mix: Any) -> tuple[Tensor, Tensor]:
        moved = x - 0.1 * g
        return mix("x", moved) if int(state.max()) % 3 == 0 else moved, state + 1


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


# Failures


class Fails:
    """The last agent fails in the third round, as ``how`` says."""

    channels = ("x",)

    def __init__(self, how: Any) -> None:
        self.how = how

    def init(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., :1])

    def update(self, g: Tensor, state: Tensor, x: Tensor, mix: Any) -> tuple[Tensor, Tensor]:
        if x.shape[-2] == 5 and int(state.max()) == 2 and multiprocessing.current_process().name == "rank 2":
            self.how()
        return mix("x", x), state + 1


def divide() -> None:
    raise ZeroDivisionError("agent 15 has enough")


def refuse() -> None:
    raise InputError("agent 15 was given nonsense")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep() -> None:
    time.sleep(3600)


END = "gave up after 3 new starts without a step forward"


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        (divide, RunError, r"^rank 2 failed in round 2: ZeroDivisionError: agent 15 has enough$"),
        (refuse, InputError, r"^agent 15 was given nonsense$"),
        (
            die,
            RunError,
            rf"^rank 2 has gone in round [23]; {END}$",
        ),  # what it sends of round 2 is on its way when it dies
        (sleep, RunError, rf"^rank 2 did not answer within 1 s in round 3; {END}$"),
    ],
)
@pytest.mark.filterwarnings("ignore::distopt.engines.workers.group.LossWarning")  # lost on purpose
def test_a_rank_that_fails_always_ends_the_run_with_its_name(how: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        distopt.simulate(
            "ring",
            agents=16,
            scenario="moving_target",
            algorithm=Fails(how),
            rounds=5,
            engine="ranks:workers=3,timeout=1",
        )


class Mortal:
    """Gradient descent in which the rank that holds agent 15 is killed in the rounds that a file lists, once in each."""

    channels = ("x",)

    def __init__(self, file: Path) -> None:
        self.file = file

    def init(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., :1])

    def update(self, g: Tensor, state: Tensor, x: Tensor, mix: Any) -> tuple[Tensor, Tensor]:
        due = self.file.read_text().split()
        if str(int(state.max())) in due and multiprocessing.current_process().name == "rank 2":
            self.file.write_text(" ".join(due[1:]))
            die()
        return mix("x", x) - 0.01 * g, state + 1


@pytest.mark.slow
@pytest.mark.parametrize("record", ["x", ""])
def test_ranks_that_are_killed_at_twenty_random_rounds_change_nothing(
    record: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distopt.engines.workers.group.room", lambda x: 5)
    monkeypatch.setattr("distopt.engines.workers.group.RARELY", 1e9)
    monkeypatch.setattr("distopt.engines.workers.group.MOST", 4)
    rounds = sorted(random.Random(4).sample(range(100), 20))
    file = tmp_path / "rounds"
    file.write_text("")
    ask: dict[str, Any] = {
        "agents": 16,
        "scenario": "drifting_logistic",
        "algorithm": Mortal(file),
        "rounds": 100,
        "record": record,
    }
    alone = distopt.simulate("ring", **ask)
    file.write_text(" ".join(map(str, rounds)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shared = distopt.simulate("ring", engine="ranks:workers=3,timeout=20", **ask)
    losses = [str(each.message) for each in caught if each.category is LossWarning]
    assert len(losses) == 20 and all(re.match(r"rank 2 has gone in round \d+; starting again", each) for each in losses)
    assert any("from round" in each for each in losses) == (record == "")  # x is asked for after every stretch
    assert not file.read_text()
    assert [name for name in alone if not np.array_equal(alone[name], shared[name], equal_nan=True)] == []


def test_a_rank_that_is_killed_between_two_stretches_is_replaced() -> None:
    problem = made()
    comparison = Comparison.of(problem)
    engine = ranks.ranks(problem, comparison.blocks, "eager", 4, 20)
    try:
        list(runner.run(problem, comparison.comparator, comparison.blocks, engine))
        stood = engine.fetch()
        (victim,) = [process for process in multiprocessing.active_children() if process.name == "rank 3"]
        victim.kill()
        victim.join()
        with pytest.warns(LossWarning, match="^rank 3 has gone in round"):
            list(runner.run(problem, comparison.comparator, comparison.blocks, engine))
        assert all(torch.equal(a, b) for a, b in zip(tensors(stood), tensors(engine.fetch()), strict=True))
    finally:
        engine.close()


class Work:
    def wait(self, timeout: Any) -> None:
        pass


class Wrong:
    """Delivers a message of round 4 whatever is asked for."""

    def recv(self, buffers: list[Tensor], source: int, number: int) -> Work:
        head, _ = gloo.header((4, "x"))
        buffers[0][: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        return Work()

    send = recv


class Store:
    def compare_set(self, key: str, old: str, new: str) -> bytes:
        return new.encode()


def test_a_message_of_another_round_or_name_is_refused_naming_both() -> None:
    transport, buffer = (
        gloo.GlooTransport(gloo.Group(Wrong(), Store(), rank=1, size=2)),
        torch.empty(FRONT + 8, dtype=torch.uint8),
    )
    transport.expect((4, "x"), {0: buffer}).wait()
    for tag, due in (((5, "x"), "round 5, x"), ((4, "s"), "round 4, s")):
        with pytest.raises(
            RunError, match=rf"^rank 1 got a message \(round 4, x\) from rank 0 where \({due}\) was due$"
        ):
            transport.expect(tag, {0: buffer}).wait()
    long = "x" * 60
    assert gloo.header((4, long + "a"))[0] != gloo.header((4, long + "b"))[0]


def test_a_post_is_a_transport() -> None:
    transport: Transport = gloo.GlooTransport(gloo.Group(Wrong(), Store(), rank=0, size=1))
    transport.send((0, "x"), {})
    transport.expect((0, "x"), {}).wait()


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = made()
    blocks = Comparison.of(problem).blocks
    for spec, message in (
        ("ranks:workers=17", "16 agents cannot be shared among 17 workers"),
        ("ranks:timeout=0", "at least 1"),
        ("ranks:back=1", "no parameter 'back'"),
        ("ranks:backend=mpi", "no backend 'mpi'"),
    ):
        with pytest.raises(InputError, match=message):
            engines.make(spec, problem, blocks)
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="torchrun started 4 ranks, not 3"):
        engines.make("ranks:workers=3", problem, blocks)
    with pytest.raises(InputError, match="call distopt.engines.ranks.torchrun_group"):
        engines.make("ranks", problem, blocks)
    with pytest.raises(InputError, match="only spec strings"):
        made(algorithm=Fails(divide)).experiment.to_toml()


# The command line


def torchrun(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    paths = os.pathsep.join([str(Path(distopt.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        command,
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@needs.compiler
@pytest.mark.slow
def test_compiled_rounds_have_the_same_bits_on_ranks() -> None:
    problem = made("ring", "drifting_logistic")
    comparison = Comparison.of(problem)
    alone = execute(problem.experiment, problem=problem, comparison=comparison, mode="compiled")
    shared = execute(
        problem.experiment,
        problem=problem,
        comparison=comparison,
        mode="compiled",
        engine="ranks:workers=2,timeout=300",
    )
    assert [name for name in alone if not np.array_equal(alone[name], shared[name], equal_nan=True)] == []
