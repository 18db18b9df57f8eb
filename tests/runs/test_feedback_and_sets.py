"""The settings ``feedback`` and ``feasible``: the specs that they stand for, wherever they are asked for."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.asking import call, many, one

import distopt
from distopt.algorithms.bandit import Bandit
from distopt.algorithms.dgd import DGD
from distopt.catalog.wrapping import wrapped
from distopt.errors import InputError
from distopt.experiment import Experiment, read_toml
from distopt.runs import sweep
from distopt.scenarios.feasible import Feasible
from distopt.scenarios.quadratic import Quadratic

pytestmark = pytest.mark.usefixtures("own_folder", "no_figures")
ASK: dict[str, Any] = {"agents": 4, "scenario": "quadratic:dim=2", "rounds": 6, "mode": "eager"}
WORDS = ["ring", "--agents", "4", "--scenario", "quadratic:dim=2", "--rounds", "6", "--eager"]
TOML = 'topology = "ring"\nagents = 4\nscenario = "quadratic:dim=2"\nalgorithm = ["dgd:lr=0.1", "gt"]\nrounds = 6\n'
BANDIT = "bandit(dgd(lr=0.1),form=two_point,delta=0.1)"


@pytest.mark.parametrize(
    ("setting", "given", "spec"),
    [
        ({"feedback": "two_point:delta=0.1"}, "dgd:lr=0.1", BANDIT),
        ({"feedback": "residual"}, "gt", "bandit(gt,form=residual)"),
        ({"feedback": "one_point(delta=[1,2])"}, "gt:lr=[1,2]", "bandit(gt(lr=[1,2]),form=one_point,delta=[1,2])"),
        ({"feedback": "two_point"}, "averaged(gt(0.1),start=3)", "bandit(averaged(gt(0.1),start=3),form=two_point)"),
        ({"feedback": "two_point:delta=0.1"}, BANDIT, BANDIT),
        ({"feedback": "two_point:delta=[0.2,0.1]"}, BANDIT, BANDIT),
        ({"feedback": ""}, "gt", "gt"),
        ({"feedback": None}, "gt", "gt"),
    ],
)
def test_feedback_stands_for_a_spec(setting: dict[str, Any], given: str, spec: str) -> None:
    assert wrapped({"algorithm": given, **setting}) == {"algorithm": spec}


@pytest.mark.parametrize("python", [True, False])
def test_runs_are_those_of_the_specs(python: bool) -> None:
    meant = distopt.simulate(
        "ring", **{**ASK, "scenario": "feasible(quadratic(dim=2),form=box,radius=0.2)"}, algorithm=BANDIT
    )
    asked = {"feedback": "two_point:delta=0.1", "feasible": "box:radius=0.2"}
    if python:
        run = distopt.simulate("ring", **ASK, algorithm="dgd:lr=0.1", **asked)
    else:
        options = [word for key, value in asked.items() for word in (f"--{key}", value)]
        done = call("simulate", *WORDS, "--algorithm", "dgd:lr=0.1", *options, "--out", "o")
        assert done.exit_code == 0, done.output
        run = one("o")
        assert "feedback" not in Path("o/experiment.toml").read_text()
    assert run.label == BANDIT and run.info["fingerprint"] == meant.info["fingerprint"]
    np.testing.assert_array_equal(run["dynamic_regret"], meant["dynamic_regret"])
    assert run["gradients"][0, -1] == 12


def test_objects_and_files_are_wrapped_too() -> None:
    (Path("mine.py")).write_text("from distopt.algorithms.dgd import DGD\n\n\nclass Mine(DGD):\n    pass\n")
    assert (
        wrapped({"algorithm": Path("mine.py"), "feedback": "two_point"})["algorithm"]
        == "bandit(mine.py,form=two_point)"
    )
    found = wrapped(
        {"algorithm": DGD(0.3), "feedback": "residual:delta=0.2", "scenario": Quadratic(2), "feasible": "l1"}
    )
    assert found == {"algorithm": Bandit(DGD(0.3), "residual", 0.2), "scenario": Feasible(Quadratic(2), "l1")}
    with pytest.raises(
        InputError, match="feedback=one_point:delta=.1,2.: a list of values needs each algorithm to be a spec"
    ):
        wrapped({"algorithm": DGD(), "feedback": "one_point:delta=[1,2]"})
    with pytest.raises(InputError, match="float cannot be used among the algorithms"):
        wrapped({"algorithm": 0.5, "feedback": "one_point"})


def test_files_and_options_over_them() -> None:
    Path("a.toml").write_text(f'{TOML}feedback = "residual"\nfeasible = "ball:radius=2"\n')
    first, second = read_toml(Path("a.toml"))
    assert (first.algorithm, second.algorithm) == ("bandit(dgd(lr=0.1),form=residual)", "bandit(gt,form=residual)")
    assert first.scenario == "feasible(quadratic(dim=2),form=ball,radius=2)"
    assert "feedback" not in first.describe() and first.to_toml() == first.to_toml()
    done = call("simulate", "a.toml", "--feedback", "two_point", "--eager", "--out", "o")
    assert done.exit_code == 0, done.output
    assert list(many("o")) == ["bandit(dgd(lr=0.1),form=two_point)", "bandit(gt,form=two_point)"]
    assert call("resume", "o").exit_code == 0


def test_tuning_sets_steps_inside_and_its_winners_can_be_run_again() -> None:
    Path("a.toml").write_text(f'{TOML}feedback = "two_point"\n')
    how = ["--trials", "2", "--report-trials", "2", "--grid", "lr=0.02,0.05", "--eager"]
    done = call("tune", "a.toml", *how, "--out", "o")
    assert done.exit_code == 0, done.output
    tuned = distopt.tune(
        "ring",
        **ASK,
        algorithm=["dgd:lr=0.1", "gt"],
        feedback="two_point",
        trials=2,
        report_trials=2,
        grid=[0.02, 0.05],
    )
    assert all(spec.startswith("bandit") for spec in tuned.winners.values())
    last = done.stdout.splitlines()[-1].removeprefix("run the winners with: distopt ")
    again = call(*shlex.split(last), "--out", "again", "--eager")
    assert again.exit_code == 0, again.output
    assert list(many("again")) == list(tuned.winners.values())


def test_sweeps_vary_settings_and_what_is_inside_them() -> None:
    values = {"topology": "ring", "agents": 4, "scenario": "quadratic:dim=2", "algorithm": "dgd", "rounds": 6}
    asked = {"feedback": ["two_point", "residual"], "feedback.delta": [0.1, 0.2], "algorithm.lr": [0.01]}
    names = [(each.name, each.experiment.algorithm) for each in sweep.points(values, asked, "here")]
    assert names[1] == (
        "feedback=two_point feedback.delta=0.2 algorithm.lr=0.01",
        "bandit(dgd(lr=0.01),form=two_point,delta=0.2)",
    )
    assert len(names) == 4
    given = {**values, "algorithm": ["dgd", "gt"], "feasible": "ball:radius=2", "feedback": "two_point"}
    runs = distopt.sweep(given, {"feasible": ["ball", "l1"]}, out="o", workers=1, mode="eager")
    assert next(iter(runs)) == "bandit(dgd,form=two_point) feasible=ball"
    assert 'feedback = "two_point"' in Path("o/sweep.toml").read_text()
    again = distopt.resume("o")
    assert list(again) == list(runs)
    with pytest.raises(InputError, match="feedback.delta: here has no single feedback given as text"):
        sweep.points(values, {"feedback.delta": [0.1]}, "here")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            {"feedback": "two_points"},
            "^feedback=two_points: must be one of two_point, one_point, residual, as in .*did you mean",
        ),
        (
            {"feedback": "two_point:radius=1"},
            "^feedback=two_point:radius=1: parameters of two_point: delta, as in two_point:delta=0.01$",
        ),
        ({"feedback": "two_point:0.1"}, "parameters of two_point: delta"),
        ({"feedback": "two_point:delta=0"}, "^feedback=two_point:delta=0: delta must be positive"),
        ({"feedback": "two_point:delta=x"}, "^feedback=two_point:delta=x: delta=x is not a number$"),
        ({"feedback": 3}, '^feedback=3: must be a text such as "two_point:delta=0.01"$'),
        ({"feasible": "cube"}, "^feasible=cube: must be one of ball, box, simplex, l1"),
        ({"feasible": "ball:radius=-1"}, "^feasible=ball:radius=-1: radius=-1.0 must be a number"),
        ({"feedback": "residual", "algorithm": BANDIT}, "already sets this to something else; leave one of them out$"),
        ({"feedback": "residual", "algorithm": "bandit"}, "already sets this to something else"),
        (
            {"feasible": "ball", "scenario": "feasible(quadratic,form=box)"},
            "^feasible=ball: scenario feasible.* already sets this",
        ),
    ],
    ids=str,
)
def test_errors_speak_of_what_was_asked(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Experiment.from_mapping({"topology": "ring", **setting}, "here")


def test_the_command_line_says_its_own_options() -> None:
    done = call("simulate", *WORDS, "--feedback", "two")
    assert done.exit_code == 2 and "--feedback two: must be one of two_point" in done.output
