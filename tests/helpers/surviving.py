"""Runs that are ended and go on: what starts, ends and compares them."""

from __future__ import annotations

import contextlib
import csv
import gc
import multiprocessing
import multiprocessing.context
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest
import torch

import distopt
from distopt.cli.main import cli
from distopt.experiment import Experiment
from distopt.metrics import catalogue
from distopt.runs import checkpoint, execution
from distopt.simulation.problem import build
from distopt.simulation.runner import Carry, begin

BASE: dict[str, Any] = {
    "topology": "ring",
    "agents": 6,
    "scenario": "moving_target:dim=2",
    "algorithm": "gtadam:lr=0.02",
    "rounds": 120,
    "trials": 2,
    "every": 3,
    "record": ("x", "s"),
}
ASK = ["simulate", "ring", "--agents", "6", "--scenario", "moving_target:dim=2", "--rounds", "40"]


def call(*words: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli, list(words))


MAYBE = {name for name, each in catalogue().items() if each.cumulative and each.optional}
TOTALS = {name for name, each in catalogue().items() if each.cumulative} - MAYBE
"""The cumulative metrics of every run, and those that a checkpoint may lack."""


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
    assert one.info["completed"] == other.info["completed"] and one.info.get("diverged_at") == other.info.get(
        "diverged_at"
    )


def same_folders(one: str, other: str) -> None:
    mine, theirs = runs(one), runs(other)
    assert list(mine) == list(theirs)
    for label, run in mine.items():
        same(run, theirs[label])
    assert table(one) == table(other)
    assert Path(one, "regret.png").read_bytes() == Path(other, "regret.png").read_bytes()
    assert not list(Path(other).rglob("checkpoint*")) and not list(Path(other).rglob("*.part"))


def saved(where: Path, **changes: Any) -> tuple[Any, Carry, checkpoint.About]:
    problem = build(Experiment(**{**BASE, **changes}))
    totals = {name: torch.rand(2, dtype=torch.float64) for name in sorted(TOTALS)} | {
        "agents": torch.rand(2, 6, dtype=torch.float64)
    }
    carry = Carry(7, begin(problem).held, totals)
    about = checkpoint.About(problem.experiment.fingerprint(), "a", False, "cpu", 1.5, checkpoint.versions(False))
    checkpoint.save(where, problem, carry, about)
    return problem, carry, about


@contextlib.contextmanager
def struck(at: int, number: int = signal.SIGTERM) -> Iterator[None]:
    """Within it a signal arrives, once, when ``at`` rounds of a run are done."""
    take, due = execution.Recording.take, [number]

    def taking(self: Any, chunk: Any) -> None:
        take(self, chunk)
        if due and chunk.start < at <= chunk.stop:
            os.kill(os.getpid(), due.pop())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution.Recording, "take", taking)
        yield


def short(monkeypatch: pytest.MonkeyPatch, rounds: int = 7) -> None:
    """Stretches of a few rounds."""
    for module in ("local.eager", "workers.group"):
        monkeypatch.setattr(f"distopt.engines.{module}.room", lambda x: rounds)


def forked(do: Callable[[], Any]) -> Any:
    """A process that does it, and inherits what is imported."""

    def live() -> None:
        gc.freeze()
        torch.set_num_threads(1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as in a new process, whatever earlier tests have set
        try:
            with Path("log").open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                do()
        except SystemExit as end:
            os._exit(int(end.code or 0))
        except BaseException as error:
            Path("failed").write_text(f"{type(error).__name__}: {error}")
            os._exit(99)
        os._exit(0)

    process = Forked(target=live)
    process.start()
    return process


class Forked(multiprocessing.context.ForkProcess):
    """A process that is killed where it is not done in time: the tests after it must not have it beside them."""

    def join(self, timeout: float | None = None) -> None:
        super().join(timeout)
        if self.is_alive():
            self.kill()
            super().join()


def fresh(check: str) -> None:
    """Run a check, "folder.module.function(...)" of the tests, in a process of its own, where no earlier test has left anything."""
    folder, module, call = check.split(".", maxsplit=2)
    script = f"from {folder} import {module} as t; t.{call}"
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(distopt.__file__).parent.parent)])
    ask: dict[str, Any] = {
        "capture_output": True,
        "text": True,
        "timeout": 300,
        "env": {**os.environ, "PYTHONPATH": paths},
    }
    done = subprocess.run([sys.executable, "-c", script], check=False, **ask)
    assert done.returncode == 0, done.stderr[-2000:]
