"""The content of a page, group by group: verdict, charts, network, paths, warnings and set-up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distopt.catalog.places import looking_in
from distopt.errors import InputError
from distopt.network.faults import Faults
from distopt.network.topology import build_topology
from distopt.report.network import portrait
from distopt.report.page import data, paths, setup, strip
from distopt.report.page.columns import Floats, Pool
from distopt.report.page.drawing import Drawing, drawing
from distopt.report.page.verdict import Verdict, verdict
from distopt.report.statistics import FEWEST
from distopt.report.study import Group
from distopt.report.summary import drift, weakness
from distopt.report.titles import named
from distopt.runs.results import Run

NETWORKS = 4
"""The most networks that are drawn of a group."""


@dataclass(frozen=True)
class Section:
    """A group on the page."""

    title: str
    lead: str
    verdict: Verdict
    charts: Mapping[str, Any]
    strip: strip.Strip | None
    drawings: Sequence[Drawing]
    paths: paths.Paths
    warnings: Sequence[str]
    commands: Sequence[str]
    folders: Sequence[str]
    setups: Sequence[setup.Setup]
    papers: Sequence[str]
    notes: Sequence[str]


def section(group: Group, pool: Pool, size: tuple[int, int]) -> Section:
    """The content of a group."""
    dead = {name: data.diverged(run) for name, run in group.runs.items()}
    drawings, undrawn = _drawings(group)
    return Section(
        group.title,
        _lead(group),
        verdict(group),
        data.charts(group, pool, size, dead),
        strip.strip(group),
        drawings,
        paths.paths(group, pool),
        list(_warnings(group, dead)),
        setup.commands(group),
        list(dict.fromkeys(filter(None, map(setup.whence, group.runs.values())))),
        setup.setups(group),
        setup.papers(group),
        [*_below(group), *undrawn, *_left_out(group)],
    )


def _lead(group: Group) -> str:
    """The setting in a line."""
    runs = group.runs.values()
    lengths = sorted({int(run.rounds[-1]) + 1 for run in runs})
    counts = sorted({run.trials for run in runs})
    rounds = f"{lengths[-1]:,} rounds" if len(lengths) == 1 else f"{lengths[0]:,} to {lengths[-1]:,} rounds"
    trials = f"{counts[-1]} {'trial' if counts[-1] == 1 else 'trials'}"
    trials = trials if len(counts) == 1 else f"{counts[0]} to {trials}"
    methods = f"{len(runs)} methods" if len(runs) > 1 else "1 method"
    return f"{methods}, {rounds}, {trials}"


def _warnings(group: Group, dead: Mapping[str, Floats]) -> Iterator[str]:
    runs = group.runs
    weak = max((float(run.info["certificate"]) for run in runs.values() if "certificate" in run.info), default=0.0)
    if (doubt := weakness(weak)) is not None:
        yield f"The regrets are not exact: {doubt}."
    for name, run in runs.items():
        if run.status == "interrupted":
            yield (
                f"{name} is not finished: it is shown as far as it has come, {int(run.rounds[-1]) + 1:,} of "
                f"{run.info.get('rounds', '?'):,} rounds."
            )
        lost = np.isfinite(dead[name])
        if lost.any() or run.status == "diverged":
            first = run.info.get("diverged_at", run.rounds[int(dead[name].min())] if lost.any() else run.rounds[-1])
            who = f"{max(int(lost.sum()), 1)} of {run.trials} trials" if run.trials > 1 else "it"
            yield f"{name} diverged: {who}, first in round {int(first) + 1:,}. Those count as infinite in all medians. A smaller lr may help."
        if "dtype" in run.info.get("experiment", {}) and (loss := drift(run)) is not None:
            yield loss
    if len(runs) > 1 and min(run.trials for run in runs.values()) < FEWEST:
        yield f"Fewer than {FEWEST} trials: differences between methods cannot be significant."


def _below(group: Group) -> Iterator[str]:
    """The note on regrets below zero."""
    runs = group.runs
    below = [name for name, run in runs.items() if "static_regret" in run and (run["static_regret"][:, -1] < 0).any()]
    if below:
        who = "every method" if len(below) == len(runs) > 1 else ", ".join(below)
        yield (
            f"The static regret of {who} is below zero at the end. This is possible: the costs change, and following them beats "
            "the best fixed point."
        )


def _left_out(group: Group) -> Iterator[str]:
    """What some runs lack, and why."""
    reasons: dict[str, list[str]] = {}
    for run in group.runs.values():
        for name, why in run.info.get("left_out", {}).items():
            metric = run.about(name)
            if metric.announced and metric.announced not in reasons.setdefault(why.split(";")[0], []):
                reasons[why.split(";")[0]].append(metric.announced)
    for why, what in reasons.items():
        if what:
            yield f"Left out: {', '.join(what)}: {why}."


def _drawings(group: Group) -> tuple[list[Drawing], list[str]]:
    """The networks of a group, and why some are not drawn."""
    found: dict[str, Drawing] = {}
    notes: list[str] = []
    for run in group.runs.values():
        what = setup.network(run)
        if what is None:
            notes.append("The network was given as a Python object, which a run does not keep: it is not drawn.")
            continue
        if repr(what) in found or len(found) == NETWORKS:
            continue
        weights, seed = what["weights"] or "metropolis", what["seed"] or 0
        try:
            with looking_in(what["folder"]):
                graph = build_topology(what["topology"], what["agents"], seed)
                there = portrait(graph, weights, seed, what["drop_links"] or 0.0, Faults(what["drop_messages"] or 0.0))
        except InputError as error:
            notes.append(f"The network is not drawn: {error}.")
            continue
        lost = f", links fail with probability {what['drop_links']:g}" if what["drop_links"] else ""
        lost += f", messages are lost with probability {what['drop_messages']:g}" if what["drop_messages"] else ""
        found[repr(what)] = drawing(there, f"{named(what['topology'])}, {there.agents} agents{lost}", weights)
    return list(found.values()), list(dict.fromkeys(notes))


def status(runs: Sequence[Run]) -> str:
    """Whether the runs are finished, in words; nothing where they are."""
    going = sum(run.status == "interrupted" for run in runs)
    return f"{going} of {len(runs)} runs are not finished; they are shown as far as they have come." if going else ""
