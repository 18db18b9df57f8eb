"""A trial that diverges ends by itself: the others go on, with the bits that they have without it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distopt
from distopt.experiment import Experiment
from distopt.report.curves import figure
from distopt.report.summary import divergence, summary
from distopt.runs.checkpoint import DIGEST, LENGTH, MAGIC
from distopt.runs.execution import execute

ASKED: dict[str, Any] = {
    "topology": "complete",
    "agents": 4,
    "scenario": "moving_target:kappa=5",
    "algorithm": "dgd:lr=0.3",
    "rounds": 1400,
    "trials": 6,
}
"""The curvatures of a trial are its own, and at this step size three of six trials diverge within these rounds."""


@pytest.fixture(scope="module")
def run() -> distopt.Run:
    found = distopt.simulate(**ASKED)
    assert isinstance(found, distopt.Run)
    return found


def test_the_others_go_on(run: distopt.Run) -> None:
    lost = {int(trial): at for trial, at in run.info["diverged_trials"].items()}
    assert sorted(lost) == [0, 2, 5] and run.status == "diverged"
    assert run.info["diverged_at"] == min(lost.values()) and run.info["completed"] == len(run.rounds) == 1400
    for trial in range(6):
        finite = np.isfinite(run["dynamic_regret"][trial]) & np.isfinite(run["consensus_error"][trial])
        assert finite.sum() == lost.get(trial, 1400) and finite[: lost.get(trial)].all(), trial


def test_bits_are_those_of_rounds_without_divergence(run: distopt.Run) -> None:
    before = distopt.simulate(**ASKED | {"rounds": 1000})
    assert before.status == "done"
    for name, values in before.metrics.items():
        if name not in ("static_regret", "regret_best_fixed"):  # the best fixed point is that of all rounds
            assert np.array_equal(run[name][:, :1000], values, equal_nan=True), name


def test_what_belongs_to_the_scenario_stays(run: distopt.Run) -> None:
    for name in ("path_length", "regret_previous_optimum", "bits", "gradients"):
        assert np.isfinite(run[name]).all(), name


def test_the_table_and_the_figure_say_so(run: distopt.Run) -> None:
    first = run.info["diverged_at"]
    assert divergence(run) == f"dgd:lr=0.3: 3 of 6 trials diverged, the first at round {first}"
    row = summary(run)
    assert row["average_dynamic_regret"] == np.inf and row["status"] == "diverged"
    assert np.isnan(row["consensus_error"]) and row["bits_per_agent"] > 0
    assert any("diverged" in text.get_text() for text in figure({"dgd": run}).axes[0].texts)


@pytest.mark.parametrize("at", [700, 1250])
def test_an_interrupted_run_goes_on_with_the_trials_that_are_left(at: int, run: distopt.Run, tmp_path: Path) -> None:
    experiment = Experiment(**ASKED)

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "rounds" and done >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(experiment, folder=tmp_path / "r", progress=stop, checkpoint_every=50)
    again = execute(experiment, folder=tmp_path / "r", resume=True)
    assert again.info["diverged_trials"] == run.info["diverged_trials"] and again.status == "diverged"
    for name, values in run.metrics.items():
        assert np.array_equal(again[name], values, equal_nan=True), name


def test_a_checkpoint_of_a_version_that_ended_with_the_first_trial_is_read(tmp_path: Path) -> None:
    """Such a checkpoint names no trials that have diverged."""
    experiment = Experiment(**ASKED | {"rounds": 100})

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "rounds" and done >= 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(experiment, folder=tmp_path / "r", progress=stop, checkpoint_every=20)
    (path,) = (tmp_path / "r").glob("checkpoint*")
    data = path.read_bytes()
    (length,) = LENGTH.unpack_from(data, len(MAGIC))
    begin = len(MAGIC) + LENGTH.size
    header = json.loads(data[begin : begin + length])
    assert header.pop("diverged") == []
    text = json.dumps(header).encode()
    body = MAGIC + LENGTH.pack(len(text)) + text + data[begin + length : -DIGEST]
    path.write_bytes(body + hashlib.sha256(body).digest())
    again, whole = execute(experiment, folder=tmp_path / "r", resume=True), execute(experiment)
    assert again.status == "done" and np.array_equal(again["dynamic_regret"], whole["dynamic_regret"])
