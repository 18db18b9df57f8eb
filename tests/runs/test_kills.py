"""Whatever ends a run, a signal, a disk or a kill: what it has written is whole, and it goes on with the bits of one that nothing disturbed."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.surviving import ASK, BASE, call, forked, runs, same, same_folders, saved

import distopt
from distopt.cli.main import cli
from distopt.experiment import Experiment
from distopt.numerics.trees import tensors
from distopt.runs import checkpoint, execution, files
from distopt.runs.signals import stopping
from distopt.simulation.problem import build

pytestmark = pytest.mark.usefixtures("own_folder")


# Signals


def test_the_first_signal_asks_the_second_ends() -> None:
    def patient() -> None:
        with stopping() as stop:
            stop.patient = True
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.signal == signal.SIGTERM and stop.code == 143
            os.kill(os.getpid(), signal.SIGTERM)  # at once: the same, told twice
            Path("asked").touch()
            stop._since -= 2
            os.kill(os.getpid(), signal.SIGTERM)
            Path("survived").touch()

    process = forked(patient)
    process.join(30)
    assert process.exitcode == -signal.SIGTERM and Path("asked").exists() and not Path("survived").exists()


def test_without_anything_to_save_a_signal_ends_at_once_and_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stopping() as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.code == 130 and [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping() as stop:
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal is None
    finally:
        signal.signal(signal.SIGINT, ignored)


SLOW = """
import os, time
class Slow:
    channels = ("x",)
    def init(self, x): return x
    def update(self, g, state, x, mix):
        if os.path.exists("slowly"):
            time.sleep(0.01)
        return mix("x", x) - 0.01 * g, state
"""

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(Path(distopt.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["local", "ranks", "torchrun", "ray"])
def test_the_command_saves_itself_when_all_its_processes_get_sigterm(where: str) -> None:
    Path("slow.py").write_text(SLOW)
    Path("slowly").touch()
    words = [*ASK, "--rounds", "900", "--algorithm", "slow.py"]
    command = [
        *(TORCHRUN if where == "torchrun" else [sys.executable]),
        "-m",
        "distopt",
        *words,
        "--out",
        "b",
        "--checkpoint-every",
        "5",
    ]
    command += {"local": [], "ray": ["--engine", "ray"]}.get(where, ["--engine", "ranks"])
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        for _ in range(600):
            if Path("b/checkpoint").exists():
                break
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 143 or where == "torchrun", err
    assert "distopt: interrupted; everything before is kept in b; go on with: distopt resume b" in err
    assert runs("b")["slow.py"].status == "interrupted"
    Path("slowly").unlink()
    result = call("resume", "b")
    assert result.exit_code == 0 and "goes on from round" in result.stdout, result.output
    call(*words, "--out", "a")
    same_folders("a", "b")


# Kills


def dying(count: int) -> None:
    """Let this process be killed at the ``count``-th of the steps by which files are written."""
    steps = [0]

    def step(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            steps[0] += 1
            if steps[0] == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        return wrapped

    real = files.written

    class Writing:
        """Half of a piece reaches the disk, then what was asked for happens."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: Any) -> None:
            self.file.write(bytes(data)[: len(data) // 2])
            self.file.flush()
            self.half(data)

        def half(self, data: Any) -> None:
            self.file.write(bytes(data)[len(data) // 2 :])

    Writing.half = step(Writing.half)

    @contextlib.contextmanager
    def written(path: Path) -> Iterator[Any]:
        with real(path) as file:
            yield Writing(file)

    checkpoint.written = written
    os.replace, os.fsync = step(os.replace), step(os.fsync)


def test_a_kill_at_any_step_of_writing_a_checkpoint_leaves_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    problem, carry, about = saved(tmp_path)
    path, part = tmp_path / "checkpoint", tmp_path / "checkpoint.part"
    old, stands, sizes = path.read_bytes(), [], []
    for count in itertools.count(1):

        def write(count: int = count) -> None:
            dying(count)
            checkpoint.save(tmp_path, problem, carry._replace(t=9), about)

        path.write_bytes(old)
        process = forked(write)
        process.join(60)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL, Path("failed").read_text()
        found = checkpoint.load(tmp_path, problem, "a")
        assert found is not None
        stands.append(found.carry.t)
        sizes.append(part.stat().st_size if part.exists() else None)
        part.unlink(missing_ok=True)
    pieces = 4 + len(tensors((carry.held, carry.totals)))  # a name, a length, a header, the leaves and the check sum
    assert stands == [7] * (pieces + 2) + [9]  # the file to the disk, in place of the old one, the folder to the disk
    torn, whole = sizes[:pieces], sizes[pieces:]
    assert torn == sorted(set(torn)) and torn[-1] < len(old) and whole == [len(path.read_bytes())] * 2 + [None]


def test_a_signal_that_comes_while_a_checkpoint_is_written_waits_for_it() -> None:
    call(*ASK, "--out", "a")
    real = files.written

    @contextlib.contextmanager
    def written(path: Path) -> Iterator[Any]:
        with real(path) as file:
            yield file
            os.kill(os.getpid(), signal.SIGTERM)

    def run() -> None:
        checkpoint.written = written
        cli([*ASK, "--out", "b", "--checkpoint-every", "10"])

    process = forked(run)
    process.join(60)
    assert process.exitcode == 143 and "go on with: distopt resume b" in Path("log").read_text()
    result = call("resume", "b")
    assert result.exit_code == 0 and "goes on from round 10" in result.stdout, result.output
    same_folders("a", "b")


@pytest.mark.slow
def test_fifty_kills() -> None:
    """At random moments and at random steps of writing, the resumed run as well as the first one."""
    experiment, chance = Experiment(**BASE), random.Random(1)
    problem = build(experiment)
    comparison = execution.Comparison.of(problem)
    began = time.perf_counter()
    whole = execution.execute(experiment, folder=Path("whole"), checkpoint_every=5)
    took = time.perf_counter() - began
    whole = runs("whole")["gtadam:lr=0.02"]
    kills, torn, resumed, folder = 0, 0, 0, Path("b")
    part = folder / "checkpoint.part"

    def go(count: int | None) -> None:
        if count is not None:
            dying(count)
        execution.execute(
            experiment, folder=folder, comparison=comparison, problem=problem, checkpoint_every=5, resume=True
        )

    while kills < 50:
        shutil.rmtree(folder, ignore_errors=True)
        for _ in range(2):
            part.unlink(missing_ok=True)  # so that one which is there afterwards was being written
            count = chance.randrange(1, 200) if chance.random() < 0.6 else None
            process = forked(lambda count=count: go(count))
            process.join(chance.uniform(0, took) if count is None else 60)
            process.kill()
            process.join()
            assert not Path("failed").exists(), Path("failed").read_text()
            kills += process.exitcode == -signal.SIGKILL
            torn += part.exists()
            if (folder / "manifest.json").exists():
                assert 0 <= len(runs(folder)["gtadam:lr=0.02"].rounds) <= 40
                resumed += isinstance(execution.whereabouts(folder, problem), checkpoint.Checkpoint)
        same(
            execution.execute(
                experiment, folder=folder, comparison=comparison, problem=problem, checkpoint_every=5, resume=True
            ),
            whole,
        )
        same(runs(folder)["gtadam:lr=0.02"], whole)
    assert torn >= 5 and resumed >= 20, (torn, resumed)


def test_points_of_a_grid_go_on_from_checkpoints_of_different_rounds() -> None:
    words = [*ASK, "--algorithm", "gt:lr=[0.01,0.02,0.03]", "--record", "x"]
    call(*words, "--out", "a")
    save, calls = checkpoint.save, []

    def dies(*given: Any) -> None:
        save(*given)
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    def killed() -> None:
        checkpoint.save = dies
        cli([*words, "--out", "b", "--checkpoint-every", "5"])

    process = forked(killed)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, Path("log").read_text()
    result = call("resume", "b")
    assert [line[-8:] for line in result.stdout.splitlines() if "goes on" in line] == [
        "round 10",
        " round 5",
        " round 5",
    ]
    same_folders("a", "b")


def test_a_report_that_is_missing_or_old_is_made_again() -> None:
    for folder in ("a", "b"):
        call(*ASK, "--algorithm", "gt:lr=[0.01,0.02]", "--out", folder)
    Path("b/regret.png").unlink()
    Path("b/summary.csv").write_text("old")
    os.utime("b/summary.csv", (0, 0))
    result = call("resume", "b")
    assert result.exit_code == 0 and result.stdout.count("is finished") == 2 and "written: b" in result.stdout
    same_folders("a", "b")


KILLED = """
import os, signal
import torch

class Killed:
    channels = ("x",)

    def init(self, x):
        return torch.zeros_like(x[..., :1])

    def update(self, g, state, x, mix):
        if os.environ.get("RANK") == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and int(state.max()) == 33:
            os.kill(os.getpid(), signal.SIGKILL)
        return mix("x", x) - 0.05 * g, state + 1
"""


@pytest.mark.slow
def test_torchrun_goes_on_by_itself_after_a_rank_was_killed(tmp_path: Path) -> None:
    Path("killed.py").write_text(KILLED)
    words = [*ASK, "--algorithm", "killed.py", "--record", "x", "--eager"]  # it counts in Python
    assert call(*words, "--out", "a").exit_code == 0
    done = subprocess.run(
        [
            *TORCHRUN,
            "--max-restarts",
            "1",
            "-m",
            "distopt",
            *words,
            "--engine",
            "ranks",
            "--out",
            "b",
            "--checkpoint-every",
            "10",
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "killed goes on from round 30" in done.stdout, (
        done.stdout,
        done.stderr,
    )  # who died says torchrun, which may be first to notice
    same_folders("a", "b")
