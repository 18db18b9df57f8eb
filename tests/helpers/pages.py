"""Parts of ``distopt reproduce`` in a short form: their results, tables, verdicts and figures."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from distopt import reproduce
from distopt.reproduce.store import Store


def shortened(monkeypatch: pytest.MonkeyPatch, module: Any, **values: Any) -> None:
    """Other constants in a module, until the test ends."""
    for name, value in values.items():
        monkeypatch.setattr(module, name, value)


def measured(store: Store, paper: str, name: str) -> Any:
    """The results of a part; its table, verdicts and figure are made, too."""
    part = reproduce.parts(paper)[name]
    results = part.measure(store, None, lambda text: None)
    rows, verdicts = part.rows(results), part.verdicts(results)
    assert rows and {row["claim"] for row in rows} == {verdict.claim for verdict in verdicts}
    module, _, drawing = part.figure.partition(":")
    figure = getattr(importlib.import_module(f"distopt.report.{module}"), drawing)(results)
    assert all(panel.lines or panel.collections or not panel.axison for panel in figure.axes)
    return results


def outcomes(paper: str, name: str, results: Any) -> list[str]:
    """What the verdicts of a part say of some results."""
    return [verdict.outcome for verdict in reproduce.parts(paper)[name].verdicts(results)]
