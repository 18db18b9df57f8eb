"""Runs that are looked at together: what folders hold, grouped by the problem that the runs solve.

Reports and comparisons read runs through this module alone, so that each of them means the same by "the same problem".
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distopt.catalog.spec import shown
from distopt.errors import InputError, either
from distopt.report.titles import named, told_apart
from distopt.runs.loading import begun, stored
from distopt.runs.manifest import MANIFEST, Status, read_manifest
from distopt.runs.results import Array, Run

SAME = ("scenario", "agents", "x0", "every")
"""The settings of runs on one problem. Their rounds may differ, as where a run has diverged or methods get equal gradients."""

VARIED = (
    "channel",
    "topology",
    "weights",
    "drop_links",
    "drop_messages",
    "sleep",
    "delay",
    "churn",
    "clock",
    "dtype",
    "rounds",
)
"""Settings in which runs on one problem may differ besides the algorithm. Those that do differ are added to the names of the runs."""


LOOKED = 5_000
"""Folders without runs of their own that are looked through for folders of runs. More of them were not made for runs."""
NAMED = 5
"""Runs that a message names."""


class Trial(NamedTuple):
    """What addresses the random numbers of a trial: runs with equal trials have seen the same data."""

    seed: int
    number: int


@dataclass(frozen=True)
class Group:
    """Runs on one problem: the same scenario, agents and start. They differ in algorithm, channel or network.

    Attributes:
        title: the problem in words; no two that ``groups`` gives have the same.
        setting: the settings that all runs share.
        runs: the runs by name, in the order in which they were given. Runs that differ in their seed alone are one run with the trials of all.
        trials: what addresses each run's trials, by name.
    """

    title: str
    setting: Mapping[str, Any]
    runs: Mapping[str, Run]
    trials: Mapping[str, tuple[Trial, ...]]

    def common(self, names: Sequence[str] | None = None) -> list[Trial]:
        """The trials that the named runs (by default all) share, which can be compared pair by pair."""
        chosen = [self.trials[name] for name in (self.runs if names is None else names)]
        return [trial for trial in chosen[0] if all(trial in each for each in chosen[1:])] if chosen else []

    def rows(self, name: str, trials: Sequence[Trial]) -> list[int]:
        """Which rows of a run's arrays belong to some trials."""
        return [self.trials[name].index(trial) for trial in trials]


class Pooled(Mapping[str, Array]):
    """The arrays of several runs by name, joined along the trials on first use."""

    def __init__(self, each: Sequence[Mapping[str, Array]]) -> None:
        self._each = each
        self._names = [name for name in each[0] if all(name in other for other in each[1:])]

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        return np.concatenate([each[name] for each in self._each])

    def __contains__(self, name: object) -> bool:  # without reading it
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read(paths: Sequence[str | Path]) -> list[Run]:
    """The runs of some folders: of one run, of several, of a sweep, or of any folder that holds such folders. Arrays are read on first use.

    Raises:
        InputError: a folder is not there, cannot be read, holds no runs or a damaged one, or holds more than 5,000 folders of other things.
    """
    found: dict[Path, Run] = {}
    unbegun: dict[Path, None] = {}
    for each in paths:
        if not isinstance(each, str | os.PathLike):
            raise InputError(f"{shown(each)}: not the path of a folder")
        folder = Path(each)
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; give the folder of a run, of several runs, or of a sweep")
        search = Search(folder)
        inside = search.runs(folder)
        unbegun.update(dict.fromkeys(search.unbegun))
        if not inside:
            raise InputError(
                f"{folder}: holds no runs; give the folder that {either('distopt simulate, sweep or tune', 'simulate, sweep or tune')} wrote"
            )
        for place in inside:
            found.setdefault(place.resolve(), stored(place))
    empty = [run for run in found.values() if not run.rounds.size]
    if len(empty) == len(found):
        raise InputError(
            f"{paths[0]}: no run has a recorded round yet" if paths else "give at least one folder of runs"
        )
    _tell_left_out([*(f"{run.path}" for run in empty), *map(str, unbegun)])
    return [run for run in found.values() if run.rounds.size]


def _tell_left_out(runs: Sequence[str]) -> None:
    if runs:
        more = f" and {len(runs) - NAMED} more" if len(runs) > NAMED else ""
        warnings.warn(f"without a recorded round, and left out: {', '.join(runs[:NAMED])}{more}", stacklevel=4)


def gathered(runs: Sequence[Run | str | Path]) -> list[Run]:
    """Runs, and those of folders, that have recorded a round.

    Raises:
        InputError: there is none, or a folder cannot be read (see ``read``).
    """
    folders = [each for each in runs if not isinstance(each, Run)]
    found = [each for each in runs if isinstance(each, Run)] + (read(folders) if folders or not runs else [])
    if not any(run.rounds.size for run in found):
        raise InputError("no run has a recorded round yet")
    _tell_left_out([run.label for run in found if not run.rounds.size])
    return [run for run in found if run.rounds.size]


class Search:
    """Looks for folders of runs.

    Attributes:
        unbegun: the folders of runs that a manifest names, and that were killed before they began.
    """

    def __init__(self, top: Path) -> None:
        self.top, self._looked, self.unbegun = top, 0, list[Path]()

    def runs(self, folder: Path) -> list[Path]:
        """The folders of single runs in a folder, itself included; those of a manifest in its order, others by name."""
        if (folder / MANIFEST).exists():
            names = read_manifest(folder).get("runs")
            if names is None:
                return [folder]
            there = [*begun(folder, names)]
            self.unbegun += [folder / name for name in names if name not in there]
            return [folder / name for name in there]
        self._looked += 1
        if self._looked > LOOKED:
            raise InputError(
                f"{self.top}: more than {LOOKED:,} folders in it hold no runs; give a folder nearer to the runs"
            )
        try:
            below = sorted(each for each in folder.iterdir() if each.is_dir() and not each.is_symlink())
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be read ({error.strerror}); give the folders of runs in {self.top} one by one"
            ) from error
        return [found for each in below for found in self.runs(each)]


def groups(runs: Sequence[Run]) -> list[Group]:
    """Runs by the problem that they solve; runs of one method on several seeds become one run with the trials of all.

    >>> def run(label, seed):
    ...     experiment = {"scenario": "sea", "algorithm": label, "channel": "exact", "topology": "ring", "seed": seed}
    ...     info = {"experiment": experiment, "agents": 8, "rounds": 2}
    ...     return Run(label, "done", np.arange(2), {"consensus_error": np.full((3, 2), float(seed))}, info=info)
    >>> (one,) = groups([run("gt", 0), run("gt", 1), run("dgd", 0)])
    >>> one.title, list(one.runs), one.runs["gt"].trials, one.common()[-1]
    ('sea, 8 agents, ring', ['gt', 'dgd'], 6, Trial(seed=0, number=2))

    Raises:
        InputError: two runs are of the same experiment.
    """
    problems: dict[str, list[Run]] = {}
    for run in runs:
        setting = _setting(run)
        problems.setdefault(repr([setting[key] for key in SAME]), []).append(run)
    return _retitled([_group(each) for each in problems.values()])


def _retitled(found: list[Group]) -> list[Group]:
    """Problems with a title of their own each: it names the start and the rounds recorded where only they differ, or else has a number."""
    titles: list[str] = []
    for group in found:
        alike = [each for each in found if each.title == group.title]
        words = [
            _said(key, group.setting[key])
            for key in ("x0", "every")
            if any(each.setting[key] != group.setting[key] for each in alike)
        ]
        titles.append(", ".join([group.title, *words]))
    return [replace(group, title=title) for group, title in zip(found, told_apart(titles, "{} ({})"), strict=True)]


def _setting(run: Run) -> dict[str, Any]:
    experiment = {
        "drop_messages": 0.0,
        "sleep": 0.0,
        "delay": "",
        "clock": "",
        "churn": "",
        **run.info.get("experiment", {}),
    }  # runs without any do not note it
    experiment["agents"] = run.info.get("agents", experiment.get("agents"))
    experiment["rounds"] = run.info.get("rounds", experiment.get("rounds"))
    return {key: experiment.get(key) for key in dict.fromkeys([*SAME, *VARIED, *experiment])}


def _group(runs: list[Run]) -> Group:
    settings = [_setting(run) for run in runs]
    shared = {key: value for key, value in settings[0].items() if all(each.get(key) == value for each in settings[1:])}
    varied = [key for key in VARIED if key not in shared]
    methods: dict[tuple[str, ...], list[int]] = {}
    for k, (run, setting) in enumerate(zip(runs, settings, strict=True)):
        methods.setdefault((run.label, *(_said(key, setting[key]) for key in varied)), []).append(k)
    pooled, trials = {}, {}
    for words, places in methods.items():
        name = ", ".join(words)
        seeds = [int(settings[k].get("seed") or 0) for k in places]
        if len(set(seeds)) < len(seeds):
            raise InputError(f"{name}: {len(places)} runs of the same experiment were given; leave all but one out")
        pooled[name] = _pooled([runs[k] for k in places], name)
        trials[name] = tuple(
            Trial(seed, n) for k, seed in zip(places, seeds, strict=True) for n in range(runs[k].trials)
        )
    return Group(_title(shared), shared, pooled, trials)


def _pooled(runs: list[Run], name: str) -> Run:
    """One run of all trials of runs that differ in their seeds. It ends where the first of them ends that has not diverged.

    A run that stopped earlier because it diverged has no numbers (nan) from there on.
    """
    if len(runs) == 1:
        return replace(runs[0], label=name)
    going = [run for run in runs if run.status != "diverged"]
    like = min(going, key=lambda run: len(run.rounds)) if going else max(runs, key=lambda run: len(run.rounds))
    count = len(like.rounds)
    if any(not np.array_equal(run.rounds[:count], like.rounds[: len(run.rounds)]) for run in runs):
        raise InputError(
            f"{name}: runs of several seeds have recorded other rounds; give each seed the same number of rounds"
        )
    states = [run.status for run in runs]
    status: Status = "diverged" if "diverged" in states else "interrupted" if "interrupted" in states else "done"
    metrics = Pooled([_Until(run.metrics, count) for run in runs])
    info = {**like.info}
    if lost := _diverged_trials(runs):
        info["diverged_trials"] = lost
    return replace(like, label=name, status=status, metrics=metrics, trajectories={}, info=info)


def _diverged_trials(runs: list[Run]) -> dict[str, int]:
    """In which round which trial of some runs, counted through them, diverged. One that does not say which: all of its trials."""
    found: dict[str, int] = {}
    before = 0
    for run in runs:
        if run.status == "diverged" or run.info.get("diverged_trials"):
            at = int(run.info.get("diverged_at", len(run.rounds)))
            said = run.info.get("diverged_trials") or dict.fromkeys(range(run.trials), at)
            found |= {str(before + int(trial)): int(t) for trial, t in said.items()}
        before += run.trials
    return found


class _Until(Mapping[str, Array]):
    """The first ``count`` recorded rounds of some metrics, with nan where there are fewer."""

    def __init__(self, metrics: Mapping[str, Array], count: int) -> None:
        self._metrics, self._count = metrics, count

    def __contains__(self, name: object) -> bool:  # without reading it
        return name in self._metrics

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        values = self._metrics[name][:, : self._count]
        missing = self._count - values.shape[1]
        return np.pad(values, ((0, 0), (0, missing)), constant_values=np.nan) if missing else values

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)


def _said(key: str, value: Any) -> str:
    """A setting in a run's name."""
    if key in ("scenario", "topology", "channel"):
        return named(value)
    return f"{value}" if key in ("weights", "dtype") else f"{key.replace('_', ' ')} {'none' if value == '' else value}"


def _title(shared: Mapping[str, Any]) -> str:
    """A problem in words."""
    words = [named(shared["scenario"]), f"{shared['agents']} agent{'' if shared['agents'] == 1 else 's'}"]
    if "topology" in shared and shared["topology"] is not None:
        words.append(named(shared["topology"]))
    return ", ".join(words)
