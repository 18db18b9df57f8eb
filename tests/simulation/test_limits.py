"""The limits of a machine: descriptors, memory that does not grow with the rounds, and what cannot fit."""

from __future__ import annotations

import errno
import gc
import itertools
import mmap
import os
import resource
import signal
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.surviving import ASK, call, forked, fresh, runs, same_folders

import distopt
from distopt.cli.main import cli
from distopt.costs import data, evaluation, store
from distopt.errors import InputError, RunError
from distopt.experiment import Experiment
from distopt.numerics import room
from distopt.runs import execution, kept, loading, manifest, writing
from distopt.runs.files import locked
from distopt.simulation import limits
from distopt.simulation.problem import build

pytestmark = pytest.mark.usefixtures("own_folder")


# Descriptors


@pytest.mark.slow
def test_a_grid_of_more_points_than_descriptors_runs_and_is_resumed() -> None:
    words = [*ASK, "--rounds", "6", "--algorithm", f"gt:lr=[{','.join(f'0.{k:03}' for k in range(1, 25))}]"]
    call(*words, "--out", "a")

    def few() -> None:
        here = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (here + 14, here + 14))

    def interrupted() -> None:
        few()
        take, left = execution.Recording.take, itertools.count()

        def asked(self: Any, chunk: Any) -> None:
            take(self, chunk)
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGTERM)

        execution.Recording.take = asked
        cli([*words, "--out", "b", "--checkpoint-every", "3"])

    process = forked(interrupted)
    process.join(120)
    assert process.exitcode == 143, Path("log").read_text()[-500:]

    def resumed() -> None:
        few()
        cli(["resume", "b"])

    process = forked(resumed)
    process.join(120)
    assert process.exitcode == 0 and Path("log").read_text().count("goes on from round 3") == 24, Path(
        "log"
    ).read_text()[-500:]
    same_folders("a", "b")


def test_one_lock_is_of_a_folder_and_of_all_runs_in_it() -> None:
    words = [*ASK, "--algorithm", "gt", "--algorithm", "dgd", "--out", "b"]
    call(*words)
    again = "is being written by another run; wait for it"
    with locked(Path("b")):
        for busy in (words, ["resume", "b"], ["resume", "b/gt"]):
            assert call(*busy).exit_code == 2 and again in call(*busy).stderr
    with locked(Path("b/gt"), Path("b")):
        for busy in (words, ["resume", "b"], ["resume", "b/gt"]):
            assert again in call(*busy).stderr
        assert call("resume", "b/dgd").exit_code == 0
    assert call("resume", "b").exit_code == 0


# Memory


def held(rounds: int, every: int) -> None:
    """Write down what a run holds when its last round is done, in bytes."""
    data.LONGEST_BLOCK, data.CACHE_BLOCKS, data.SOME_BLOCKS, store.MEMORY_BYTES = 128, 2, 2, 2**13  # many blocks
    writing.SMALL_CHUNK = writing.LARGE_CHUNK = 0
    evaluation.LARGE = 0  # short runs and long ones hold the same compiled functions
    found = []

    def note(phase: str, done: int, total: int) -> None:
        if phase == "rounds" and done == total:
            gc.collect()
            tensors = [each for each in gc.get_objects() if type(each) is torch.Tensor]
            storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
            found.append(tracemalloc.get_traced_memory()[0] + sum(storages.values()))

    problem = build(Experiment("ring", 4, "moving_target", "dgd:lr=0.01", rounds=rounds, every=every))
    gc.collect()
    tracemalloc.start()
    (run,) = execution.execute_together(
        [problem], execution.Comparison.of(problem), folders=[Path(f"r{rounds}")], progress=note, mode="eager"
    )
    assert len(run["dynamic_regret"][0]) == rounds // every
    Path(f"held-{rounds}").write_text(str(found[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 250])
def test_what_a_run_holds_does_not_grow_with_its_rounds(every: int) -> None:
    for rounds in (3000, 9000):  # caches are full by then; what is on its way differs by some kilobytes from run to run
        fresh(f"simulation.test_limits.held({rounds}, {every})")
    more, less = (int(Path(f"held-{rounds}").read_text()) for rounds in (9000, 3000))
    assert (more - less) / 6000 < 20, "bytes a round"


def test_a_run_without_a_folder_keeps_its_results_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ask: dict[str, Any] = {
        "agents": 6,
        "scenario": "moving_target",
        "rounds": 70,
        "trials": 2,
        "every": 3,
        "record": "x,s",
        "mode": "eager",
    }
    monkeypatch.setattr("distopt.simulation.runner.FIRST_BYTES", 1000)
    run = distopt.simulate("ring", algorithm="gtadam", **ask)
    assert run["x"].shape == (2, 71, 6, 2) and run["s"].shape == (2, 70, 6, 2) and run["bits"].shape == (2, 24)
    assert all(value.flags.c_contiguous for value in (*run.metrics.values(), *run.trajectories.values()))
    assert run.rounds.tolist() == [*range(2, 70, 3), 69]
    lost = distopt.simulate("ring", algorithm="gtadam:lr=1e300", **{**ask, "record": "x"})
    assert (
        lost.status == "diverged"
        and lost["x"].shape[1] == lost.info["completed"]
        and len(lost.rounds) == lost["bits"].shape[1]
    )


@pytest.mark.parametrize("room", [True, False])
def test_large_results_without_a_folder_lie_in_a_file(room: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ask: dict[str, Any] = {
        "agents": 4,
        "scenario": "moving_target",
        "algorithm": "gt",
        "rounds": 90,
        "trials": 2,
        "every": 4,
        "record": "x",
    }
    small = distopt.simulate("ring", **ask)
    monkeypatch.setattr(kept, "LARGE", 1000)
    monkeypatch.setattr("distopt.simulation.runner.FIRST_BYTES", 1000)
    if not room:

        def full(*args: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("os.posix_fallocate", full)
    large = distopt.simulate("ring", **ask)
    assert large.rounds.tolist() == small.rounds.tolist() and list(large) == list(small)
    for name in small:
        np.testing.assert_array_equal(large[name], small[name])
    for value in (*large.metrics.values(), *large.trajectories.values()):
        base = value
        while isinstance(base, np.ndarray) and base.base is not None:
            base = base.base
        assert isinstance(base, mmap.mmap) is room and value.flags.c_contiguous and value.flags.writeable


def highest(rounds: int, folder: bool) -> None:
    """Write down the highest memory of a process that makes a run, in bytes."""
    ask: dict[str, Any] = {"agents": 4, "scenario": "moving_target", "algorithm": "gtadam:lr=0.05", "rounds": rounds}
    if folder:
        call("simulate", "ring", *(f"--{name}={value}" for name, value in ask.items()), "--out", f"f{rounds}")
        assert manifest.read_manifest(Path(f"f{rounds}"))["status"] == "done"
    else:
        distopt.simulate("ring", **ask)
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    Path(f"highest-{rounds}").write_text(str(1024 * int(lines["VmHWM"].split()[0])))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says what a process has taken")
@pytest.mark.parametrize("folder", [True, False])
def test_a_long_run_takes_hardly_more_memory_than_a_short_one(folder: bool) -> None:
    for rounds in (10**4, 5 * 10**5):
        fresh(f"simulation.test_limits.highest({rounds}, {folder})")
    more, less = (int(Path(f"highest-{rounds}").read_text()) for rounds in (5 * 10**5, 10**4))
    assert (more - less) / 5e5 < 80, "bytes a round, of about 170 that are recorded"


@pytest.mark.parametrize("record", ["", "x", "x,s"])
@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("small", [0, 2**20])
def test_a_resumed_run_keeps_what_lies_before_its_checkpoint(
    record: str, every: int, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SMALL_CHUNK", small)
    monkeypatch.setattr("distopt.simulation.runner.FIRST_BYTES", 500)
    ask = [*ASK, "--every", str(every), *(["--record", record] if record else [])]
    call(*ask, "--out", "a")
    take = execution.Recording.take

    def dies(self: Any, chunk: Any) -> None:
        take(self, chunk)
        self.writer.flush()
        if chunk.stop > 27:
            os.kill(os.getpid(), signal.SIGKILL)

    def killed() -> None:
        execution.Recording.take = dies
        cli([*ask, "--out", "b", "--checkpoint-every", "10"])

    process = forked(killed)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    before = {path.name for path in Path("b").glob("chunk-*")}
    assert "goes on from round 20" in call("resume", "b").stdout
    assert small or before & {path.name for path in Path("b").glob("chunk-*")}, (
        "chunks before the checkpoint were written anew"
    )
    same_folders("a", "b")


def test_results_before_a_checkpoint_that_are_missing_are_told() -> None:
    call(*ASK, "--out", "b")
    writer = writing.Writer(Path("b"), "gtadam", manifest.read_manifest(Path("b")))
    with pytest.raises(InputError, match=r"b: results before round 41 are missing; start again with simulate\(...\)"):
        writer.keep(41, 1)
    writer.close()


def test_arrays_on_disk_are_those_in_memory() -> None:
    call(*ASK, "--record", "x,s", "--out", "b")
    whole, lazy = runs("b")["gtadam"], loading.stored(Path("b"))
    assert list(whole) == list(lazy) and whole.info == lazy.info and np.array_equal(whole.rounds, lazy.rounds)
    assert all(np.array_equal(whole[name], lazy[name], equal_nan=True) for name in whole)
    with pytest.raises(KeyError, match="it has: "):
        lazy["nothing"]


# What cannot fit

TOO_LARGE = [
    (
        ["--rounds", str(10**12)],
        "1,000,000,000,000 rounds would need at least 88 TB in b, and .* are free; lower rounds, or record less",
    ),
    (
        ["--rounds", str(10**12), "--every", str(10**9)],
        "the comparator of 1,000,000,000,000 rounds would need at least 72 TB in .*; lower rounds",
    ),
    (
        ["--trials", "10000", "--rounds", str(10**9)],
        "1,000,000,000 rounds in 10,000 trials would need at least 880 TB in b",
    ),
    (
        ["--algorithm", "gt:lr=[0.1,0.2]", "--rounds", str(10**12)],
        "1,000,000,000,000 rounds of 2 runs would need at least 176 TB in b",
    ),
    (
        ["--rounds", str(10**11), "--every", str(10**6), "--record", "x"],
        "100,000,000,000 rounds would need at least 9.6 TB in b",
    ),
    (
        ["--agents", str(10**11)],
        "100,000,000,000 agents would need at least 50 TB of memory, and .* are free; lower agents",
    ),
]


@pytest.mark.parametrize(("words", "says"), TOO_LARGE)
def test_what_cannot_fit_is_refused_before_it_begins(words: list[str], says: str) -> None:
    done = call(*ASK, *words, "--out", "b")
    assert done.exit_code == 2 and not Path("b").exists()
    assert done.stderr.startswith("distopt: ") and done.stderr.count("\n") == 1
    with pytest.raises(InputError, match=says):
        raise InputError(done.stderr)


@pytest.mark.parametrize("topology", ["complete", "erdos_renyi:p=0.5"])
def test_links_of_too_many_pairs_are_refused(topology: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ask: dict[str, Any] = {"scenario": "moving_target", "algorithm": "gt", "rounds": 3}
    with pytest.raises(
        InputError, match=r"about (5|2.5)e\+11 links take (29,802|14,901).* GiB, more than the limit of .*; lower"
    ):
        distopt.simulate(topology, agents=10**6, **ask)
    monkeypatch.setattr(room, "available", lambda: 10**6)
    with pytest.raises(
        InputError,
        match=r"about (4.48e\+04|2.24e\+04) links would need at least .* of memory, and 1.0 MB are free; lower",
    ):
        distopt.simulate(topology, agents=300, **ask)


def test_agents_are_weighed_with_their_data_state_and_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "available", lambda: 3 * 10**8)
    ask: dict[str, Any] = {"agents": 200_000, "rounds": 3, "algorithm": "dgd"}
    for changes in ({"scenario": "quadratic:dim=40"}, {"scenario": "moving_target", "trials": 20}):
        with pytest.raises(
            InputError, match=r"200,000 agents.* would need at least .* of memory, and 300.0 MB are free"
        ):
            distopt.simulate("ring", **ask, **changes)
    with pytest.raises(InputError, match="would need at least 408.0 MB of memory"):
        distopt.simulate(
            "ring", agents=4, scenario="quadratic", algorithm="dgd", rounds=10**6, record="x", mode="eager"
        )


def test_a_million_agents_on_a_ring_and_long_runs_are_not_refused() -> None:
    for scenario, algorithm in (("quadratic", "gtadam"), ("moving_target", "dgd")):
        limits.agents(Experiment("ring", 10**6, scenario, algorithm))
    problem = build(Experiment("ring", 4, "moving_target", "gt", rounds=10**7))
    limits.rounds([problem], execution.Comparison.of(problem).blocks, Path("b"))


def python() -> None:
    raise MemoryError


def numpy() -> None:
    np.empty(2**50)


def pytorch() -> None:
    torch.empty(2**50)


@pytest.mark.parametrize("fails", [python, numpy, pytorch])
def test_no_memory_left_is_one_line(fails: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        fails()

    monkeypatch.setattr("distopt.simulation.runner._chunk", failing)
    done = call(*ASK, "--out", "b")
    assert (
        done.exit_code == 1
        and done.stderr.splitlines()[-1] == f"distopt: {room.NO_MEMORY}; go on with: distopt resume b"
    )
    with pytest.raises(RunError, match="there is not enough memory; lower agents"):
        distopt.simulate("ring", agents=4, scenario="moving_target", algorithm="gt", rounds=3)
    monkeypatch.setattr("distopt.network.network.mixing_of", failing)
    assert call(*ASK, "--out", "c").stderr == f"distopt: {room.NO_MEMORY}\n"


def test_the_limit_of_a_process_counts() -> None:
    def limited() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**28,) * 2)
        assert room.available() <= 2**28
        cli([*ASK, "--agents", "1000000", "--out", "b"])

    process = forked(limited)
    process.join(60)
    assert process.exitcode == 2 and "1,000,000 agents would need at least" in Path("log").read_text()
