"""Every direction rule has the same bits on one block, in threads and on ranks, in eager rounds and in compiled ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from helpers import needs
from helpers.battery import PARTITIONS, Case, differences, moves, on, posed, threads

from distopt.catalog import registry
from distopt.engines import ranks
from distopt.engines.local import local

SPECS = [
    *registry.names("directions"),
    "aida(p=2.0,q=1.0,eps_inside=false,decay=0.1)",
    "adan(decay=0.1,clip=1.0)",
    "padam(p=0.3,amsgrad=false,decay=0.1)",
]
CASES = [
    pytest.param(
        Case(
            f"gt:lr=0.02,direction={spec}",
            "exact",
            "moving_target:dim=3",
            ("float64", "float32")[k % 2],
            1 + k // 2 % 2,
        ),
        id=spec,
    )
    for k, spec in enumerate(SPECS)
]


@pytest.mark.parametrize("case", CASES)
def test_eager_rounds_have_the_bits_of_one_block_in_threads(case: Case) -> None:
    problems = posed(case, rounds=12)
    alone = on(problems)
    assert moves(alone)
    for name in ("3", "scattered"):
        assert differences(alone, on(problems, threads(PARTITIONS[name]))) == [], name


@needs.forks
@pytest.mark.parametrize("case", CASES)
def test_eager_rounds_have_the_bits_of_one_block_on_ranks(case: Case) -> None:
    problems = posed(case, rounds=12)
    assert differences(on(problems), on(problems, partial(ranks.ranks, workers=2, timeout=20))) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_compiled_rounds_have_the_bits_of_one_block_in_threads(case: Case) -> None:
    settings: dict[str, Any] = {"network": "ring", "rounds": 12}
    problems = posed(case, **settings)
    alone = on(problems, local, "compiled")
    assert moves(alone)
    assert differences(alone, on(problems, threads(PARTITIONS["3"]), "compiled")) == []
