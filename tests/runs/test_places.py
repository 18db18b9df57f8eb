"""Files that an experiment names are found from where it was started, or beside its TOML file, wherever the process is."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.asking import call, many, one

import distopt
from distopt.catalog.places import looking_in
from distopt.catalog.spec_files import paths, rebased
from distopt.errors import InputError
from distopt.experiment import Experiment, read_toml
from distopt.runs.manifest import manifest_text
from distopt.simulation.problem import build

pytestmark = pytest.mark.usefixtures("own_folder")

METHOD = """
class Mine:
    channels = ("x",)
    def __init__(self, lr: float = 0.1, data: str = ""):
        self.lr = lr
        if data: open(data).close()
    def init(self, x): return ()
    def update(self, g, state, x, mix): return mix("x", x) - self.lr * g, state
"""
STEP = """
class Step:
    def __init__(self, b: float = 0.5): self.b = b
    def init(self, x): return ()
    def __call__(self, g, state): return self.b * g, state
"""


def write(folder: Path) -> None:
    """A file of each kind."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data/x.csv").write_text("a,y\n" + "1,0\n2,1\n3,0\n4,1\n" * 10)
    (folder / "data/g.edges").write_text("0 1\n1 2\n2 3\n3 0\n")
    np.save(folder / "data/w.npy", np.full((4, 4), 0.25))
    (folder / "data/mine.py").write_text(METHOD)
    (folder / "data/step.py").write_text(STEP)


PARTS: dict[str, dict[str, Any]] = {
    "csv": {"scenario": "stream:path=data/x.csv,label=y"},
    "csv by position": {"scenario": "stream:data/x.csv,y"},
    "graph": {"topology": "file:path=data/g.edges", "agents": None},
    "matrix": {"topology": "file:data/w.npy", "agents": None},
    "class": {"algorithm": "data/mine.py:lr=0.2"},
    "class that reads": {"algorithm": "data/mine.py:data=data/x.csv"},
    "nested": {"algorithm": "gt:lr=0.1,direction=data/step.py(b=0.25)"},
}


def settings(name: str) -> dict[str, Any]:
    return {
        "topology": "ring",
        "agents": 4,
        "scenario": "moving_target",
        "algorithm": "dgd",
        "rounds": 6,
        **PARTS[name],
    }


def words(name: str, **more: Any) -> list[str]:
    asked = {**settings(name), **more}
    topology = asked.pop("topology")
    return [
        "simulate",
        topology,
        *(word for key, value in asked.items() if value is not None for word in (f"--{key}", str(value))),
    ]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Goes to another folder of the test's own."""

    def go(name: str) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        return tmp_path / name

    return go


@pytest.mark.parametrize("name", list(PARTS))
@pytest.mark.parametrize("out", ["../r", "runs/r"])
def test_an_interrupted_run_goes_on_from_another_folder_with_the_same_bits(name: str, out: str, elsewhere: Any) -> None:
    write(elsewhere("a"))
    assert call(*words(name), "--out", out, "--checkpoint-every", "2", "--record", "x").exit_code == 0
    folder = Path(out).resolve()
    before = one(folder)
    content = json.loads((folder / "manifest.json").read_text())
    del content["sha256"]
    (folder / "manifest.json").write_text(
        manifest_text({**content, "status": "running"})
    )  # as a killed process leaves it
    elsewhere("b")
    result = call("resume", str(folder))
    assert result.exit_code == 0, result.output
    assert "nothing to resume" not in result.stdout
    after = one(folder)
    assert (after.label, after.info["fingerprint"]) == (before.label, before.info["fingerprint"])
    np.testing.assert_array_equal(after["x"], before["x"])
    assert call("resume", str(folder)).stdout.startswith("nothing to resume")


@pytest.mark.parametrize("name", list(PARTS))
def test_the_fingerprint_is_that_of_the_files_and_not_of_the_folder(name: str, elsewhere: Any) -> None:
    prints = []
    for place in ("a", "b"):
        write(elsewhere(place))
        experiment = Experiment(**settings(name))
        here = experiment.fingerprint()
        elsewhere("c")
        assert experiment.fingerprint() == here, "wherever it is asked for"
        build(experiment)
        prints.append(here)
    assert prints[0] == prints[1]
    assert Experiment(**settings(name)).fingerprint() != prints[0], "files that are not there are others"


def test_a_project_that_has_moved_and_a_run_that_has_moved(elsewhere: Any, tmp_path: Path) -> None:
    write(elsewhere("a"))
    assert call(*words("csv"), "--out", "runs/r").exit_code == 0
    elsewhere("b")
    shutil.move(tmp_path / "a", tmp_path / "moved")
    assert call("resume", str(tmp_path / "moved/runs/r")).stdout.startswith("nothing to resume")
    elsewhere("moved")
    assert call(*words("csv"), "--out", "../far").exit_code == 0
    shutil.move(tmp_path / "far", tmp_path / "farther")
    elsewhere("b")
    assert call("resume", str(tmp_path / "farther")).stdout.startswith("nothing to resume")


@pytest.mark.parametrize("name", list(PARTS))
def test_a_file_that_is_gone_is_named_with_its_folder(name: str, elsewhere: Any, tmp_path: Path) -> None:
    write(elsewhere("a"))
    assert call(*words(name), "--out", "../r").exit_code == 0
    shutil.rmtree("data")
    elsewhere("b")
    result = call("resume", str(tmp_path / "r"))
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert str(tmp_path / "a") in line or name == "class that reads", line
    assert "data/" in line
    assert "has changed" not in line
    missing = call(*words(name), "--out", "o")
    assert missing.exit_code == 2
    assert str(tmp_path / "b") in missing.stderr or name == "class that reads", missing.stderr


def test_paths_in_a_toml_file_are_relative_to_it(elsewhere: Any, tmp_path: Path) -> None:
    write(elsewhere("a"))
    lines = [
        f"{key} = {json.dumps(value)}" for key, value in {**settings("csv"), "topology": "file:data/g.edges"}.items()
    ]
    Path("e.toml").write_text(
        "\n".join(lines).replace('"dgd"', '["data/mine.py:lr=0.2", "gt:direction=data/step.py(b=0.25)"]')
    )
    assert call("simulate", "e.toml", "--out", "../here").exit_code == 0
    elsewhere("b")
    result = call("simulate", "../a/e.toml", "--out", "../there")
    assert result.exit_code == 0, result.output
    assert {label: run.info["fingerprint"] for label, run in many("../there").items()} == {
        label: run.info["fingerprint"] for label, run in many("../here").items()
    }
    assert call("resume", "../there").stdout.startswith("nothing to resume")
    found = read_toml(tmp_path / "there" / "experiment.toml")
    assert [experiment.folder for experiment in found] == [str(tmp_path / "a")] * 2
    result = call("sweep", "../a/e.toml", "--set", "rounds=3", "--out", "s", "--workers", "1")
    assert result.exit_code == 0, result.output


def test_what_is_typed_beside_a_toml_file_is_where_it_was_typed(elsewhere: Any) -> None:
    write(elsewhere("a"))
    Path("e.toml").write_text('topology = "ring"\nagents = 4\nrounds = 4\nscenario = "stream:data/x.csv,y"\n')
    elsewhere("b")
    Path("own.py").write_text(METHOD.replace("Mine", "Own"))
    Path("other.csv").write_text("a,y\n" + "1,1\n2,0\n" * 20)
    result = call(
        "simulate",
        "../a/e.toml",
        "--algorithm",
        "own.py:lr=0.5",
        "--scenario",
        "stream:path=other.csv,label=y",
        "--out",
        "o",
    )
    assert result.exit_code == 0, result.output
    run = one("o")
    assert run.label == "../b/own.py:lr=0.5"
    typed = distopt.simulate("ring", agents=4, rounds=4, scenario="stream:other.csv,y", algorithm="own.py:lr=0.5")
    np.testing.assert_array_equal(run["dynamic_regret"], typed["dynamic_regret"])
    result = call(
        "sweep",
        "../a/e.toml",
        "--set",
        "scenario.path=other.csv,data/x.csv",
        "--set",
        "algorithm=own.py",
        "--out",
        "s",
        "--workers",
        "1",
    )
    assert result.exit_code == 0, result.output


def test_a_run_of_an_older_version_goes_on_where_it_was_started(elsewhere: Any, tmp_path: Path) -> None:
    write(elsewhere("a"))
    assert call(*words("csv"), "--out", "../r").exit_code == 0
    text = (tmp_path / "r/experiment.toml").read_text()
    older = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("folder"))
    assert older != text
    (tmp_path / "r/experiment.toml").write_text(older)
    assert call("resume", "../r").stdout.startswith("nothing to resume")


def test_a_folder_is_written_only_where_a_relative_path_needs_it(elsewhere: Any) -> None:
    here = elsewhere("a")
    write(here)
    assert "folder =" not in Experiment("ring", 4, "moving_target", "dgd").to_toml()
    assert "folder =" not in Experiment("ring", 4, f"stream:{here}/data/x.csv,y", "dgd").to_toml()
    assert f'folder = "{here}"' in Experiment("ring", 4, "stream:data/x.csv,y", "dgd").to_toml()
    assert 'folder = "../.."' in Experiment("ring", 4, "stream:data/x.csv,y", "dgd").to_toml(here / "runs" / "r")


def test_a_label_that_is_also_a_file_stays_a_label(elsewhere: Any) -> None:
    write(elsewhere("a"))
    Path("y").write_text("")
    assert call(*words("csv"), "--out", "../r").exit_code == 0
    elsewhere("b")
    assert call("resume", "../r").stdout.startswith("nothing to resume")


def test_paths_of_the_python_api_may_be_path_objects(elsewhere: Any) -> None:
    write(elsewhere("a"))
    Path("pull.py").write_text(
        "import torch\nclass Pull:\n    dim = 2\n    def batch(self, t, key): return torch.ones(1, 1, len(key.agents), 2)\n"
        "    def loss(self, x, b): return (x - b).square().sum(-1) / 2\n    def grad(self, x, b): return x - b\n"
    )
    ask: dict[str, Any] = {"agents": 4, "rounds": 5, "record": "x"}
    texts = distopt.simulate("file:data/g.edges", scenario="pull.py", algorithm="data/mine.py", **ask)
    paths = distopt.simulate(Path("data/g.edges"), scenario=Path("pull.py"), algorithm=Path("data/mine.py"), **ask)
    np.testing.assert_array_equal(paths["x"], texts["x"])
    assert paths.label == texts.label
    again = distopt.load(paths.save(Path("o")))
    assert isinstance(again, distopt.Run)
    with pytest.raises(InputError, match="the path of a scenario must end in .py"):
        distopt.simulate("ring", scenario=Path("data/x.csv"), algorithm="dgd", **ask)


@pytest.mark.parametrize(("on_disk", "typed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_of_one_sign_and_of_two_are_the_same_file(on_disk: Any, typed: Any, elsewhere: Any) -> None:
    write(elsewhere("a"))
    Path(unicodedata.normalize(on_disk, "über.csv")).write_text(Path("data/x.csv").read_text())
    Path(unicodedata.normalize(on_disk, "größe.py")).write_text(METHOD)
    spec = unicodedata.normalize(typed, "stream:path=über.csv,label=y")
    run = distopt.simulate(
        "ring", agents=4, scenario=spec, algorithm=unicodedata.normalize(typed, "größe.py"), rounds=3
    )
    assert run.status == "done"


@pytest.mark.parametrize(
    ("spec", "moved"),
    [
        ("stream:data/x.csv,y", "stream:../a/data/x.csv,y"),
        ("stream:path='data/x.csv',label=y", "stream:path=../a/data/x.csv,label=y"),
        ("data/mine.py:lr=0.1", "../a/data/mine.py:lr=0.1"),
        ("gt(lr=0.1,direction=data/step.py(b=1))", "gt:lr=0.1,direction=../a/data/step.py:b=1"),
        ("gt:lr=0.1", "gt:lr=0.1"),
        ("stream:gone.csv,y", "stream:gone.csv,y"),
        ("file:", "file:"),
    ],
)
def test_specs_are_told_from_another_folder(spec: str, moved: str, elsewhere: Any, tmp_path: Path) -> None:
    write(elsewhere("a"))
    (tmp_path / "b").mkdir()
    assert rebased(spec, str(tmp_path / "b")) == moved
    there = [file.resolve() for file in paths(spec)]
    with looking_in(str(tmp_path / "b")):
        assert [file.resolve() for file in paths(moved)] == there
