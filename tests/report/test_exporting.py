"""Runs for other programs: pandas, xarray, CSV, Parquet, NumPy, TensorBoard."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers.asking import ASK, call, one

import distopt
from distopt.errors import InputError
from distopt.report import exporting, study
from distopt.runs.results import Run

SETTINGS = {"agents": 4, "scenario": "moving_target", "rounds": 12, "trials": 2}
FIRST = ["problem", "algorithm", "seed", "trial", "round"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two algorithms, of one another seed, and another scenario with a metric that the first lacks."""
    path = tmp_path_factory.mktemp("runs")
    distopt.simulate("ring", algorithm=["gt", "dgd"], every=3, out=path / "a", **SETTINGS)
    distopt.simulate("ring", algorithm="gt", seed=7, every=3, out=path / "b", **SETTINGS)
    distopt.simulate("ring", algorithm="gt", out=path / "c", **SETTINGS | {"scenario": "sea", "trials": 1})
    return path


@pytest.fixture(scope="module")
def groups(folder: Path) -> list[study.Group]:
    return study.groups(study.read([folder]))


def test_the_table_holds_every_number(groups: list[study.Group], folder: Path) -> None:
    table = pd.DataFrame(exporting.table(groups))
    assert list(table.columns[:5]) == FIRST and len(table) == 4 * 4 + 2 * 4 + 12
    assert {str(table[name].dtype) for name in FIRST[2:]} == {"int64"}
    assert {str(table[name].dtype) for name in table.columns[5:]} == {"float64"}
    gt = one(folder / "b")
    chosen = table[(table["algorithm"] == "gt") & (table["seed"] == 7) & (table["trial"] == 1)]
    assert list(chosen["round"]) == gt.rounds.tolist() == [2, 5, 8, 11]
    for name in gt:
        np.testing.assert_array_equal(chosen[name], gt[name][1])
    moving = table["problem"].str.startswith("moving_target")
    assert table.loc[moving, "accuracy"].isna().all() and table.loc[~moving, "accuracy"].notna().any()


@pytest.mark.parametrize("kind", exporting.TABLES)
def test_each_format_gives_the_table_back(groups: list[study.Group], kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"runs.{kind}"
    exporting.write(groups, path, kind)
    table = pd.DataFrame(exporting.table(groups))
    if kind == "npz":
        with np.load(path, allow_pickle=False) as arrays:
            back = pd.DataFrame({name: arrays[name] for name in arrays.files})
    else:
        back = pd.read_csv(path, float_precision="round_trip") if kind == "csv" else pd.read_parquet(path)
    pd.testing.assert_frame_equal(back.astype(table.dtypes.to_dict()), table, check_exact=True)
    assert list(tmp_path.iterdir()) == [path]


def test_a_csv_file_is_the_one_that_pandas_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [0.1, 1e-300, -0.0, np.inf, -np.inf, np.nan, 1e16, 123456789.0, 1 / 3, 5e-324]
    info = {"experiment": {"scenario": 'of "us", all', "topology": "ring"}, "agents": 4}
    run = Run("gt:lr=0.1,beta=2", "done", np.arange(10), {"bits": np.array([numbers])}, info=info)
    groups = study.groups([run])
    pd.DataFrame(exporting.table(groups)).to_csv(tmp_path / "pandas.csv", index=False, lineterminator="\n")
    monkeypatch.setattr(exporting, "CSV_LINES", 3)
    exporting.write(groups, tmp_path / "ours.csv", "csv")
    assert (tmp_path / "ours.csv").read_bytes() == (tmp_path / "pandas.csv").read_bytes()


@pytest.mark.parametrize(
    ("package", "what"),
    [("pyarrow", "parquet"), ("tensorboard", "events"), ("pandas", "to_pandas"), ("xarray", "to_xarray")],
)
def test_what_is_not_installed_is_said_in_a_line(
    groups: list[study.Group], package: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == package else found(name, *more)
    )
    extra = "tensorboard" if what == "events" else "export"
    (run, *_) = groups[0].runs.values()
    with pytest.raises(InputError, match=rf"needs {package}; install it with: pip install 'distopt\[{extra}\]'"):
        if what == "parquet":
            exporting.write(groups, tmp_path / "a.parquet", "parquet")
        elif what == "events":
            exporting.events(groups, tmp_path / "events")
        else:
            {"to_pandas": run.to_pandas, "to_xarray": run.to_xarray}[what]()
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------- xarray


def test_a_dataset_has_named_axes_and_units(tmp_path: Path) -> None:
    run: Run = distopt.simulate("ring", algorithm="gt", every=5, record="x,s", **SETTINGS)
    data = run.to_xarray()
    assert dict(data.sizes) == {"trial": 2, "round": 3, "point": 13, "agent": 4, "coordinate": 2, "step": 12}
    assert data["x"].dims == ("trial", "point", "agent", "coordinate") and data["s"].dims[1] == "step"
    assert data["round"].values.tolist() == run.rounds.tolist()
    for name in run:
        np.testing.assert_array_equal(data[name].values, run[name])
    assert data["bits"].attrs == {"long_name": "Bits broadcast by each agent", "units": "bits"}
    assert data["average_dynamic_regret"].attrs["units"] == "cost"
    assert data.attrs["scenario"] == "moving_target" and data.attrs["status"] == "done" and data.attrs["agents"] == 4
    assert float(data["tracking_error"].sel(round=9).mean("trial")) == run["tracking_error"][:, 1].mean()
    assert all(isinstance(value, str | int | float) for value in data.attrs.values())


def test_a_leaf_of_another_shape_keeps_its_axes_apart() -> None:
    trajectories = {"x": np.zeros((2, 4, 3, 5)), "memory.x.e": np.zeros((2, 3, 3, 2, 7)), "z": np.zeros((2, 3, 1, 5))}
    run = Run("own", "done", np.arange(3), {"bits": np.ones((2, 3))}, trajectories, {})
    data = run.to_xarray()
    assert data["memory.x.e"].dims == ("trial", "step", "agent", "memory.x.e_3", "memory.x.e_4")
    assert data["z"].dims == ("trial", "step", "z_2", "coordinate")


def test_a_run_without_a_recorded_round_is_empty() -> None:
    assert isinstance(Run("gt", "done", np.empty(0, dtype=np.int64), {}).to_xarray(), xr.Dataset)


# --------------------------------------------------------------------------------------------------------- TensorBoard


def scalars(place: Path) -> dict[str, list[Any]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(place), size_guidance={"scalars": 0})
    found.Reload()
    return {name: found.Scalars(name) for name in found.Tags()["scalars"]}


def test_event_files_hold_means_over_the_trials(groups: list[study.Group], folder: Path, tmp_path: Path) -> None:
    exporting.events(groups, tmp_path)
    (place,) = (path.parent for path in tmp_path.rglob(exporting.EVENTS) if "dgd" in str(path))
    assert place == tmp_path / "moving_target,-4-agents,-ring" / "dgd"
    run, found = one(folder / "a" / "dgd"), scalars(place)
    assert set(found) == set(run)
    for name, events in found.items():
        assert [each.step for each in events] == run.rounds.tolist()
        np.testing.assert_array_equal([each.value for each in events], run[name].mean(0).astype(np.float32))
    assert len({each.wall_time for each in found["bits"]}) > 1


def test_long_runs_are_thinned(tmp_path: Path) -> None:
    k = 3 * exporting.POINTS + 7
    experiment = {"scenario": "sea", "topology": "ring"}
    run = Run("gt", "done", np.arange(k), {"bits": np.arange(k, dtype=float)[None]}, info={"experiment": experiment})
    exporting.events(study.groups([run]), tmp_path)
    steps = [each.step for each in scalars(tmp_path / "gt")["bits"]]
    assert len(steps) == exporting.POINTS and (steps[0], steps[-1]) == (0, k - 1) and max(np.diff(steps)) <= 4


def test_runs_with_equal_names_have_folders_of_their_own(tmp_path: Path) -> None:
    def of(label: str, every: int) -> Run:
        info = {"experiment": {"scenario": "sea", "topology": "ring", "every": every}, "agents": 4}
        return Run(label, "done", np.arange(2), {"bits": np.ones((1, 2))}, info=info)

    long = "gt:lr=" + "1" * 120
    exporting.events(study.groups([of("gt", 1), of("gt", 7), of(long + "1", 7), of(long + "2", 7)]), tmp_path)
    places = [path.parent for path in tmp_path.rglob(exporting.EVENTS)]
    assert len(places) == len(set(places)) == 4


@pytest.mark.parametrize("place", ["file", "file/sub"])
def test_a_folder_that_cannot_be_is_refused_before_the_rounds_run(place: str, own_folder: None) -> None:
    Path("file").touch()
    done = call(*ASK, "--algorithm", "gt", "--tensorboard", place, "--out", "mine")
    assert done.exit_code == 2 and f"{place}: cannot be written" in done.stderr and not Path("mine").exists()


def test_events_of_two_exports_do_not_mix(groups: list[study.Group], tmp_path: Path) -> None:
    exporting.events(groups[:1], tmp_path)
    with pytest.raises(InputError, match="holds event files already"):
        exporting.events(groups[:1], tmp_path)


# ---------------------------------------------------------------------------------------------------------- the command


def test_the_command_writes_a_file_or_a_folder(folder: Path, own_folder: None) -> None:
    for kind in exporting.TABLES:
        done = call("export", str(folder / "a"), "--format", kind)
        assert done.exit_code == 0 and done.stdout == f"written: a.{kind}\n" and Path(f"a.{kind}").stat().st_size
    assert call("export", str(folder), "--out", "all.csv").exit_code == 0
    assert set(pd.read_csv("all.csv")["algorithm"]) == {"gt", "dgd"}
    assert call("export", str(folder / "a"), "--format", "tensorboard", "--out", "ev").exit_code == 0
    again = call("export", str(folder / "a"), "--format", "tensorboard", "--out", "ev")
    assert again.exit_code == 2 and "ev: holds event files already" in again.stderr
    nowhere = call("export", str(folder / "a"), "--out", "no/such/folder.csv")
    assert nowhere.exit_code != 0 and "cannot write no/such/folder.csv" in nowhere.stderr
    assert "no such folder" in call("export", "nowhere").stderr


def test_simulate_writes_events_too(own_folder: None) -> None:
    words = [*ASK, "--algorithm", "gt", "--algorithm", "dgd", "--tensorboard", "ev"]
    done = call(*words, "--out", "mine")
    assert done.exit_code == 0 and "ev (tensorboard --logdir ev)" in done.stdout
    assert sorted(path.parent.name for path in Path("ev").rglob(exporting.EVENTS)) == ["dgd", "gt"]
    refused = call(*words, "--out", "other")
    assert refused.exit_code == 2 and "holds event files already" in refused.stderr and not Path("other").exists()
