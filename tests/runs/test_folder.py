"""A folder of runs from Python: several algorithms in one, and what was interrupted goes on as from the command line."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.surviving import ASK, call, forked, runs, same, same_folders, short, struck

import distopt
from distopt.errors import InputError
from distopt.report import curves
from distopt.runs import execution

pytestmark = pytest.mark.usefixtures("own_folder")

ALGORITHMS = ["gtadam", "dgd:lr=[0.1,0.2]"]
LABELS = ["gtadam", "dgd:lr=0.1", "dgd:lr=0.2"]
TYPED = [*ASK, "--algorithm", "gtadam", "--algorithm", "dgd:lr=[0.1,0.2]", "--out"]


def simulate(algorithm: Any = ALGORITHMS, **changes: Any) -> Any:
    settings = {"agents": 6, "scenario": "moving_target:dim=2", "rounds": 40}
    return distopt.simulate("ring", algorithm=algorithm, **{**settings, **changes})


def test_several_algorithms_in_a_folder_are_those_of_the_command_line() -> None:
    assert call(*TYPED, "a").exit_code == 0
    made = simulate(out="b")
    assert list(made) == LABELS
    same_folders("a", "b")
    in_memory = simulate()
    for label, run in runs("b").items():
        same(run, made[label])
        same(run, in_memory[label])
    assert "nothing to resume" in call("resume", "b").stdout


def test_one_algorithm_gives_one_run_and_a_list_or_a_grid_a_dict() -> None:
    assert isinstance(simulate("gtadam", out="a"), distopt.Run)
    for algorithm, labels in ((["gtadam"], ["gtadam"]), ("dgd:lr=[0.1]", ["dgd:lr=0.1"]), (ALGORITHMS, LABELS)):
        assert list(simulate(algorithm, rounds=3)) == labels
    with pytest.raises(InputError, match="algorithm is an empty list"):
        simulate([])
    with pytest.raises(InputError, match="algorithm dgd is given twice"):
        simulate(["dgd", "dgd"])


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["gtadam", ALGORITHMS])
def test_an_interrupted_run_goes_on_in_python_with_the_bits_of_an_undisturbed_one(
    monkeypatch: pytest.MonkeyPatch, algorithm: Any
) -> None:
    simulate(algorithm, out="a", record="x")
    short(monkeypatch)
    with struck(18, signal.SIGINT), pytest.raises(KeyboardInterrupt):
        simulate(algorithm, out="b", record="x", checkpoint_every=5)
    assert {run.status for run in runs("b").values()} == {"interrupted"}
    assert Path("b/regret.png").exists() and Path("b/summary.csv").exists()
    with struck(25, signal.SIGINT), pytest.raises(KeyboardInterrupt):
        distopt.resume("b", engine="threads:workers=2")
    made = distopt.resume(Path("b"), engine="threads:workers=3", checkpoint_every=3)
    same_folders("a", "b")
    for label, run in (made if isinstance(made, dict) else {made.label: made}).items():
        same(run, runs("a")[label])
        assert run.info["asked"]["checkpoint_every"] == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_finished_is_given_back_untouched() -> None:
    simulate(out="a")
    files = [path for path in Path("a").rglob("*") if path.name not in (".lock", "manifest.json", "experiment.toml")]
    files += Path("a").glob("*/manifest.json")
    before = {path: path.stat().st_mtime_ns for path in files}
    assert list(distopt.resume("a")) == LABELS
    assert {path: path.stat().st_mtime_ns for path in files} == before
    Path("a/regret.png").unlink()
    distopt.resume("a")
    assert Path("a/regret.png").exists()


def test_sigterm_saves_the_runs_and_then_ends_the_process() -> None:
    simulate(out="a")

    def terminated() -> None:
        with struck(40):
            simulate(out="b", checkpoint_every=20)

    process = forked(terminated)
    process.join(60)
    assert process.exitcode == -signal.SIGTERM, Path("log").read_text()
    assert Path("b/summary.csv").exists()
    distopt.resume("b")
    same_folders("a", "b")


def test_a_figure_that_cannot_be_drawn_costs_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("no ink")

    monkeypatch.setattr(curves, "figure", broken)
    with pytest.warns(UserWarning, match=r"regret.png could not be drawn: ZeroDivisionError: no ink"):
        simulate("gtadam", out="a")
    assert runs("a")["gtadam"].status == "done"


def test_what_cannot_be_asked_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution.runner, "together", None)
    with pytest.raises(InputError, match="checkpoint_every=5: a checkpoint needs a folder"):
        simulate(checkpoint_every=5)
    for given, says in (
        ({"engine": "nowhere"}, "nowhere"),
        ({"engine": "threads:workers=7"}, "7 workers"),
        ({"checkpoint_every": 0}, "checkpoint_every=0"),
        ({"algorithm": ["gtadam", "dgd:lr=-1"]}, "lr"),
        ({"topology": np.full((6, 6), 1 / 6)}, "Python object"),
    ):
        with pytest.raises(InputError, match=says):
            distopt.simulate(
                **{"topology": "ring", "agents": 6, "scenario": "moving_target", "algorithm": ALGORITHMS, **given},
                out="a",
            )
        assert not Path("a").exists(), given


def test_what_cannot_be_resumed_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Path("mine.py")
    text = (Path(__file__).parents[2] / "examples" / "heavy_ball.py").read_text()
    mine.write_text(text)
    short(monkeypatch)
    with struck(8, signal.SIGINT), pytest.raises(KeyboardInterrupt):
        simulate("mine.py", out="b", checkpoint_every=4)
    mine.write_text(text + "\n# changed\n")
    with pytest.raises(InputError, match="has changed"):
        distopt.resume("b")
    assert distopt.resume("b", force=True).status == "done"
    for path, says in ((Path("nowhere"), "no such folder"), (3, "3: not the path of a folder")):
        with pytest.raises(InputError, match=says):
            distopt.resume(path)  # that is refused
