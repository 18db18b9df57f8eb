"""The tables that set PyNOL and disropt beside distopt say what the log says."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def peers() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("online_peers")


@pytest.fixture
def found() -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / "online_peers.json").read_text())


def test_pages_have_the_tables_of_the_log(peers: ModuleType, found: Any) -> None:
    assert [page.name for page, _ in peers.pages(found)] == ["online.md", "directed.md"]
    for page, text in peers.pages(found):
        assert page.read_text() == text, "run python benchmarks/online_peers.py --log"


def test_points_agree_where_recursions_do(peers: ModuleType, found: Any) -> None:
    rows = [
        (part, row.get("graph"), row["ours"], row["gap"])
        for part in ("learners", "directed")
        for row in found[part]["rows"]
    ]
    assert len(rows) == len(peers.LEARNERS) + len(peers.GRAPHS) * len(peers.DIRECTED)
    far = [row[:3] for row in rows if row[3] > peers.TOLERANCE]
    assert far == [peers.ANOTHER]
    alone = [row for row in found["learners"]["rows"] if "ader" not in row["ours"]]  # a mean of experts stays inside
    assert len(alone) == 3 and all(row["on_the_edge"] for row in alone), "the set is felt"


def test_without_other_packages_there_is_a_line(peers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTOPT_PEERS", raising=False)
    assert (
        peers.answer("disropt", {"a": np.ones(1)}) == "disropt: skipped; DISTOPT_PEERS must name a Python that has it"
    )
