"""Rows by NCCL. There is rarely a GPU where the tests run: a stand-in with NCCL's semantics plays it over gloo, with main memory as the device."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs
from helpers.battery import Problems, differences, moves, on
from helpers.ranks import Fails, Mortal, Sparing, die, made, sleep, torchrun
from helpers.stand_in import StandIn, Work
from runs.test_checkpoint import short, struck
from torch import Tensor

import distopt
from distopt import engines
from distopt.engines import ranks
from distopt.engines.transports import nccl
from distopt.engines.transports.gloo import dist
from distopt.engines.workers.exchange import Tag
from distopt.engines.workers.group import LossWarning
from distopt.errors import InputError, RunError
from distopt.runs.execution import Comparison


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    assert [child.name for child in multiprocessing.active_children() if child.name.startswith("rank")] == []


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that are forked from here have it too."""
    monkeypatch.setattr(nccl, "communicator", StandIn)
    monkeypatch.setattr(nccl, "gpu", lambda place: torch.device("cpu"))
    monkeypatch.setattr(nccl, "check", lambda ranks: None)


@needs.forks
@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("network", "scenario", "algorithm", "settings"),
    [
        ("ring", "drifting_logistic", "gtadam:lr=0.01", {"trials": 2, "dtype": "float32"}),
        ("ring", "moving_target:dim=3", "gt:lr=0.01,form=atc", {}),
        ("erdos_renyi", "moving_target:dim=20", "gtadam:lr=0.01", {"channel": "choco:compressor=sign,gamma=0.3"}),
        ("random_matching", "moving_target:dim=3", "gt:lr=0.01", {}),
        ("ring", "moving_target:dim=3", "gt:lr=0.01", {"drop_links": 0.3}),
        ("random_matching", "moving_target:dim=3", Sparing(), {"rounds": 8}),
    ],
)
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_rows_by_nccl_have_the_bits_of_one_block(
    network: str, scenario: str, algorithm: Any, settings: dict[str, Any], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = made(network, scenario, algorithm, **settings)
    problems = Problems(problem, Comparison.of(problem))
    short(monkeypatch, 4)
    alone = on(problems)
    assert moves(alone)
    sent = 0
    send = StandIn.send

    def counting(self: StandIn, *call: Any) -> None:
        nonlocal sent
        sent += 1
        send(self, *call)

    monkeypatch.setattr(StandIn, "send", counting)
    shared = on(problems, partial(ranks.ranks, workers=workers, timeout=20, backend="nccl"))
    assert sent > workers, "no row went this way"
    assert differences(alone, shared) == []


@needs.forks
@pytest.mark.usefixtures("stand_in")
def test_a_run_is_where_the_rows_are() -> None:
    problem = made()
    engine: Any = engines.make("ranks:workers=2,backend=nccl", problem, Comparison.of(problem).blocks)
    try:
        assert (engine.device, engine.compiled) == ("cuda", False)
    finally:
        engine.close()
    for spec, device in (
        ("ranks:backend=nccl", "cuda"),
        ("ranks:backend=gloo", "cpu"),
        ("ranks", "cpu"),
        ("local:device=cuda", "cuda"),
    ):
        assert engines.device(spec) == device


# Failures


@needs.forks
@pytest.mark.usefixtures("stand_in")
@pytest.mark.filterwarnings("ignore::distopt.engines.workers.group.LossWarning")  # lost on purpose
@pytest.mark.parametrize(
    ("how", "message"),
    [
        (sleep, r"^rank 2 did not answer within 1 s in round 3; gave up"),
        (die, r"^rank 2 was lost in round \d; gave up"),
    ],
)
def test_a_rank_that_is_lost_is_named(how: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distopt.engines.workers.group.PATIENCE", 0)
    monkeypatch.setattr(Work, "patience", 2.0)
    engine = f"ranks:workers=3,timeout={1 if how is sleep else 20},backend=nccl"
    with pytest.raises(RunError, match=message):
        distopt.simulate("ring", agents=16, scenario="moving_target", algorithm=Fails(how), rounds=9, engine=engine)


@pytest.mark.slow
@needs.forks
@pytest.mark.usefixtures("stand_in")
def test_ranks_that_are_killed_are_replaced_and_connected_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short(monkeypatch, 4)
    monkeypatch.setattr(Work, "patience", 5.0)
    file = tmp_path / "rounds"
    file.write_text("")
    ask: dict[str, Any] = {
        "agents": 16,
        "scenario": "drifting_logistic",
        "algorithm": Mortal(file),
        "rounds": 16,
        "record": "x",
    }
    alone = distopt.simulate("ring", **ask)
    file.write_text("3 9")
    with pytest.warns(LossWarning, match="^rank 2 was lost in round") as caught:
        shared = distopt.simulate("ring", engine="ranks:workers=3,timeout=20,backend=nccl", **ask)
    assert [str(each.message).split(" in round")[0] for each in caught] == ["rank 2 was lost"] * 2
    assert not file.read_text()
    assert [name for name in alone if not np.array_equal(alone[name], shared[name], equal_nan=True)] == []


@needs.forks
@pytest.mark.usefixtures("stand_in")
def test_nothing_is_reported_of_rows_that_were_taken_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    front = nccl.NcclTransport._front

    def other(self: nccl.NcclTransport, tag: Tag) -> Tensor:
        late = tag[0] == 2 and multiprocessing.current_process().name == "rank 1"
        return front(self, (tag[0] - late, tag[1]))

    monkeypatch.setattr(nccl.NcclTransport, "_front", other)
    with pytest.raises(
        RunError, match=r"^rank 0 got a message \(round 1, s\+x\) from rank 1 where \(round 2, s\+x\) was due$"
    ):
        distopt.simulate(
            "ring", agents=6, scenario="moving_target", algorithm="gt", rounds=9, engine="ranks:workers=2,backend=nccl"
        )


# Refusals


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = made()
    blocks = Comparison.of(problem).blocks
    monkeypatch.setattr(multiprocessing, "get_context", None)  # no process is started
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    with pytest.raises(
        InputError, match=r"^ranks: backend=nccl: this build of torch has no NCCL; .* or leave backend out \(gloo\)$"
    ):
        engines.make("ranks:workers=4,backend=nccl", problem, blocks)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    for gpus, said in ((1, "1 GPU"), (0, "0 GPUs")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        for ask in (
            lambda: engines.check("ranks:workers=4,backend=nccl", 16),
            lambda: engines.make("ranks:workers=4,backend=nccl", problem, blocks),
        ):
            with pytest.raises(
                InputError, match=f"^ranks: backend=nccl: 4 ranks on this machine and {said}; NCCL needs one each$"
            ):
                ask()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(
        InputError, match='^ranks: backend=nccl: rounds on the GPUs of ranks run eagerly; leave mode="compiled" out$'
    ):
        engines.make("ranks:workers=4,backend=nccl", problem, blocks, "compiled")
    with pytest.raises(InputError, match="^ranks: no backend 'mpi'; there are gloo and nccl$"):
        engines.check("ranks:workers=4,backend=mpi", 16)
    for name, value in {
        "TORCHELASTIC_RUN_ID": "none",
        "RANK": "0",
        "WORLD_SIZE": "10",
        "LOCAL_WORLD_SIZE": "5",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="5 ranks on this machine and 4 GPUs"):  # there are two machines
        engines.check("ranks:backend=nccl", 16)


def test_the_command_line_says_where_a_backend_belongs() -> None:
    from click.testing import CliRunner

    from distopt.cli.main import cli

    ask = ["simulate", "ring", "--agents", "5", "--scenario", "moving_target", "--rounds", "3"]
    for words, message in (
        ([*ask, "--backend", "nccl"], "--backend needs ranks; add --engine ranks"),
        (
            [*ask, "--engine", "ray", "--backend", "gloo"],
            "--backend needs ranks; add --engine ranks",
        ),
        ([*ask, "--engine", "ranks", "--backend", "mpi"], "'mpi' is not one of 'gloo', 'nccl'"),
    ):
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == 2 and message in result.stderr, result.output


@pytest.mark.slow
@needs.forks
@pytest.mark.usefixtures("stand_in")
def test_the_command_runs_and_resumes_where_it_ran(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from distopt.cli.main import cli

    monkeypatch.chdir(tmp_path)
    short(monkeypatch, 4)
    ask = ["simulate", "ring", "--agents", "5", "--scenario", "moving_target", "--rounds", "20"]
    there = ["--engine", "ranks", "--workers", "2", "--backend", "nccl"]
    assert CliRunner().invoke(cli, [*ask, "--out", "a"]).exit_code == 0
    with struck(8):
        CliRunner().invoke(cli, [*ask, "--out", "b", "--checkpoint-every", "4", *there])
    for words, message in (
        (
            ["--engine", "local"],
            "b ran on cuda, whose bits differ from those of cpu; add --device, or --engine ranks --backend nccl, or --force",
        ),
        (["--backend", "gloo", "--workers", "2"], "b ran on cuda, whose bits"),
    ):
        result = CliRunner().invoke(cli, ["resume", "b", *words])
        assert result.exit_code == 2 and message in result.stderr, result.output
    result = CliRunner().invoke(cli, ["resume", "b", "--backend", "nccl", "--workers", "3"])
    assert result.exit_code == 0 and "goes on from round" in result.stdout, result.output
    alone, run = distopt.load("a"), distopt.load("b")
    assert isinstance(run, distopt.Run) and isinstance(alone, distopt.Run)
    assert [name for name in run if not np.array_equal(run[name], alone[name], equal_nan=True)] == []


FLEET = """
import os, sys
from pathlib import Path

import torch
from distopt.cli.main import cli
from distopt.engines.transports import nccl

sys.path.insert(0, sys.argv.pop(1))
from helpers.stand_in import StandIn


def gpu(place):
    Path(f"gpu-{place}-of-rank-{os.environ['RANK']}").touch()
    return torch.device("cpu")


nccl.check, nccl.communicator, nccl.gpu = lambda ranks: None, StandIn, gpu
cli()
"""


@pytest.mark.slow
def test_ranks_of_torchrun_take_a_gpu_each_for_all_they_run(tmp_path: Path) -> None:
    (tmp_path / "torchrun_group.py").write_text(FLEET)
    words = ["--algorithm", "gtadam:lr=0.01", "--algorithm", "dgd:lr=0.1", "--record", "x", "--out", "shared"]
    ask = ["simulate", "ring", "--agents", "5", "--scenario", "moving_target", "--rounds", "20"]
    done = torchrun(
        tmp_path,
        "torchrun_group.py",
        str(Path(__file__).parents[1]),
        *ask,
        *words,
        "--engine",
        "ranks",
        "--backend",
        "nccl",
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.glob("gpu-*")} == {"gpu-0-of-rank-0", "gpu-1-of-rank-1"}
    shared = distopt.load(tmp_path / "shared")
    assert isinstance(shared, dict) and len(shared) == 2
    for label, run in shared.items():
        alone = distopt.simulate(
            "ring", agents=5, scenario="moving_target", algorithm=label, rounds=20, record="x", mode="eager"
        )
        assert [name for name in alone if not np.array_equal(run[name], alone[name], equal_nan=True)] == []
