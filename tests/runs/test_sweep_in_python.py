"""``distopt.sweep``: what ``distopt sweep`` does, bit for bit, and how it goes on."""

from __future__ import annotations

import csv
import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.asking import call

import distopt
from distopt.errors import InputError
from distopt.runs import sweep as sweeps
from distopt.runs.results import Run

SETTINGS = {
    "topology": "ring",
    "agents": 4,
    "scenario": "moving_target",
    "rounds": 20,
    "algorithm": "gt:lr=0.05,form=atc",
}
TOML = "".join(f"{key} = {value!r}\n" for key, value in SETTINGS.items())
VALUES: dict[str, Any] = {"algorithm.lr": [0.05, 0.1], "seed": [1, 2]}
WORDS = ["--set", "algorithm.lr=0.05,0.1", "--set", "seed=1,2"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("e.toml").write_text(TOML)


def figures(folder: str) -> list[dict[str, str]]:
    """The table of a sweep without the measured speed."""
    with Path(folder, "sweep.csv").open() as file:
        return [{key: text for key, text in row.items() if key != "rounds_per_second"} for row in csv.DictReader(file)]


def same(one: dict[str, Run], other: dict[str, Run]) -> bool:
    return list(one) == list(other) and all(
        list(one[name]) == list(other[name])
        and all(np.array_equal(one[name][key], other[name][key], equal_nan=True) for key in one[name])
        for name in one
    )


@pytest.mark.slow
def test_the_runs_are_those_of_the_command() -> None:
    assert call("sweep", "e.toml", *WORDS, "--out", "typed", "--workers", "1").exit_code == 0
    for number, file in enumerate(["e.toml", Path("e.toml"), SETTINGS]):
        runs = distopt.sweep(file, VALUES, out=f"out{number}", workers=1)
        assert list(runs) == [f"algorithm.lr={lr} seed={seed}" for lr in (0.05, 0.1) for seed in (1, 2)]
        found = {run.info["fingerprint"] for run in runs.values()}
        assert {path.name for path in Path("typed").iterdir()} == {path.name for path in Path(f"out{number}").iterdir()}
        typed = {each.name: distopt.load(each) for each in Path("typed").iterdir() if each.is_dir()}
        assert found == {run.info["fingerprint"] for run in typed.values()}
        assert figures(f"out{number}") == figures("typed")
        by_folder = {run.path.name: run for run in runs.values() if run.path is not None}
        assert same({name: by_folder[name] for name in typed}, typed)
    alone = distopt.simulate(**{**SETTINGS, "algorithm": "gt:lr=0.1,form=atc"}, seed=2)
    assert same({"": alone}, {"": runs["algorithm.lr=0.1 seed=2"]})


def test_it_goes_on_with_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("algorithms").mkdir()
    Path("algorithms/mine.py").write_text(MINE)
    Path("sub").mkdir()
    settings = {**SETTINGS, "algorithm": "dgd", "folder": str(tmp_path / "sub")}
    values = {"algorithm": ["algorithms/mine.py:lr=[0.01,0.02]", "gt:lr=0.01"], "seed": range(2)}  # a path from here
    whole = distopt.sweep(settings, values, out="whole", workers=1)
    processes = sweeps.processes

    def stopped(jobs: Any, workers: int) -> Any:
        for number, done in enumerate(processes(jobs, workers)):
            if number == 2:
                raise KeyboardInterrupt
            yield done

    monkeypatch.setattr(sweeps, "processes", stopped)
    with pytest.raises(KeyboardInterrupt):
        distopt.sweep(settings, values, out="out", workers=1)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/manifest.json")}
    assert len(kept) == 2 and not Path("out/sweep.csv").exists()
    monkeypatch.setattr(sweeps, "processes", processes)
    monkeypatch.chdir("sub")  # where it goes on does not matter
    assert same(distopt.resume("../out"), whole)
    assert figures("../out") == figures("../whole") and len(whole) == 6
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    monkeypatch.setattr(sweeps, "processes", stopped)  # nothing is left to run
    assert same(distopt.resume(tmp_path / "out"), whole)
    assert call("resume", "../out").exit_code == 0


MINE = """
class Mine:
    channels = ("x",)
    def __init__(self, lr: float = 0.1):
        self.lr = lr
    def init(self, x):
        return ()
    def update(self, g, state, x, mix):
        return mix("x", x) - self.lr * g, state
"""


def test_files_are_those_of_the_folder_where_the_sweep_is_asked_for(tmp_path: Path) -> None:
    Path("files").mkdir()
    Path("files/e.toml").write_text(TOML)
    Path("met.py").write_text("class Met:\n    def term(self, view):\n        return view.x.norm(dim=-1)\n")
    np.save("x0.npy", np.ones(2))
    values = {"metrics": ["met.py"], "x0": ["x0.npy", Path("x0.npy").absolute(), 0.5]}
    runs = distopt.sweep("files/e.toml", values, out="out", workers=1)
    here = str(tmp_path)
    assert list(runs) == [f"metrics=met.py x0={x0}" for x0 in ("x0.npy", f"{here}/x0.npy", "0.5")]
    for x0, run in zip(("x0.npy", "x0.npy", 0.5), runs.values(), strict=True):
        assert same({"": distopt.simulate(**SETTINGS, metrics=["met.py"], x0=x0)}, {"": run})
    words = ["--set", "metrics=met.py", "--set", "x0=x0.npy"]
    assert call("sweep", "files/e.toml", *words, "--out", "typed", "--workers", "1").exit_code == 0


def test_a_failed_experiment_is_left_out_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="algorithm.what=1 failed: .*no parameter 'what'"):
        assert distopt.sweep(SETTINGS, {"algorithm.what": 1}, out="out", workers=1) == {}


def test_settings_of_the_process_change_no_number() -> None:
    import torch

    plain = distopt.sweep(SETTINGS, {"seed": 1}, out="plain", workers=1)
    torch.set_default_dtype(torch.float64)
    try:
        assert same(distopt.sweep(SETTINGS, {"seed": 1}, out="other", workers=1), plain)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": [0.1]}, r"^values: no setting 'lr'; write \{KEY: \[VALUE, VALUE\]\} with a KEY among topology, "),
        ({"seed": []}, "^values: seed is an empty list$"),
        ({"seed": None}, "^values: seed=None: must be a number, or a text such as 'gt:lr=0.1'$"),
        ({"seed": [1, "x"]}, "^seed: 'x' is not a whole number$"),
        ({"seed": np.array("x")}, "^seed: 'x' is not a whole number$"),
        ({"seed": np.array([[1]])}, "^values: seed=array.*: must be a number"),
        ({1: [1]}, "^values: 1: a key must be a text such as 'algorithm.lr'$"),
        ({"seed": [1, 1]}, "seed=1: this experiment is in the sweep twice"),
        ([1], "^values=\\[1\\]: must be a dict of lists"),
    ],
)
def test_what_is_no_value_is_refused(values: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        distopt.sweep(SETTINGS, values, out="out")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"mode": "fast"}, "mode='fast': must be one of"),
        ({"engine": "ranks"}, "engine='ranks': a sweep runs on \"local\" processes"),
        ({"workers": 0}, "workers=0: must be a whole number, at least 1"),
        ({"address": "auto"}, "address='auto': names a running Ray cluster"),
        ({"out": 3}, "out=3: not the path of a folder"),
        ({"file": {**SETTINGS, "topology": object()}}, "topology was given as a Python object"),
        ({"file": {**SETTINGS, 3: 1}}, "^the settings: no setting 3; settings: "),
        ({"file": 3}, "^3: must be the path of a TOML file, or its settings as a dict"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        distopt.sweep(**{"file": SETTINGS, "values": {"seed": [1]}, "out": "out", **asked})
    assert not Path("out").exists()


def test_a_damaged_note_is_refused_and_one_goes_on_as_it_was_asked_for() -> None:
    distopt.sweep(SETTINGS, {"seed": [1]}, out="out", workers=1)
    asked: dict[str, Any]
    for asked in ({"force": True}, {"engine": "local"}, {"checkpoint_every": 2}):
        with pytest.raises(InputError, match="leave out engine=, checkpoint_every= and force=$"):
            distopt.resume("out", **asked)
    assert call("resume", "out", "--force").stderr.endswith("leave out --engine, --checkpoint-every and --force\n")
    good = Path("out/sweep.toml").read_text()
    for text in ("x", "", good.replace("[sweep]", "[other]"), good + "\nlr = [1]\n", good.replace('"auto"', '"x"')):
        Path("out/sweep.toml").write_text(text)
        with pytest.raises(InputError):
            distopt.resume("out")
    for values in ("'ab'", "['seed=1']", "{a = [1]}"):
        Path("out/sweep.toml").write_text(f"{good.partition('[sweep.values]')[0]}values = {values}\n")
        with pytest.raises(
            InputError, match="no setting 'a'" if "{" in values else "sweep.toml: damaged, or not the file"
        ):
            distopt.resume("out")


def test_a_folder_holds_sweeps_alone_and_the_last_one_goes_on() -> None:
    Path("notes").mkdir()
    Path("notes/mine.txt").write_text("")
    for out in ("", "notes"):
        with pytest.raises(InputError, match="is not empty and holds no sweep; .* with out=$"):
            distopt.sweep(SETTINGS, {"seed": [1]}, out=out)
    assert {path.name for path in Path().iterdir()} == {"e.toml", "notes"} and len(list(Path("notes").iterdir())) == 1
    first = distopt.sweep(SETTINGS, {"seed": np.array(1)}, out="out", workers=1)
    other = distopt.sweep(SETTINGS, {"rounds": [10]}, out="out", workers=1)
    assert list(first) == ["seed=1"] and list(other) == list(distopt.resume("out")) == ["rounds=10"]
    assert [row["run"] for row in figures("out")] == ["rounds=10"] and len(
        list(Path("out").glob("*/manifest.json"))
    ) == 2


def test_a_nested_parameter_is_set() -> None:
    found = sweeps.points(
        {**SETTINGS, "algorithm": "gt:direction=adam(b1=0.5)"}, {"algorithm.direction.b1": [0.5, 0.9]}, "e"
    )
    assert [point.experiment.algorithm for point in found] == [f"gt:direction=adam(b1={b1})" for b1 in (0.5, 0.9)]


def test_a_starting_point_that_is_nowhere_is_refused_before_anything_runs() -> None:
    settings = {"topology": "ring", "agents": 4, "scenario": "moving_target"}
    with pytest.raises(InputError, match=r"^x0: 'abc' is neither a number nor an existing .npy file$"):
        distopt.sweep(settings, {"x0": ["abc"]}, out="b")
    assert not Path("b").exists()


COLLECTING = """
import gc


class Mine:
    channels = ("x",)

    def init(self, x):
        return ()

    def update(self, g, state, x, mix):
        gc.collect()
        return mix("x", x) - 0.1 * g, state
"""


class Inherited:
    """In a process that inherits it, it does at its end what a group of ranks does there: it never gets there."""

    def __init__(self) -> None:
        self.itself, self.maker = self, os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.maker:
            Path("collected").touch()


def test_the_garbage_of_whoever_asks_harms_no_experiment() -> None:
    Path("collecting.py").write_text(COLLECTING)
    gc.disable()
    try:
        Inherited()
        distopt.sweep({**SETTINGS, "algorithm": "collecting.py"}, {"seed": [1, 2]}, out="out", workers=2)
    finally:
        gc.enable()
    assert not Path("collected").exists()
