"""When rounds were done: few points in time, kept in the manifest, that go on with a resumed run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distopt
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.runs import execution
from distopt.runs.clock import PAIRS, at, tick
from distopt.runs.loading import load
from distopt.runs.manifest import MANIFEST, manifest_text
from distopt.runs.results import Run

SMALL: dict[str, Any] = {"topology": "ring", "agents": 4, "scenario": "moving_target", "algorithm": "gt"}


def stopping(after: int, waits: float = 0.0) -> Any:
    """Progress that interrupts a run after some rounds, each segment of which takes a little longer."""

    def progress(phase: str, done: int, total: int) -> None:
        if phase == "rounds":
            time.sleep(waits)
            if done >= after:
                raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("count", [1, 64, 65, 1000])
def test_few_points_tell_when_any_round_was_done(count: int) -> None:
    draw = np.random.default_rng(count)
    speed = np.repeat(draw.uniform(0.5, 2.0, 8), -(-count // 8))[:count]  # rounds change their speed now and then
    done = np.arange(9, 10 * count, 10)
    seconds = (10 * speed).cumsum()
    clock: list[list[float]] = []
    for t, s in zip(done.tolist(), seconds.tolist(), strict=True):
        tick(clock, t, s)
        assert len(clock) <= PAIRS and clock[-1] == [t, s]
    assert all([t, s] in np.stack([done, seconds], 1).tolist() for t, s in clock), "points are never made up"
    np.testing.assert_allclose(at(clock, done), seconds, atol=1e-6 * seconds[-1])


def test_noise_costs_little() -> None:
    draw = np.random.default_rng(0)
    seconds = draw.exponential(1.0, 20000).cumsum()
    clock: list[list[float]] = []
    for t, s in enumerate(seconds.tolist()):
        tick(clock, t, s)
    assert np.abs(at(clock, np.arange(20000)) - seconds).max() < 0.01 * seconds[-1]


@pytest.mark.parametrize("every", [1, 7])
def test_a_run_says_when_its_rounds_were_done(every: int, tmp_path: Path) -> None:
    kept = distopt.simulate(**SMALL, rounds=100, every=every, mode="eager")
    written = distopt.simulate(**SMALL, rounds=100, every=every, mode="eager", out=tmp_path / "run")
    for run in (kept, written, load(tmp_path / "run")):
        assert isinstance(run, Run)
        seconds = run.seconds
        assert seconds.dtype == np.float64 and seconds.shape == run.rounds.shape
        assert (seconds > 0).all() and (np.diff(seconds) > 0).all()
        assert seconds[-1] == pytest.approx(run.info["seconds"]), "the last round is the end"


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    experiment = Experiment(**SMALL, rounds=90)
    with pytest.raises(KeyboardInterrupt):
        execution.execute(
            experiment, folder=tmp_path, mode="eager", checkpoint_every=30, progress=stopping(60, waits=0.05)
        )
    first = load(tmp_path)
    assert isinstance(first, Run) and first.rounds[-1] == 59
    again = execution.execute(experiment, folder=tmp_path, mode="eager", checkpoint_every=30, resume=True)
    assert np.array_equal(again.seconds[:30], first.seconds[:30])
    assert again.seconds[-1] == pytest.approx(again.info["seconds"]) and (np.diff(again.seconds) > 0).all()
    assert again.seconds[-1] > again.seconds[59] >= again.seconds[29] + 0.04, "the second part comes after the first"
    clock = again.info["clock"]
    assert [t for t, _ in clock if t in (29, 59, 89)] == [29, 59, 89] and clock == sorted(clock)


def test_a_run_that_was_killed_has_a_clock(tmp_path: Path) -> None:
    """What the manifest said while it ran is all that is left."""
    experiment = Experiment(**SMALL, rounds=90)

    def gone(*_: Any) -> None:
        raise SystemError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distopt.runs.recording.Recording.save", gone)
        with pytest.raises(SystemError):
            execution.execute(experiment, folder=tmp_path, mode="eager", checkpoint_every=30)
    run = load(tmp_path)
    assert isinstance(run, Run) and run.status == "interrupted" and "rounds_per_second" not in run.info
    assert len(run.seconds) == 30 and (run.seconds > 0).all()


def test_runs_of_earlier_versions_have_their_mean_speed() -> None:
    run = distopt.simulate(**SMALL, rounds=10, mode="eager")
    old = Run(run.label, run.status, run.rounds, run.metrics, {}, {"rounds_per_second": 4.0})
    assert np.array_equal(old.seconds, (run.rounds + 1) / 4)
    assert np.isnan(Run(run.label, run.status, run.rounds, run.metrics).seconds).all()


def test_a_run_knows_how_its_costs_curve(tmp_path: Path) -> None:
    run = distopt.simulate("ring", agents=4, scenario="quadratic", algorithm="gt", rounds=5, out=tmp_path / "run")
    constants = run.info["constants"]
    assert 4 <= constants["modulus"] < constants["smoothness"] <= 40
    again = load(tmp_path / "run")
    assert isinstance(again, Run) and again.info["constants"] == constants


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("clock", 3),
        ("clock", [[1]]),
        ("clock", [[1, 2.0], [1, 3.0]]),
        ("clock", [[1, 2.0], [2, 1.0]]),
        ("clock", [[1.5, 2.0]]),
        ("clock", [[1, -2.0]]),
        ("clock", [[1, float("inf")]]),
        ("clock", [[t, 1.0 * t] for t in range(PAIRS + 1)]),
        ("constants", [1]),
        ("constants", {"modulus": 0}),
        ("constants", {"smoothness": float("nan")}),
        ("constants", {"other": 1.0}),
    ],
)
def test_what_no_run_says_is_refused(key: str, said: Any, tmp_path: Path) -> None:
    distopt.simulate(**SMALL, rounds=3, mode="eager").save(tmp_path)
    path = tmp_path / MANIFEST
    content = json.loads(path.read_text())
    path.write_text(manifest_text({**{k: v for k, v in content.items() if k != "sha256"}, key: said}))
    with pytest.raises(InputError, match=f"{key} cannot be"):
        load(tmp_path)
