"""Networks that lose messages, are late or sleep have the same bits on Ray actors. conftest.py keeps the tests of a cluster in one process."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from helpers.battery import Problems, differences, moves, on
from helpers.ranks import made

from distopt import engines
from distopt.runs.execution import Comparison

pytestmark = pytest.mark.usefixtures("cluster_is_free")


@pytest.mark.slow
@pytest.mark.parametrize(
    "faults", [{"drop_messages": 0.3, "delay": "0..2"}, {"drop_messages": 0.2, "sleep": 0.2}], ids=str
)
def test_actors_have_the_bits_of_one_block(faults: dict[str, Any]) -> None:
    problem = made("random_digraph:p=0.3", algorithm="robust_push_diging:lr=0.01", **faults)
    problems = Problems(problem, Comparison.of(problem))
    alone = on(problems)
    assert moves(alone)
    assert differences(alone, on(problems, partial(engines.make, "ray:workers=2,timeout=300"))) == []
