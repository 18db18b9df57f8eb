"""WHAT is computed: topology, scenario, algorithm, channel, seed, trials, rounds. A value; TOML in and out; a fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distopt import catalog, limits, surroundings
from distopt.content import plain
from distopt.data import default_dtype, leaf
from distopt.errors import InputError
from distopt.graphs import Graph, Switching, check_connected, graph_from_matrix, graph_from_networkx
from distopt.mixing import Mixing
from distopt.network import widths
from distopt.places import here, looking_in, rooted, toml
from distopt.protocols import Channel
from distopt.random import Key
from distopt.spec import LARGEST, files, quoted, shown
from distopt.weights import Kind

DEFAULTS = {"scenario": "flights", "algorithm": "gtadam"}
"""What an experiment is about where a TOML file or the command line leaves it out."""

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class Experiment:
    """Everything that decides the numbers of a run, and nothing about where it runs.

    Attributes:
        topology: a spec string, a networkx graph, a weight matrix, or a Graph or Switching object.
        agents: N, or None where the topology fixes it.
        scenario, algorithm, channel: spec strings, or objects with the Protocol's methods. An algorithm with lists of values
            is a grid, which ``points`` takes apart.
        weights: the weight rule (a given weight matrix overrides it).
        drop_links: probability that a link fails in a round.
        rounds: T, or None for the scenario's own length (1000 where it has none).
        trials: R, independent repetitions, batched.
        seed: of all addressed randomness.
        dtype: of the iterates; metrics are always float64.
        every: record metrics every so many rounds (the last round is always recorded).
        x0: starting point: None (zeros), a number, [d], or [N, d].
        record: trajectories to keep: "x" and any leaf of the state, "s" or "direction.m".
        folder: what relative paths in the specs are of: where the experiment was started. No number depends on it.

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
    folder: str = field(default_factory=lambda: str(here()), compare=False)

    def __post_init__(self) -> None:
        for name in ("topology", "scenario", "algorithm", "channel"):
            if isinstance(value := getattr(self, name), Path):  # the file of a class, or of a graph
                object.__setattr__(self, name, of_path(name, value))
        if not isinstance(self.folder, str | Path):
            raise InputError(f"folder={shown(self.folder)}: must be the path of a folder")
        object.__setattr__(self, "folder", os.path.abspath(os.path.expanduser(self.folder)))
        record = self.record.split(",") if isinstance(self.record, str) else self.record
        if not isinstance(record, list | tuple) or not all(isinstance(name, str) for name in record):
            raise InputError(f"record={shown(self.record)}: must be names, such as x,s or (\"x\", \"s\")")
        object.__setattr__(self, "record", tuple(name.strip() for name in record if name.strip()))
        for name, lowest in (("agents", 1), ("rounds", 1), ("trials", 1), ("every", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is None and name in ("agents", "rounds"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise InputError(f"{name}={shown(value)} is not a whole number")
            if not lowest <= value <= LARGEST:
                raise InputError(f"{name}={shown(value)}: must be {f'at least {lowest}' if value < lowest else f'at most {LARGEST}'}")
            object.__setattr__(self, name, int(value))
        if not isinstance(self.weights, str):
            raise InputError(f"weights={shown(self.weights)}: must be the name of a rule")
        if not isinstance(self.dtype, str) or self.dtype not in DTYPES:
            raise InputError(f"dtype={shown(self.dtype)}: must be one of {', '.join(DTYPES)}")
        drop = self.drop_links
        if isinstance(drop, bool) or not isinstance(drop, int | float | np.integer | np.floating) or not 0 <= drop < 1:
            raise InputError(f"drop_links={shown(drop)}: must be a probability in [0, 1)")
        object.__setattr__(self, "drop_links", float(self.drop_links))

    def describe(self) -> dict[str, Any]:
        """The experiment as plain JSON values; objects are described by type, fields and content hashes."""
        with looking_in(self.folder):
            return {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "folder"}

    def fingerprint(self) -> str:
        """Sixteen hex digits: equal fingerprints mean equal bits on one version of the program."""
        text = json.dumps(self.describe(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_toml(self, near: Path | None = None) -> str:
        """TOML text that ``read_toml`` reads back.

        Where a relative path is in it, so is the folder that it is of: from ``near``, the folder of the TOML file, where that lies inside
        it, so that both can be moved together.

        Raises:
            InputError: a part was given as a Python object, which TOML cannot hold.
        """
        import tomli_w

        out: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = self._recorded(near) if f.name == "folder" else getattr(self, f.name)
            if value is None or value == ():
                continue
            if isinstance(value, tuple):
                value = list(value)
            if not isinstance(value, str | int | float | list):
                raise InputError(f"{f.name} was given as a Python object ({type(value).__name__}); only spec strings can be written as TOML")
            out[f.name] = value
        return tomli_w.dumps(out)

    def _recorded(self, near: Path | None) -> str | None:
        """The folder, where a relative path is of it."""
        specs = [spec for spec in (self.topology, self.scenario, self.algorithm, self.channel) if isinstance(spec, str)]
        with looking_in(self.folder):
            named = [text for spec in specs for text, _ in files(spec)]
        if all(map(rooted, named)):
            return None
        inside = near is not None and Path(self.folder).resolve() in near.resolve().parents
        return os.path.relpath(Path(self.folder).resolve(), near.resolve()) if near and inside else self.folder

    def points(self) -> list[Experiment]:
        """The single experiments of a grid ``algorithm="gt:lr=[0.1,0.2]"``, one for each point; of any other experiment, itself.

        >>> [point.algorithm for point in Experiment("ring", 4, "quadratic", "gt:lr=[0.1,0.2]").points()]
        ['gt:lr=0.1', 'gt:lr=0.2']

        Raises:
            InputError: a malformed list, or a point that is there twice.
        """
        if not isinstance(self.algorithm, str):
            return [self]
        with looking_in(self.folder):
            specs = catalog.points(self.algorithm)
        if (twice := repeated(specs)) is not None:
            raise InputError(f"algorithm {self.algorithm}: {specs[twice]} is in the grid twice")
        return [self] if specs == [self.algorithm.strip()] else [dataclasses.replace(self, algorithm=spec) for spec in specs]

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str) -> Experiment:
        """An experiment from parsed TOML, with its ``folder`` (see ``settings``); ``where`` names the file in errors."""
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise InputError(f"{where}: no setting {key!r}{catalog._nearest(key, known)}; settings: {', '.join(known)}")
        if "topology" not in values:
            raise InputError(f"{where}: topology is missing; write topology = \"...\"")
        return cls(**{"agents": None, **DEFAULTS, **values})


def of_path(part: str, path: Path) -> str:
    """The spec of a part that is given as a path: a Python file is its maker, and what a topology is read from is a file.

    >>> of_path("algorithm", Path("d/mine.py")), of_path("topology", Path("a,b.edges"))
    ('d/mine.py', "file:path='a,b.edges'")
    """
    if path.suffix != ".py" and part != "topology":
        raise InputError(f"{part}={str(path)!r}: a path of a {part} is that of a Python file, with .py at its end")
    return str(path) if path.suffix == ".py" else f"file:path={quoted(str(path))}"


def repeated(items: Sequence[Hashable]) -> int | None:
    """The place of the first item that is there a second time."""
    seen: set[Hashable] = set()
    for k, item in enumerate(items):
        if item in seen:
            return k
        seen.add(item)
    return None


def settings(path: Path) -> dict[str, Any]:
    """What a TOML file says of an experiment, and the ``folder`` that relative paths in it are of: where the file lies, if it says no other.

    Raises:
        InputError: it cannot be read, is no TOML, or names a folder that is none.
    """
    values = toml(path)
    folder = values.get("folder", "")
    if not isinstance(folder, str):
        raise InputError(f"{path}: folder={shown(folder)}: must be the path of a folder")
    # what older versions wrote beside a run names no folder: its paths are of where the process is
    base = here() if "folder" not in values and (path.parent / "manifest.json").exists() else path.parent
    return {**values, "folder": os.path.abspath(base / os.path.expanduser(folder))}


def read_toml(path: Path) -> list[Experiment]:
    """The experiments of a TOML file: one, or one for each entry of a list ``algorithm = [...]`` and each point of a grid."""
    values = settings(path)
    named = values.get("algorithm")
    each = [{**values, "algorithm": one} for one in named] if isinstance(named, list) else [values]
    try:
        return [point for one in each for point in Experiment.from_mapping(one, str(path)).points()]
    except InputError as fault:
        raise InputError(f"{fault}" if str(path) in str(fault) else f"{path}: {fault}") from fault


@dataclass(frozen=True)
class Problem:
    """An experiment with its parts built and checked: what the runner needs.

    ``x0`` is [R, N, d] in the experiment's dtype; ``rounds`` is T; ``widths`` how many numbers an agent sends through each channel;
    ``points`` are the experiments of a batch (``distopt.grid.stack``).
    """

    experiment: Experiment
    mixing: Mixing
    scenario: Any
    algorithm: Any
    channels: dict[str, Channel[Any]]
    key: Key
    rounds: int
    x0: Tensor
    widths: dict[str, int]
    points: tuple[Experiment, ...] = ()

    @property
    def agents(self) -> int:
        """N."""
        return self.key.total

    @property
    def tracker(self) -> str | None:
        """The leaf of the algorithm's state that tracks the mean gradient, or None where it says nothing of one."""
        return getattr(self.algorithm, "tracks", None)


@surroundings.set_aside()
def build(experiment: Experiment, like: Problem | None = None) -> Problem:
    """Build and check every part. ``like`` lends its scenario and mixing: for several algorithms on the same data and network.

    Raises:
        InputError: an unknown name, a disconnected graph, weights an algorithm cannot use, a starting point of the wrong
            shape, more rounds than the data have.
    """
    with looking_in(experiment.folder):
        return _build(experiment, like)


def _build(experiment: Experiment, like: Problem | None) -> Problem:
    seed, trials = experiment.seed, range(experiment.trials)
    if like is None:
        limits.agents(experiment)
    network = like.mixing.network if like else None
    if network is None:
        topology = build_topology(experiment.topology, experiment.agents, seed)
        whole = Key(seed, range(topology.agents), trials, topology.agents)
        network = Mixing(topology, experiment.weights, whole, experiment.drop_links)
    agents = network.agents
    key = Key(seed, range(agents), trials, agents)
    scenario = like.scenario if like else _part("scenarios", experiment.scenario, ("batch", "loss", "grad", "dim"), {"agents": agents})
    algorithm = _part("algorithms", experiment.algorithm, ("init", "update", "channels"), {})
    who = catalog.parse(experiment.algorithm).name if isinstance(experiment.algorithm, str) else type(algorithm).__name__.lower()
    kind: Kind = getattr(algorithm, "weights", "doubly")
    mixing = network.served() if kind == "average" else network
    mixing.require(kind, who)
    channels = _channels(experiment, algorithm)
    if any(hasattr(channel, "among") for channel in channels.values()):
        mixing = mixing.linked(who if experiment.channel == "exact" else f"channel {_label(experiment.channel)}")
        channels = {name: channel.among(mixing.slots) if hasattr(channel, "among") else channel for name, channel in channels.items()}
    if not mixing.constant and (moving := [name for name, channel in channels.items() if getattr(channel, "constant", False)]):
        raise InputError(
            f"channel {type(channels[moving[0]]).__name__.lower()} keeps sums of what neighbours sent, which only hold while W does not change, "
            "but here links come and go; use a fixed topology without drop_links, or another channel"
        )
    limit = scenario.length(agents) if hasattr(scenario, "length") else getattr(scenario, "rounds", None)
    if limit is not None and limit < 1:
        raise InputError(f"the data of scenario {_label(experiment.scenario)} do not last one round for {agents} agents; give more rows")
    if experiment.rounds and limit is not None and experiment.rounds > limit:
        raise InputError(f"rounds={experiment.rounds}: the data of scenario {_label(experiment.scenario)} last {limit} rounds")
    rounds = experiment.rounds or min(limit or 1000, 1000)
    x0 = _start(experiment, agents, int(scenario.dim))
    named = [name for name in experiment.record if name != "x"]
    tracks = getattr(algorithm, "tracks", None)
    with default_dtype(x0.dtype):
        if named or tracks is not None:
            state = algorithm.init(x0.clone())
            if tracks is not None:
                _require_tracker(who, tracks, state, x0)
            for name in named:
                leaf(state, name)
        wide = widths(algorithm, channels, x0)
    return Problem(experiment, mixing, scenario, algorithm, channels, key, rounds, x0, wide)


def _require_tracker(who: str, tracks: Any, state: Any, x: Tensor) -> None:
    """Refuse an algorithm that says that it tracks with a leaf that it does not have, or that cannot hold a gradient."""
    try:
        tracker = leaf(state, tracks) if isinstance(tracks, str) else None
    except InputError:
        tracker = None
    if tracker is None or tracker.shape != x.shape:
        raise InputError(
            f"algorithm {who}: tracks={tracks!r} must name the leaf of its state that tracks the mean gradient, of x's shape {list(x.shape)}, as in "
            f"tracks = \"s\"; the state has: {', '.join(getattr(state, '_fields', ())) or 'no leaf with a name'}"
        )


def _channels(experiment: Experiment, algorithm: Any) -> dict[str, Channel[Any]]:
    """The channel of each name that the algorithm sends: its own, where it brings any, or the experiment's."""
    needs = ("init", "encode", "bits")
    brought = getattr(algorithm, "channel", None)
    if brought is None:
        return dict.fromkeys(algorithm.channels, _part("channels", experiment.channel, needs, {}))
    if experiment.channel != "exact":
        raise InputError(
            f"algorithm {_label(experiment.algorithm)} brings its own channel; leave channel={_label(experiment.channel)} out, or use an "
            "algorithm without, such as gt"
        )
    own = brought if isinstance(brought, Mapping) else dict.fromkeys(algorithm.channels, brought)
    if missing := [name for name in algorithm.channels if name not in own]:
        raise InputError(f"algorithm {_label(experiment.algorithm)} sends {missing[0]!r}, for which it brings no channel")
    return {name: _part("channels", own[name], needs, {}) for name in algorithm.channels}


def build_topology(topology: Any, agents: int | None, seed: int) -> Graph | Switching:
    """A spec string, path, networkx graph, weight matrix, Graph or Switching as a checked Graph or Switching of ``agents`` agents."""
    topology = of_path("topology", topology) if isinstance(topology, Path) else topology
    built = catalog.make("topologies", topology, _given(topology, agents, seed)) if isinstance(topology, str) else topology
    if isinstance(built, type):
        raise InputError(f"topology {built.__name__} was given as a class; give an object of it")
    if hasattr(built, "nodes") and hasattr(built, "edges"):
        built = graph_from_networkx(built)
    elif hasattr(built, "to_numpy"):  # a data frame
        built = graph_from_matrix(built.to_numpy())
    elif isinstance(built, np.ndarray | Tensor) or hasattr(built, "tocsr"):
        built = graph_from_matrix(built)
    elif isinstance(built, list | tuple):
        try:
            given = np.asarray(built)
            if given.dtype.kind not in "biuf":  # texts, which numpy would read as numbers
                raise TypeError(given.dtype)
            built = graph_from_matrix(given)
        except (TypeError, ValueError) as error:
            raise error if isinstance(error, InputError) else InputError(
                "topology was given as a list that is no [N, N] matrix of numbers; rows must have equal lengths"
            ) from error
    if not isinstance(built, Graph | Switching):
        if built is not topology or isinstance(topology, int | float | str | None):
            raise InputError(f"topology={shown(topology)}: must be a name such as ring, or the path of a file, as in file:path=graph.edges")
        raise InputError(f"topology {_label(topology)} is neither a graph nor a weight matrix; give a name, a networkx graph or an [N, N] array")
    if agents is not None and built.agents != agents:
        raise InputError(f"topology {_label(topology)} has {built.agents} agents, not {agents}; leave agents out or make them equal")
    if isinstance(built, Graph):
        check_connected(built)
    return built


def _given(topology: str, agents: int | None, seed: int) -> dict[str, Any]:
    import inspect

    parameter = inspect.signature(catalog.maker("topologies", catalog.parse(topology).name)).parameters.get("agents")
    if parameter is not None and parameter.default is parameter.empty and agents is None:
        raise InputError(f"topology {topology}: say how many agents, as in --agents 16 or agents=16")
    return {"agents": agents, "key": Key(seed, range(max(agents or 1, 1)), range(1), max(agents or 1, 1))}


def _part(kind: str, spec: Any, needs: tuple[str, ...], given: dict[str, Any]) -> Any:
    built = catalog.make(kind, spec, given) if isinstance(spec, str) else spec
    if isinstance(built, type):
        raise InputError(f"{built.__name__} was given as a class; give an object of it, as in {built.__name__}()")
    for need in needs:
        if not hasattr(built, need):
            raise InputError(f"{_label(spec)} cannot serve among the {kind}: it has no {need!r}")
    return built


def _label(spec: Any) -> str:
    return spec if isinstance(spec, str) else type(spec).__name__


def _start(experiment: Experiment, agents: int, dim: int) -> Tensor:
    if dim < 1:
        raise InputError(f"scenario {_label(experiment.scenario)}: dim={dim}, must be at least 1")
    shape = (experiment.trials, agents, dim)
    x0 = 0.0 if experiment.x0 is None else experiment.x0
    if isinstance(x0, bool | np.ma.MaskedArray) or (isinstance(x0, Tensor) and (x0.is_complex() or x0.layout != torch.strided)):
        raise InputError(f"x0={shown(x0)}: must be real numbers, all of them there")
    try:
        start = torch.as_tensor(x0, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InputError(f"x0={shown(x0)}: must be a number or an array of shape [{agents}, {dim}]") from None
    if start.ndim > 3 or (start.ndim > 0 and start.shape not in {(dim,), (agents, dim), shape}):
        raise InputError(f"x0 has shape {list(start.shape)}; give a number, [{dim}], [{agents}, {dim}] or {list(shape)}")
    start = start.to(DTYPES[experiment.dtype])
    if not bool(torch.isfinite(start).all()):
        raise InputError(f"x0 is not finite in {experiment.dtype}")
    return start.clone().expand(shape)
