"""The table of docs/metrics.md is what the metrics say of themselves."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from distopt.metrics import Metric, catalogue

PAGE = Path(__file__).parent.parent.parent / "docs" / "metrics.md"
HEAD = "| name | value at round t | unit | summed | average | baselines |"


def row(name: str, metric: Metric) -> str:
    text = " ".join((inspect.getdoc(type(metric)) or "").split()).replace("|", r"\|")
    marks = ("yes" if mark else "" for mark in (metric.cumulative, metric.averaged))
    return (
        "| "
        + " | ".join([f"`{name}`", text, metric.unit, *marks, ", ".join(f"`{b}`" for b in metric.baselines)])
        + " |"
    )


def table() -> str:
    rows = [row(name, metric) for name, metric in catalogue().items() if metric.stored or name == "cost"]
    return "\n".join([HEAD, "| --- | --- | --- | --- | --- | --- |", *rows])


def test_the_page_has_the_table_of_the_metrics() -> None:
    text = PAGE.read_text()
    there = text[text.index(HEAD) :].split("\n\n", 1)[0]
    assert there == table(), f"replace the table of {PAGE.name} by:\n{table()}"


def test_the_metric_of_the_page_is_the_example() -> None:
    (text,) = re.findall(r"```python\n# examples/own_cost.py\n(.*?)```", PAGE.read_text(), re.S)
    assert text in (PAGE.parent.parent / "examples" / "own_cost.py").read_text()


def test_every_metric_says_what_it_is_called_and_its_baselines_are_metrics() -> None:
    for name, metric in catalogue().items():
        assert metric.title, name
        for each in metric.baselines:
            assert catalogue()[each].label, f"{each} is a baseline of {name} without a label"
