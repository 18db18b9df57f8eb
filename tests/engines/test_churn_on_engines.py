"""Networks whose agents leave and join: the same bits on one block, in threads, on ranks, in grids and in folders that go on, eager and compiled."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import needs
from helpers.battery import PARTITIONS, Case, Problems, differences, moves, on, posed, threads

import distopt
from distopt.engines import ranks
from distopt.engines.workers.partition import Partition
from distopt.runs.execution import Comparison

CHURN = {"churn": "leave=0.3,join=0.4"}
CASES: list[tuple[Case, str, dict[str, Any]]] = [
    (Case("gt:lr=0.01", "exact", "moving_target:dim=3", "float64", 2), "erdos_renyi", CHURN),
    (Case("gtadam:lr=0.01", "exact", "drifting_logistic", "float32"), "star", CHURN),
    (Case("gt:lr=0.01,form=atc", "naive:compressor=qsgd", "moving_target:dim=3"), "complete", CHURN),
    (Case("extra:lr=0.01", "exact", "moving_target:dim=3", "float64", 2), "ring", {**CHURN, "drop_links": 0.2}),
    (Case("dgd:lr=0.01", "exact", "moving_target:dim=3", "float32", 2), "ring", {**CHURN, "drop_messages": 0.2}),
]
PLACED = [pytest.param(k, *each, id=f"{each[0]} {each[1]} {each[2]}") for k, each in enumerate(CASES)]


def asked(case: Case, network: str, settings: dict[str, Any], **more: Any) -> Problems:
    """The problem of a case; the costs of those who are there have a comparator of their own."""
    problem = posed(case, network=network, **settings, **more).problem
    return Problems(problem, Comparison.of(problem))


@pytest.mark.parametrize(("k", "case", "network", "settings"), PLACED)
def test_threads_have_the_bits_of_one_block(k: int, case: Case, network: str, settings: dict[str, Any]) -> None:
    problems = asked(case, network, settings)
    alone = on(problems)
    assert moves(alone)
    assert not np.array_equal(alone.run["x"], on(posed(case, network=network)).run["x"])
    part = PARTITIONS[list(PARTITIONS)[k % len(PARTITIONS)]]
    assert differences(alone, on(problems, threads(part, shuffled=True, seed=k))) == []


@needs.forks
@pytest.mark.parametrize(("k", "case", "network", "settings"), [PLACED[k] for k in (0, 1)])
def test_ranks_have_the_bits_of_one_block(k: int, case: Case, network: str, settings: dict[str, Any]) -> None:
    problems = asked(case, network, settings)
    assert differences(on(problems), on(problems, partial(ranks.ranks, workers=3, timeout=20))) == []


@pytest.mark.parametrize(("k", "case", "network", "settings"), PLACED)
def test_compiled_threads_have_the_bits_of_one_compiled_block(
    k: int, case: Case, network: str, settings: dict[str, Any]
) -> None:
    problems = asked(case, network, settings, agents=6, rounds=6)
    alone = on(problems, mode="compiled")
    assert differences(alone, on(problems, threads(Partition.even(6, 3)), mode="compiled")) == []
    np.testing.assert_allclose(alone.run["x"], on(problems).run["x"], rtol=1e-4 if case.dtype == "float32" else 1e-10)


def test_a_grid_has_the_bits_of_its_points_and_a_folder_those_of_memory(tmp_path: Path) -> None:
    ask: dict[str, Any] = {"agents": 6, "scenario": "moving_target", "rounds": 30, "trials": 2, "record": "x", **CHURN}
    both = distopt.simulate("ring", algorithm="gt:lr=[0.02,0.05]", **ask)
    for label, run in both.items():
        alone = distopt.simulate("ring", algorithm=label, **ask)
        assert all(np.array_equal(run[name], alone[name], equal_nan=True) for name in (*run.metrics, "x"))
    out = distopt.simulate("ring", algorithm="gt:lr=0.02", out=tmp_path / "o", checkpoint_every=10, **ask)
    assert np.array_equal(out["x"], both["gt:lr=0.02"]["x"])
    again = distopt.load(tmp_path / "o")
    assert np.array_equal(again["x"], out["x"])
    assert again.info["experiment"]["churn"] == "leave=0.3,join=0.4"


def test_costs_that_are_not_compiled_and_algorithms_compared_on_them() -> None:
    ask: dict[str, Any] = {"agents": 4, "scenario": "digits_mlp", "rounds": 6, "record": "x", **CHURN}
    runs = distopt.simulate("ring", algorithm=["gt:lr=0.05", "dgd:lr=0.05"], **ask)
    for label, run in runs.items():
        eager = distopt.simulate("ring", algorithm=label, mode="eager", **ask)
        np.testing.assert_allclose(run["x"], eager["x"], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(run["cost"], eager["cost"], rtol=1e-6)
    assert runs["gt:lr=0.05"]["tracker_invariant"].max() < 1e-12
