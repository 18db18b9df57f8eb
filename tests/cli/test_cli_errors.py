"""Bad input gets one line and an exit code, and loses nothing; so does what goes wrong later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.asking import ASK, TOML, call, many, one

import distopt
from distopt.experiment import Experiment

pytestmark = pytest.mark.usefixtures("own_folder")


# ------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["simulate", "rng", "--agents", "4"], "did you mean ring"),
        (["simulate", "ring", "--agents", "4", "--scenario", "movin_target"], "did you mean moving_target"),
        ([*ASK, "--algorithm", "gtadm"], "did you mean gtadam"),
        ([*ASK, "--algorithm", "gtadam:learning=1"], "no parameter 'learning'"),
        ([*ASK, "--algorithm", "gtadam:learning_rate=1"], "did you mean lr?"),
        ([*ASK, "--channel", "sign"], "sign is a compressor: write --channel choco:compressor=sign"),
        (["simulate", "friends.edges"], "to read a graph from a file, write file:path=friends.edges"),
        (["show", "class.gml"], "to read a graph from a file, write file:path=class.gml"),
        (["list", "weights"], "values of --weights"),
        ([*ASK, "--algorithm", "gtadam:lr=fast"], "lr=fast is not a number"),
        ([*ASK, "--algorithm", "gtadam:lr=-1"], "lr"),
        ([*ASK, "--algorithm", "gt", "--algorithm", "gt"], "given twice"),
        ([*ASK, "--algorithm", "gt", "--algorithm", "gtx"], "no 'gtx'"),
        ([*ASK, "--algorithm", "nowhere.py"], "nowhere.py"),
        ([*ASK, "--rounds", "0"], "rounds=0"),
        ([*ASK, "--agents", "0"], "agents=0"),
        ([*ASK, "--trials", "0"], "trials=0"),
        ([*ASK, "--every", "0"], "every=0"),
        ([*ASK, "--seed", "-1"], "seed=-1"),
        ([*ASK, "--dtype", "float16"], "float16"),
        ([*ASK, "--drop-links", "1"], "drop_links"),
        ([*ASK, "--weights", "metropolitan"], "metropolis"),
        ([*ASK, "--channel", "exat"], "did you mean exact"),
        ([*ASK, "--record", "y"], "record=y"),
        (["simulate", "ring", "--scenario", "moving_target"], "the number of agents is missing"),
        (["simulate", "nothing.toml"], "No such file"),
        (["list", "algorithm"], "did you mean algorithms"),
        (["show", "rng", "--agents", "4"], "did you mean ring"),
        (["show", "ring"], "the number of agents is missing"),
        (["show", "ring", "--agents", "0"], "agents=0"),
        (["show", "ring", "--agents", "4", "--out", "a.xyz"], ".png"),
        (["show", "ring", "--agents", "4", "--out", "no/where.png"], "cannot write"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(words: list[str], says: str) -> None:
    result = call(*words)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith(("gtadam: round", "comparator: "))]
    assert line.startswith("distopt: ")
    assert says in line
    if "--record" not in words:
        assert not Path("runs").exists(), "nothing is written before the input has been checked"


@pytest.mark.parametrize(
    "words",
    [["simulat"], [*ASK, "--no-such"], [*ASK, "--rounds", "many"], ["simulate"], [*ASK, "--eager", "--compiled"]],
)
def test_bad_usage_is_exit_2(words: list[str]) -> None:
    assert call(*words).exit_code == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("topology = ", "not TOML"),
        (TOML.replace('topology = "ring"\n', ""), "topology is missing"),
        (TOML + 'algorithm = "gt"\nround = 5\n', "did you mean rounds"),
        (TOML + "algorithm = []\n", "empty list"),
        (TOML.replace("agents = 4", 'agents = "4"') + 'algorithm = "gt"\n', "agents='4' is not a whole number"),
    ],
)
def test_bad_toml(text: str, says: str) -> None:
    Path("e.toml").write_text(text)
    result = call("simulate", "e.toml")
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_a_toml_file_has_the_defaults_of_the_command_line() -> None:
    Path("e.toml").write_text(TOML)
    assert call("simulate", "e.toml", "--out", "o").exit_code == 0
    run = distopt.load("o")
    assert isinstance(run, distopt.Run) and run.label == "gtadam"
    assert run.info["fingerprint"] == Experiment("ring", 4, "moving_target", "gtadam", rounds=20).fingerprint()


def test_foreign_and_unwritable_folders_are_left_alone() -> None:
    Path("o").mkdir()
    Path("o/thesis.tex").write_text("years of work")
    result = call(*ASK, "--out", "o")
    assert (result.exit_code, [p.name for p in Path("o").iterdir()]) == (2, ["thesis.tex"])
    assert "o is not empty" in result.stderr

    assert call(*ASK, "--out", "a").exit_code == 0
    before = Path("a/manifest.json").read_bytes()
    for words in (["--seed", "9"], ["--algorithm", "gt", "--algorithm", "dgd"]):
        result = call(*ASK, *words, "--out", "a")
        assert result.exit_code == 2
        assert "another run" in result.stderr
    assert Path("a/manifest.json").read_bytes() == before

    Path("file").write_text("")
    result = call(*ASK, "--out", "file/run")
    assert result.exit_code == 2
    assert "cannot write" in result.stderr
    assert "round" not in result.stderr, "refused before anything is computed"


# ---------------------------------------------------------------------------------------------------------- things go wrong


def test_divergence_is_exit_1_and_the_others_still_run() -> None:
    result = call(*ASK, "--rounds", "600", "--algorithm", "gt:lr=5", "--algorithm", "dgd", "--out", "o")
    assert result.exit_code == 1, result.output
    runs = many("o")
    assert [run.status for run in runs.values()] == ["diverged", "done"]
    at = runs["gt:lr=5"].info["diverged_at"]
    assert f"diverged at round {at}; everything before is kept in o/gt-lr=5; lower lr" in result.stderr
    assert runs["gt:lr=5"].rounds.tolist() == list(range(at))
    assert np.isfinite(runs["gt:lr=5"]["dynamic_regret"]).all()
    assert len(runs["dgd"].rounds) == 600


def test_a_run_that_is_not_finite_at_its_start_says_so() -> None:
    ask = ("simulate", "ring", "--agents", "4", "--scenario", "normalised(quadratic)", "--x0", "0", "--algorithm", "gt")
    result = call(*ask, "--rounds", "9", "--out", "o")
    told = "gt diverged at round 0: costs or gradients are not finite at the starting points; everything before is kept in o"
    assert result.exit_code == 1 and f"{told}; choose other starting points (--x0)" in result.stderr


def test_a_record_that_one_algorithm_cannot_give_is_refused_before_any_runs() -> None:
    result = call(*ASK, "--algorithm", "gt", "--algorithm", "dgd", "--record", "s", "--out", "o")
    assert result.exit_code == 2  # dgd has no tracker to record
    assert "record=s" in result.stderr
    assert not Path("o").exists()


def test_a_mistake_that_shows_late_keeps_what_is_done() -> None:
    Path("late.py").write_text(
        "class Late:\n    channels = ('x',)\n    def init(self, x): return ()\n    def update(self, g, state, x, mix): return mix('y', x), state\n"
    )
    result = call(*ASK, "--algorithm", "gt", "--algorithm", "late.py", "--out", "o")
    assert result.exit_code == 2
    assert "sends 'y'" in result.stderr
    assert many("o")["gt"].status == "done"


def test_unexpected_errors_are_one_line_unless_asked() -> None:
    Path("bad.py").write_text(
        "class Bad:\n    channels = ('x',)\n    def init(self, x): return ()\n    def update(self, g, state, x, mix): return 1 / 0\n"
    )
    result = call(*ASK, "--algorithm", "bad.py")
    assert result.exit_code == 1
    assert "ZeroDivisionError" in result.stderr
    assert "bad.py, line 4; --traceback" in result.stderr
    assert "Traceback" not in result.stderr
    shown = call(*ASK, "--algorithm", "bad.py", "--traceback")
    assert shown.exit_code == 1
    assert "bad.py" in shown.stderr
    assert "Traceback" in shown.stderr


def test_warns_of_a_weak_certificate_and_says_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from distopt import metrics
    from distopt.costs.comparator import Comparator

    assert "warning" not in call(*ASK).stderr
    monkeypatch.setattr(Comparator, "certificate", lambda self: 3e-5)
    monkeypatch.setattr(metrics, "AGENTWISE_LIMIT", 1)
    result = call(*ASK, "--seed", "1")
    assert result.exit_code == 0, result.output
    assert "warning: the comparator's relative gradient norm is 3.0e-05" in result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("left out")]
    assert "4^2 costs" in line


def test_a_figure_that_cannot_be_drawn_does_not_cost_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    def fails(self: Figure, file: Any, **_: object) -> None:
        file.write(b"half a picture")
        raise ValueError("no\nink")

    monkeypatch.setattr(Figure, "savefig", fails)
    result = call(*ASK, "--out", "o")
    assert result.exit_code == 0, result.output
    assert "distopt: warning: regret.png could not be drawn: ValueError: no ink\n" in result.stderr
    assert one("o").status == "done"
    assert Path("o/summary.csv").exists()
    assert not [*Path("o").glob("*.png*")], "not even half a picture"
    assert "regret.png" not in result.stdout


def test_a_static_scenario_from_end_to_end() -> None:
    for seed in range(2):
        result = call(
            "simulate",
            "ring",
            "--agents",
            "4",
            "--scenario",
            "quadratic",
            "--rounds",
            "20",
            "--seed",
            str(seed),
            "--eager",
        )
        assert result.exit_code == 0, result.output
        assert "regret.png" in result.stdout


def test_specs_with_quotes_and_paths_with_brackets() -> None:
    Path("d (x)").mkdir()
    Path("d (x)/mine.py").write_text(
        "class Mine:\n"
        "    channels = ('x',)\n"
        "    def __init__(self, lr: float = 0.1): self.lr = lr\n"
        "    def init(self, x): return ()\n"
        "    def update(self, g, state, x, mix): return mix('x', x) - self.lr * g, state\n"
    )
    Path("a,b(1).csv").write_text("x,y\n" + "1,0\n2,1\n3,0\n4,1\n" * 5)
    words = [
        "simulate",
        "ring",
        "--agents",
        "4",
        "--scenario",
        "stream:path='a,b(1).csv',label=y",
        "--algorithm",
        "d (x)/mine.py:lr=.2",
    ]
    result = call(*words, "--out", "o")
    assert result.exit_code == 0, result.output
    assert len(one("o").rounds) == 5, "as long as the file"
    assert "mine:lr=.2" in result.stdout
    with Path("a,b(1).csv").open("a") as file:
        file.write("5,0\n")
    assert call(*words, "--out", "o").exit_code == 2, "another file is another experiment"


SLOW = """
import time
class Slow:
    channels = ("x",)
    def init(self, x): return x
    def update(self, g, state, x, mix):
        time.sleep(0.002)
        return mix("x", x) - 0.01 * g, state
"""


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
def test_ctrl_c_leaves_loadable_runs(several: bool) -> None:
    Path("slow.py").write_text(SLOW)
    rounds = 1000 if several else 3000
    words = ["simulate", "ring", "--agents", "4", "--scenario", "moving_target", "--rounds", str(rounds), "--out", "o"]
    words += ["--eager"]  # compiled rounds do not sleep
    if several:
        words += ["--algorithm", "dgd"]
        Path("slow.py").write_text(SLOW.replace("0.002", "0.02"))
    words += ["--algorithm", "slow.py"]
    process = subprocess.Popen(
        [sys.executable, "-m", "distopt", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    awaited = (
        "dgd: round 1,000 of 1,000" if several else "slow: round"
    )  # all of the first algorithm; some blocks of the only one
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith(awaited):
            break
    time.sleep(0.3)  # into the next block
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (lines, out, err)
    assert "Traceback" not in err
    assert "distopt: interrupted; everything before is kept in o" in err
    assert "written: o" in out
    if several:
        runs = many("o")
        assert {label: run.status for label, run in runs.items()} == {"dgd": "done", "slow.py": "interrupted"}
        assert len(runs["dgd"].rounds) == 1000
        return
    run = one("o")
    assert run.status == "interrupted"
    assert 0 < len(run.rounds) < rounds
    assert run.rounds.tolist() == list(range(len(run.rounds)))
    assert np.isfinite(run["dynamic_regret"]).all()
    assert os.path.getsize("o/regret.png") > 1000
