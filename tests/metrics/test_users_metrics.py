"""A metric that a user adds is one file: measured on every engine with the same bits, written, tabled and drawn."""

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
from distopt.costs.data import Blocks
from distopt.errors import InputError
from distopt.experiment import Experiment, read_toml
from distopt.metrics import Metric, Seen, View
from distopt.runs import execution
from distopt.simulation.problem import build

OWN_COST = '''
class OwnCost:
    """The mean cost of the agents at their own points."""
    unit = "cost"

    def __init__(self, power: float = 1.0): self.power = power
    def term(self, view): return view.scenario.loss(view.x, view.data) ** self.power
'''
ASK = ["simulate", "ring", "--agents", "6", "--scenario", "sea", "--rounds", "12", "--trials", "2", "--eager"]
EXPERIMENT: dict[str, Any] = {"agents": 6, "scenario": "sea", "algorithm": "gt:lr=0.05", "rounds": 12, "trials": 2}


class Reach(Metric):
    """Two columns, a sum over rounds, an average and a baseline."""

    cumulative = True
    averaged = True
    baselines = ("path_length",)
    take = "last"

    def term(self, view: View) -> torch.Tensor:
        return (view.x - view.best)[..., :2].abs()

    def columns(self, dim: int) -> int:
        return 2

    def finish(self, sums: torch.Tensor, agents: int) -> torch.Tensor:
        return sums.amax(-1) / agents


class Length:
    """A term of the algorithm's state after the round."""

    def round_term(self, algorithm: Any, state: Any, g: torch.Tensor) -> torch.Tensor:
        return state.s.double().square().sum(-1)


class Ratio:
    """Made of other metrics."""

    def value(self, seen: Seen) -> torch.Tensor:
        return seen["consensus_error"] / seen["tracking_error"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_cost.py").write_text(OWN_COST)
    return tmp_path


def by_hand(run: distopt.Run) -> np.ndarray[Any, Any]:
    problem = build(Experiment("ring", **{**EXPERIMENT, "record": ("x",)}))
    data = Blocks(problem.scenario, problem.key, 12).get(0)
    found = np.empty((2, 12))
    for t in range(12):
        batch = type(data)(*(leaf[t if len(leaf) > 1 else 0] for leaf in data))
        found[:, t] = problem.scenario.loss(torch.from_numpy(run["x"][:, t]), batch).mean(-1).numpy()
    return found


def test_a_file_is_measured_written_tabled_and_drawn(folder: Path) -> None:
    done = call(*ASK, "--metric", "own_cost.py", "--algorithm", "gt:lr=0.05", "--record", "x", "--out", "o")
    assert done.exit_code == 0, done.output
    run = one("o")
    np.testing.assert_allclose(run["own_cost"], by_hand(run), rtol=1e-12)
    assert done.stdout.splitlines()[2].split()[-1] == "own", "the column's head"
    with Path("o/summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["own_cost"]) == pytest.approx(run["own_cost"][:, -1].mean(), rel=1e-14)
    assert Path("o/metric-own_cost.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert str(Path("o/metric-own_cost.png")) in done.stdout
    assert run.plot(metric="own_cost").axes[0].get_yscale() == "log"
    assert "own_cost" in run.to_pandas().columns
    assert json.loads(Path("o/manifest.json").read_text())["metrics"] == {"own_cost": {"unit": "cost"}}
    Path("own_cost.py").unlink()
    assert one("o").about("own_cost").unit == "cost", "a run is read without the files that made it"


METRICS = (Reach(), Length(), Ratio())


@pytest.mark.parametrize("engine", ["threads:workers=3", "threads:workers=2,partition=cut"])
def test_workers_measure_the_same_bits(folder: Path, engine: str) -> None:
    asked: dict[str, Any] = {**EXPERIMENT, "metrics": ["own_cost.py:power=2", *METRICS], "mode": "eager"}
    local, shared = (distopt.simulate("ring", **asked, engine=where) for where in ("local", engine))
    assert {"own_cost", "reach", "length", "ratio"} <= local.metrics.keys() == shared.metrics.keys()
    for name in local.metrics:
        assert np.array_equal(local[name], shared[name], equal_nan=True), name


def test_each_way_of_measuring_gives_what_it_says() -> None:
    run = distopt.simulate("ring", **EXPERIMENT, metrics=METRICS, record="s", mode="eager")
    np.testing.assert_allclose(run["length"], np.square(run["s"]).sum(-1).mean(-1), rtol=1e-13)
    assert np.array_equal(run["ratio"], run["consensus_error"] / run["tracking_error"])
    assert (np.diff(run["reach"]) > 0).all(), "it is summed over the rounds"
    assert np.array_equal(run["average_reach"], run["reach"] / (run.rounds + 1))
    plain = distopt.simulate("ring", **EXPERIMENT, record="s", mode="eager")
    assert run.metrics.keys() - plain.metrics.keys() == {"reach", "length", "ratio"}
    for name in plain.metrics:
        assert np.array_equal(run[name], plain[name], equal_nan=True), name


@pytest.mark.slow
def test_compiled_rounds_measure_it_too() -> None:
    eager, compiled = (distopt.simulate("ring", **EXPERIMENT, metrics=METRICS, mode=m) for m in ("eager", "compiled"))
    for name in ("reach", "length", "ratio"):
        np.testing.assert_allclose(compiled[name], eager[name], rtol=1e-9)


def test_a_resumed_run_goes_on_with_its_sums(folder: Path) -> None:
    metric = folder / "reached.py"
    metric.write_text(
        "class Reached:\n    cumulative = True\n    averaged = True\n    def term(self, view): return view.x.abs().sum(-1)\n"
    )
    experiment = Experiment("ring", **{**EXPERIMENT, "rounds": 40, "metrics": (metric,)})
    whole = execution.execute(experiment, mode="eager")

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "rounds" and done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execution.execute(experiment, folder=folder / "r", mode="eager", checkpoint_every=10, progress=stop)
    again = execution.execute(experiment, folder=folder / "r", mode="eager", checkpoint_every=10, resume=True)
    assert again.status == "done"
    for name in whole.metrics:
        assert np.array_equal(again[name], whole[name], equal_nan=True), name


def test_an_experiment_says_what_it_measures(folder: Path) -> None:
    plain, with_one = (Experiment("ring", **EXPERIMENT, metrics=m) for m in ((), "own_cost.py"))
    assert "metrics" not in plain.describe(), "experiments without any keep the fingerprints that they had"
    assert plain.fingerprint() != with_one.fingerprint()
    Path("e.toml").write_text(with_one.to_toml(folder))
    (again,) = read_toml(Path("e.toml"))
    assert again.metrics == ("own_cost.py",) and again.fingerprint() == with_one.fingerprint()
    before = again.fingerprint()
    Path("own_cost.py").write_text(OWN_COST + "# changed\n")
    assert again.fingerprint() != before, "the file's content counts"
    with pytest.raises(InputError, match="metrics was given as a Python object"):
        Experiment("ring", **EXPERIMENT, metrics=METRICS).to_toml()


def test_options_add_metrics_over_a_file_of_another_folder(folder: Path) -> None:
    (folder / "below").mkdir()
    Path("below/e.toml").write_text(
        'topology = "ring"\nagents = 4\nscenario = "sea"\nrounds = 5\nmetrics = ["../own_cost.py"]\n'
    )
    Path("other.py").write_text(OWN_COST.replace("OwnCost", "Other"))
    for words, name in (((), "own_cost"), (("--metric", "other.py"), "other")):
        done = call("simulate", "below/e.toml", "--eager", "--out", name, *words)
        assert done.exit_code == 0, done.output
        assert name in one(name).metrics


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class Mine:\n    pass\n", "it must have one of the methods term, round_term, value; it has none"),
        (
            "class Mine:\n    def term(self, view): ...\n    def value(self, seen): ...\n",
            "one of the methods term, round_term, value; it has term and value",
        ),
        ("class Mine:\n    title = 3\n    def term(self, view): ...\n", "metric mine: title must be of the type str"),
        (
            "class Mine:\n    def term(self, view): return view.x\n",
            r"metric mine: its term is \[\d+, 6, 3\], not \[\d+, 6, 1\]; columns\(dim\) must give the last size",
        ),
        ("class Mine:\n    def term(self, view): return 1.0\n", "metric mine: its term is float"),
        (
            "class Mine:\n    def value(self, seen): return seen['cost'].sum()\n",
            r"metric mine: its value is \[\], not \[rounds, trials\]",
        ),
    ],
)
def test_what_measures_nothing_is_refused(folder: Path, text: str, message: str) -> None:
    Path("mine.py").write_text(text)
    with pytest.raises(InputError, match=message):
        distopt.simulate("ring", **{**EXPERIMENT, "scenario": "moving_target:dim=3"}, metrics=["mine.py"], mode="eager")


@pytest.mark.parametrize("name", ["bits", "x", "average_cost", "s"])
def test_names_that_a_run_has_are_refused(folder: Path, name: str) -> None:
    Path(f"{name}.py").write_text(OWN_COST)
    with pytest.raises(InputError, match=f"metric {name}: a run already has a series of this name"):
        distopt.simulate("ring", **EXPERIMENT, metrics=f"{name}.py", record="s")
    with pytest.raises(InputError, match=r"give an object of it, as in Length\(\)"):
        distopt.simulate("ring", **EXPERIMENT, metrics=[Length])


def test_a_metric_of_the_package_needs_no_naming() -> None:
    with pytest.raises(
        InputError, match="metric accuracy: it is measured wherever .* with distopt.compare and metric=accuracy"
    ):
        distopt.simulate("ring", **EXPERIMENT, metrics="accuracy")


def test_one_object_needs_no_list() -> None:
    one, listed = (distopt.simulate("ring", **EXPERIMENT, metrics=each)["length"] for each in (Length(), [Length()]))
    assert one.max() > 0 and (one == listed).all()


def test_a_metric_that_asks_for_what_is_not_there_is_left_out() -> None:
    class Twice:
        def value(self, seen: Seen) -> torch.Tensor:
            return 2 * seen["accuracy"]

        def absence(self, agents: int, dim: int) -> str:
            return "no classes to hit"

    run = distopt.simulate("ring", **{**EXPERIMENT, "scenario": "moving_target"}, metrics=[Twice()])
    assert "twice" not in run.metrics
    with pytest.raises(KeyError, match="no classes to hit"):
        run["twice"]
