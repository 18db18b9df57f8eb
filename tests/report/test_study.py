"""Runs that are looked at together: reading folders, grouping by problem, pooling seeds."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distopt
from distopt.errors import InputError
from distopt.report import series, statistics, study
from distopt.report.study import Trial
from distopt.runs.manifest import Status
from distopt.runs.results import Run

SETTINGS = {"agents": 4, "scenario": "moving_target", "rounds": 12, "trials": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two algorithms, another channel, two seeds of one, and another scenario, each in a folder inside this one."""
    path = tmp_path_factory.mktemp("runs")
    distopt.simulate("ring", algorithm=["gt", "dgd"], out=path / "a", **SETTINGS)
    distopt.simulate("ring", algorithm="gt", channel="choco:compressor=sign,gamma=0.2", out=path / "b", **SETTINGS)
    distopt.simulate("ring", algorithm="gt", seed=7, out=path / "c", **SETTINGS)
    distopt.simulate("path", algorithm="gt", out=path / "d", **SETTINGS | {"scenario": "quadratic"})
    return path


def test_runs_of_one_problem_stand_together_and_are_named_by_what_differs(folder: Path) -> None:
    moving, still = study.groups(study.read([folder]))
    names = ["gt, exact", "dgd, exact", "gt, choco:compressor=sign,gamma=0.2"]
    assert list(moving.runs) == names and moving.title == "moving_target, 4 agents, ring"
    assert list(still.runs) == ["gt"] and still.title == "quadratic, 4 agents, path"
    assert [run.label for run in moving.runs.values()] == names
    assert moving.setting["topology"] == "ring" and "channel" not in moving.setting


def test_seeds_are_trials(folder: Path) -> None:
    moving, _ = study.groups(study.read([folder]))
    pooled, alone = moving.runs["gt, exact"], distopt.load(folder / "c")
    assert pooled.trials == 4 and moving.trials["gt, exact"] == (Trial(0, 0), Trial(0, 1), Trial(7, 0), Trial(7, 1))
    for name in pooled.metrics:
        assert np.array_equal(pooled[name][2:], alone[name], equal_nan=True), name
    assert moving.common() == [Trial(0, 0), Trial(0, 1)]
    assert moving.rows("gt, exact", [Trial(7, 1), Trial(0, 0)]) == [3, 0]


def test_a_folder_given_twice_counts_once(folder: Path) -> None:
    assert len(study.read([folder / "a", folder / "a" / "gt", folder])) == 5


def test_the_same_experiment_in_two_places_is_refused(folder: Path, tmp_path: Path) -> None:
    distopt.simulate("ring", algorithm="gt", out=tmp_path / "again", **SETTINGS)
    with pytest.raises(InputError, match="gt: 2 runs of the same experiment"):
        study.groups(study.read([folder / "a", tmp_path / "again"]))


@pytest.mark.parametrize("given", ["nowhere", ".", 3])
def test_what_holds_no_runs_is_refused(given: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder|holds no runs|not the path of a folder"):
        study.read([tmp_path / given if isinstance(given, str) else given])


def test_a_sweep_is_read(tmp_path: Path) -> None:
    values = {"topology": "ring", "agents": 4, "scenario": "moving_target", "algorithm": "gt", "rounds": 9}
    distopt.sweep(values, {"algorithm.lr": [0.01, 0.02], "seed": [1, 2]}, out=tmp_path / "sweep", workers=1)
    (group,) = study.groups(study.read([tmp_path / "sweep"]))
    assert {name: run.trials for name, run in group.runs.items()} == {"gt:lr=0.01": 2, "gt:lr=0.02": 2}


def test_a_run_of_a_user_is_offered_with_its_series_and_axes(folder: Path) -> None:
    moving, _ = study.groups(study.read([folder]))
    offered = series.offered(moving.runs)
    assert {"average_dynamic_regret", "tracking_error", "consensus_error", "tracker_invariant"} <= set(offered)
    run = moving.runs["gt, exact"]
    bits = series.along(run, "bits")
    assert bits is not None and np.array_equal(bits, run["bits"])
    rounds = series.along(run, "rounds")
    assert rounds is not None and rounds.shape == (4, 12) and rounds[3, -1] == 12
    seconds = series.along(run, "seconds")
    assert seconds is not None and (np.diff(seconds) > 0).all()


def made(seed: int, values: list[list[float]], status: Status = "done", **info: Any) -> Run:
    """A run of "gt" on a seed, by its consensus errors [R, k]."""
    experiment = {"scenario": "sea", "algorithm": "gt", "topology": "ring", "seed": seed}
    array = np.array(values)
    info = {"experiment": experiment, "agents": 4, "rounds": 3, **info}
    return Run("gt", status, np.arange(array.shape[1]), {"consensus_error": array}, info=info)


def test_problems_that_only_the_rounds_recorded_tell_apart_have_titles_of_their_own() -> None:
    def of(**more: object) -> Run:
        run = made(0, [[1.0, 2.0, 3.0]])
        return Run("gt", "done", run.rounds, run.metrics, {}, {**run.info, "experiment": run.info["experiment"] | more})

    assert [group.title for group in study.groups([of(every=1), of(every=7), of(every=1, x0="0.5")])] == [
        "sea, 4 agents, ring, x0 None, every 1",
        "sea, 4 agents, ring, x0 None, every 7",
        "sea, 4 agents, ring, x0 0.5, every 1",
    ]


def test_a_run_whose_manifest_is_lost_is_not_left_out_silently(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "a", tmp_path / "a")
    (tmp_path / "a" / "dgd" / "manifest.json").unlink()
    with pytest.raises(InputError, match="dgd/manifest.json: missing, although the run has results"):
        study.read([tmp_path])


def test_runs_without_a_recorded_round_are_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "a", tmp_path / "a")
    distopt.simulate(
        "ring", algorithm="gt:lr=0.1", out=tmp_path / "b", **{**SETTINGS, "scenario": "normalised(quadratic)", "x0": 0}
    )
    shutil.rmtree(tmp_path / "a" / "dgd")  # as if it had been killed before it began
    with pytest.warns(UserWarning, match=f"left out: {tmp_path}/b, {tmp_path}/a/dgd$"):
        (run,) = study.read([tmp_path])
    assert run.label == "gt"
    with pytest.warns(UserWarning, match="left out: lost$"):
        assert study.gathered([run, Run("lost", "diverged", np.arange(0), {})]) == [run]


def test_a_folder_of_everything_is_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "LOOKED", 20)
    for k in range(25):
        (tmp_path / "deep" / f"{k}").mkdir(parents=True)
    with pytest.raises(InputError, match="more than 20 folders in it hold no runs; give a folder nearer to the runs"):
        study.read([tmp_path])


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    listed = Path.iterdir

    def refused(path: Path) -> Iterator[Path]:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refused)  # root may read all
    with pytest.raises(InputError, match=r"closed: cannot be read \(Permission denied\)"):
        study.read([tmp_path])


def test_a_seed_that_diverged_cuts_no_other_short() -> None:
    (group,) = study.groups(
        [
            made(0, [[1.0, 2.0, 3.0]]),
            made(1, [[4.0], [5.0]], "diverged", diverged_at=1),
            made(2, [[6.0, 7.0, 8.0], [6.0, 7.0, np.inf]], "diverged", diverged_trials={"1": 2}),
        ]
    )
    pooled = group.runs["gt"]
    assert pooled.status == "diverged" and pooled.info["diverged_trials"] == {"1": 1, "2": 1, "4": 2}
    nan = np.nan
    expected = [[1, 2, 3], [4, nan, nan], [5, nan, nan], [6, 7, 8], [6, 7, np.inf]]
    np.testing.assert_array_equal(pooled["consensus_error"], expected)
    assert statistics.diverged(pooled).tolist() == [False, True, True, False, True]
