"""What is no regular file, wherever a file is read: a pipe, a device, a folder, a link to itself."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.fuzzing import Outcome, asked, typed

import distopt
from distopt.experiment import Experiment
from distopt.runs.execution import execute

STUCK = 10  # seconds of the clock; what waits for a pipe waits for ever

pytestmark = pytest.mark.usefixtures("own_folder", "no_figures")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def nothing(path: Path) -> None:
    path.symlink_to("/dev/null")


def folder(path: Path) -> None:
    path.mkdir()


def circle(path: Path) -> None:
    path.symlink_to(path)


def door(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(os.path.relpath(path))  # such a path must be short


def absent(path: Path) -> None:
    assert not path.exists()


KINDS = (pipe, zeros, nothing, folder, circle, door, absent)
WORDS = ("--agents", "4", "--rounds", "3", "--eager", "--out", "out")


def simulated(*words: str, name: str) -> Outcome:
    return typed("simulate", *words, *WORDS, names=(name,), stuck=STUCK)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize(
    "name", ["g.edges", "g.txt", "g.csv", "g.graphml", "g.gml", "g.mtx", "g.npy", "s.csv", "a.py", "e.toml"]
)
def test_an_input_that_is_no_regular_file_is_refused_in_a_line(make: Callable[[Path], None], name: str) -> None:
    make(Path(name))
    if name.startswith("g."):
        outcome = typed("show", f"file:{name}", "--out", "g.png", names=(name,), stuck=STUCK)
    elif name == "s.csv":
        outcome = simulated("ring", "--scenario", f"stream:{name},label=y", "--algorithm", "gt:lr=0.02", name=name)
    elif name == "a.py":
        outcome = simulated("ring", "--scenario", "quadratic", "--algorithm", name, name=name)
    else:
        outcome = simulated(name, name=name)
        assert typed("sweep", name, "--set", "seed=1", "--out", "swept", names=(name,), stuck=STUCK).faults == []
    assert outcome.faults == [] and outcome.line is not None, outcome


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("part", ["manifest", "experiment", "chunk", "last"])
def test_a_run_of_which_a_file_is_no_regular_one_is_refused_in_a_line(make: Callable[[Path], None], part: str) -> None:
    run = execute(
        Experiment("ring", 4, "quadratic:dim=2", "gt:lr=0.02", rounds=6, record=("x",)),
        folder=Path("run"),
        mode="eager",
    )
    truth = run["dynamic_regret"].tolist()
    (place,) = (path for path in Path("run").iterdir() if path.name.startswith(part))
    place.unlink()
    make(place.resolve())
    outcome = asked(lambda: distopt.load("run"), names=("run",), stuck=STUCK)
    resumed = typed("resume", "run", names=("run",), stuck=STUCK)
    assert outcome.faults == [] and resumed.faults == [], (outcome, resumed)
    assert (part == "experiment") == (outcome.line is None), outcome
    if resumed.line is None:  # begun anew
        assert asked(lambda: distopt.load("run")).value["dynamic_regret"].tolist() == truth
    shutil.rmtree("run")
