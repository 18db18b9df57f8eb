"""Networks that lose messages one way, are late or sleep: the same bits on one block, in threads, on ranks and in checkpoints, eager and compiled."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import needs
from helpers.battery import PARTITIONS, Case, differences, moves, on, posed, threads

import distopt
from distopt.engines import ranks

LOSSES = {"drop_messages": 0.3}
LATE = {"delay": "0..2", "drop_messages": 0.2}
CASES: list[tuple[Case, str, dict[str, Any]]] = [
    (Case("robust_push_diging:lr=0.01", "exact", "moving_target:dim=3", "float64", 2), "random_digraph:p=0.3", LOSSES),
    (Case("robust_push_diging:lr=0.01", "exact", "drifting_logistic", "float32"), "erdos_renyi", LOSSES),
    (Case("ab:lr=0.01,direction=adam", "exact", "moving_target:dim=3", "float32", 2), "random_digraph:p=0.3", LOSSES),
    (Case("gt:lr=0.01", "error_feedback:compressor=sign", "drifting_logistic", "float64", 2), "star", LOSSES),
    (Case("dgd:lr=0.01,form=atc", "exact", "moving_target:dim=3"), "complete", LOSSES),
    (Case("push_sum_sgd:lr=0.01", "exact", "moving_target:dim=3"), "one_peer_exponential", LOSSES),
    (Case("robust_push_diging:lr=0.01", "exact", "moving_target:dim=3", "float64", 2), "random_digraph:p=0.3", LATE),
    (Case("gt:lr=0.01,form=atc", "naive:compressor=qsgd", "drifting_logistic", "float32"), "star", {"delay": 1}),
    (Case("gtadam:lr=0.01", "exact", "moving_target:dim=3", "float64", 2), "ring", {"sleep": 0.3}),
    (Case("robust_push_diging:lr=0.01", "exact", "drifting_logistic"), "random_digraph:p=0.3", {"sleep": 0.3}),
]
PLACED = [pytest.param(k, *each, id=f"{each[0]} {each[1]} {each[2]}") for k, each in enumerate(CASES)]


@pytest.mark.parametrize(("k", "case", "network", "faults"), PLACED)
def test_threads_have_the_bits_of_one_block(k: int, case: Case, network: str, faults: dict[str, Any]) -> None:
    problems = posed(case, network=network, **faults)
    alone = on(problems)
    assert moves(alone)
    assert not np.array_equal(alone.run["x"], on(posed(case, network=network)).run["x"])
    part = PARTITIONS[list(PARTITIONS)[k % len(PARTITIONS)]]
    assert differences(alone, on(problems, threads(part, shuffled=True, seed=k))) == []


@needs.forks
@pytest.mark.parametrize(("k", "case", "network", "faults"), [PLACED[k] for k in (0, 3, 6, 8)])
def test_ranks_have_the_bits_of_one_block(k: int, case: Case, network: str, faults: dict[str, Any]) -> None:
    problems = posed(case, network=network, **faults)
    assert differences(on(problems), on(problems, partial(ranks.ranks, workers=3, timeout=20))) == []


@pytest.mark.parametrize(("k", "case", "network", "faults"), [PLACED[k] for k in (0, 2, 3, 6, 7, 8)])
def test_compiled_threads_have_the_bits_of_one_compiled_block(
    k: int, case: Case, network: str, faults: dict[str, Any]
) -> None:
    problems = posed(case, network=network, agents=6, rounds=4, **faults)
    alone = on(problems, mode="compiled")
    parts = distopt.engines.workers.partition.Partition.even(6, 3)
    assert differences(alone, on(problems, threads(parts), mode="compiled")) == []
    np.testing.assert_allclose(alone.run["x"], on(problems).run["x"], rtol=1e-4 if case.dtype == "float32" else 1e-10)


@pytest.mark.parametrize("faults", [LOSSES, LATE, {"sleep": 0.3}], ids=str)
def test_a_grid_has_the_bits_of_its_points_and_a_folder_those_of_memory(faults: dict[str, Any], tmp_path: Path) -> None:
    ask = {"agents": 6, "scenario": "moving_target", "rounds": 30, "trials": 2, "record": "x", **faults}
    both = distopt.simulate("random_digraph:p=0.5", algorithm="robust_push_diging:lr=[0.02,0.05]", **ask)
    for label, run in both.items():
        assert np.array_equal(run["x"], distopt.simulate("random_digraph:p=0.5", algorithm=label, **ask)["x"])
    out = distopt.simulate(
        "random_digraph:p=0.5", algorithm="robust_push_diging:lr=0.02", out=tmp_path / "o", checkpoint_every=10, **ask
    )
    assert np.array_equal(out["x"], both["robust_push_diging:lr=0.02"]["x"])
    again = distopt.load(tmp_path / "o")
    assert np.array_equal(again["x"], out["x"])
    assert {name: again.info["experiment"][name] for name in faults} == faults
