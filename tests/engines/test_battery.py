"""The equality battery: every algorithm, with exact messages and with signs, has the same bits on one block, in threads and on ranks.

tests/engines/test_ray.py holds the same cases for actors, on the cluster that its tests share, and tests/engines/test_segments.py compiles them.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from helpers import needs
from helpers.battery import (
    CHOCO,
    MATRICES,
    PARTITIONS,
    VECTORS,
    Case,
    cases,
    differences,
    moves,
    on,
    posed,
    threads,
)
from helpers.spelling import samples
from torch import Tensor

from distopt.catalog import registry
from distopt.engines import ranks
from distopt.engines.workers import agents, exchange
from distopt.engines.workers.halo import Halo, halo
from distopt.network import rows as table
from distopt.numerics import sums as tree
from distopt.numerics.trees import tensors, tree_map
from distopt.scenarios import _logistic


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


def test_every_algorithm_meets_both_channels_both_kinds_of_gradient_and_both_precisions() -> None:
    named = [(registry.Spec.parse(case.algorithm).name, case) for case in cases()]
    for name in registry.names("algorithms"):
        mine = [case for each, case in named if each == name]
        brings = registry.make("algorithms", name).channel is not None
        assert {case.channel for case in mine} == ({"exact"} if brings else {"exact", CHOCO})
        for channel in {case.channel for case in mine}:
            met = {case.scenario in MATRICES for case in mine if case.channel == channel}
            assert met == ({False} if samples(name) else {True, False})
        assert {case.dtype for case in mine} == {"float32", "float64"} and {case.trials for case in mine} == {1, 2}
    assert {case.scenario for _, case in named} == {MATRICES[0], *VECTORS}


def quick(case: Case) -> bool:
    """One case of each algorithm, for those who cannot wait for all."""
    return case.scenario in VECTORS and case.channel == "exact" and "compressor=" not in case.algorithm


PLACED = [
    pytest.param(k, case, marks=[] if quick(case) else [pytest.mark.slow], id=str(case))
    for k, case in enumerate(cases())
]


def partitions(k: int) -> list[str]:
    """Two for a case; the four cases of an algorithm, which follow one another, meet all of them."""
    names = list(PARTITIONS)
    return [names[k % len(names)], names[(k + 2) % len(names)]]


@pytest.mark.slow
def test_the_cases_of_each_algorithm_meet_every_partition() -> None:
    for first in range(0, len(cases()), 4):
        assert {name for k in range(first, first + 4) for name in partitions(k)} == set(PARTITIONS)
        assert len({registry.Spec.parse(case.algorithm).name for case in cases()[first : first + 4]}) == 1


@pytest.mark.parametrize(("k", "case"), PLACED)
def test_threads_have_the_bits_of_one_block_however_late_their_messages_come(k: int, case: Case) -> None:
    problems = posed(case)
    alone = on(problems)
    assert moves(alone)
    for seed, name in enumerate(partitions(k)):
        delayed = threads(PARTITIONS[name], shuffled=True, seed=k + seed)
        assert differences(alone, on(problems, delayed)) == [], name


@needs.forks
@pytest.mark.parametrize(("k", "case"), PLACED)
def test_ranks_have_the_bits_of_one_block(k: int, case: Case) -> None:
    problems = posed(case)
    alone = on(problems)
    assert moves(alone)
    assert differences(alone, on(problems, partial(ranks.ranks, workers=2 + 2 * (k % 2), timeout=20))) == []


# What would be noticed


def test_the_battery_notices_another_order_of_summation(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = posed(Case("gtadam:lr=0.01", "exact", "drifting_logistic"))
    alone = on(problem)

    def backwards(rows: table.Table, z: Tensor) -> Tensor:
        return table.apply(rows._replace(index=rows.index.flip(-1), weight=rows.weight.flip(-1)), z)

    monkeypatch.setattr(exchange, "apply", backwards)
    assert "x" in differences(alone, on(problem, threads(PARTITIONS["3"])))


def test_the_battery_notices_metrics_summed_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = posed(Case("gtadam:lr=0.01", "exact", "drifting_logistic"), rounds=20)
    alone = on(problem)
    monkeypatch.setattr(tree, "combine", lambda sums, places, total: sums.sum(-2, keepdim=True))
    found = differences(alone, on(problem, threads(PARTITIONS["5"])))
    assert found and "x" not in found


def test_the_battery_notices_swapped_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """x and s have one shape: taken in the order of arrival instead of by name, nothing else would complain."""
    problem = posed(Case("aug_dgm:lr=0.01", "exact", "moving_target:dim=3"))
    alone = on(problem)
    right = exchange.HaloExchange.send

    def swapped(self: exchange.HaloExchange, stage: str, rows: Any) -> None:
        right(self, stage, rows[::-1] if len(rows) > 1 else rows)

    assert differences(alone, on(problem, threads(PARTITIONS["3"]))) == []
    together = posed(Case("gt:lr=0.01", "exact", "moving_target:dim=3"))
    whole = on(together)
    monkeypatch.setattr(exchange.HaloExchange, "send", swapped)
    assert "x" in differences(whole, on(together, threads(PARTITIONS["3"])))


def test_the_battery_notices_a_row_from_the_wrong_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = posed(Case("gtadam:lr=0.01", "exact", "moving_target:dim=3"))
    alone = on(problem)

    def wrong(*args: Any) -> Halo:
        right = halo(*args)
        wide = [torch.arange(right.width) if order is None else order for order in right.order]
        return dataclasses.replace(right, order=tuple(order.flip(-1) for order in wide))

    monkeypatch.setattr(agents, "halo", wrong)
    assert "x" in differences(alone, on(problem, threads(PARTITIONS["3"])))


@pytest.mark.parametrize("scenario", [*MATRICES, VECTORS[0]])
def test_the_battery_notices_a_gradient_that_is_summed_in_another_order_for_one_agent(
    scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As BLAS does, which takes another path for a batch of one matrix."""
    problem = posed(Case("gtadam:lr=0.01", "exact", scenario))
    alone = on(problem)

    def turned(x: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
        return (x.flip(-1), X.flip(-1)) if x.shape[1] == 1 else (x, X)

    margin, scores = _logistic._margin, _logistic._scores
    monkeypatch.setattr(_logistic, "_margin", lambda x, X, y: margin(*turned(x, X), y))

    def of_classes(x: Tensor, X: Tensor) -> Tensor:
        s = scores(*turned(x, X))
        return s.flip(-1) if x.shape[1] == 1 else s

    monkeypatch.setattr(_logistic, "_scores", of_classes)
    assert differences(alone, on(problem, threads(PARTITIONS["3"]))) == []  # no block of one agent
    assert "x" in differences(alone, on(problem, threads(PARTITIONS["13"])))


def test_the_battery_notices_each_leaf_of_x_state_and_memory() -> None:
    outcome = on(posed(Case("gtadam:lr=0.01", CHOCO, "moving_target:dim=3")))
    leaves = tensors(outcome.held)
    assert len(tensors(outcome.held.state)) > 0 and len(tensors(outcome.held.memory)) > 0
    for k, leaf in enumerate(leaves):
        other = outcome._replace(
            held=tree_map(
                lambda each, leaf=leaf: torch.nextafter(each, each + 1) if each is leaf else each, outcome.held
            )
        )
        assert differences(outcome, other) == [f"leaf {k}"]
