"""Titles of figures and labels of lines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from distopt.catalog import registry
from distopt.metrics import Metric
from distopt.runs.results import Run


def short(label: str, width: int = 60) -> str:
    """A run's label for a narrow place: the path of a user's file shrinks to its stem, long parameters end in an ellipsis.

    >>> short("experiments/mine.py:lr=0.1")
    'mine:lr=0.1'
    """
    text = registry.brief(label)
    return text if len(text) <= width else text[: width - 1] + "…"


def common_start(labels: Sequence[str]) -> str:
    """The common start of all labels, up to a ``:`` or ``,``: the part that the points of a grid share.

    >>> common_start(["gt:form=atc,lr=0.1", "gt:form=atc,lr=0.2"]), common_start(["gt", "gtadam"])
    ('gt:form=atc,', '')
    """
    pairs = takewhile(
        lambda pair: pair[0] == pair[1], zip(min(labels), max(labels), strict=False)
    )  # the two that differ first
    start = "".join(char for char, _ in pairs)
    return start[: max(start.rfind(":"), start.rfind(",")) + 1] if ":" in start else ""


def heading(series: str, metric: Metric) -> str:
    """The title of a figure of a metric, or of its average over time.

    >>> from distopt.metrics import about
    >>> heading("average_dynamic_regret", about("dynamic_regret"))
    'Average dynamic regret'
    """
    if metric.smoothed:
        return f"{metric.title}, mean over the rounds so far"
    return f"Average {metric.title[:1].lower()}{metric.title[1:]}" if averaged(series, metric) else metric.title


def averaged(series: str, metric: Metric) -> bool:
    """Whether a series is the average over time of its metric."""
    return metric.averaged and series.startswith("average_")


def subtitle(run: Run) -> str:
    """The line under the title: topology, agents, scenario, length."""
    what = run.info.get("experiment", {})
    agents = run.info.get("agents", what.get("agents"))
    parts = [
        (named(what["topology"]) if "topology" in what else "", f"{agents} agents" if agents else ""),
        (
            named(what["scenario"]) if "scenario" in what else "",
            f"{len(run.rounds) and int(run.rounds[-1]) + 1:,} rounds",
        ),
    ]
    text = "  ·  ".join(", ".join(piece for piece in pair if piece) for pair in parts)
    return text if len(text) <= 100 else text[:99] + "…"


def named(spec: Any) -> str:
    """A spec as text: a spec string, or the kind of object that an experiment describes."""
    if isinstance(spec, str):
        return short(spec.split(" #")[0], 48)
    if isinstance(spec, dict) and "type" not in spec:  # one for each channel
        return " and ".join(map(named, spec.values()))
    return str(spec["type"]).rsplit(".", 1)[-1] if isinstance(spec, dict) else "matrix"


def told_apart(names: Sequence[str], numbered: str = "{}-{}") -> list[str]:
    """Unique names: a repeated name gets a number.

    >>> told_apart(["ring", "star", "ring"])
    ['ring', 'star', 'ring-2']
    """
    found: list[str] = []
    for name in names:
        tries = (name if k == 1 else numbered.format(name, k) for k in range(1, len(names) + 1))
        found.append(next(each for each in tries if each not in found))
    return found
