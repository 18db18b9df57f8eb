"""The experiment: a value that defines what is computed (topology, scenario, algorithm, seed, ...).
It reads and writes TOML and has a fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distopt.catalog import registry
from distopt.catalog.churn import leaving
from distopt.catalog.parts import of_path
from distopt.catalog.places import here, looking_in, place, rooted, toml
from distopt.catalog.spec import LARGEST, Spec, quoted, real, shown
from distopt.catalog.spec_files import files
from distopt.catalog.toml_writer import toml_text
from distopt.catalog.wrapping import WRAPPINGS, wrapped
from distopt.errors import InputError
from distopt.fingerprint import plain
from distopt.network.clock import LENGTH, ticking
from distopt.network.faults import LATEST

DEFAULTS = {"scenario": "flights", "algorithm": "gtadam"}
"""Defaults for what a TOML file or the command line leaves out."""

COMPARED = ("gtadam:lr=0.01", "gt:lr=0.215", "dgd:lr=1")
"""What the command line compares if the user names no scenario, algorithm or channel.
The step sizes are the best of a grid
on the flights: ``distopt tune ring --agents 16 --algorithm gtadam --algorithm gt --algorithm dgd``."""

LATER = ("metrics", "probe", "drop_messages", "sleep", "delay", "churn", "clock")
"""Settings of later versions. Fingerprints leave them out at their defaults, so that old fingerprints stay valid."""

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class Experiment:
    """Everything that decides the results of a run, and nothing about where it runs.

    Attributes:
        topology: a spec string, a networkx graph, a weight matrix, or a Graph or Switching object. A dict gives each
            channel its own.
        agents: N, or None if the topology fixes it.
        scenario, algorithm, channel: spec strings, or objects with the Protocol's methods. An algorithm with lists of values
            is a grid, which ``points`` takes apart.
        weights: the weight rule (a given weight matrix overrides it). On a directed graph "metropolis" stands for the
            rule that each channel needs.
        drop_links: probability that a link fails in a round.
        drop_messages: probability that a message is lost in a round, in one direction, independently of others.
        sleep: probability that an agent skips a round.
        delay: how many rounds late messages arrive: a number such as 2, or a range such as "0..3", from which each
            message draws its delay; or "length", where the lengths of links decide, and the clock's ``compute`` is the
            length of a round; "" for none.
        clock: how long computing and sending take, such as "compute=1e-3,latency=1e-3,bandwidth=1e9"; "" for none.
            Without delay "length", only the metric ``simulated_seconds`` depends on it.
        rounds: T, or None for the scenario's own length (1000 if it has none).
        trials: R, the number of independent repetitions, run in one batch.
        seed: the random seed.
        dtype: precision of the iterates; metrics are always float64.
        every: record metrics every ``every`` rounds. The last round is always recorded.
        x0: starting point: None (the scenario's own, or zeros), a number, [d], [N, d] or [R, N, d], or the path of a
            file of such numbers (``numpy.save``).
        record: trajectories to keep: "x", any leaf of the state, "s" or "direction.m", and of a channel's memory, "memory.x.e" (e of
            the channel of "x").
        metrics: what to measure besides the metrics that every run has: paths of Python files, or objects (see ``distopt.metrics``).
        probe: what to measure once in several rounds: specs such as "sharpness:every=100", paths of Python files, or
            objects (see ``distopt.probes``).
        churn: probabilities per round that an agent leaves and joins, such as "leave=0.01,join=0.1", or one number for
            both; "until=500" stops this at round 500; "" for no churn.
        folder: the folder that relative paths in the specs start from: where the experiment was started. Results do not
            depend on it.

    >>> Experiment("ring", 4, "quadratic", "gt", rounds=3).fingerprint() == Experiment("ring", 4, "quadratic", "gt", rounds=3).fingerprint()
    True
    """

    topology: Any
    agents: int | None
    scenario: Any
    algorithm: Any
    channel: Any = "exact"
    weights: str = "metropolis"
    drop_links: float = 0.0
    rounds: int | None = None
    trials: int = 1
    seed: int = 0
    dtype: str = "float64"
    every: int = 1
    x0: Any = None
    record: tuple[str, ...] = field(default=())
    metrics: tuple[Any, ...] = ()
    probe: tuple[Any, ...] = ()
    drop_messages: float = 0.0
    sleep: float = 0.0
    delay: str = ""
    clock: str = ""
    churn: str = ""
    folder: str = field(default_factory=lambda: str(here()), compare=False)

    def __post_init__(self) -> None:
        for name in ("topology", "scenario", "algorithm", "channel"):
            if isinstance(value := getattr(self, name), Path):  # the file of a class, or of a graph
                object.__setattr__(self, name, of_path(name, value))
        if isinstance(self.topology, Mapping):
            by_channel = {
                name: of_path("topology", p) if isinstance(p, Path) else p for name, p in self.topology.items()
            }
            object.__setattr__(self, "topology", by_channel)
        if isinstance(self.x0, str | Path):
            object.__setattr__(self, "x0", start(str(self.x0)))
        if not isinstance(self.folder, str | Path):
            raise InputError(f"folder={shown(self.folder)}: must be the path of a folder")
        object.__setattr__(self, "folder", os.path.abspath(os.path.expanduser(self.folder)))
        record = self.record.split(",") if isinstance(self.record, str) else self.record
        if not isinstance(record, list | tuple) or not all(isinstance(name, str) for name in record):
            raise InputError(f'record={shown(self.record)}: must be names, such as x,s or ("x", "s")')
        object.__setattr__(self, "record", tuple(name.strip() for name in record if name.strip()))
        metrics = self.metrics if isinstance(self.metrics, list | tuple) else [self.metrics]
        found = (of_path("metric", each) if isinstance(each, Path) else each for each in metrics)
        object.__setattr__(self, "metrics", tuple(found))
        probe = self.probe if isinstance(self.probe, list | tuple) else [self.probe]
        specs = (of_path("probe", each) if isinstance(each, Path) else each for each in probe)
        object.__setattr__(self, "probe", tuple(specs))
        for name, lowest in (("agents", 1), ("rounds", 1), ("trials", 1), ("every", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is None and name in ("agents", "rounds"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise InputError(f"{name}={shown(value)} is not a whole number")
            if not lowest <= value <= LARGEST:
                raise InputError(
                    f"{name}={shown(value)}: must be {f'at least {lowest}' if value < lowest else f'at most {LARGEST}'}"
                )
            object.__setattr__(self, name, int(value))
        if not isinstance(self.weights, str):
            raise InputError(f"weights={shown(self.weights)}: must be the name of a rule")
        if not isinstance(self.dtype, str) or self.dtype not in DTYPES:
            raise InputError(f"dtype={shown(self.dtype)}: must be one of {', '.join(DTYPES)}")
        for name in ("drop_links", "drop_messages", "sleep"):
            drop = getattr(self, name)
            if (
                isinstance(drop, bool)
                or not isinstance(drop, int | float | np.integer | np.floating)
                or not 0 <= drop < 1
            ):
                raise InputError(f"{name}={shown(drop)}: must be a probability in [0, 1)")
            object.__setattr__(self, name, float(drop))
        object.__setattr__(self, "delay", late(self.delay))
        object.__setattr__(self, "clock", ticking(self.clock))
        object.__setattr__(self, "churn", leaving(self.churn))

    def describe(self) -> dict[str, Any]:
        """The experiment as plain JSON values. Objects are described by type, fields and content hashes."""
        # so experiments without these settings keep the fingerprints of versions that did not have them
        left = {"folder", *(name for name in LATER if not getattr(self, name))}
        with looking_in(self.folder):
            return {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name not in left}

    def fingerprint(self) -> str:
        """Sixteen hex digits: equal fingerprints mean equal bits on one version of the program."""
        text = json.dumps(self.describe(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_toml(self, near: Path | None = None) -> str:
        """TOML text that ``read_toml`` reads back.

        If the experiment has relative paths, the text also names the folder that they start from. If ``near``, the
        folder of the TOML file, lies inside that folder, the name is relative to ``near``, so that both can be moved
        together.

        Raises:
            InputError: a part was given as a Python object, which TOML cannot hold.
        """
        out: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = self._recorded(near) if f.name == "folder" else getattr(self, f.name)
            if value is None or (isinstance(value, tuple) and not value) or (f.name in LATER and not value):
                continue
            if isinstance(value, tuple):
                value = list(value)
            several = f.name in ("metrics", "probe")
            each = value if several else list(value.values()) if isinstance(value, dict) else [value]
            if strange := [one for one in each if not isinstance(one, str | int | float | list)]:
                raise InputError(
                    f"{f.name} was given as a Python object ({type(strange[0]).__name__}); only spec strings can be written as TOML"
                )
            out[f.name] = value
        return toml_text(out)

    def _recorded(self, near: Path | None) -> str | None:
        """The folder, if a relative path of the experiment depends on it."""
        graphs = self.topology.values() if isinstance(self.topology, Mapping) else [self.topology]
        parts = (*graphs, self.scenario, self.algorithm, self.channel, self.x0, *self.metrics, *self.probe)
        specs = [part for part in parts if isinstance(part, str)]
        with looking_in(self.folder):
            named = [text for spec in specs for text, _ in files(spec)]
        if all(map(rooted, named)):
            return None
        return moving(self.folder, near)

    def points(self) -> list[Experiment]:
        """One experiment for each point of a grid such as ``algorithm="gt:lr=[0.1,0.2]"``; the experiment itself if it has no grid.

        >>> [point.algorithm for point in Experiment("ring", 4, "quadratic", "gt:lr=[0.1,0.2]").points()]
        ['gt:lr=0.1', 'gt:lr=0.2']

        Raises:
            InputError: a malformed list, or a point that occurs twice.
        """
        if not isinstance(self.algorithm, str):
            return [self]
        with looking_in(self.folder):
            specs = Spec.parse(self.algorithm).spelled()
        if (twice := repeated(specs)) is not None:
            raise InputError(f"algorithm {self.algorithm}: {specs[twice]} is in the grid twice")
        return (
            [self]
            if specs == [self.algorithm.strip()]
            else [dataclasses.replace(self, algorithm=spec) for spec in specs]
        )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str) -> Experiment:
        """An experiment from a mapping, such as parsed TOML with its ``folder`` (see ``settings``).
        Messages name the mapping as ``where``.

        Besides the fields, ``values`` may hold ``feedback`` and ``feasible``, which stand for specs (see ``distopt.catalog.wrapping``).
        """
        known = [*(f.name for f in dataclasses.fields(cls)), *WRAPPINGS]
        for key in values:
            if key not in known:
                raise InputError(
                    f"{where}: no setting {key!r}{registry.nearest(str(key), known)}; settings: {', '.join(known)}"
                )
        if "topology" not in values:
            raise InputError(f'{where}: topology is missing; write topology = "..."')
        return cls(**wrapped({"agents": None, **DEFAULTS, **values}))


def late(delay: Any) -> str:
    """A delay as text: "" for none, a number of rounds, a range such as 0..3, or "length".

    >>> late(2), late("0..3"), late(0), late("0..0")
    ('2', '0..3', '', '')

    Raises:
        InputError: it is none of these, or longer than ``LATEST``.
    """
    number = isinstance(delay, int | np.integer) and not isinstance(delay, bool) and 0 <= delay <= LATEST
    text = str(delay) if number else delay
    if isinstance(text, str) and text in ("", LENGTH):
        return text
    found = re.fullmatch(r"([0-9]{1,3})(?:\.\.([0-9]{1,3}))?", text) if isinstance(text, str) else None
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not least <= most <= LATEST:
        raise InputError(
            f"delay={shown(delay)}: must be a number of rounds, at most {LATEST}, such as 2, or a range, such as 0..3, or {LENGTH}"
        )
    return str(text) if most else ""


def start(text: str) -> float | str:
    """A starting point from text: a number, or the spec of a file. The file's content is then part of the fingerprint.

    >>> start("0.5"), start("start.npy"), start("file:path=start.npy")
    (0.5, 'file:path=start.npy', 'file:path=start.npy')
    """
    try:
        return real(text)
    except ValueError:
        return text if text.startswith("file:path=") else f"file:path={quoted(text)}"


def start_there(text: str, folder: Path) -> float | str:
    """Like ``start``, but a file must exist, else ValueError. Relative paths start from ``folder``."""
    found = start(text)
    with looking_in(str(folder)):
        if isinstance(found, str) and place(Spec.parse(found).kwargs[0][1]) is None:
            raise ValueError("is neither a number nor an existing .npy file")
    return found


def moving(folder: str, near: Path | None) -> str:
    """A folder as a file in ``near`` should name it: relative to ``near`` if ``near`` lies inside the folder, so that both can be moved together.

    >>> moving("/data", Path("/data/runs/one")), moving("/data", Path("/elsewhere"))
    ('../..', '/data')
    """
    inside = near is not None and Path(folder).resolve() in near.resolve().parents
    return os.path.relpath(Path(folder).resolve(), near.resolve()) if near and inside else folder


def repeated(items: Sequence[Hashable]) -> int | None:
    """The index of the first item that repeats an earlier one."""
    seen: set[Hashable] = set()
    for k, item in enumerate(items):
        if item in seen:
            return k
        seen.add(item)
    return None


def compared(experiments: Sequence[Experiment]) -> list[Experiment]:
    """The points of several experiments (see ``Experiment.points``). Their labels must differ.

    Raises:
        InputError: a malformed list, or two runs of the same label.
    """
    points = [point for experiment in experiments for point in experiment.points()]
    labels = [label(point) for point in points]
    if (twice := repeated(labels)) is not None:
        each = labels[twice]
        raise InputError(
            f"algorithm {each} is given twice; to run it with different parameters, write {each}:key=value"
        )
    return points


def settings(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, and the ``folder`` that relative paths start from: the file's own, unless it names another.

    Raises:
        InputError: it cannot be read, is no TOML, or names a folder that is none.
    """
    values = toml(path)
    folder = values.get("folder", "")
    if not isinstance(folder, str):
        raise InputError(f"{path}: folder={shown(folder)}: must be the path of a folder")
    # files of older versions name no folder: their paths start from the current folder
    base = here() if "folder" not in values and (path.parent / "manifest.json").exists() else path.parent
    return {**values, "folder": os.path.abspath(base / os.path.expanduser(folder))}


def several(values: Mapping[str, Any], where: str) -> list[Experiment]:
    """The experiments of parsed TOML, one for each entry of a list ``algorithm = [...]``.
    ``rounds`` may then be a
    list, too.

    >>> [each.rounds for each in several({"topology": "ring", "algorithm": ["gt", "k_gt"], "rounds": [500, 100]}, "here")]
    [500, 100]

    Raises:
        InputError: an empty list, or lists of different lengths; see ``Experiment.from_mapping``.
    """
    named, rounds = values.get("algorithm"), values.get("rounds")
    if not isinstance(named, list):
        return [Experiment.from_mapping(values, where)]
    if not named:
        raise InputError(f'{where}: algorithm is an empty list; write algorithm = ["gtadam", "dgd"]')
    lengths = rounds if isinstance(rounds, list) else [rounds] * len(named)
    if len(lengths) != len(named):
        raise InputError(
            f"{where}: rounds is a list of {len(lengths)} for {len(named)} algorithms; give one number for all, or one for each"
        )
    each = zip(named, lengths, strict=True)
    return [Experiment.from_mapping({**values, "algorithm": one, "rounds": count}, where) for one, count in each]


def read_toml(path: Path) -> list[Experiment]:
    """The experiments of a TOML file: one for each algorithm (see ``several``) and each point of a grid."""
    values = settings(path)
    try:
        return [point for one in several(values, str(path)) for point in one.points()]
    except InputError as fault:
        raise InputError(f"{fault}" if str(path) in str(fault) else f"{path}: {fault}") from fault


def label(experiment: Experiment) -> str:
    """The name of an experiment's run: its algorithm's spec, or the type of its object."""
    what = experiment.algorithm
    return what if isinstance(what, str) else type(what).__name__.lower()


def titled(spec: Any) -> str:
    """A part of an experiment for a title: a spec with the paths of files cut short, or the type of an object."""
    if isinstance(spec, str):
        return registry.brief(spec)
    if isinstance(spec, Mapping):
        return " and ".join(map(titled, spec.values()))
    return "matrix" if isinstance(spec, list) else type(spec).__name__.lower()
