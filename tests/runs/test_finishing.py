"""Finishing is part of a run: its table and figure, whatever ends it; and no process outlives the one that started it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.figure
import pytest
from helpers.surviving import ASK, call, forked, runs, same_folders

from distopt.cli import commands, progress
from distopt.cli.main import cli
from distopt.report import tables
from distopt.runs import execution, signals, writing

pytestmark = pytest.mark.usefixtures("own_folder")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ask() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def before(owner: Any, name: str, do: Callable[[], None]) -> None:
    """Let something happen each time that a function is called."""
    real = getattr(owner, name)

    def doing(*args: Any, **kwargs: Any) -> Any:
        do()
        return real(*args, **kwargs)

    setattr(owner, name, doing)


PLACES = {
    "the figure is drawn": (matplotlib.figure.Figure, "savefig"),
    "the table is made": (tables, "to_csv"),
    "the report begins": (commands, "report"),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_a_kill_at_the_end_left_out_is_made_by_resume(place: str) -> None:
    call(*ASK, "--out", "a")

    def dying() -> None:
        before(*PLACES[place], kill)
        cli([*ASK, "--out", "b"])

    process = forked(dying)
    process.join(60)
    assert (
        process.exitcode == -signal.SIGKILL
        and runs("b")["gtadam"].status == "done"
        and not Path("b/regret.png").exists()
    )
    result = call("resume", "b")
    assert result.exit_code == 0 and "gtadam is finished" in result.stdout and "regret.png" in result.stdout, (
        result.output
    )
    same_folders("a", "b")
    assert "nothing to resume" in call("resume", "b").stdout


def old(path: Path) -> None:
    os.utime(path, (0, 0))


def another(path: Path) -> None:
    path.write_bytes((Path("c") / path.name).read_bytes())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


@pytest.mark.parametrize("spoil", [Path.unlink, old, another, cut])
@pytest.mark.parametrize("name", ["regret.png", "summary.csv"])
def test_a_report_that_is_not_of_these_runs_is_made_again(name: str, spoil: Callable[[Path], None]) -> None:
    for folder, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert call(*ASK, "--seed", seed, "--out", folder).exit_code == 0
    assert "nothing to resume" in call("resume", "b").stdout
    spoil(Path("b") / name)
    result = call("resume", "b")
    assert result.exit_code == 0 and "written: b" in result.stdout, result.output
    same_folders("a", "b")
    assert "nothing to resume" in call("resume", "b").stdout


def test_a_rerun_that_was_interrupted_at_once_does_not_pass_its_empty_table_off() -> None:
    for folder in ("a", "b"):
        call(*ASK, "--out", folder)

    def interrupted() -> None:
        before(execution.runner, "together", ask)
        cli([*ASK, "--out", "b"])

    process = forked(interrupted)
    process.join(60)
    assert process.exitcode == 143, Path("log").read_text()
    assert "written: b" in call("resume", "b").stdout
    same_folders("a", "b")


@pytest.mark.parametrize("also", [False, True])
@pytest.mark.parametrize("place", [*PLACES, "the results end"])
def test_a_signal_waits_for_the_end_that_is_near(place: str, also: bool) -> None:
    """Whether it is the first, or the second within a second after one that came with the last rounds."""
    call(*ASK, "--out", "a")

    def asked() -> None:
        if also:
            signals.ECHO = 60.0  # however busy the machine is, the second comes in time
            before(execution.Recording, "take", ask)
        before(*PLACES.get(place, (writing.Writer, "finish")), ask)
        cli([*ASK, "--out", "b", "--checkpoint-every", "20"])

    process = forked(asked)
    process.join(60)
    assert process.exitcode == (143 if also else 0), Path("log").read_text()
    assert Path("b/regret.png").exists() and Path("b/summary.csv").exists()
    status = runs("b")["gtadam"].status
    assert status == ("interrupted" if also else "done")
    assert ("goes on from round 20" if also else "nothing to resume") in call("resume", "b").stdout
    same_folders("a", "b")


def test_a_signal_between_two_batches_ends_the_run_there() -> None:
    words = [*ASK, "--algorithm", "gt", "--algorithm", "dgd"]
    call(*words, "--out", "a")

    def asked() -> None:
        before(writing.Writer, "finish", ask)
        cli([*words, "--out", "b"])

    process = forked(asked)
    process.join(60)
    assert process.exitcode == 143, Path("log").read_text()
    assert {label: run.status for label, run in runs("b").items()} == {"gt": "done"}
    assert "dgd has no checkpoint" in call("resume", "b").stdout
    same_folders("a", "b")


def test_a_signal_while_progress_is_told_finds_a_checkpoint() -> None:
    """It comes after the checkpoint of these rounds could be written, so the run goes on to the next ones."""
    call(*ASK, "--out", "a")

    def asked() -> None:
        execution.runner.FIRST, execution.runner.PATIENCE = 8, 1e-9  # short segments
        real = progress.lines

        def lines(name: str) -> Any:
            tell = real(name)

            def told(what: str, done: int, total: int) -> None:
                if what == "rounds" and done == 8:
                    ask()
                tell(what, done, total)

            return told

        progress.lines = lines
        cli([*ASK, "--out", "b"])

    process = forked(asked)
    process.join(60)
    assert process.exitcode == 143, Path("log").read_text()
    assert "goes on from round 9" in call("resume", "b").stdout
    same_folders("a", "b")


# Processes that others started

BUSY = """
import os, time
from pathlib import Path

class Busy:
    channels = ("x",)
    def __init__(self, lr: float = 0.1):
        self.lr = lr
    def init(self, x):
        return ()
    def update(self, g, state, x, mix):
        if os.getpid() != int(os.environ["LEADER"]):
            Path(f"pid-{os.getpid()}").touch()
            while True:
                time.sleep(0.05)
        return mix("x", x) - self.lr * g, state
"""
RANKS = [*ASK, "--algorithm", "busy.py", "--engine", "ranks", "--workers", "3", "--out", "b"]
SWEEP = ["sweep", "e.toml", "--set", "algorithm.lr=0.1,0.2,0.3", "--workers", "2", "--eager", "--out", "b"]
TOML = 'topology = "ring"\nagents = 4\nscenario = "moving_target"\nrounds = 20\nalgorithm = "busy.py"\n'


def workers(count: int) -> list[int]:
    for _ in range(1200):
        found = [int(path.name.removeprefix("pid-")) for path in Path().glob("pid-*")]
        if len(found) == count:
            return found
        time.sleep(0.05)
    pytest.fail(f"no {count} workers: {Path('log').read_text()}")


def gone(pids: list[int]) -> bool:
    for _ in range(600):
        left = [
            pid
            for pid in pids
            if Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
        ]
        if not left:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("words", "number"),
    [(RANKS, signal.SIGKILL), (SWEEP, signal.SIGKILL), (SWEEP, signal.SIGTERM), (SWEEP, signal.SIGINT)],
    ids=["ranks killed", "sweep killed", "sweep terminated", "sweep interrupted"],
)
def test_workers_end_with_whoever_started_them(words: list[str], number: signal.Signals) -> None:
    Path("busy.py").write_text(BUSY)
    Path("e.toml").write_text(TOML)

    def leading() -> None:
        os.environ["LEADER"] = str(os.getpid())
        cli(words)

    process = forked(leading)
    found = workers(2)
    os.kill(process.pid, number)
    process.join(60)
    assert gone(found)
    assert process.exitcode == (-number if number == signal.SIGKILL else 128 + number), Path("log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_sweep_whose_whole_group_is_asked_to_end_says_so_once() -> None:
    Path("busy.py").write_text(BUSY)
    Path("e.toml").write_text(TOML)

    def leading() -> None:
        os.setpgid(0, 0)
        os.environ["LEADER"] = str(os.getpid())
        cli(SWEEP)

    process = forked(leading)
    found = workers(2)
    os.killpg(process.pid, signal.SIGTERM)
    process.join(60)
    said = "distopt: interrupted; finished runs are kept in b; re-run the command to resume"
    assert process.exitcode == 143 and Path("log").read_text().splitlines() == ["3 experiments", said]
    assert gone(found)
