"""Reading runs back, whole or array by array."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distopt.catalog.spec import shown
from distopt.errors import InputError
from distopt.metrics import RENAMED
from distopt.runs import reading
from distopt.runs.manifest import MANIFEST, Status, read_manifest
from distopt.runs.results import Array, Part, Run, collect


def load(folder: str | Path) -> Run | dict[str, Run]:
    """Read a run, or the runs of a folder that ``distopt simulate`` wrote for several algorithms, by label.

    Raises:
        InputError: no run there, or a file that is damaged or foreign.
    """
    if not isinstance(folder, str | os.PathLike):
        raise InputError(f"{shown(folder)}: not the path of a folder")
    folder = Path(folder)
    content = read_manifest(folder)
    if "runs" in content:
        runs: dict[str, Run] = {}
        for name in begun(folder, content["runs"]):
            inner = read_manifest(folder / name)
            if "runs" in inner or inner["label"] in runs:
                raise InputError(
                    f"{folder / name / MANIFEST}: damaged or of another folder (it holds {inner.get('label', 'runs')})"
                )
            runs[inner["label"]] = _loaded(folder / name, inner)
        if len(runs) == len(content["runs"]) and ", ".join(runs) != content.get("label", ", ".join(runs)):
            raise InputError(
                f"{folder / MANIFEST}: damaged: it is of {content['label']}, and names the runs {', '.join(content['runs'])}"
            )
        return runs
    return _loaded(folder, content)


def begun(folder: Path, names: Sequence[str]) -> Iterator[str]:
    """Those of the runs of a folder that are there; the others were killed before they began.

    Raises:
        InputError: a manifest is missing beside results.
    """
    for name in names:
        if (folder / name / MANIFEST).exists():
            yield name
        elif any((folder / name).glob("chunk-*")):
            raise InputError(f"{folder / name / MANIFEST}: missing, although the run has results")


def _loaded(folder: Path, content: Mapping[str, Any]) -> Run:
    rounds, metrics, trajectories = collect(list(parts(folder, content)), _last(folder, content))
    return _run(folder, content, rounds, metrics, trajectories)


def stored(folder: Path) -> Run:
    """The run in a folder. Its arrays are read on first use, and only the metrics of a small run are kept.

    Raises:
        InputError: as ``load``; of a damaged file, when it is read.
    """
    content = read_manifest(folder)
    if "chunks" not in content:
        raise InputError(f"{folder}: holds several runs; give the folder of one")
    checked: reading.Checked = {}
    rounds, _, _ = collect([*parts(folder, content, lambda name: name == "rounds", checked)], None)
    _last(folder, content)  # refuse a damaged file now, though it is read later
    metrics, trajectories = (Stored(folder, content, kind, checked, len(rounds)) for kind in ("m.", "t."))
    return _run(folder, content, rounds, metrics, trajectories)


SMALL = 2**23
"""The metrics of a run whose chunks have at most so many bytes are read all at once: most of the time would go into opening files."""


class Stored(Mapping[str, Array]):
    """The metrics (``kind`` "m.") or trajectories ("t.") of the run in a folder, ``recorded`` rounds, read on first use.

    Attributes:
        trials: R, or 0 where there are none of them.
    """

    def __init__(
        self, folder: Path, content: Mapping[str, Any], kind: str, checked: reading.Checked, recorded: int
    ) -> None:
        self._folder, self._content, self._kind, self._checked = folder, content, kind, checked
        self._recorded = recorded
        first = {**content, "chunks": content["chunks"][:1]}
        held: dict[str, Array] = {}
        for part in parts(folder, first, checked=checked):
            held = dict(part.metrics if kind == "m." else part.trajectories)
        self._names, self.trials = list(held), max((len(value) for value in held.values()), default=0)
        told = content.get("files", {})
        size = sum(told[name]["bytes"] if name in told else SMALL + 1 for name in content["chunks"])
        self._small, self._held = kind == "m." and size <= SMALL, dict[str, Array]()

    def __contains__(self, name: object) -> bool:  # without reading it
        return name in self._names

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        if self._small:
            if not self._held:
                self._held = collect(list(parts(self._folder, self._content, checked=self._checked)), None)[1]
            return self._held[name].copy()
        if self._kind == "m.":
            return self.some(name)
        last = _last(self._folder, self._content) if name == "x" else None
        return collect(list(self._parts(name)), last)[2][name]

    def some(self, name: str, places: NDArray[np.intp] | None = None) -> Array:
        """A metric in all recorded rounds, or in some [R, len(places)], by their places, which rise. Not much more is held of it."""
        if self._small:
            return self[name] if places is None else self[name][:, places]
        found, at = np.empty((self.trials, self._recorded if places is None else len(places))), 0
        for part in self._parts(name):
            end = at + len(part.rounds)
            if places is None:
                found[:, at:end] = part.metrics[name]
            else:
                low, high = np.searchsorted(places, (at, end))
                found[:, low:high] = part.metrics[name][:, places[low:high] - at]
            at = end
        return found

    def _parts(self, name: str) -> Iterator[Part]:
        """The chunks with no array but this one."""
        wanted = ("rounds", self._kind + name)
        return parts(self._folder, self._content, lambda each: each in wanted, self._checked)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def parts(
    folder: Path,
    content: Mapping[str, Any],
    wanted: Callable[[str], bool] = lambda name: True,
    checked: reading.Checked | None = None,
) -> Iterator[Part]:
    """The chunks that a manifest names, one after the other, with those of their arrays that are ``wanted``."""
    first: Part | None = None
    before: Part | None = None
    for name in content["chunks"]:
        arrays = reading.arrays(folder / name, _told(content, name), lambda array: wanted(_now(array)), checked)
        if "rounds" not in arrays:
            raise InputError(f"{folder / name}: damaged or not a chunk of a run (it names no rounds)")
        named = {key: {k[2:]: v for k, v in arrays.items() if k.startswith(key)} for key in ("m.", "t.")}
        named["m."] = {RENAMED.get(key, key): value for key, value in named["m."].items()}
        part = Part(arrays["rounds"], named["m."], named["t."])
        first = first or part
        if said := misfit(first, part, before):
            raise InputError(f"{folder / name}: damaged or not a chunk of this run ({said})")
        yield part
        before = Part(part.rounds[-1:], {}, {})


def _now(array: str) -> str:
    """What an array of a chunk is called now."""
    return f"m.{RENAMED.get(array[2:], array[2:])}" if array.startswith("m.") else array


def _told(content: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The manifest's entry for a file; None in manifests of older versions."""
    told: Mapping[str, Any] | None = content["files"][name] if "files" in content else None
    return told


def _last(folder: Path, content: Mapping[str, Any]) -> Array | None:
    """The last x of the run."""
    if not content.get("last"):
        return None
    path = folder / content["last"]
    last = reading.arrays(path, _told(content, content["last"])).get("x")
    some = next(
        parts(folder, {**content, "chunks": content["chunks"][:1]}, lambda name: name in ("rounds", "t.x")), None
    )
    before = some.trajectories.get("x") if some else None
    if last is None or (
        before is not None and (last.dtype != before.dtype or last.shape != (*before.shape[:1], *before.shape[2:]))
    ):
        raise InputError(f"{path}: damaged or not the last x of this run")
    return last


def _run(
    folder: Path,
    content: Mapping[str, Any],
    rounds: NDArray[np.int64],
    metrics: Mapping[str, Array],
    trajectories: Mapping[str, Array],
) -> Run:
    info = {
        key: value
        for key, value in content.items()
        if key not in ("format", "label", "id", "status", "chunks", "last", "files", "sha256")
    }
    if "left_out" in info:
        info["left_out"] = {RENAMED.get(name, name): why for name, why in info["left_out"].items()}
    status: Status = "interrupted" if content["status"] == "running" else content["status"]
    return Run(content["label"], status, rounds, metrics, trajectories, info, folder)


def misfit(first: Part, part: Part, before: Part | None) -> str | None:
    """Why a part of a run cannot come after the part ``before``, of the run that begins with ``first``; None where it can."""
    if (
        part.rounds.dtype != np.int64
        or part.rounds.ndim != 1
        or (part.rounds < 0).any()
        or (np.diff(part.rounds) <= 0).any()
    ):
        return "its rounds are no rising numbers"
    if before is not None and len(before.rounds) and len(part.rounds) and part.rounds[0] <= before.rounds[-1]:
        return "its rounds are not those that come next"
    for mine, theirs in ((part.metrics, first.metrics), (part.trajectories, first.trajectories)):
        if mine.keys() != theirs.keys():
            return f"it holds {', '.join(mine) or 'nothing'}, not {', '.join(theirs) or 'nothing'}"
        for name, value in mine.items():
            like = theirs[name]
            if (
                value.ndim < 2
                or value.dtype != like.dtype
                or (value.shape[0], value.shape[2:]) != (like.shape[0], like.shape[2:])
            ):
                return f"{name} is {value.dtype} {list(value.shape)}"
    if any(
        value.dtype != np.float64 or value.shape != (len(value), len(part.rounds)) for value in part.metrics.values()
    ):
        return "a metric has not a number for every round"
    if len({value.shape[:2] for value in part.trajectories.values()}) > 1:
        return "its trajectories are of several lengths"
    return None
