"""Runs and checkpoints of earlier versions, whose baselines had other names and which measured less."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.surviving import BASE

import distopt
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.metrics import RENAMED, catalogue
from distopt.runs import checkpoint, execution
from distopt.runs.loading import load, stored
from distopt.runs.manifest import MANIFEST, manifest_text
from distopt.runs.results import Run
from distopt.simulation import runner

LATER = {
    "gradients",
    "messages",
    "relative_cost_error",
    "regret_gap",
    "dynamic_regret_low",
    "dynamic_regret_high",
}
"""Metrics that earlier versions did not have."""


def earlier(values: dict[str, Any]) -> dict[str, Any]:
    """The same by the names of earlier versions, and without what they did not have."""
    before = {new: old for old, new in RENAMED.items()}
    return {before.get(name, name): value for name, value in values.items() if name not in LATER}


def test_an_old_run_has_the_new_names(tmp_path: Path) -> None:
    run = distopt.simulate("ring", agents=4, scenario="hyperplane", algorithm="gt", rounds=9, trials=2)
    old = Run(run.label, run.status, run.rounds, earlier(dict(run.metrics)), {}, run.info)
    old.info["left_out"] = {"regret_no_change": "of old"}
    assert {"regret_no_change", "accuracy_no_change"} <= old.metrics.keys()
    old.save(tmp_path)
    for again in (load(tmp_path), stored(tmp_path)):
        assert isinstance(again, Run)
        assert set(again.metrics) == set(run.metrics) - LATER
        for name in again.metrics:
            assert np.array_equal(again[name], run[name], equal_nan=True), name
        assert np.array_equal(again["average_regret_previous_optimum"], run["average_regret_previous_optimum"])
        assert again.info["left_out"] == {"regret_previous_optimum": "of old"}


def test_an_old_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first part is written as an earlier version wrote it."""
    experiment = Experiment(**BASE)
    whole = execution.execute(experiment, mode="eager")

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "rounds" and done >= 60:
            raise KeyboardInterrupt

    save, made = checkpoint.save, runner._chunk

    def old_save(folder: Path, problem: Any, carry: Any, about: Any) -> None:
        save(folder, problem, carry._replace(totals=earlier(carry.totals)), about)

    def old_chunk(*each: Any) -> runner.Chunk:
        chunk = made(*each)
        return runner.Chunk(**{**vars(chunk), "metrics": earlier(chunk.metrics)})

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", old_save)
        patch.setattr(runner, "_chunk", old_chunk)
        with pytest.raises(KeyboardInterrupt):
            execution.execute(experiment, folder=tmp_path, mode="eager", checkpoint_every=20, progress=stop)
    again = execution.execute(experiment, folder=tmp_path, mode="eager", checkpoint_every=20, resume=True)
    assert set(again.metrics) == set(whole.metrics) - LATER
    for name in again.metrics:
        assert np.array_equal(again[name], whole[name], equal_nan=True), name
    for name in LATER:
        with pytest.raises(KeyError, match="begun by a version that did not"):
            again[name]


def test_every_metric_has_one_name() -> None:
    assert set(RENAMED.values()) <= catalogue().keys() and not set(RENAMED) & catalogue().keys()


@pytest.mark.parametrize(
    "said",
    [
        3,
        {"mine": 3},
        {"mine": {"unit": 3}},
        {"mine": {"term": "x"}},
        {"mine": {"head": [1]}},
        {"mine": {"column": True}},
    ],
)
def test_what_no_metric_says_of_itself_is_refused(tmp_path: Path, said: Any) -> None:
    run = distopt.simulate("ring", agents=4, scenario="moving_target", algorithm="gt", rounds=3)
    run.save(tmp_path)
    path = tmp_path / MANIFEST
    content = json.loads(path.read_text())
    path.write_text(manifest_text({**{key: content[key] for key in content if key != "sha256"}, "metrics": said}))
    with pytest.raises(InputError, match="metrics cannot be"):
        load(tmp_path)
