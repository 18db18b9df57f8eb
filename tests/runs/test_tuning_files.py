"""What tuning writes, how it goes on, and what it refuses."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distopt
from distopt.errors import InputError
from distopt.runs import execution

pytestmark = pytest.mark.usefixtures("own_folder")
ASK: dict[str, Any] = {"agents": 4, "scenario": "moving_target", "rounds": 60, "trials": 3, "report_trials": 2}
FEW = {**ASK, "mode": "eager", "grid": [0.01, 0.02, 0.05]}


def numbers(path: str) -> list[dict[str, str]]:
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def test_the_folder_holds_what_the_pages_say() -> None:
    tuned = distopt.tune("ring", algorithm=["gtadam", "dgd"], out="o", **{**FEW, "grid": [0.01, 0.02]})
    note = json.loads(Path("o/tuning.json").read_text())
    assert (note["schema"], note["status"], note["figure"]) == (1, "done", "average_dynamic_regret")
    assert (note["question"]["tune"], note["question"]["report"]) == (
        {"seed": 0, "trials": 3},
        {"seed": 1000, "trials": 2},
    )
    assert [each["tuned"] for each in note["found"]] == list(tuned.winners.values())
    assert [row["spec"] for row in numbers("o/tuning.csv")] == [
        f"{name}:lr={lr}" for name in ("gtadam", "dgd") for lr in ("0.01", "0.02")
    ]
    rows = numbers("o/tuned.csv")
    assert [row["algorithm"] for row in rows] == [row["algorithm"] for row in tuned.rows()]
    first = tuned.runs[rows[0]["algorithm"]]["average_dynamic_regret"][:, -1]
    assert float(rows[0]["median"]) == statistics.median(first.tolist())
    assert Path("o/sensitivity.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    loaded = distopt.load("o/report")
    assert isinstance(loaded, dict) and set(loaded) == set(tuned.runs) and Path("o/report/summary.csv").exists()


def test_a_winner_that_is_the_default_runs_once() -> None:
    tuned = distopt.tune("ring", algorithm="dgd:lr=0.05", out="o", **FEW)
    assert tuned.winners == {"dgd:lr=0.05": "dgd:lr=0.05"} and list(tuned.runs) == ["dgd:lr=0.05"]
    assert [row["row"] for row in tuned.rows()] == ["tuned = defaults"]
    assert distopt.load("o/report").label == "dgd:lr=0.05"
    spelled = distopt.tune("ring", algorithm="dgd:lr=0.050,form=cta", **FEW)
    assert list(spelled.runs) == ["dgd:lr=0.050,form=cta"]


def test_a_list_in_a_spec_is_its_grid_and_the_defaults_are_the_algorithms_own() -> None:
    tuned = distopt.tune("ring", algorithm=["gtadam:lr=[0.02,0.04]", "dgd"], **FEW)
    assert [point.lr for point in tuned.algorithms["gtadam:lr=[0.02,0.04]"].points] == [0.02, 0.04]
    assert tuned.algorithms["gtadam:lr=[0.02,0.04]"].defaults == "gtadam" and "gtadam" in tuned.runs


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 2])
def test_what_is_finished_is_kept_and_the_files_are_equal_in_the_end(
    after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = {**FEW, "algorithm": ["gtadam", "dgd"]}
    distopt.tune("ring", out="whole", **ask)
    together, calls = execution.execute_together, [0]

    def struck(*problems: Any, **settings: Any) -> Any:
        calls[0] += 1
        if calls[0] == after + 1:
            raise KeyboardInterrupt
        return together(*problems, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(execution, "execute_together", struck)
        patch.setattr("distopt.runs.folder.execute_together", struck)
        with pytest.raises(KeyboardInterrupt):
            distopt.tune("ring", out="o", **ask)
    before = json.loads(Path("o/tuning.json").read_text())
    assert before["status"] == "begun" and len(before["points"]) == 3 * after
    ran = []
    monkeypatch.setattr(
        execution,
        "execute_together",
        lambda problems, *a, **k: ran.append(len(problems)) or together(problems, *a, **k),
    )
    distopt.tune("ring", out="o", **ask)
    assert ran == [3] * (2 - after)
    for name in ("tuning.json", "tuning.csv", "tuned.csv", "sensitivity.png"):
        assert Path("o", name).read_bytes() == Path("whole", name).read_bytes(), name
    for label, run in distopt.load("whole/report").items():
        np.testing.assert_array_equal(run["dynamic_regret"], distopt.load("o/report")[label]["dynamic_regret"])


def test_a_folder_of_something_else_is_refused() -> None:
    ask = {**FEW, "algorithm": "dgd", "rounds": 10}
    distopt.tune("ring", out="o", **ask)
    with pytest.raises(InputError, match="^o holds another tuning; choose another folder with out=, or remove it$"):
        distopt.tune("ring", out="o", **{**ask, "seed": 1})
    Path("full").mkdir()
    Path("full/else").write_text("")
    with pytest.raises(InputError, match="^full is not empty and holds no tuning; choose another folder with out=$"):
        distopt.tune("ring", out="full", **ask)
    good = Path("o/tuning.json").read_text()
    for text in ("x", "[]", good.replace('"schema": 1', '"schema": 2'), good.replace('"figures"', '"f"')):
        Path("o/tuning.json").write_text(text)
        with pytest.raises(InputError, match="tuning.json"):
            distopt.tune("ring", out="o", **ask)
    assert not list(Path("o").rglob("*.part"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "signsgd:x=1"}, "signsgd: no parameter 'x'"),
        ({"algorithm": ["gt", "gt"]}, "algorithm gt is given twice"),
        ({"algorithm": []}, "algorithm is an empty list"),
        ({"algorithm": object()}, "algorithm object: is a Python object"),
        ({"algorithm": "gt:lr=[0.1,x]"}, "algorithm gt:lr=\\[0.1,x\\]: lr: 'x' is not a number"),
        ({"trials": 0}, "trials=0: must be at least 1"),
        ({"report_trials": 0}, "report_trials=0: must be a whole number, at least 1"),
        ({"grid": "lr=1..0.1"}, "grid='lr=1..0.1': the first step size must be below the second"),
        ({"grid": "b1=0.1..1"}, "a grid holds values of lr; for another parameter use over="),
        ({"grid": "0.1,0.1"}, "0.1 is given twice"),
        ({"grid": []}, "grid=\\[\\]: no step sizes"),
        ({"grid": [0.1, -1]}, "-1: a step size must be above 0"),
        ({"grid": "lr=1e-99..1,99"}, "more than 1,000 step sizes"),
        ({"over": {"lr": [1]}}, "over: lr: step sizes belong into the grid; use grid="),
        ({"over": {"b7": [1]}}, "over: b7: no algorithm has a parameter b7"),
        ({"record": "nothing"}, "nothing"),
        ({"x0": np.zeros((3, 4, 2))}, "\\[2, 4, 2\\]"),
        ({"over": {"b1": []}}, "over: b1: write {NAME: \\[VALUE, VALUE\\]}"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as told:
        distopt.tune("ring", **{**FEW, "algorithm": "gtadam", "out": "o", **changes})
    assert "\n" not in str(told.value) and not Path("o").exists()


def test_schedules_and_algorithms_that_cannot_be_tuned_are_refused() -> None:
    Path("flat.py").write_text(
        "class Flat:\n    def __init__(self, height: float = 0.1): ...\n    def __call__(self, t): return 0.1\n"
    )
    with pytest.raises(InputError, match="the schedule flat.py has no parameter lr to tune"):
        distopt.tune("ring", algorithm="gt:lr=flat.py(0.1)", **FEW)
    Path("still.py").write_text(
        "class Still:\n    channels = ('x',)\n    def init(self, x): return ()\n    def update(self, g, s, x, mix): return mix('x', x), s\n"
    )
    with pytest.raises(InputError, match="^algorithm still.py: has no parameter lr, so there is nothing to tune"):
        distopt.tune("ring", algorithm="still.py", **FEW)
