"""Many experiments side by side: which they are, what becomes of each, and how a sweep goes on."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest

import distopt
from distopt.cli.main import cli
from distopt.errors import InputError, by_command
from distopt.runs import sweep
from distopt.runs.results import Run

TOML = 'topology = "ring"\nagents = 4\nscenario = "moving_target"\nrounds = 20\nalgorithm = "gt:lr=0.05,form=atc"\n'
VALUES = {"topology": "ring", "agents": 4, "scenario": "moving_target", "algorithm": "gt:lr=0.05,form=atc"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("e.toml").write_text(TOML)


def call(*words: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli, ["sweep", "e.toml", "--out", "out", *words])


def runs() -> dict[str, Run]:
    found = {path.parent.name: distopt.load(path.parent) for path in sorted(Path("out").glob("*/manifest.json"))}
    return {name: run for name, run in found.items() if isinstance(run, Run)}


def test_every_choice_of_values_is_an_experiment() -> None:
    found = sweep.points(
        VALUES,
        ["algorithm.lr=0.1,0.2", "scenario=sea,'moving_target:dim=3,kappa=2'", "seed=1,2", "scenario.noise=0"],
        "e",
    )
    told = {(e.algorithm, e.scenario, e.seed) for e in (point.experiment for point in found)}
    assert told == {
        (f"gt:lr={lr},form=atc", scenario, seed)
        for lr in ("0.1", "0.2")
        for scenario in ("sea:noise=0", "moving_target:dim=3,kappa=2,noise=0")
        for seed in (1, 2)
    }
    assert len(found) == len({point.folder for point in found}) == 8
    several = sweep.points(
        {**VALUES, "algorithm": ["gt", "dgd:lr=[0.1,0.2]"]}, ["algorithm.lr=0.3", "drop_links=0.25"], "e"
    )
    assert [(point.experiment.algorithm, point.experiment.drop_links) for point in several] == [
        ("gt:lr=0.3", 0.25),
        ("dgd:lr=0.3", 0.25),
    ]
    grid = sweep.points({**VALUES, "algorithm": ["gt", "dgd:lr=[0.1,0.2]"]}, [], "e")
    assert [point.name for point in grid] == ["gt", "dgd:lr=0.1", "dgd:lr=0.2"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["lr=0.1"], "no setting 'lr'; write KEY=VALUE"),
        (["algorithm.lr"], "no setting"),
        (["seeds.a=1"], "no setting 'seeds.a'"),
        (["seed=1,x"], "--set seed: 'x' is not a whole number"),
        (["seed="], "no values"),
        (["seed=1", "seed=2"], "--set seed is given twice"),
        (["seed=1,1"], "seed=1: this experiment is in the sweep twice"),
        (["rounds=0"], "rounds=0: must be at least 1"),
        (["scenario='sea"], "quote"),
    ],
)
def test_what_is_no_setting_is_refused(settings: list[str], message: str) -> None:
    with by_command(), pytest.raises(InputError, match=message):
        sweep.points(VALUES, settings, "e")


@pytest.mark.slow
def test_each_experiment_becomes_a_run_with_the_bits_it_has_alone() -> None:
    done = call("--set", "algorithm.lr=0.05,0.1", "--set", "seed=1,2", "--workers", "2")
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines()[-1].startswith("4 of 4: ")
    found = runs()
    assert len(found) == 4
    for name, run in found.items():
        lr, seed = (part.split("=")[1] for part in name.split("-")[:2])
        alone = distopt.simulate(
            "ring", agents=4, scenario="moving_target", algorithm=f"gt:lr={lr},form=atc", rounds=20, seed=int(seed)
        )
        assert run.info["fingerprint"] == alone.info["fingerprint"]
        assert [key for key in alone if not np.array_equal(run[key], alone[key], equal_nan=True)] == []
        again = call_simulate(Path("out") / name / "experiment.toml")
        assert np.array_equal(again["dynamic_regret"], run["dynamic_regret"])
    with Path("out/sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["algorithm.lr"], row["seed"]) for row in rows] == [
        ("0.05", "1"),
        ("0.05", "2"),
        ("0.1", "1"),
        ("0.1", "2"),
    ]
    assert {row["folder"] for row in rows} == set(found)


def call_simulate(file: Path) -> Run:
    done = click.testing.CliRunner().invoke(cli, ["simulate", str(file), "--out", f"again-{file.parent.name}"])
    assert done.exit_code == 0, done.output
    run = distopt.load(f"again-{file.parent.name}")
    assert isinstance(run, Run)
    return run


def test_what_is_finished_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("--set", "seed=1,2").exit_code == 0
    before = {name: run.info["seconds"] for name, run in runs().items()}
    asked: list[int] = []
    processes = sweep.processes

    def noted(jobs: Any, workers: int) -> Any:
        asked.extend(job.experiment.seed for job in jobs)
        return processes(jobs, workers)

    monkeypatch.setattr(sweep, "processes", noted)
    done = call("--set", "seed=1,2,3")
    assert (done.exit_code, asked) == (0, [3])
    assert "2 of 3: 2 finished before" in done.stderr
    after = runs()
    assert len(after) == 3 and all(after[name].info["seconds"] == seconds for name, seconds in before.items())
    assert call("--set", "seed=1,2,3").exit_code == 0 and asked == [3]


DEADLY = """
import os, signal
class Deadly:
    channels = ("x",)
    def __init__(self, how: str = "not"):
        self.how = how
    def init(self, x):
        return ()
    def update(self, g, state, x, mix):
        if self.how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "divide":
            1 / 0
        return mix("x", x) - (1e9 if self.how == "diverge" else 0.01) * g, state
"""


def test_a_failed_experiment_stops_no_other() -> None:
    Path("deadly.py").write_text(DEADLY)
    done = call(
        "--set",
        "algorithm=deadly.py",
        "--set",
        "algorithm.how=die,divide,diverge,not",
        "--set",
        "algorithm.what=1",
        "--workers",
        "1",
    )
    assert (
        done.exit_code == 1 and runs() == {} and done.stderr.count("no parameter 'what'") == 8
    )  # as it goes, and in the end
    done = call("--set", "algorithm=deadly.py", "--set", "algorithm.how=die,divide,diverge,not", "--workers", "2")
    assert done.exit_code == 1
    assert "how=die failed: its process ended with exit code -9" in done.stderr
    assert "how=divide failed: ZeroDivisionError: division by zero" in done.stderr
    assert "how=diverge diverged at round" in done.stderr
    assert sorted(run.status for run in runs().values()) == ["diverged", "done"]


def test_what_cannot_be_is_refused() -> None:
    for words, message in (
        (["--address", "auto"], "add --engine ray"),
        (["--workers", "0"], "at least 1"),
        (["--engine", "ray", "--address", "auto", "--workers", "2"], "leave --workers out"),
        (["--set", "lr=1"], "distopt: --set lr=1: no setting 'lr'"),
    ):
        done = call(*words)
        assert done.exit_code == 2 and message in done.stderr
    assert not Path("out").exists()
    click.testing.CliRunner().invoke(cli, ["simulate", "e.toml", "--out", "out"])
    done = call("--set", "seed=1")
    assert (done.exit_code, done.stderr) == (2, "distopt: out holds a run; choose another folder with --out\n")


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on() -> None:
    root = str(Path(distopt.__file__).parent.parent)
    command = [sys.executable, "-m", "distopt", "sweep", "e.toml", "--out", "out", "--workers", "2", "--eager"]
    command += ["--set", "rounds=20,200000", "--set", "seed=1,2"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("2 of 4"):
            break
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told == "distopt: interrupted; finished runs are kept in out; re-run the command to resume\n"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert [run.status for run in runs().values()] == ["done", "done"]
    assert "2 of 2: 2 finished before" in call("--set", "rounds=20", "--set", "seed=1,2").stderr
