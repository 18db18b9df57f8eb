"""What goes wrong among torch.distributed ranks: it is mended, or it ends the run with one line."""

from __future__ import annotations

import multiprocessing
import random
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs
from helpers.ranks import END, Fails, Mortal, die, divide, made, refuse, sleep
from torch import Tensor

import distopt
from distopt import engines
from distopt.engines import ranks
from distopt.engines.transports import gloo
from distopt.engines.workers.exchange import Transport
from distopt.engines.workers.group import LossWarning
from distopt.engines.workers.halo import FRONT
from distopt.errors import InputError, RunError
from distopt.numerics.trees import tensors
from distopt.runs.execution import Comparison
from distopt.simulation import runner

pytestmark = [needs.forks, pytest.mark.usefixtures("nothing_stays")]


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        (divide, RunError, r"^rank 2 failed in round 2: ZeroDivisionError: agent 15 has enough$"),
        (refuse, InputError, r"^agent 15 was given nonsense$"),
        (
            die,
            RunError,
            rf"^rank 2 was lost in round [23]; {END}$",
        ),  # what it sends of round 2 is on its way when it dies
        (sleep, RunError, rf"^rank 2 did not answer within 1 s in round 3; {END}$"),
    ],
)
@pytest.mark.filterwarnings("ignore::distopt.engines.workers.group.LossWarning")  # lost on purpose
@pytest.mark.slow
def test_a_rank_that_fails_always_ends_the_run_with_its_name(how: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        distopt.simulate(
            "ring",
            agents=16,
            scenario="moving_target",
            algorithm=Fails(how),
            rounds=5,
            engine="ranks:workers=3,timeout=1",
            mode="eager",
        )


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
        "mode": "eager",
    }
    alone = distopt.simulate("ring", **ask)
    file.write_text(" ".join(map(str, rounds)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shared = distopt.simulate("ring", engine="ranks:workers=3,timeout=20", **ask)
    losses = [str(each.message) for each in caught if each.category is LossWarning]
    assert len(losses) == 20 and all(re.match(r"rank 2 was lost in round \d+; starting again", each) for each in losses)
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
        with pytest.warns(LossWarning, match="^rank 3 was lost in round"):
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
