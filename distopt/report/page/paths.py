"""Where the agents and the target went, of runs in the plane whose points were recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distopt.errors import InputError, RunError
from distopt.experiment import read_toml
from distopt.report.page.columns import Floats, Pool
from distopt.report.study import Group
from distopt.runs.manifest import EXPERIMENT
from distopt.runs.results import Run

FRAMES, NUMBERS, AGENTS = 300, 60_000, 200
"""The most frames of an animation, numbers of all animations of a group, and agents that are drawn."""

CHEAP = 2_000_000
"""Rounds x agents up to which the target's path is computed again."""


@dataclass(frozen=True)
class Paths:
    """The animations of a group, for the page's script, and what to say of what is missing."""

    shown: Mapping[str, Any] | None
    notes: Sequence[str] = ()


def paths(group: Group, pool: Pool) -> Paths:
    """The paths of the first trial of each run of a group that has recorded x in the plane."""
    recorded = {name: run.trajectories["x"][0] for name, run in group.runs.items() if "x" in run.trajectories}
    having = {name: x for name, x in recorded.items() if x.shape[-1] == 2}  # [T + 1, N, 2]
    if not having:
        return Paths(None, ["Paths are drawn of points in the plane only."] if recorded else [])
    target, note = _target(group.runs[next(iter(having))])
    shown = []
    for name, x in having.items():
        agents = np.unique(np.linspace(0, x.shape[1] - 1, min(AGENTS, x.shape[1])).astype(int))
        most = max(20, min(FRAMES, NUMBERS // (2 * len(agents) * len(having))))
        frames = np.unique(np.linspace(0, len(x) - 1, min(most, len(x))).round().astype(int))
        item = {
            "run": list(group.runs).index(name),
            "agents": len(agents),
            "rounds": pool.add_rising(frames),
            "x": pool.add(x[frames][:, agents]),
        }
        if target is not None:
            item["target"] = pool.add(target[frames.clip(max=len(target) - 1)])
        shown.append(item)
    notes = [note] if note else []
    if any(group.runs[name].trials > 1 for name in having):
        notes.append("The first trial is shown.")
    return Paths({"runs": shown}, notes)


def _target(run: Run) -> tuple[Floats | None, str]:
    """The minimisers x*_t of the first trial [T, 2], computed again, or None and why."""
    from distopt.runs.execution import Comparison
    from distopt.simulation.problem import build

    if run.path is None or not (run.path / EXPERIMENT).exists():
        return None, "The target's path is left out: the run is in no folder with its experiment."
    rounds, agents = int(run.rounds[-1]) + 1, int(run.info.get("agents", 0))
    if rounds * agents > CHEAP:
        return None, f"The target's path is left out: to compute it again for {rounds:,} rounds takes long."
    try:
        problem = build(read_toml(run.path / EXPERIMENT)[0])
        if not problem.scenario.comparator:
            return None, "The target's path is left out: the minimisers of this scenario are unknown."
        comparison = Comparison.of(problem)
        blocks = comparison.blocks
        found: list[Floats] = []
        while sum(map(len, found)) < rounds and len(found) < blocks.count:
            x = comparison.comparator.reference(len(found)).x[:, 0].numpy()
            length = len(blocks.span(len(found)))
            found.append(np.broadcast_to(x, (length, 2)) if len(x) == 1 else x)
    except (InputError, RunError) as error:
        return None, f"The target's path is left out: {error}."
    return np.concatenate(found)[:rounds], ""
