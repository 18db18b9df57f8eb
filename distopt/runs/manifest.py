"""The manifest of a run's folder: its files with their digests, and facts about the run."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from distopt.errors import InputError
from distopt.metrics import SAID, Metric
from distopt.runs import reading
from distopt.runs.clock import PAIRS

Status = Literal["running", "done", "interrupted", "diverged"]
FORMAT = 1
MANIFEST, EXPERIMENT, CHECKPOINT = "manifest.json", "experiment.toml", "checkpoint"
"""The files of a run's folder."""


def manifest_text(content: Mapping[str, Any]) -> str:
    """The text of a manifest, with a digest of its content."""
    return json.dumps(
        {**content, "sha256": _said({key: value for key, value in content.items() if key != "sha256"})}, indent=1
    )


def _said(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of a folder's manifest.

    Raises:
        InputError: it holds no run, a run of another version, or a manifest that is damaged or has impossible values.
    """
    if not _is(folder.is_dir):
        raise InputError(f"{folder}: no such folder")
    path = folder / MANIFEST
    if not _is(path.exists):
        raise InputError(f"{folder}: holds no run (no {MANIFEST})")
    found = reading.parsed(path, reading.text(path))
    found = found if isinstance(found, dict) else {}
    if (
        type(found.get("format")) is not int
        or found["format"] != FORMAT
        or not ("runs" in found or {"label", "status", "chunks"} <= found.keys())
    ):
        raise InputError(
            f"{path}: not a run of this version (format {str(found.get('format', '?'))[:20]}, not {FORMAT})"
        )
    if "sha256" in found and found["sha256"] != _said({key: value for key, value in found.items() if key != "sha256"}):
        raise InputError(f"{path}: damaged (the checksum differs); start again in another folder")
    _check(path, found)
    return found


def _is(there: Callable[[], bool]) -> bool:
    try:
        return there()
    except (OSError, ValueError):  # a folder that may not be looked into, a name that is none
        return False


def _name(value: Any) -> bool:
    """Whether a value is the name of a file in the same folder."""
    return isinstance(value, str) and value.isprintable() and value not in ("", ".", "..") and Path(value).name == value


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_name, value)) and len(set(value)) == len(value)


def _forms(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(each, dict)
        and each.keys() == {"bytes", "sha256", "arrays"}
        and _whole(each["bytes"])
        and isinstance(each["arrays"], dict)
        for each in value.values()
    )


def _rounds(value: Any) -> bool:
    """Whether a value can be rounds by trial."""
    return isinstance(value, dict) and all(key.isdecimal() for key in value) and all(map(_whole, value.values()))


def _clock(value: Any) -> bool:
    """Whether a value can be the pairs (round, seconds) of a run, both rising."""
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        return False
    if len(value) > PAIRS or not all(_whole(t) and _number(s) and 0 <= s < math.inf for t, s in value):
        return False
    return all(a < b and s <= e for (a, s), (b, e) in pairwise(value))


def _constants(value: Any) -> bool:
    """Whether a value can be a modulus and a Lipschitz constant."""
    return (
        isinstance(value, dict)
        and value.keys() <= {"modulus", "smoothness"}
        and all(_number(each) and 0 < each < math.inf for each in value.values())
    )


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _described(value: Any) -> bool:
    """Whether a value can be what ``Experiment.describe`` gave, as far as anybody reads it."""
    every = value.get("every", 1) if isinstance(value, dict) else 0
    return (
        isinstance(value, dict)
        and value.get("dtype", "float64") in ("float64", "float32")
        and _whole(every)
        and every >= 1
    )


def _asked(value: Any) -> bool:
    every = value.get("checkpoint_every") if isinstance(value, dict) else 0
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(key, ""), str) for key in ("mode", "engine"))
        and (every is None or _whole(every))
    )


def _shown(value: Any) -> bool:
    """Whether a value can be what metrics say of how they are shown."""
    return isinstance(value, dict) and all(
        isinstance(each, dict)
        and all(key in SAID and _like(getattr(Metric, key), said) for key, said in each.items())
        and each.get("measured_every", 1) >= 1
        for each in value.values()
    )


def _like(default: Any, said: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(said, list) and all(isinstance(each, str) for each in said)
    return type(said) is type(default)


SAYS: dict[str, Callable[[Any], object]] = {
    "label": lambda value: isinstance(value, str),
    "id": lambda value: isinstance(value, str),
    "fingerprint": lambda value: isinstance(value, str),
    "status": lambda value: value in get_args(Status),
    "chunks": _names,
    "runs": _names,
    "last": lambda value: value is None or _name(value),
    "experiment": _described,
    "asked": _asked,
    "versions": _texts,
    "left_out": _texts,
    "metrics": _shown,
    "files": _forms,
    "rounds": _whole,
    "agents": _whole,
    "completed": _whole,
    "diverged_at": _whole,
    "diverged_trials": _rounds,
    "seconds": _number,
    "rounds_per_second": _number,
    "certificate": _number,
    "clock": _clock,
    "constants": _constants,
}
"""Checks of a manifest's values, by key."""


def _check(path: Path, content: dict[str, Any]) -> None:
    for key, fits in SAYS.items():
        if key in content and not fits(content[key]):
            told = " ".join(repr(content[key]).split())
            raise InputError(
                f"{path}: damaged or not a run's manifest ({key} cannot be {told if len(told) < 60 else told[:57] + '...'})"
            )
    named = [*content.get("chunks", ()), *([content["last"]] if content.get("last") else [])]
    if "files" in content and (missing := [name for name in named if name not in content["files"]]):
        raise InputError(f"{path}: damaged or not a run's manifest (it does not describe {missing[0]})")
