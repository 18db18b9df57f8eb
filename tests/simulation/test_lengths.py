"""Runs of several lengths on the same scenario, in memory and in one folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.asking import call, many

import distopt
from distopt.errors import InputError
from distopt.experiment import Experiment, read_toml
from distopt.runs.execution import Asked, Comparisons, batched
from distopt.runs.folder import opened
from distopt.simulation.problem import build


def test_problems_of_other_lengths_have_comparators_of_their_own() -> None:
    first = build(Experiment("ring", 4, "moving_target", "dgd:lr=0.02", rounds=40))
    problems = [first, build(Experiment("ring", 4, "moving_target", "dgd:lr=0.05", rounds=25), first)]
    found = {
        k: run
        for batch, runs in batched(problems, Comparisons(), Asked("eager"))
        for k, run in zip(batch, runs, strict=True)
    }
    for k, (lr, rounds) in enumerate(((0.02, 40), (0.05, 25))):
        alone = distopt.simulate(
            "ring", agents=4, scenario="moving_target", algorithm=f"dgd:lr={lr}", rounds=rounds, mode="eager"
        )
        assert all(np.array_equal(found[k][name], alone[name], equal_nan=True) for name in alone)


def test_a_folder_of_several_lengths_goes_on_and_is_run_again(own_folder: None) -> None:
    each = [Experiment("ring", 4, "moving_target", name, rounds=n) for name, n in (("gt", 9), ("k_gt", 5), ("dgd", 9))]
    with opened(each, Path("o"), Asked("eager")) as folder:
        folder.run()
        folder.report()
    assert read_toml(Path("o/experiment.toml")) == each
    assert {label: len(run.rounds) for label, run in many("o").items()} == {"gt": 9, "k_gt": 5, "dgd": 9}
    assert call("resume", "o").stdout == "nothing to resume: o is finished\n"
    Path("o/k_gt/manifest.json").unlink()
    for chunk in Path("o/k_gt").glob("chunk-*"):
        chunk.unlink()
    assert call("resume", "o").exit_code == 0 and len(many("o")["k_gt"].rounds) == 5
    assert call("simulate", "o/experiment.toml", "--eager", "--out", "again").exit_code == 0
    for label, run in many("again").items():
        np.testing.assert_array_equal(run["dynamic_regret"], many("o")[label]["dynamic_regret"])


def test_as_many_lengths_as_algorithms(own_folder: None) -> None:
    text = 'topology = "ring"\nagents = 4\nscenario = "moving_target"\nalgorithm = ["gt", "dgd"]\nrounds = [3]\n'
    Path("e.toml").write_text(text)
    said = "e.toml: rounds is a list of 1 for 2 algorithms; give one number for all, or one for each"
    with pytest.raises(InputError, match=f"^{said}$"):
        read_toml(Path("e.toml"))
    assert call("simulate", "e.toml").stderr == f"distopt: {said}\n"
    assert call("simulate", "e.toml", "--rounds", "4", "--eager", "--out", "o").exit_code == 0
