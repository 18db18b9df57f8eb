"""``distopt tune``: what it prints, what it refuses, and how it goes on after Ctrl-C."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path

import numpy as np
import pytest
from helpers.asking import call, many

import distopt
from distopt.runs import execution
from distopt.simulation.runner import Chunk

pytestmark = pytest.mark.usefixtures("own_folder", "no_figures")
RING = ["ring", "--agents", "4", "--scenario", "moving_target", "--rounds", "40"]
HOW = ["--trials", "2", "--report-trials", "3", "--grid", "lr=0.01,0.02,0.04", "--eager"]
BOTH = ["--algorithm", "gtadam", "--algorithm", "dgd"]


def test_it_ends_with_the_verdict_and_the_command_that_runs_the_winners() -> None:
    done = call("tune", *RING, *BOTH, *HOW, "--out", "o")
    assert done.exit_code == 0, done.output
    tuned = distopt.tune(
        "ring",
        agents=4,
        scenario="moving_target",
        rounds=40,
        algorithm=["gtadam", "dgd"],
        trials=2,
        report_trials=3,
        grid=[0.01, 0.02, 0.04],
        mode="eager",
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "ring, 4 agents; moving_target, 40 rounds; tuning: 2 trials, seed 0; report: 3 trials, seed 1000"
    for name, spec in tuned.winners.items():
        assert any(line.startswith(f"{name}: {spec}; ") for line in lines)
    for row in tuned.rows():
        (line,) = [line for line in lines if line.startswith(f"{row['algorithm']} ({row['row']})")]
        assert f"{row['average_dynamic_regret']:.3g}" in line and f"{row['median']:.3g}" in line
    assert "gtadam: 3 points: round 40 of 40" in done.stderr
    last = lines[-1].removeprefix("run the winners with: distopt ")
    again = call(*shlex.split(last), "--out", "again", "--eager")
    assert again.exit_code == 0, again.output
    runs = many("again")
    assert list(runs) == list(tuned.winners.values())
    for label, run in runs.items():
        np.testing.assert_array_equal(run["dynamic_regret"], tuned.runs[label]["dynamic_regret"])
    assert json.loads(Path("o/tuning.json").read_text())["question"]["report"] == {"seed": 1000, "trials": 3}


def test_the_same_command_finds_its_own_folder_and_all_in_it_finished() -> None:
    first = call("tune", *RING, *BOTH, *HOW)
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("tune-ring-4-moving_target-")
    second = call("tune", *RING, *BOTH, *HOW)
    assert (first.exit_code, second.exit_code) == (0, 0) and len(list(Path("runs").iterdir())) == 1
    assert second.stdout.splitlines()[1] == "6 points finished before" and second.stderr == ""
    assert second.stdout.splitlines()[3:] == first.stdout.splitlines()[2:]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("at", "points"), [(2, 3), (5, 6), (8, 6)]
)  # in both batches of the grids, and in the report's first
def test_an_interruption_keeps_what_is_finished(
    at: int, points: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("tune", *RING, *BOTH, *HOW, "--out", "whole").exit_code == 0
    take, count = execution.Recording.take, [0]

    def taking(self: execution.Recording, chunk: Chunk) -> None:
        take(self, chunk)
        count[0] += 1
        if count[0] == at:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(execution.Recording, "take", taking)
        stopped = call("tune", *RING, *BOTH, *HOW, "--out", "o")
    assert stopped.exit_code == 128 + number, stopped.output
    assert stopped.stderr.splitlines()[-1] == (
        "distopt: interrupted; finished points are kept in o; re-run the command to resume"
    )
    note = json.loads(Path("o/tuning.json").read_text())
    assert (note["status"], len(note["points"])) == ("begun", points)
    assert call("tune", *RING, *BOTH, *HOW, "--out", "o").exit_code == 0
    for name in ("tuning.json", "tuning.csv", "tuned.csv"):
        assert Path("o", name).read_bytes() == Path("whole", name).read_bytes()


def test_a_file_and_options_over_it() -> None:
    Path("sub").mkdir()
    Path("sub/mine.py").write_text(
        "class Mine:\n    channels = ('x',)\n    def __init__(self, lr: float = 0.02): self.lr = lr\n"
        "    def init(self, x): return ()\n    def update(self, g, state, x, mix): return mix('x', x) - self.lr * g, state\n"
    )
    Path("sub/e.toml").write_text(
        'topology = "ring"\nagents = 4\nscenario = "moving_target"\nrounds = 40\ntrials = 2\nalgorithm = ["mine.py", "dgd"]\n'
    )
    done = call("tune", "sub/e.toml", "--report-trials", "1", "--grid", "lr=0.01..0.1,2", "--eager", "--out", "o")
    assert done.exit_code == 0, done.output
    assert "tuning: 2 trials, seed 0; report: 1 trial, seed 1000" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert "--algorithm sub/mine.py:lr=" in last
    again = call(*shlex.split(last.removeprefix("run the winners with: distopt ")), "--out", "again", "--eager")
    assert again.exit_code == 0 and len(many("again")) == 2
    more = call(
        "tune", "sub/e.toml", "--trials", "1", "--report-trials", "1", "--grid", "lr=0.01,0.02", "--eager", "--out", "p"
    )
    assert "tuning: 1 trial, seed 0" in more.stdout


def test_an_algorithm_without_a_winner_is_exit_code_1() -> None:
    done = call("tune", *RING, "--algorithm", "gt", "--algorithm", "dgd", *HOW, "--grid", "lr=1e9,1e10", "--out", "o")
    assert done.exit_code == 1, done.output
    for name in ("gt", "dgd"):
        assert (
            f"{name}: at least half of the trials diverge at every lr from 1e+09 to 1e+10; it has no winner"
            in done.stdout
        )
    assert "dgd (defaults)" in done.stdout and "run the winners" not in done.stdout
    wild = call("tune", *RING, "--algorithm", "dgd:lr=1e9", *HOW, "--out", "p")
    assert wild.exit_code == 0 and "distopt: dgd:lr=1e9: 3 of 3 trials diverged, the first at round" in wild.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--grid", "lr=1..0.1"], "--grid lr=1..0.1: the first step size must be below the second; write lr=LOW"),
        (["--grid", "b1=1..2"], "--grid b1=1..2: a grid holds values of lr; for another parameter use --over"),
        (["--over", "b1"], "--over b1: write NAME=VALUE,VALUE, as in b1=0.5,0.9"),
        (["--over", "zeta=1"], "--over zeta: no algorithm has a parameter zeta"),
        (
            ["--grid", "lr=1e-4..1e308,1"],
            "--grid lr=1e-4..1e308,1: 1e308: a step size must lie between 1e-100 and 1e+100",
        ),
        (["--grid", "lr=1e-323,0.1"], "1e-323: a step size must lie between 1e-100 and 1e+100"),
        (
            ["--seed", f"{2**63 - 1}"],
            f"--seed {2**63 - 1}: must be at most {2**63 - 1001}, as the report uses the seed plus 1000",
        ),
        (["--report-trials", "0"], "--report-trials 0: must be a whole number, at least 1"),
        (["--algorithm", "gtadm"], "no 'gtadm' among the algorithms (did you mean"),
        (["--eager", "--compiled"], "--eager and --compiled exclude each other"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(words: list[str], message: str) -> None:
    done = call("tune", *RING, *words, "--out", "o")
    assert done.exit_code == 2 and message in done.stderr and not Path("o").exists()
    assert "Traceback" not in done.stderr


def test_a_damaged_note_and_a_foreign_folder_are_refused() -> None:
    assert call("tune", *RING, *HOW, "--algorithm", "dgd", "--out", "o").exit_code == 0
    other = call("tune", *RING, *HOW, "--algorithm", "gt", "--out", "o")
    assert (other.exit_code, other.stderr) == (
        2,
        "distopt: o holds another tuning; choose another folder with --out, or remove it\n",
    )
    assert call("resume", "o").stderr == (
        "distopt: o: holds a tuning; to continue it, re-run the command that began it; its report is a folder of runs, o/report\n"
    )
