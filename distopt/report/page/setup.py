"""How a group's runs are repeated: commands, TOML, fingerprints and versions, and the papers of the methods that were used."""

from __future__ import annotations

import hashlib
import os
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distopt.catalog import entries, registry
from distopt.catalog.places import looking_in, place
from distopt.catalog.spec import Spec
from distopt.catalog.toml_writer import toml_text
from distopt.errors import InputError
from distopt.report.paper import cited
from distopt.report.study import Group
from distopt.runs import reading
from distopt.runs.manifest import EXPERIMENT
from distopt.runs.results import Run

DEFAULT = {
    "channel": "exact",
    "weights": "metropolis",
    "drop_links": 0.0,
    "drop_messages": 0.0,
    "sleep": 0.0,
    "delay": "",
    "clock": "",
    "churn": "",
    "trials": 1,
    "seed": 0,
    "dtype": "float64",
    "every": 1,
}
"""What a command may leave out."""


@dataclass(frozen=True)
class Setup:
    """How one run is repeated: its name, its facts by name, and its TOML (None where Python objects took part in it)."""

    name: str
    facts: dict[str, str]
    toml: str | None


def setups(group: Group) -> list[Setup]:
    """How each run of a group is repeated."""
    return [Setup(name, _facts(group, name, run), toml(run)) for name, run in group.runs.items()]


def _facts(group: Group, name: str, run: Run) -> dict[str, str]:
    seeds = sorted({trial.seed for trial in group.trials[name]})
    versions = ", ".join(f"{what} {which}" for what, which in run.info.get("versions", {}).items())
    seconds, asked = run.info.get("seconds"), run.info.get("asked", {})
    found = {
        "fingerprint": str(run.info.get("fingerprint", "")),
        "seed": ", ".join(map(str, seeds)),
        "trials": str(run.trials),
        "rounds": f"{int(run.rounds[-1]) + 1:,}",
        "seconds": f"{seconds:.3g}" if isinstance(seconds, int | float) else "",
        "engine": str(asked.get("engine", "")) if isinstance(asked, Mapping) else "",
        "versions": versions,
        "folder": str(run.path) if run.path is not None else "",
    }
    return {key: value for key, value in found.items() if value}


def toml(run: Run) -> str | None:
    """The TOML of a run's experiment: the file beside its results, or made from the run's manifest; None if a part was a Python object."""
    if run.path is not None and (run.path / EXPERIMENT).exists():
        return reading.text(run.path / EXPERIMENT)
    values = {key: value for key, value in run.info.get("experiment", {}).items() if value is not None and value != []}
    every = [*values.values(), *(values["topology"].values() if isinstance(values.get("topology"), dict) else ())]
    if not values or any(isinstance(value, dict) and "type" in value for value in every):
        return None
    named = {key: value.split(" #")[0] if isinstance(value, str) else value for key, value in values.items()}
    try:
        return toml_text(named)
    except TypeError:
        return None


def values(run: Run) -> dict[str, Any] | None:
    """The settings of a run's TOML."""
    text = toml(run)
    try:
        return None if text is None else tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def commands(group: Group) -> list[str]:
    """The commands that repeat the runs of a group; runs that differ in the algorithm alone are one command."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name, run in group.runs.items():
        settings = values(run)
        if settings is None or not isinstance(settings.get("topology"), str):
            continue
        seeds = [trial.seed for trial in group.trials[name]]
        for seed in dict.fromkeys(seeds):
            words = tuple(_words({**settings, "seed": seed, "trials": seeds.count(seed)}))
            algorithms = settings.get("algorithm", "gtadam")
            found.setdefault(words, []).extend(algorithms if isinstance(algorithms, list) else [str(algorithms)])
    return [
        shlex.join(
            [
                "distopt",
                "simulate",
                words[0],
                *(w for a in dict.fromkeys(each) for w in (_option("algorithm"), a)),
                *words[1:],
            ]
        )
        for words, each in found.items()
    ]


def _words(settings: Mapping[str, Any]) -> Iterator[str]:
    yield str(settings["topology"])
    for key, value in settings.items():
        if key in ("topology", "algorithm", "folder") or value in ([], None) or value == DEFAULT.get(key):
            continue
        if key in ("metrics", "probe"):
            for each in value:
                yield from (_option(key.removesuffix("s")), str(each))
        else:
            word = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            yield from (_option(key), word.removeprefix("file:path="))


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def folder(run: Run) -> str | None:
    """The folder that relative paths in a run's settings are of, where they are of any."""
    settings = values(run)
    named = settings.get("folder") if settings else None
    return None if named is None else str(named if run.path is None else (run.path / str(named)).resolve())


def whence(run: Run) -> str | None:
    """The same folder for readers of the page, seen from the run's folder: the page may be read on another machine."""
    named = folder(run)
    return None if named is None else named if run.path is None else os.path.relpath(named, run.path.resolve())


def papers(group: Group) -> list[str]:
    """The papers of the methods that a group uses, as lines of a list of references."""
    keys = dict.fromkeys(key for run in group.runs.values() for key in cited(run))
    return [f"[{key}] {entries.references()[key]}" for key in keys]


def step(run: Run) -> str:
    """A run's step size from its algorithm's spec, or the default; "" if it is unknown.

    >>> import numpy as np
    >>> told = {"experiment": {"algorithm": "gt:form=atc,lr=0.3"}}
    >>> step(Run("gt", "done", np.arange(1), {}, info=told))
    '0.3'
    >>> told["experiment"]["algorithm"] = "averaged(gt(lr=0.3),start=5)"
    >>> step(Run("averaged", "done", np.arange(1), {}, info=told))
    '0.3'
    """
    spec = run.info.get("experiment", {}).get("algorithm")
    if not isinstance(spec, str):
        return ""
    bare, *digests = spec.split(" #")
    try:
        with looking_in(folder(run)):
            return _step(Spec.parse(bare), digests)
    except (InputError, OSError):  # a file that is gone, or explains nothing
        return ""


def _step(parsed: Spec, digests: Sequence[str]) -> str:
    """The step size of an algorithm as it is spelled, or of the one inside it; ``digests`` are of the run's files."""
    known = _parameters(parsed.name, digests)
    values = {each.name: each.default or "" for each in known}
    values |= {**dict(zip(values, parsed.args, strict=False)), **dict(parsed.kwargs)}
    inner = next((values[each.name] for each in known if each.values == "an algorithm"), "")
    return _step(Spec.parse(inner), digests) if inner else values.get("lr", "")


def _parameters(name: str, digests: Sequence[str]) -> tuple[entries.Parameter, ...]:
    """The parameters of an algorithm of the catalogue, or of one in a user's file that has not changed since the run."""
    if name in registry.names("algorithms"):
        return entries.entry("algorithms", name).parameters
    path = place(name)
    if path is None or hashlib.sha256(path.read_bytes()).hexdigest()[:16] not in digests:
        return ()
    return next((each.parameters for each in entries.own(name) if each.kind == "algorithms"), ())


def network(run: Run) -> dict[str, Any] | None:
    """What decides a run's network; None where it was given as an object."""
    settings = values(run)
    if settings is None or not isinstance(settings.get("topology"), str):
        return None
    keys = ("topology", "agents", "weights", "seed", "drop_links", "drop_messages")
    return {"folder": folder(run) or str(Path.cwd()), **{key: settings.get(key) for key in keys}}
