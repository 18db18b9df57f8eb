"""Probes in runs: they change no bit, have the same bits on every engine and in resumed runs, and their series are stored and shown."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.asking import call, one

import distopt
from distopt.checks import check_probe
from distopt.errors import InputError
from distopt.experiment import Experiment, read_toml
from distopt.metrics import Metric
from distopt.numerics.trees import tree_map
from distopt.optional import ProbeDefaults
from distopt.report import exporting, series
from distopt.report.study import groups
from distopt.runs import execution
from distopt.runs.results import Run
from distopt.simulation.problem import build

PROBES = ("sharpness:every=8", "spectrum:every=4,steps=3,vectors=2", "flow_distance:every=8,parts=2")
ASK: dict[str, Any] = {
    "agents": 6,
    "scenario": "drifting_logistic",
    "algorithm": "gt:lr=0.05,direction=adam",
    "rounds": 21,
    "trials": 2,
    "record": "x",
}
OWN = '''
class Length:
    """The length of the network average."""

    def __init__(self, every: int = 3): self.every = every
    def measure(self, seen): return seen.mean.norm()
'''


def same(one: Run, other: Run, names: Any = None) -> None:
    for name in names or one:
        assert np.array_equal(one[name], other[name], equal_nan=True), name


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "length.py").write_text(OWN)
    return tmp_path


@pytest.mark.parametrize("mode", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_run_has_the_bits_of_one_without_probes(mode: Any, dtype: str) -> None:
    plain, probed = (distopt.simulate("ring", **ASK, dtype=dtype, mode=mode, probe=p) for p in ((), PROBES))
    same(plain, probed, plain)
    assert set(probed.metrics) - set(plain.metrics) == {
        *("sharpness", "sharpness_lowest", "flow_distance", "flow_distance_relative"),
        *(f"spectrum_{name}" for name in ("mean", "q10", "q50", "q90")),
    }


@pytest.mark.parametrize(
    "engine",
    [
        "threads:workers=3",
        "threads:workers=2,partition=cut",
        pytest.param("ranks:workers=2", marks=pytest.mark.slow),
    ],
)
def test_every_engine_gives_the_same_bits(engine: str) -> None:
    local, shared = (
        distopt.simulate("ring", **ASK, mode="eager", probe=PROBES, engine=where) for where in ("local", engine)
    )
    same(local, shared)


@pytest.mark.slow
def test_a_trial_and_a_point_of_a_grid_have_the_bits_that_they_have_alone() -> None:
    grid = distopt.simulate(
        "ring", **{**ASK, "algorithm": "gt:lr=[0.05,0.1],direction=adam"}, mode="eager", probe=PROBES
    )
    alone = distopt.simulate("ring", **{**ASK, "algorithm": "gt:lr=0.1,direction=adam"}, mode="eager", probe=PROBES)
    same(alone, grid["gt:lr=0.1,direction=adam"])
    first = distopt.simulate(
        "ring", **{**ASK, "trials": 1, "algorithm": "gt:lr=0.1,direction=adam"}, mode="eager", probe=PROBES
    )
    for name in ("sharpness", "spectrum_mean", "flow_distance"):
        assert np.array_equal(first[name], alone[name][:1], equal_nan=True), name


@pytest.mark.parametrize("at", [7, 8, 13])
def test_a_run_that_is_resumed_goes_on_with_its_curves(folder: Path, at: int) -> None:
    experiment = Experiment("ring", **ASK, probe=PROBES)
    whole = execution.execute(experiment, mode="eager")

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "rounds" and done >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execution.execute(experiment, folder=folder / "r", mode="eager", checkpoint_every=at, progress=stop)
    assert one(folder / "r").status == "interrupted"
    again = execution.execute(experiment, folder=folder / "r", mode="eager", checkpoint_every=at, resume=True)
    assert again.status == "done"
    same(whole, again)


def test_readings_are_at_the_rounds_that_metrics_are_recorded_at() -> None:
    thin, full = (
        distopt.simulate("ring", **ASK, mode="eager", every=every, probe="sharpness:every=8") for every in (4, 1)
    )
    assert thin.rounds.tolist() == [3, 7, 11, 15, 19, 20]
    rounds, values = thin.readings("sharpness")
    assert rounds.tolist() == full.readings("sharpness")[0].tolist() == [7, 15, 20], "and the last one"
    assert np.array_equal(values, full.readings("sharpness")[1]) and np.isfinite(values).all()
    assert thin.readings("consensus_error")[1].shape == (2, 6)
    with pytest.raises(
        InputError, match="probe sharpness: every=8: must be a multiple of 3, since the run records every 3th round"
    ):
        distopt.simulate("ring", **ASK, every=3, probe="sharpness:every=8")


def test_the_point_and_the_costs_are_those_of_the_round() -> None:
    class Seen:
        every = 5
        columns = ("cost", "agent", "start", "before")

        def measure(self, seen: Any) -> Any:
            earlier = seen.cost(seen.mean, seen.t - 1)
            return seen.cost(seen.mean), seen.scenario.loss(seen.x[None], seen.data)[0, 2], seen.start.norm(), earlier

    asked = {**ASK, "scenario": "moving_target:dim=3", "x0": 0.25}
    run = distopt.simulate("ring", **asked, probe=Seen())
    problem = build(Experiment("ring", **asked))
    rounds, found = run.readings("seen_cost")
    assert rounds.tolist() == [4, 9, 14, 19, 20]
    for k, t in enumerate(rounds.tolist()):
        x = torch.from_numpy(run["x"][:, t])
        mean = x.mean(1, keepdim=True).expand_as(x)
        now, before = (
            tree_map(lambda leaf: leaf[0], problem.scenario.batch(torch.tensor(tau).reshape(1, 1, 1, 1), problem.key))
            for tau in (t, t - 1)
        )
        np.testing.assert_allclose(found[:, k], problem.scenario.loss(mean, now).mean(1), rtol=1e-12)
        np.testing.assert_allclose(run["seen_before"][:, t], problem.scenario.loss(mean, before).mean(1), rtol=1e-12)
        np.testing.assert_allclose(run["seen_agent"][:, t], problem.scenario.loss(x, now)[:, 2], rtol=1e-12)
    assert run["seen_start"][0, 4] == pytest.approx(0.25 * 3**0.5, rel=1e-12)


def test_a_trial_that_has_diverged_reads_nan_and_the_others_go_on() -> None:
    x0 = np.zeros((2, 6, 2))
    x0[0] = 1e300  # whose square is no number
    asked = {**ASK, "scenario": "quadratic:dim=2", "algorithm": "dgd:lr=0.01", "record": (), "x0": x0}
    run = distopt.simulate("ring", **asked, mode="eager", probe=["sharpness:every=2", "spectrum:every=2"])
    assert run.info["diverged_trials"] == {"0": 0}
    for name in ("sharpness", "sharpness_lowest", "spectrum_mean"):
        _, values = run.readings(name)
        assert np.isnan(values[0]).all() and np.isfinite(values[1]).all() and values.shape == (2, 11), name


# ------------------------------------------------------------------------------------------------------- stored and shown


@pytest.mark.slow
def test_a_probe_is_written_tabled_drawn_and_exported(folder: Path) -> None:
    words = [
        "simulate",
        "ring",
        "--agents",
        "4",
        "--scenario",
        "quadratic:dim=3",
        "--rounds",
        "20",
        "--algorithm",
        "gt:lr=0.05",
    ]
    done = call(*words, "--eager", "--probe", "sharpness:every=5", "--probe", "length.py", "--out", "o", "--report")
    assert done.exit_code == 0, done.output
    run = one("o")
    rounds, sharpness = run.readings("sharpness")
    assert rounds.tolist() == [4, 9, 14, 19] and run.readings("length")[0].tolist() == [2, 5, 8, 11, 14, 17, 19]
    with Path("o/summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["sharpness"]) == pytest.approx(sharpness[0, -1], rel=1e-12)
    for name in ("sharpness", "sharpness_lowest", "length"):
        assert Path(f"o/metric-{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    page = next(Path("o").rglob("*.html")).read_text()
    assert "Lowest curvature" in page and "--probe sharpness:every=5" in page
    told = json.loads(Path("o/manifest.json").read_text())["metrics"]
    assert told["sharpness"] == {"title": "Sharpness", "signed": True, "measured_every": 5}
    exporting.write(groups([run]), Path("o.csv"), "csv")
    with Path("o.csv").open() as file:
        cells = [line["sharpness"] for line in csv.DictReader(file)]
    assert [bool(cell) for cell in cells] == [(t + 1) % 5 == 0 for t in range(20)]
    assert [float(cell) for cell in cells if cell] == pytest.approx(sharpness[0].tolist(), rel=1e-12)
    assert {"sharpness", "length"} <= set(run.to_pandas().columns)


def test_pages_hold_a_value_and_figures_join_readings() -> None:
    info = {"rounds": 6, "metrics": {"s": {"measured_every": 2}}}
    values = np.array([[np.nan, 1.0, np.nan, 2.0, np.nan, 3.0]])
    run = Run("gt", "done", np.arange(6), {"s": values}, info=info)
    held = series.drawn(run, "s")
    assert np.isnan(held[0, 0]) and held[0, 1:].tolist() == [1.0, 1.0, 2.0, 2.0, 3.0]
    (line, *_) = run.plot(metric="s").axes[0].lines
    assert line.get_xdata().tolist() == [2.0, 4.0, 6.0] and line.get_ydata().tolist() == [1.0, 2.0, 3.0]


def test_runs_with_and_without_a_probe_are_compared(folder: Path) -> None:
    asked = {**ASK, "record": (), "mode": "eager"}
    runs = [
        distopt.simulate("ring", **{**asked, "algorithm": "gt"}),
        distopt.simulate("ring", **{**asked, "algorithm": "dgd"}, probe="sharpness:every=7"),
    ]
    assert len(distopt.compare(runs).rows) == len(distopt.compare(runs[::-1]).rows) == 2
    assert len(distopt.compare(runs[1], metric="sharpness").rows) == 1


def test_an_experiment_says_what_it_probes(folder: Path) -> None:
    plain, probed, other = (
        Experiment("ring", **ASK, probe=p) for p in ((), "length.py:every=7", ["length.py:every=3"])
    )
    assert "probe" not in plain.describe(), "experiments without any keep the fingerprints that they had"
    assert len({plain.fingerprint(), probed.fingerprint(), other.fingerprint()}) == 3
    Path("e.toml").write_text(probed.to_toml(folder))
    (again,) = read_toml(Path("e.toml"))
    assert again.probe == ("length.py:every=7",) and again.fingerprint() == probed.fingerprint()
    before = again.fingerprint()
    Path("length.py").write_text(OWN + "# changed\n")
    assert again.fingerprint() != before, "the file's content counts"
    with pytest.raises(InputError, match="probe was given as a Python object"):
        Experiment("ring", **ASK, probe=[ProbeDefaults()]).to_toml()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class Mine:\n    every = 2\n", "probe mine: it has no method measure"),
        (
            "class Mine:\n    def measure(self, seen): return 1.0\n",
            "probe mine: every=None: must be a whole number of at least 1",
        ),
        (
            "class Mine:\n    every = 0\n    def measure(self, seen): return 1.0\n",
            "probe mine: every=0: must be a whole number",
        ),
        (
            "class Mine:\n    every = 2\n    columns = ('a', 'a')\n    def measure(self, seen): return 1.0, 2.0\n",
            r"probe mine: columns=\('a', 'a'\): must be different texts",
        ),
        (
            "class Mine:\n    every = 2\n    titles = ('a', 'b')\n    def measure(self, seen): return 1.0\n",
            "probe mine: 2 titles for 1 columns",
        ),
        (
            "class Mine:\n    every = 2\n    columns = ('', 'b')\n    def measure(self, seen): return 1.0\n",
            "probe mine: measure gives 1.0, not a tuple of 2 numbers",
        ),
        (
            "class Mine:\n    every = 2\n    def measure(self, seen): return seen.mean\n",
            "probe mine: measure gives tensor.*, not a number",
        ),
        (
            "class Mine:\n    every = 2\n    def measure(self, seen): return seen.cost(seen.mean, 99)\n",
            "a probe that measures before round 1 cannot have the costs of round 99",
        ),
    ],
)
def test_what_measures_nothing_is_refused(folder: Path, text: str, message: str) -> None:
    Path("mine.py").write_text(text)
    with pytest.raises(InputError, match=message):
        distopt.simulate("ring", **{**ASK, "scenario": "quadratic:dim=3"}, probe="mine.py", mode="eager")


@pytest.mark.parametrize("name", ["bits", "x", "average_cost", "own"])
def test_names_that_a_run_has_are_refused(folder: Path, name: str) -> None:
    class Own(Metric):
        def term(self, view: Any) -> Any:
            return view.x[..., 0]

    Path(f"{name}.py").write_text(OWN.replace("Length", name.title().replace("_", "")))
    with pytest.raises(InputError, match=f"probe {name}: a run has something called {name} already"):
        distopt.simulate("ring", **ASK, metrics=[Own()], probe=f"{name}.py")


# --------------------------------------------------------------------------------------------------------------- the check


class Good:
    every = 1
    columns = ("", "t")

    def measure(self, seen: Any) -> Any:
        return seen.mean.norm(), float(seen.t)


class Counting(Good):
    count = 0

    def measure(self, seen: Any) -> Any:
        Counting.count += 1
        return seen.mean.norm(), float(Counting.count)


class Remembering(Good):
    def measure(self, seen: Any) -> Any:
        seen.memory["sum"] = seen.memory.get("sum", 0.0) + seen.t
        return seen.mean.norm(), seen.memory["sum"]


class Changing(Good):
    def measure(self, seen: Any) -> Any:
        seen.x[0, 0] = 7.0
        return 1.0, 2.0


class Blank(Good):
    def measure(self, seen: Any) -> Any:
        return float("nan"), float("nan")


def test_the_check_tells_which_promise_is_broken() -> None:
    check_probe(Good())
    for broken, words in (
        (Counting, "Counting: not pure"),
        (Remembering, "Remembering: a reading depends on what was kept from earlier ones"),
        (Changing, "Changing: measure changes what it sees in place"),
        (Blank, "Blank: nothing but nan"),
    ):
        with pytest.raises(AssertionError, match=words):
            check_probe(broken())
    with pytest.raises(AssertionError, match="probe int: it has no method measure"):
        check_probe(3)
