"""Runs survive: a checkpoint is whole or not there, and a resumed run has the bits of one that nothing disturbed."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import gc
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest
import torch

import distopt
from distopt import api, checkpoint, results, runner
from distopt.cli import cli
from distopt.data import tensors
from distopt.engines import local
from distopt.errors import InputError
from distopt.experiment import Experiment, build
from distopt.runner import Carry, begin
from distopt.stop import stopping

BASE: dict[str, Any] = {
    "topology": "ring", "agents": 6, "scenario": "moving_target:dim=2", "algorithm": "gtadam:lr=0.02", "rounds": 120, "trials": 2, "every": 3,
    "record": ("x", "s"),
}
ASK = ["simulate", "ring", "--agents", "6", "--scenario", "moving_target:dim=2", "--rounds", "40"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def call(*words: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli, list(words))


def runs(folder: str | Path) -> dict[str, distopt.Run]:
    loaded = distopt.load(folder)
    return loaded if isinstance(loaded, dict) else {loaded.label: loaded}


def table(folder: str | Path) -> list[dict[str, str]]:
    """What summary.csv says, but for the speed."""
    rows = list(csv.DictReader((Path(folder) / "summary.csv").open()))
    return [{name: value for name, value in row.items() if name != "rounds_per_second"} for row in rows]


def same(one: distopt.Run, other: distopt.Run) -> None:
    assert list(one) == list(other) and one.status == other.status and np.array_equal(one.rounds, other.rounds)
    assert [name for name in one if not np.array_equal(one[name], other[name], equal_nan=True)] == []
    assert one.info["completed"] == other.info["completed"] and one.info.get("diverged_at") == other.info.get("diverged_at")


def same_folders(one: str, other: str) -> None:
    mine, theirs = runs(one), runs(other)
    assert list(mine) == list(theirs)
    for label, run in mine.items():
        same(run, theirs[label])
    assert table(one) == table(other)
    assert Path(one, "regret.png").read_bytes() == Path(other, "regret.png").read_bytes()
    assert not list(Path(other).rglob("checkpoint*")) and not list(Path(other).rglob("*.part"))


@contextlib.contextmanager
def struck(at: int, number: int = signal.SIGTERM) -> Iterator[None]:
    """Within it a signal arrives, once, when ``at`` rounds of a run are done."""
    take, due = api._Recording.take, [number]

    def taking(self: Any, chunk: Any) -> None:
        take(self, chunk)
        if due and chunk.start < at <= chunk.stop:
            os.kill(os.getpid(), due.pop())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api._Recording, "take", taking)
        yield


def short(monkeypatch: pytest.MonkeyPatch, rounds: int = 7) -> None:
    """Stretches of a few rounds."""
    for module in ("eager", "crew"):
        monkeypatch.setattr(f"distopt.engines.{module}.room", lambda x: rounds)


# The file


def saved(where: Path, **changes: Any) -> tuple[Any, Carry, checkpoint.About]:
    problem = build(Experiment(**{**BASE, **changes}))
    carry = Carry(7, begin(problem).held, {"bits": torch.rand(2, dtype=torch.float64), "agents": torch.rand(2, 6, dtype=torch.float64)})
    about = checkpoint.About(problem.experiment.fingerprint(), "a", False, "cpu", 1.5, checkpoint.versions())
    checkpoint.save(where, problem, carry, about)
    return problem, carry, about


@pytest.mark.parametrize("algorithm", ["gtadam:lr=0.02", "dgd", "nids", "gt:direction=amsgrad"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_what_is_saved_is_loaded(tmp_path: Path, algorithm: str, dtype: str) -> None:
    problem, carry, about = saved(tmp_path, algorithm=algorithm, dtype=dtype, x0=0.3, record=())
    found = checkpoint.load(tmp_path, problem, "a")
    assert found is not None and found.about == about and found.carry.t == 7
    assert type(found.carry.held.state) is type(carry.held.state) and list(found.carry.totals) == list(carry.totals)
    mine, theirs = (tensors((each.held, each.totals)) for each in (carry, found.carry))
    assert len(mine) == len(theirs) > 2
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_a_checkpoint_of_other_results_is_none(tmp_path: Path) -> None:
    problem, _, _ = saved(tmp_path)
    assert checkpoint.load(tmp_path, problem, "b") is None
    assert checkpoint.load(tmp_path / "nowhere", problem, "a") is None


def test_a_torn_flipped_or_foreign_file_is_refused(tmp_path: Path) -> None:
    problem, _, _ = saved(tmp_path)
    path, chance = tmp_path / "checkpoint", random.Random(0)
    whole = path.read_bytes()
    for length in [0, 1, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(30))]:
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="not a checkpoint|damaged or cut short"):
            checkpoint.load(tmp_path, problem, "a")
    for bit in [0, 8 * len(whole) - 1, *(chance.randrange(8 * len(whole)) for _ in range(60))]:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(InputError, match="not a checkpoint|damaged or cut short"):
            checkpoint.load(tmp_path, problem, "a")
    for foreign in (b"PK\x03\x04 an archive", whole + b"\0", b"\x80\x04cos\nsystem\n"):
        path.write_bytes(foreign)
        with pytest.raises(InputError, match="not a checkpoint|damaged or cut short"):
            checkpoint.load(tmp_path, problem, "a")


def test_another_experiment_version_or_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path)
    other = build(Experiment(**{**BASE, "seed": 1}))
    with pytest.raises(InputError, match="another experiment's.*--force"):
        checkpoint.load(tmp_path, other, "a")
    assert checkpoint.load(tmp_path, other, "a", force=True) is not None
    for changes in ({"algorithm": "dgd", "record": ()}, {"agents": 7}, {"dtype": "float32"}, {"rounds": 7}):
        with pytest.raises(InputError, match="does not fit"):
            checkpoint.load(tmp_path, build(Experiment(**{**BASE, **changes})), "a", force=True)
    problem = build(Experiment(**BASE))
    monkeypatch.setattr(checkpoint, "versions", lambda: {"distopt": "9", "torch": "9"})
    with pytest.raises(InputError, match="written by distopt .* torch .*--force"):
        checkpoint.load(tmp_path, problem, "a")
    assert checkpoint.load(tmp_path, problem, "a", force=True) is not None


class Odd:
    """Its state is not what init gave, or holds what no file can."""

    channels = ("x",)

    def __init__(self, first: Any, later: Any) -> None:
        self.first, self.later = first, later

    def init(self, x: Any) -> Any:
        return self.first

    def update(self, g: Any, state: Any, x: Any, mix: Any) -> Any:
        return mix("x", x) - 0.1 * g, self.later


@pytest.mark.parametrize(("first", "later", "message"), [((), (1,), "nested otherwise"), (b"a", b"b", "holds a bytes")])
def test_a_state_that_no_file_can_hold_is_refused(tmp_path: Path, first: Any, later: Any, message: str) -> None:
    problem = build(Experiment(**{**BASE, "algorithm": Odd(first, later), "record": ()}))
    about = checkpoint.About("", "a", False, "cpu", 0.0, {})
    carry = begin(problem)
    with pytest.raises(InputError, match=message):
        checkpoint.save(tmp_path, problem, carry._replace(t=1, held=carry.held._replace(state=later)), about)  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_needs_a_folder() -> None:
    for settings in ({"checkpoint_every": 5}, {"checkpoint_every": 0, "folder": Path("r")}):
        with pytest.raises(InputError, match="checkpoint_every="):
            api.execute(Experiment(**BASE), **settings)  # type: ignore[arg-type]


# Resumed runs


@pytest.mark.parametrize(
    "words",
    [
        ["--algorithm", "gtadam", "--record", "x,s", "--every", "7"],
        ["--algorithm", "gt:lr=[0.02,3,0.05]", "--algorithm", "dgd", "--trials", "2", "--record", "x"],
        ["--algorithm", "nids:lr=0.01", "--algorithm", "gt:lr=[0.02,0.03]", "--dtype", "float32", "--drop-links", "0.3"],
    ],
)
def test_a_resumed_comparison_has_the_bits_of_an_undisturbed_one(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    ask = [*ASK, "--rounds", "900" if "gt:lr=[0.02,3,0.05]" in words else "40", *words]
    undisturbed = call(*ask, "--out", "a")
    short(monkeypatch)
    with struck(18):
        first = call(*ask, "--out", "b", "--checkpoint-every", "5")
    assert first.exit_code == 143 and "go on with: distopt resume b" in first.stderr, first.output
    assert 18 <= max(run.info["completed"] for run in runs("b").values()) < 40
    with struck(25, signal.SIGINT):
        assert call("resume", "b").exit_code == 130
    last = call("resume", "b")
    assert last.exit_code == undisturbed.exit_code and "goes on from round" in last.stdout, last.output
    same_folders("a", "b")
    if "gt:lr=[0.02,3,0.05]" in words:
        assert [run.status for run in runs("b").values()] == ["done", "diverged", "done", "done"]
    assert call("resume", "b").stdout == "nothing to resume: b is finished\n"


def test_a_run_goes_from_engine_to_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*ASK, "--algorithm", "gtadam:lr=[0.01,0.02]", "--record", "x"]
    call(*words, "--out", "a")
    with struck(8):
        call(*words, "--out", "b", "--checkpoint-every", "4")
    short(monkeypatch)
    for at, engine, workers in ((16, "threads", "3"), (24, "ranks", "2")):
        with struck(at):
            result = call("resume", "b", "--engine", engine, "--workers", workers)
        assert result.exit_code == 143, result.output
    result = call("resume", "b", "--engine", "local")
    assert result.exit_code == 0 and result.stdout.count("goes on from round") == 2, result.output
    same_folders("a", "b")


@pytest.mark.skipif(local.compiler() is None, reason="no C++ compiler on this machine")
@pytest.mark.slow
def test_a_compiled_run_goes_on_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*ASK, "--scenario", "drifting_logistic", "--algorithm", "gtadam", "--record", "x"]
    with monkeypatch.context() as patch:
        patch.setattr("distopt.engines.local.COMPILE_SECONDS", 0.0)
        call(*words, "--out", "a")
        with struck(18):
            assert call(*words, "--out", "b", "--checkpoint-every", "5").exit_code == 143
    assert call("resume", "b").exit_code == 0
    same_folders("a", "b")
    call(*words, "--eager", "--out", "c")
    assert not np.array_equal(runs("b")["gtadam"]["x"], runs("c")["gtadam"]["x"]), "too alike to tell the modes apart"


def test_without_a_checkpoint_it_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    call(*ASK, "--out", "a")
    short(monkeypatch)
    with struck(8):
        call(*ASK, "--out", "b", "--checkpoint-every", "4")
    Path("b/checkpoint").unlink()
    result = call("resume", "b")
    assert result.exit_code == 0 and "gtadam has no checkpoint: it begins at round 0" in result.stdout, result.output
    same_folders("a", "b")


def test_a_checkpoint_of_replaced_results_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, folder = Experiment(**BASE), Path("b")

    def stopped(at: int, **settings: Any) -> None:
        with struck(at), stopping() as stop, contextlib.suppress(KeyboardInterrupt):
            problem = build(experiment)
            api.execute_together([problem], api.Comparison.of(problem), folders=[folder], stop=stop, **settings)

    stopped(60, checkpoint_every=20)
    old = (folder / "checkpoint").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", lambda *_: None)
        stopped(30, checkpoint_every=10)  # anew, and killed before its first checkpoint
    assert (folder / "checkpoint").read_bytes() == old and len(runs(folder)["gtadam:lr=0.02"].rounds) == 10
    assert api.whereabouts(folder, build(experiment)) is None
    same(api.execute(experiment, folder=folder, resume=True), api.execute(experiment))


def test_a_changed_file_is_refused_unless_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    short(monkeypatch)
    text = (Path(__file__).parent.parent / "examples" / "heavy_ball.py").read_text()
    Path("mine.py").write_text(text)
    with struck(8):
        call(*ASK, "--algorithm", "mine.py", "--out", "b", "--checkpoint-every", "4")
    Path("mine.py").write_text(text + "\n# changed\n")
    result = call("resume", "b")
    assert result.exit_code == 2 and "--force" in result.stderr and result.stderr.count("\n") == 1, result.output
    assert runs("b")["mine.py"].status == "interrupted"
    result = call("resume", "b", "--force")
    assert result.exit_code == 0 and "goes on from round" in result.stdout, result.output
    assert runs("b")["mine.py"].status == "done"


def test_what_cannot_be_resumed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    short(monkeypatch)
    with struck(8):
        call(*ASK, "--out", "b", "--checkpoint-every", "4")
    Path("empty").mkdir()
    shutil.copytree("b", "c")
    Path("c/experiment.toml").unlink()
    shutil.copytree("b", "d")
    problem = build(Experiment(**{**BASE, "algorithm": "gtadam", "trials": 1, "every": 1, "record": (), "rounds": 40}))
    found = checkpoint.load(Path("d"), problem, str(results.read_manifest(Path("d"))["id"]))
    assert found is not None
    checkpoint.save(Path("d"), problem, found.carry, dataclasses.replace(found.about, device="cuda"))
    Path("b/checkpoint").write_bytes(Path("b/checkpoint").read_bytes()[:-1])
    for words, message in (
        (["d"], "d ran on cuda, whose bits differ from those of cpu; add --device, or --engine ranks --backend nccl, or --force"),
        (["b"], "b/checkpoint: damaged or cut short (the check sum is another); to begin anew, remove it"),
        (["c"], "c: holds no experiment.toml"),
        (["nowhere"], "nowhere: no such folder"),
        (["empty"], "empty: holds no run"),
        (["b", "--workers", "2"], "--workers says how many"),
    ):
        result = call("resume", *words)
        assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1, result.output
    assert call("resume", "b", "--checkpoint-every", "0").exit_code == 2


def test_slow_rounds_make_short_stretches_and_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = api.execute(Experiment(**BASE))
    taken: list[int] = []
    take = api._Recording.take
    monkeypatch.setattr(api._Recording, "take", lambda self, chunk: taken.append(chunk.stop - chunk.start) or take(self, chunk))
    monkeypatch.setattr(runner, "FIRST_BYTES", BASE["trials"] * 6 * 2 * 8 * 4)
    monkeypatch.setattr(runner, "PATIENCE", 0.0)
    same(whole, api.execute(Experiment(**BASE)))
    assert taken == [4, *[1] * 116]


# Signals


def forked(do: Callable[[], Any]) -> Any:
    """A process that does it, and inherits what is imported."""

    def live() -> None:
        gc.freeze()
        torch.set_num_threads(1)
        try:
            with Path("log").open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                do()
        except SystemExit as end:
            os._exit(int(end.code or 0))
        except BaseException as error:
            Path("failed").write_text(f"{type(error).__name__}: {error}")
            os._exit(99)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=live)
    process.start()
    return process


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
@pytest.mark.parametrize("where", ["local", "ranks", "torchrun"])
def test_the_command_saves_itself_when_all_its_processes_get_sigterm(where: str) -> None:
    Path("slow.py").write_text(SLOW)
    Path("slowly").touch()
    words = [*ASK, "--rounds", "900", "--algorithm", "slow.py"]
    command = [*(TORCHRUN if where == "torchrun" else [sys.executable]), "-m", "distopt", *words, "--out", "b", "--checkpoint-every", "5"]
    command += [] if where == "local" else ["--engine", "ranks"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
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


# Disks


def test_a_full_disk_is_one_line_and_what_was_written_stays() -> None:
    words = [*ASK, "--rounds", "120", "--record", "x,s"]
    call(*words, "--out", "a")

    def with_little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
        cli([*words, "--out", "b", "--checkpoint-every", "10"])

    process = forked(with_little_room)
    process.join(60)
    log = Path("log").read_text().splitlines()
    assert process.exitcode == 1 and "cannot write b/chunk-" in log[-1] and log[-1].endswith("go on with: distopt resume b"), log
    kept = runs("b")["gtadam"]
    assert kept.status == "interrupted" and 0 < len(kept.rounds) < 120 and Path("b/checkpoint").exists()
    assert not list(Path("b").glob("*.part"))
    assert "goes on from round" in call("resume", "b").stdout
    same_folders("a", "b")


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, carry, about = saved(tmp_path)
    before, fsync = (tmp_path / "checkpoint").read_bytes(), os.fsync

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(distopt.errors.RunError, match="cannot write .*checkpoint: No space left on device"):  # type: ignore[attr-defined]
        checkpoint.save(tmp_path, problem, carry._replace(t=9), about)
    monkeypatch.setattr(os, "fsync", fsync)
    assert (tmp_path / "checkpoint").read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


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

    real = results.written

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

    Writing.half = step(Writing.half)  # type: ignore[method-assign]

    @contextlib.contextmanager
    def written(path: Path) -> Iterator[Any]:
        with real(path) as file:
            yield Writing(file)

    checkpoint.written = written  # type: ignore[attr-defined]
    os.replace, os.fsync = step(os.replace), step(os.fsync)  # type: ignore[assignment]


@pytest.mark.slow
def test_fifty_kills() -> None:
    """At random moments and at random steps of writing, the resumed run as well as the first one."""
    experiment, chance = Experiment(**BASE), random.Random(1)
    problem = build(experiment)
    comparison = api.Comparison.of(problem)
    began = time.perf_counter()
    whole = api.execute(experiment, folder=Path("whole"), checkpoint_every=5)
    took = time.perf_counter() - began
    whole = runs("whole")["gtadam:lr=0.02"]
    kills, torn, resumed, folder = 0, 0, 0, Path("b")

    def go(count: int | None) -> None:
        if count is not None:
            dying(count)
        api.execute(experiment, folder=folder, comparison=comparison, problem=problem, checkpoint_every=5, resume=True)

    while kills < 50:
        shutil.rmtree(folder, ignore_errors=True)
        for _ in range(2):
            count = chance.randrange(1, 200) if chance.random() < 0.6 else None
            process = forked(lambda count=count: go(count))  # type: ignore[misc]
            process.join(chance.uniform(0, took) if count is None else 60)
            process.kill()
            process.join()
            assert not Path("failed").exists(), Path("failed").read_text()
            kills += process.exitcode == -signal.SIGKILL
            torn += (folder / "checkpoint.part").exists()
            if (folder / "manifest.json").exists():
                assert 0 <= len(runs(folder)["gtadam:lr=0.02"].rounds) <= 40
                resumed += isinstance(api.whereabouts(folder, problem), checkpoint.Checkpoint)
        same(api.execute(experiment, folder=folder, comparison=comparison, problem=problem, checkpoint_every=5, resume=True), whole)
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
        checkpoint.save = dies  # type: ignore[assignment]
        cli([*words, "--out", "b", "--checkpoint-every", "5"])

    process = forked(killed)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, Path("log").read_text()
    result = call("resume", "b")
    assert [line[-8:] for line in result.stdout.splitlines() if "goes on" in line] == ["round 10", " round 5", " round 5"]
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
    words = [*ASK, "--algorithm", "killed.py", "--record", "x"]
    assert call(*words, "--out", "a").exit_code == 0
    done = subprocess.run(
        [*TORCHRUN, "--max-restarts", "1", "-m", "distopt", *words, "--engine", "ranks", "--out", "b", "--checkpoint-every", "10"],
        env=environment(), capture_output=True, text=True, timeout=240, check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "killed goes on from round 30" in done.stdout, (done.stdout, done.stderr)  # who died says torchrun, which may be first to notice
    same_folders("a", "b")
