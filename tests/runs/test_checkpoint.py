"""Runs survive: a checkpoint is whole or not there, and a resumed run has the bits of one that nothing disturbed."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.surviving import ASK, BASE, call, runs, same, same_folders, saved, short, struck

from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.trees import tensors
from distopt.runs import checkpoint, execution, manifest
from distopt.runs.signals import stopping
from distopt.simulation import runner
from distopt.simulation.problem import build
from distopt.simulation.runner import begin

pytestmark = pytest.mark.usefixtures("own_folder")


# The file


@pytest.mark.parametrize("algorithm", ["gtadam:lr=0.02", "dgd", "nids", "gt:direction=amsgrad"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_what_is_saved_is_loaded(tmp_path: Path, algorithm: str, dtype: str) -> None:
    problem, carry, about = saved(tmp_path, algorithm=algorithm, dtype=dtype, x0=0.3, record=())
    found = checkpoint.load(tmp_path, problem, "a")
    assert found is not None and found.about == about and found.carry.t == 7
    assert type(found.carry.held.state) is type(carry.held.state) and list(found.carry.totals) == list(carry.totals)
    mine, theirs = (tensors((each.held, each.totals)) for each in (carry, found.carry))
    assert len(mine) == len(theirs) > 2
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_memory_that_a_checkpoint_lacks_begins_anew(tmp_path: Path) -> None:
    """A checkpoint may lack the memory of a channel that had sent nothing yet: earlier versions began it with the first value."""
    problem, carry, about = saved(tmp_path, algorithm="gt:lr=0.01", channel="choco:compressor=sign", record=())
    kept = {"x": carry.held.memory["x"]}
    checkpoint.save(tmp_path, problem, carry._replace(held=carry.held._replace(memory=kept)), about)
    found = checkpoint.load(tmp_path, problem, "a")
    assert found is not None
    memory, new = found.carry.held.memory, begin(problem).held.memory
    assert memory.keys() == new.keys() == {"s", "x"}
    for name, expected in (("x", kept["x"]), ("s", new["s"])):
        assert all(torch.equal(a, b) for a, b in zip(tensors(memory[name]), tensors(expected), strict=True))


def test_a_checkpoint_of_other_results_is_none(tmp_path: Path) -> None:
    problem, _, _ = saved(tmp_path)
    assert checkpoint.load(tmp_path, problem, "b") is None
    assert checkpoint.load(tmp_path / "nowhere", problem, "a") is None


def test_a_torn_flipped_or_foreign_file_is_refused(tmp_path: Path) -> None:
    problem, _, _ = saved(tmp_path)
    path, chance = tmp_path / "checkpoint", random.Random(0)
    whole = path.read_bytes()
    for length in [0, 1, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(30))]:
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="not a checkpoint|damaged or cut short"):
            checkpoint.load(tmp_path, problem, "a")
    for bit in [0, 8 * len(whole) - 1, *(chance.randrange(8 * len(whole)) for _ in range(60))]:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(InputError, match="not a checkpoint|damaged or cut short"):
            checkpoint.load(tmp_path, problem, "a")
    for foreign in (b"PK\x03\x04 an archive", whole + b"\0", b"\x80\x04cos\nsystem\n"):
        path.write_bytes(foreign)
        with pytest.raises(InputError, match="not a checkpoint|damaged or cut short"):
            checkpoint.load(tmp_path, problem, "a")


def test_another_experiment_version_or_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path)
    other = build(Experiment(**{**BASE, "seed": 1}))
    with pytest.raises(InputError, match="another experiment's.*force=True"):
        checkpoint.load(tmp_path, other, "a")
    assert checkpoint.load(tmp_path, other, "a", force=True) is not None
    for changes in ({"algorithm": "dgd", "record": ()}, {"agents": 7}, {"dtype": "float32"}, {"rounds": 7}):
        with pytest.raises(InputError, match="does not fit"):
            checkpoint.load(tmp_path, build(Experiment(**{**BASE, **changes})), "a", force=True)
    problem = build(Experiment(**BASE))
    monkeypatch.setattr(checkpoint, "versions", lambda _: {"distopt": "9", "torch": "9"})
    with pytest.raises(InputError, match="written by distopt .* torch .*force=True"):
        checkpoint.load(tmp_path, problem, "a")
    assert checkpoint.load(tmp_path, problem, "a", force=True) is not None


class Odd:
    """Its state is not what init gave, or holds what no file can."""

    channels = ("x",)

    def __init__(self, first: Any, later: Any) -> None:
        self.first, self.later = first, later

    def init(self, x: Any) -> Any:
        return self.first

    def update(self, g: Any, state: Any, x: Any, mix: Any) -> Any:
        return mix("x", x) - 0.1 * g, self.later


@pytest.mark.parametrize(
    ("first", "later", "message"), [((), (1,), "another structure"), (b"a", b"b", "holds a bytes")]
)
def test_a_state_that_no_file_can_hold_is_refused(tmp_path: Path, first: Any, later: Any, message: str) -> None:
    problem = build(Experiment(**{**BASE, "algorithm": Odd(first, later), "record": ()}))
    about = checkpoint.About("", "a", False, "cpu", 0.0, {})
    carry = begin(problem)
    with pytest.raises(InputError, match=message):
        checkpoint.save(tmp_path, problem, carry._replace(t=1, held=carry.held._replace(state=later)), about)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_needs_a_folder() -> None:
    for settings in ({"checkpoint_every": 5}, {"checkpoint_every": 0, "folder": Path("r")}):
        with pytest.raises(InputError, match="checkpoint_every="):
            execution.execute(Experiment(**BASE), **settings)


# Resumed runs


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["--algorithm", "gtadam", "--record", "x,s", "--every", "7"],
        ["--algorithm", "gt:lr=[0.02,3,0.05]", "--algorithm", "dgd", "--trials", "2", "--record", "x"],
        [
            "--algorithm",
            "nids:lr=0.01",
            "--algorithm",
            "gt:lr=[0.02,0.03]",
            "--dtype",
            "float32",
            "--drop-links",
            "0.3",
        ],
    ],
)
def test_a_resumed_comparison_has_the_bits_of_an_undisturbed_one(
    monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    ask = [*ASK, "--rounds", "900" if "gt:lr=[0.02,3,0.05]" in words else "40", *words]
    undisturbed = call(*ask, "--out", "a")
    short(monkeypatch)
    with struck(18):
        first = call(*ask, "--out", "b", "--checkpoint-every", "5")
    assert first.exit_code == 143 and "go on with: distopt resume b" in first.stderr, first.output
    assert 18 <= max(run.info["completed"] for run in runs("b").values()) < 40
    with struck(25, signal.SIGINT):
        assert call("resume", "b").exit_code == 130
    last = call("resume", "b")
    assert last.exit_code == undisturbed.exit_code and "goes on from round" in last.stdout, last.output
    same_folders("a", "b")
    if "gt:lr=[0.02,3,0.05]" in words:
        assert [run.status for run in runs("b").values()] == ["done", "diverged", "done", "done"]
    assert call("resume", "b").stdout == "nothing to resume: b is finished\n"


@pytest.mark.slow
def test_a_run_goes_from_engine_to_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*ASK, "--algorithm", "gtadam:lr=[0.01,0.02]", "--record", "x"]
    call(*words, "--out", "a")
    with struck(8):
        call(*words, "--out", "b", "--checkpoint-every", "4")
    short(monkeypatch)
    for at, engine, workers in ((16, "threads", "3"), (24, "ranks", "2")):
        with struck(at):
            result = call("resume", "b", "--engine", engine, "--workers", workers)
        assert result.exit_code == 143, result.output
    result = call("resume", "b", "--engine", "local")
    assert result.exit_code == 0 and result.stdout.count("goes on from round") == 2, result.output
    same_folders("a", "b")


@pytest.mark.slow
def test_a_compiled_run_goes_on_compiled() -> None:
    words = [*ASK, "--scenario", "drifting_logistic", "--algorithm", "gtadam", "--record", "x"]
    call(*words, "--out", "a")
    with struck(18):
        assert call(*words, "--out", "b", "--checkpoint-every", "5").exit_code == 143
    assert call("resume", "b").exit_code == 0
    same_folders("a", "b")
    call(*words, "--eager", "--out", "c")
    assert not np.array_equal(runs("b")["gtadam"]["x"], runs("c")["gtadam"]["x"]), "too alike to tell the modes apart"


def test_without_a_checkpoint_it_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    call(*ASK, "--out", "a")
    short(monkeypatch)
    with struck(8):
        call(*ASK, "--out", "b", "--checkpoint-every", "4")
    Path("b/checkpoint").unlink()
    result = call("resume", "b")
    assert result.exit_code == 0 and "gtadam has no checkpoint: it begins at round 0" in result.stdout, result.output
    same_folders("a", "b")


def test_a_checkpoint_of_replaced_results_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, folder = Experiment(**BASE), Path("b")

    def stopped(at: int, **settings: Any) -> None:
        with struck(at), stopping() as stop, contextlib.suppress(KeyboardInterrupt):
            problem = build(experiment)
            execution.execute_together(
                [problem], execution.Comparison.of(problem), folders=[folder], stop=stop, **settings
            )

    stopped(60, checkpoint_every=20)
    old = (folder / "checkpoint").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", lambda *_: None)
        stopped(30, checkpoint_every=10)  # anew, and killed before its first checkpoint
    assert (folder / "checkpoint").read_bytes() == old and len(runs(folder)["gtadam:lr=0.02"].rounds) == 10
    assert execution.whereabouts(folder, build(experiment)) is None
    same(execution.execute(experiment, folder=folder, resume=True), execution.execute(experiment))


def test_a_changed_file_is_refused_unless_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    short(monkeypatch)
    text = (Path(__file__).parents[2] / "examples" / "heavy_ball.py").read_text()
    Path("mine.py").write_text(text)
    with struck(8):
        call(*ASK, "--algorithm", "mine.py", "--out", "b", "--checkpoint-every", "4")
    Path("mine.py").write_text(text + "\n# changed\n")
    result = call("resume", "b")
    assert result.exit_code == 2 and "--force" in result.stderr and result.stderr.count("\n") == 1, result.output
    assert runs("b")["mine.py"].status == "interrupted"
    result = call("resume", "b", "--force")
    assert result.exit_code == 0 and "goes on from round" in result.stdout, result.output
    assert runs("b")["mine.py"].status == "done"


def test_what_cannot_be_resumed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    short(monkeypatch)
    with struck(8):
        call(*ASK, "--out", "b", "--checkpoint-every", "4")
    Path("empty").mkdir()
    shutil.copytree("b", "c")
    Path("c/experiment.toml").unlink()
    shutil.copytree("b", "d")
    problem = build(Experiment(**{**BASE, "algorithm": "gtadam", "trials": 1, "every": 1, "record": (), "rounds": 40}))
    found = checkpoint.load(Path("d"), problem, str(manifest.read_manifest(Path("d"))["id"]))
    assert found is not None
    checkpoint.save(Path("d"), problem, found.carry, dataclasses.replace(found.about, device="cuda"))
    Path("b/checkpoint").write_bytes(Path("b/checkpoint").read_bytes()[:-1])
    for words, message in (
        (
            ["d"],
            "d ran on cuda, whose bits differ from those of cpu; add --device, or --engine ranks --backend nccl, or --force",
        ),
        (["b"], "b/checkpoint: damaged or cut short (the checksum differs); to start again, remove it"),
        (["c"], "c: holds no experiment.toml"),
        (["nowhere"], "nowhere: no such folder"),
        (["empty"], "empty: holds no run"),
        (["b", "--workers", "2"], "--workers needs an engine that has workers"),
    ):
        result = call("resume", *words)
        assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1, result.output
    assert call("resume", "b", "--checkpoint-every", "0").exit_code == 2


def test_slow_rounds_make_short_stretches_and_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = execution.execute(Experiment(**BASE))
    taken: list[int] = []
    take = execution.Recording.take
    monkeypatch.setattr(
        execution.Recording, "take", lambda self, chunk: taken.append(chunk.stop - chunk.start) or take(self, chunk)
    )
    monkeypatch.setattr(runner, "FIRST_BYTES", BASE["trials"] * 6 * 2 * 8 * 4)
    monkeypatch.setattr(runner, "PATIENCE", 0.0)
    same(whole, execution.execute(Experiment(**BASE)))
    assert taken == [4, *[1] * 116]
