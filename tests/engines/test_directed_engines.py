"""Directed networks, where each channel has weights of its own: the same bits on one block, in threads and on ranks."""

from __future__ import annotations

from functools import partial

import pytest
from helpers import needs
from helpers.battery import CHOCO, PARTITIONS, Case, differences, moves, on, posed, threads

from distopt.engines import ranks

TOPOLOGIES = ("random_digraph:p=0.3", "directed_exponential", "directed_ring")
CASES = [
    Case("ab:lr=0.01", "exact", "moving_target:dim=3"),
    Case("ab:lr=0.01,direction=adam", "exact", "drifting_logistic", "float32", 2),
    Case("ab:lr=0.01,form=atc", CHOCO, "moving_target:dim=3"),
    Case("push_diging:lr=0.01", "exact", "drifting_logistic", "float64", 2),
    Case("push_diging:lr=0.01", CHOCO, "moving_target:dim=3", "float32"),
    Case("push_sum_sgd:lr=0.01,direction=momentum", "exact", "moving_target:dim=3", "float32", 2),
    Case("subgradient_push:lr=inverse_sqrt(0.05)", "exact", "drifting_logistic"),
    Case("dgd:lr=0.01", "exact", "moving_target:dim=3"),
]
PLACED = [pytest.param(k, case, id=str(case)) for k, case in enumerate(CASES)]


@pytest.mark.parametrize(("k", "case"), PLACED)
def test_threads_have_the_bits_of_one_block(k: int, case: Case) -> None:
    for seed, name in enumerate((TOPOLOGIES[0], TOPOLOGIES[1 + k % 2])):
        problems = posed(case, network=name)
        alone = on(problems)
        assert moves(alone)
        part = PARTITIONS[list(PARTITIONS)[(k + 2 * seed) % len(PARTITIONS)]]
        assert differences(alone, on(problems, threads(part, shuffled=True, seed=k))) == [], name


@needs.forks
@pytest.mark.parametrize(
    ("k", "case"),
    PLACED[:1] + PLACED[3:4] + [pytest.param(*p.values, id=p.id, marks=pytest.mark.slow) for p in PLACED[5:]],
)
def test_ranks_have_the_bits_of_one_block(k: int, case: Case) -> None:
    problems = posed(case, network=TOPOLOGIES[0])
    alone = on(problems)
    assert differences(alone, on(problems, partial(ranks.ranks, workers=2 + 2 * (k % 2), timeout=20))) == []


@pytest.mark.slow
@pytest.mark.parametrize(("k", "case"), PLACED)
def test_compiled_threads_have_the_bits_of_one_compiled_block(k: int, case: Case) -> None:
    problems = posed(case, network=TOPOLOGIES[0])
    alone = on(problems, mode="compiled")
    assert differences(alone, on(problems, threads(PARTITIONS["3"]), mode="compiled")) == []
