"""Compiled rounds of workers have the bits of those of one block that are compiled as one function: in threads and on ranks."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from helpers import needs
from helpers.battery import (
    CHOCO,
    MATRICES,
    PARTITIONS,
    VECTORS,
    Case,
    N,
    cases,
    differences,
    moves,
    on,
    posed,
    threads,
)

from distopt.engines import ranks
from distopt.engines.local import local
from distopt.engines.workers.partition import Partition
from distopt.runs.execution import MakeEngine

NAMES = list(PARTITIONS)


def alike(case: Case, *engines: MakeEngine, **settings: Any) -> None:
    problems = posed(case, **settings)
    alone = on(problems, local, "compiled")
    assert moves(alone)
    for engine in engines:
        assert differences(alone, on(problems, engine, "compiled")) == []


def quick(case: Case) -> bool:
    """One case of each algorithm, for those who cannot wait for all."""
    return case.scenario in VECTORS and case.channel == "exact" and "compressor=" not in case.algorithm


def placed(turn: int) -> list[Any]:
    """The cases, with all but the quick ones of every second algorithm in the battery: threads and ranks take turns, since each compiles anew."""
    return [
        pytest.param(k, case, marks=[] if quick(case) and k // 4 % 2 == turn else [pytest.mark.battery], id=str(case))
        for k, case in enumerate(cases(MATRICES[1]))
    ]


@pytest.mark.parametrize(("k", "case"), placed(0))
def test_threads_have_the_bits_of_one_block_however_late_their_messages_come(k: int, case: Case) -> None:
    delayed = [threads(PARTITIONS[NAMES[(k + more) % len(NAMES)]], shuffled=True, seed=k) for more in (0, 2)]
    alike(case, *delayed)


@needs.forks
@pytest.mark.slow
@pytest.mark.parametrize(("k", "case"), placed(1))
def test_ranks_have_the_bits_of_one_block(k: int, case: Case) -> None:
    alike(case, partial(ranks.ranks, workers=2 + 2 * (k % 2), timeout=60))


MOVING, LOGISTIC = VECTORS[1], VECTORS[0]
NETWORKS: list[tuple[Case, dict[str, Any]]] = [
    (Case("gtadam:lr=0.01", "exact", MOVING, trials=2), {"network": "one_peer_exponential"}),
    (Case("gt:lr=0.01,form=atc", "exact", MOVING, "float32", 2), {"network": "random_matching"}),
    (Case("gtadam:lr=0.01", "exact", MOVING, trials=3), {"network": "resampled_erdos_renyi"}),
    (Case("gt:lr=0.01", "error_feedback(topk)", MOVING), {"network": "ring", "drop_links": 0.3}),
    (Case("gtadam:lr=0.01", "exact", MOVING, trials=2), {"network": "star", "agents": 40}),
    (Case("gtadam:lr=0.01", "exact", MOVING), {"network": "complete"}),
    (Case("gtadam:lr=0.01", "exact", MOVING), {"network": "grid"}),
]
CHANNELS: list[tuple[Case, dict[str, Any]]] = [
    (Case("gt:lr=0.01", channel, MOVING, dtype), {"network": "ring"})
    for channel, dtype in [
        ("choco(sign)", "float64"),
        ("choco(natural)", "float32"),
        ("comm(qsgd)", "float64"),
        ("naive(dither)", "float32"),
        ("choco(cast)", "float64"),
        ("choco(randomk)", "float32"),
        ("choco(lowrank)", "float64"),
        ("error_feedback(topk)", "float64"),
        ("choco:compressor=sign,resync=2", "float64"),
    ]
]
OTHERS: list[tuple[Case, dict[str, Any]]] = [
    (Case("powergossip:lr=0.01", "exact", "moving_target:dim=7"), {"network": "ring"}),
    (Case("gt:lr=cosine:lr=0.02", "exact", MOVING), {"network": "ring"}),
    (Case("gt:lr=step:lr=0.02", f"{CHOCO},resync=4", LOGISTIC), {"network": "ring"}),
    (Case("gtadam:lr=0.01", "exact", "quadratic"), {"network": "ring"}),
    (Case("gtadam:lr=0.01", "exact", "localization"), {"network": "ring"}),
    (Case("gt:direction=amsgrad", "exact", MOVING, "float32"), {"network": "ring"}),
    (Case("gt:direction=nesterov", "exact", MOVING), {"network": "ring"}),
]


@pytest.mark.parametrize(("case", "settings"), [*NETWORKS, *CHANNELS, *OTHERS], ids=str)
def test_other_parts_have_the_same_bits_in_threads(case: Case, settings: dict[str, Any]) -> None:
    agents = settings.get("agents", N)
    alike(case, *(threads(Partition.even(agents, workers)) for workers in (1, 3)), **settings)


@needs.forks
@pytest.mark.parametrize(("case", "settings"), [NETWORKS[1], NETWORKS[4], CHANNELS[2]], ids=str)
def test_other_parts_have_the_same_bits_on_ranks(case: Case, settings: dict[str, Any]) -> None:
    alike(case, partial(ranks.ranks, workers=2, timeout=60), **settings)
