"""Rows by NCCL. There is rarely a GPU where the tests run: a stand-in with NCCL's semantics plays it over gloo, with main memory as the device."""

from __future__ import annotations

import multiprocessing
import os
import queue
import re
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import needs
import numpy as np
import pytest
import torch
from battery import Problems, differences, moves, on
from test_checkpoint import short, struck
from test_ranks import Fails, Mortal, Sparing, die, made, sleep, torchrun
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import distopt
from distopt import data, engines, metrics
from distopt.api import Comparison
from distopt.data import tensors
from distopt.engines import gloo, nccl, ranks, stencil, worker
from distopt.engines.crew import LossWarning
from distopt.engines.gloo import dist
from distopt.engines.partition import Partition
from distopt.engines.post import Rows, Tag
from distopt.engines.stencil import FRONT
from distopt.errors import InputError, RunError
from distopt.experiment import Experiment, build


class Work:
    """A group of calls on its way. Who waits goes on after ``patience`` seconds all the same, like a host that only told its GPU to wait."""

    patience = 60.0

    def __init__(self) -> None:
        self.over, self.completed = threading.Event(), False

    def end(self, completed: bool) -> None:
        self.completed = completed
        self.over.set()

    def is_completed(self) -> bool:
        return self.completed

    def wait(self) -> None:
        self.over.wait(self.patience)


class StandIn:
    """NCCL's semantics: no tags, the k-th send to a rank meets its k-th receive; a call outside a group would block; groups run in order."""

    def __init__(self, group: gloo.Group) -> None:
        store = dist.PrefixStore("stand-in", group.store)
        self.pg = gloo.Group.connect(store, group.rank, group.size, 60, "127.0.0.1").pg
        self.stream: queue.SimpleQueue[tuple[list[Any], Work] | None] = queue.SimpleQueue()
        self.calls: list[Any] | None = None
        self.counts: Counter[tuple[str, int]] = Counter()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _start_coalescing(self) -> None:
        assert self.calls is None, "a group inside a group"
        self.calls = []

    def _end_coalescing(self) -> Work | None:
        assert self.calls is not None, "no group to end"
        calls, self.calls, work = self.calls, None, Work()
        self.stream.put((calls, work))
        return work if calls else None

    def send(self, letters: list[Tensor], peer: int, tag: int) -> None:
        self._call("send", letters, peer)

    def recv(self, letters: list[Tensor], peer: int, tag: int) -> None:
        self._call("recv", letters, peer)

    def abort(self) -> None:
        """The thread ends before this returns: one that drops a gloo group while the interpreter ends brings the process down with it."""
        self.stream.put(None)
        self.thread.join()

    def _call(self, how: str, letters: list[Tensor], peer: int) -> None:
        assert self.calls is not None, f"a {how} outside a group blocks until its other end is there, which waits likewise"
        self.counts[how, peer] += 1
        self.calls.append((how, letters, peer, self.counts[how, peer]))

    def _run(self) -> None:
        stuck = False
        while (asked := self.stream.get()) is not None:
            calls, work = asked
            try:
                for each in [getattr(self.pg, how)(letters, peer, number) for how, letters, peer, number in calls if not stuck]:
                    each.wait(timedelta(seconds=60))
            except RuntimeError:  # the other end has gone: a GPU would go on waiting, and its host go on
                stuck = True
            work.end(not stuck)


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
    shared = on(problems, partial(ranks.engine, workers=workers, timeout=20, backend="nccl"))
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
    for spec, device in (("ranks:backend=nccl", "cuda"), ("ranks:backend=gloo", "cpu"), ("ranks", "cpu"), ("local:device=cuda", "cuda")):
        assert engines.device(spec) == device


# Failures


@needs.forks
@pytest.mark.usefixtures("stand_in")
@pytest.mark.filterwarnings("ignore::distopt.engines.crew.LossWarning")
@pytest.mark.parametrize(
    ("how", "message"), [(sleep, r"^rank 2 did not answer within 1 s in round 3; gave up"), (die, r"^rank 2 has gone in round \d; gave up")]
)
def test_a_rank_that_is_lost_is_named(how: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distopt.engines.crew.PATIENCE", 0)
    monkeypatch.setattr(Work, "patience", 2.0)
    engine = f"ranks:workers=3,timeout={1 if how is sleep else 20},backend=nccl"
    with pytest.raises(RunError, match=message):
        distopt.simulate("ring", agents=16, scenario="moving_target", algorithm=Fails(how), rounds=9, engine=engine)


@needs.forks
@pytest.mark.usefixtures("stand_in")
def test_ranks_that_are_killed_are_replaced_and_connected_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short(monkeypatch, 4)
    monkeypatch.setattr(Work, "patience", 5.0)
    file = tmp_path / "rounds"
    file.write_text("")
    ask: dict[str, Any] = {"agents": 16, "scenario": "drifting_logistic", "algorithm": Mortal(file), "rounds": 16, "record": "x"}
    alone = distopt.simulate("ring", **ask)
    file.write_text("3 9")
    with pytest.warns(LossWarning, match="^rank 2 has gone in round") as caught:
        shared = distopt.simulate("ring", engine="ranks:workers=3,timeout=20,backend=nccl", **ask)
    assert [str(each.message).split(" in round")[0] for each in caught] == ["rank 2 has gone"] * 2
    assert not file.read_text()
    assert [name for name in alone if not np.array_equal(alone[name], shared[name], equal_nan=True)] == []


@needs.forks
@pytest.mark.usefixtures("stand_in")
def test_nothing_is_reported_of_rows_that_were_taken_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    front = nccl.Post._front

    def other(self: nccl.Post, tag: Tag) -> Tensor:
        late = tag[0] == 2 and multiprocessing.current_process().name == "rank 1"
        return front(self, (tag[0] - late, tag[1]))

    monkeypatch.setattr(nccl.Post, "_front", other)
    with pytest.raises(RunError, match=r"^rank 0 got a message \(round 1, s\+x\) from rank 1 where \(round 2, s\+x\) was due$"):
        distopt.simulate("ring", agents=6, scenario="moving_target", algorithm="gt", rounds=9, engine="ranks:workers=2,backend=nccl")


@pytest.fixture
def pair() -> Iterator[list[nccl.Post]]:
    """Two ranks of this process."""
    store = dist.HashStore()

    def meet(rank: int) -> nccl.Post:
        group = gloo.Group.connect(store, rank, 2, 1, "127.0.0.1")
        return nccl.Post(group, StandIn(group), torch.device("cpu"))

    with ThreadPoolExecutor(2) as pool:
        posts = list(pool.map(meet, range(2)))
    yield posts
    for post in posts:
        post.leave()


def letter() -> Tensor:
    return torch.zeros(FRONT + 8, dtype=torch.uint8)


def test_a_message_of_another_round_or_name_is_refused_naming_both(pair: list[nccl.Post]) -> None:
    for wrong, said in (((5, "x"), "round 5, x"), ((4, "s"), "round 4, s")):
        arriving = [post.expect(tag, {1 - k: letter()}) for k, (post, tag) in enumerate(zip(pair, ((4, "x"), wrong), strict=True))]
        for k, (post, tag) in enumerate(zip(pair, ((4, "x"), wrong), strict=True)):
            post.send(tag, {1 - k: letter()})
        for each in arriving:
            each.wait()
        pair[0].group.store.delete_key("failed")
        with pytest.raises(RunError, match=rf"^rank 0 got a message \({said}\) from rank 1 where \(round 4, x\) was due$"):
            pair[0].confirm()
        for post in pair:
            post.heads.clear()


def test_what_comes_is_what_was_sent_and_a_tag_without_messages_waits_for_nobody(pair: list[nccl.Post]) -> None:
    carrier: Rows = pair[0]
    for k in range(7):
        into = [letter(), letter()]
        arriving = [post.expect((k, "x"), {1 - me: into[me]}) for me, post in enumerate(pair)]
        for me, post in enumerate(pair):
            message = letter()
            message[FRONT:] = 10 * k + me
            post.send((k, "x"), {1 - me: message})
        for each in arriving:
            each.wait()
        assert [each[FRONT:].tolist() for each in into] == [[10 * k + 1] * 8, [10 * k] * 8]
        carrier.expect((k, "y"), {}).wait()
        carrier.send((k, "y"), {})
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(nccl.Post.confirm, pair))
    assert not any(post.heads for post in pair)


def test_nobody_reports_before_all_have_their_rows(pair: list[nccl.Post]) -> None:
    with pytest.raises(RunError, match="^rank 1 did not answer within 1 s in round 0$"):
        pair[0].confirm()


def test_a_host_runs_two_exchanges_ahead_and_no_more(pair: list[nccl.Post], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Work, "patience", 0.0)
    for k in range(nccl.AHEAD):
        pair[0].expect((k, "x"), {1: letter()})
        pair[0].send((k, "x"), {1: letter()})
    pair[0].expect((nccl.AHEAD, "x"), {1: letter()})
    began = time.monotonic()
    with pytest.raises(RunError, match=r"^rank 1 did not answer within 1 s in round 0$"):
        pair[0].send((nccl.AHEAD, "x"), {1: letter()})
    assert time.monotonic() - began >= 1
    assert pair[0].pg is None


def test_who_waits_too_is_not_to_blame(pair: list[nccl.Post]) -> None:
    waits: Any = SimpleNamespace(is_completed=lambda: False)
    exchange = nccl._Exchange(pair[0], (4, "x"), {}, [1, 2], waits)
    pair[0].group.store.set("waits for rows/1", "yes")
    with pytest.raises(RunError, match=r"^rank 2 did not answer within 1 s in round 4$"):
        pair[0]._end(exchange)
    pair[0].group.store.delete_key("failed")
    pair[0].group.store.set("waits for rows/2", "yes")
    with pytest.raises(RunError, match=r"^rank 1 or rank 2 did not answer within 1 s in round 4$"):
        pair[0]._end(exchange)


def test_what_another_rank_noted_is_told_at_once(pair: list[nccl.Post]) -> None:
    pair[0].group.timeout = 60
    pair[1].group.blame("input", "agent 15 was given nonsense")
    pair[0].expect((4, "x"), {1: letter()})
    pair[0].send((4, "x"), {1: letter()})
    with pytest.raises(InputError, match="^agent 15 was given nonsense$"):
        pair[0].confirm()


def test_a_failing_call_names_whom_it_was_between(pair: list[nccl.Post], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        pair[0].pg.calls = None
        raise RuntimeError("NCCL error: remote process exited")

    monkeypatch.setattr(pair[0].pg, "_end_coalescing", fails)
    pair[0].expect((4, "x"), {1: letter()})
    with pytest.raises(RunError, match="^rank 1 has gone in round 4$"):
        pair[0].send((4, "x"), {1: letter()})
    pair[0].group.store.delete_key("failed")
    with pytest.raises(RunError, match="^rank 1 has gone in round 0$"):
        pair[0].greet()


# Refusals


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = made()
    blocks = Comparison.of(problem).blocks
    monkeypatch.setattr(multiprocessing, "get_context", None)  # no process is started
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    with pytest.raises(InputError, match=r"^ranks: backend=nccl: this build of torch has no NCCL; .* or leave backend out \(gloo\)$"):
        engines.make("ranks:workers=4,backend=nccl", problem, blocks)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    for gpus, said in ((1, "1 GPU"), (0, "0 GPUs")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        for ask in (lambda: engines.check("ranks:workers=4,backend=nccl", 16), lambda: engines.make("ranks:workers=4,backend=nccl", problem, blocks)):
            with pytest.raises(InputError, match=f"^ranks: backend=nccl: 4 ranks on this machine and {said}; NCCL needs one each$"):
                ask()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(InputError, match="^ranks: backend=nccl: rounds on the GPUs of ranks run eagerly; leave --compiled out$"):
        engines.make("ranks:workers=4,backend=nccl", problem, blocks, "compiled")
    with pytest.raises(InputError, match="^ranks: no backend 'mpi'; there are gloo and nccl$"):
        engines.check("ranks:workers=4,backend=mpi", 16)
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "10", "LOCAL_WORLD_SIZE": "5"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="5 ranks on this machine and 4 GPUs"):  # there are two machines
        engines.check("ranks:backend=nccl", 16)


def test_the_command_line_says_where_a_backend_belongs() -> None:
    from click.testing import CliRunner

    from distopt.cli import cli

    ask = ["simulate", "ring", "--agents", "5", "--scenario", "moving_target", "--rounds", "3"]
    for words, message in (
        ([*ask, "--backend", "nccl"], "--backend says what carries the rows of ranks; add --engine ranks"),
        ([*ask, "--engine", "ray", "--backend", "gloo"], "--backend says what carries the rows of ranks; add --engine ranks"),
        ([*ask, "--engine", "ranks", "--backend", "mpi"], "'mpi' is not one of 'gloo', 'nccl'"),
    ):
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == 2 and message in result.stderr, result.output


@needs.forks
@pytest.mark.usefixtures("stand_in")
def test_the_command_runs_and_resumes_where_it_ran(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from distopt.cli import cli

    monkeypatch.chdir(tmp_path)
    short(monkeypatch, 4)
    ask = ["simulate", "ring", "--agents", "5", "--scenario", "moving_target", "--rounds", "20"]
    there = ["--engine", "ranks", "--workers", "2", "--backend", "nccl"]
    assert CliRunner().invoke(cli, [*ask, "--out", "a"]).exit_code == 0
    with struck(8):
        CliRunner().invoke(cli, [*ask, "--out", "b", "--checkpoint-every", "4", *there])
    for words, message in (
        (["--engine", "local"], "b ran on cuda, whose bits differ from those of cpu; add --device, or --engine ranks --backend nccl, or --force"),
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
from distopt.cli import cli
from distopt.engines import nccl

sys.path.insert(0, sys.argv.pop(1))
from test_nccl import StandIn


def gpu(place):
    Path(f"gpu-{place}-of-rank-{os.environ['RANK']}").touch()
    return torch.device("cpu")


nccl.check, nccl.communicator, nccl.gpu = lambda ranks: None, StandIn, gpu
cli()
"""


@pytest.mark.slow
def test_ranks_of_torchrun_take_a_gpu_each_for_all_they_run(tmp_path: Path) -> None:
    (tmp_path / "fleet.py").write_text(FLEET)
    words = ["--algorithm", "gtadam:lr=0.01", "--algorithm", "dgd:lr=0.1", "--record", "x", "--out", "shared"]
    ask = ["simulate", "ring", "--agents", "5", "--scenario", "moving_target", "--rounds", "20"]
    done = torchrun(tmp_path, "fleet.py", str(Path(__file__).parent), *ask, *words, "--engine", "ranks", "--backend", "nccl")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.glob("gpu-*")} == {"gpu-0-of-rank-0", "gpu-1-of-rank-1"}
    shared = distopt.load(tmp_path / "shared")
    assert isinstance(shared, dict) and len(shared) == 2
    for label, run in shared.items():
        alone = distopt.simulate("ring", agents=5, scenario="moving_target", algorithm=label, rounds=20, record="x")
        assert [name for name in alone if not np.array_equal(run[name], alone[name], equal_nan=True)] == []


# The device


class Nobody:
    """Rows and reports that are sent nowhere and never arrive; their places stay as they are."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.carried = device, Counter[str]()

    def expect(self, tag: Tag, into: dict[int, Tensor]) -> Any:
        self._see(into)
        return SimpleNamespace(wait=lambda: None)

    def send(self, tag: Tag, outgoing: dict[int, Tensor]) -> None:
        self._see(outgoing)

    def _see(self, letters: dict[int, Tensor]) -> None:
        for each in letters.values():
            self.carried[each.device.type] += 1

    def confirm(self) -> None: ...


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Any]:
    """Another process: a device stays with its process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool
    pool.join()


@pytest.mark.parametrize(
    ("network", "scenario", "algorithm", "settings"),
    [
        ("ring", "drifting_logistic", "gtadam:lr=0.01", {"dtype": "float32", "trials": 2}),
        ("random_matching", "moving_target:dim=6", "gt:lr=0.01,form=atc", {}),
        ("complete", "digits:window=2", "gt:lr=0.01", {}),
        ("star", "quadratic", "ef_signsgd:lr=0.01", {}),
        ("erdos_renyi", "moving_target:dim=6", "gtadam:lr=0.01", {"channel": "choco:compressor=sign,gamma=0.3,resync=3"}),
        ("erdos_renyi", "drifting_logistic", "gtadam:lr=0.01", {"channel": "choco:compressor=topk(k=2),gamma=0.3"}),
        ("erdos_renyi", "moving_target:dim=6", "powergossip:lr=0.01", {}),
        ("ring", "moving_target:dim=6", "gt:lr=0.01", {"channel": "naive:compressor=qsgd"}),
    ],
)
def test_rows_never_leave_the_device_and_reports_never_enter_it(
    network: str, scenario: str, algorithm: str, settings: dict[str, Any], elsewhere: Any
) -> None:
    for me in range(2):
        assert elsewhere.apply(stretch_of_forms, (me, network, scenario, algorithm, settings)) == ({"gpu"}, {"cpu"}, {"gpu"})


def stretch_of_forms(*asked: Any) -> tuple[set[str], set[str], set[str]]:
    """``all_it_does``, with errors that can go from process to process."""
    try:
        return all_it_does(*asked)
    except Exception:
        raise AssertionError(traceback.format_exc()[-2000:]) from None


def all_it_does(me: int, network: str, scenario: str, algorithm: str, settings: dict[str, Any]) -> tuple[set[str], set[str], set[str]]:
    """Let a worker live on a device of which only the forms of tensors are there: what was left in main memory is refused beside them.

    Where its rows, its reports and what it holds are in the end.
    """
    if not hasattr(torch, "gpu"):
        _setup_privateuseone_for_python_backend("gpu")
    device, forms = torch.device("gpu", 0), FakeTensorMode(allow_non_fake_inputs=True)
    select = torch.ops.aten.index_select

    def selected(rows: Tensor, dim: int, places: Tensor, *, out: Tensor | None = None) -> Tensor:  # which has no form with ``out``
        found = select(rows, dim, places)
        return found if out is None else out.copy_(found)

    def moved(tree: Any, device: torch.device) -> Any:
        with forms:
            return data.tree_map(lambda leaf: (forms.from_tensor(leaf) if type(leaf) is Tensor else leaf).to(device), tree)

    metrics.totals = lambda scenario, sums, agents: {"sums": sums}  # it asks for the numbers
    torch.index_select, worker.moved, stencil.moved = selected, moved, moved
    problem = build(Experiment(network, 12, scenario, algorithm, rounds=6, record=("x",), **settings))
    rows, reports = Nobody(device), Nobody(torch.device("cpu"))
    length = Comparison.of(problem).blocks.length
    one = worker.Worker(problem, Partition.even(12, 2), me, reports, length, rows=rows)
    with data.default_dtype(torch.float64):
        one.load(0, 6)
    with data.default_dtype(problem.x0.dtype):
        one.place(None)
        with forms:
            one.walk(range(1, 6), ("x",))
    with data.default_dtype(torch.float64), forms:
        report, whole = one.measure(torch.zeros(6, 1, problem.x0.shape[-1])), one.gather()
    assert {leaf.device.type for leaf in tensors((report, whole))} == ({"cpu"} if me == 0 else set())
    return set(rows.carried), set(reports.carried), {leaf.device.type for leaf in tensors(one.held)}


@pytest.mark.cuda
@needs.gpus(2)
@pytest.mark.parametrize(
    ("network", "algorithm", "settings"),
    [
        ("ring", "gtadam:lr=0.01,eps=1e-4", {}),
        ("random_matching", "gt:lr=0.01,form=atc", {}),
        ("erdos_renyi", "gt:lr=0.01", {"channel": "choco:compressor=sign,gamma=0.3"}),
    ],
)
@pytest.mark.parametrize("scenario", ["moving_target:dim=3", "drifting_logistic"])
def test_gpus_give_the_bits_of_one_gpu_and_the_numbers_of_the_host(network: str, scenario: str, algorithm: str, settings: dict[str, Any]) -> None:
    ask: dict[str, Any] = {"agents": 16, "scenario": scenario, "algorithm": algorithm, "rounds": 300, "record": "x", "mode": "eager", **settings}
    host, one = distopt.simulate(network, **ask), distopt.simulate(network, engine="local:device=cuda", **ask)
    several = distopt.simulate(network, engine=f"ranks:workers={min(needs.GPUS, 4)},backend=nccl", **ask)
    assert [name for name in one if not np.array_equal(several[name], one[name], equal_nan=True)] == []
    if "channel" not in settings:  # a sign of a number near zero may be the other one
        for name in ("x", "dynamic_regret", "consensus_error"):
            assert np.allclose(host[name], several[name], rtol=1e-9, atol=1e-11), name


LOST = """
import distopt
from distopt.engines import crew
from test_ranks import Fails, {how}

crew.PATIENCE = 0
ask = dict(agents=16, scenario="moving_target", algorithm=Fails({how}), rounds=9)
distopt.simulate("ring", engine="ranks:workers=3,timeout=5,backend=nccl", **ask)
"""


@pytest.mark.cuda
@needs.gpus(3)
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("sleep", r"(rank 1 or )?rank 2 did not answer within 5 s in round 3"),  # rank 1 looks at a number in every round: there it waits for its GPU
        ("die", r"rank 2 has gone in round \d"),
    ],
)
def test_a_rank_that_is_lost_ends_the_run_on_gpus(how: str, message: str) -> None:
    paths = os.pathsep.join([str(Path(distopt.__file__).parent.parent), str(Path(__file__).parent)])
    command = [sys.executable, "-c", LOST.format(how=how)]  # from here a rank cannot be forked: this process may have used a GPU
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1 and re.search(message, done.stderr), done.stderr
