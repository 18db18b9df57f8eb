"""WHAT is computed: topology, scenario, algorithm, channel, seed, trials, rounds. A value; TOML in and out; a fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
import torch
from torch import Tensor

from distopt import catalog, surroundings
from distopt.data import default_dtype, leaf
from distopt.errors import InputError
from distopt.graphs import Graph, Switching, check_connected, graph_from_matrix, graph_from_networkx
from distopt.mixing import Mixing
from distopt.protocols import Channel
from distopt.random import Key
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

    def __post_init__(self) -> None:
        record = self.record.split(",") if isinstance(self.record, str) else self.record
        if not isinstance(record, list | tuple) or not all(isinstance(name, str) for name in record):
            raise InputError(f"record={self.record!r}: must be names, such as x,s or (\"x\", \"s\")")
        object.__setattr__(self, "record", tuple(name.strip() for name in record if name.strip()))
        for name, lowest in (("agents", 1), ("rounds", 1), ("trials", 1), ("every", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is None and name in ("agents", "rounds"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise InputError(f"{name}={value!r} is not a whole number")
            if value < lowest:
                raise InputError(f"{name}={value}: must be at least {lowest}")
            object.__setattr__(self, name, int(value))
        if not isinstance(self.weights, str):
            raise InputError(f"weights={self.weights!r}: must be the name of a rule")
        if not isinstance(self.dtype, str) or self.dtype not in DTYPES:
            raise InputError(f"dtype={self.dtype!r}: must be one of {', '.join(DTYPES)}")
        if isinstance(self.drop_links, bool) or not isinstance(self.drop_links, SupportsFloat) or not 0 <= float(self.drop_links) < 1:
            raise InputError(f"drop_links={self.drop_links!r}: must be a probability in [0, 1)")
        object.__setattr__(self, "drop_links", float(self.drop_links))

    def describe(self) -> dict[str, Any]:
        """The experiment as plain JSON values; objects are described by type, fields and content hashes."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def fingerprint(self) -> str:
        """Sixteen hex digits: equal fingerprints mean equal bits on one version of the program."""
        text = json.dumps(self.describe(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_toml(self) -> str:
        """TOML text that ``from_toml`` reads back.

        Raises:
            InputError: a part was given as a Python object, which TOML cannot hold.
        """
        import tomli_w

        out: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if value is None or value == ():
                continue
            if isinstance(value, tuple):
                value = list(value)
            if not isinstance(value, str | int | float | list):
                raise InputError(f"{f.name} was given as a Python object ({type(value).__name__}); only spec strings can be written as TOML")
            out[f.name] = value
        return tomli_w.dumps(out)

    def points(self) -> list[Experiment]:
        """The single experiments of a grid ``algorithm="gt:lr=[0.1,0.2]"``, one for each point; of any other experiment, itself.

        >>> [point.algorithm for point in Experiment("ring", 4, "quadratic", "gt:lr=[0.1,0.2]").points()]
        ['gt:lr=0.1', 'gt:lr=0.2']

        Raises:
            InputError: a malformed list, or a point that is there twice.
        """
        if not isinstance(self.algorithm, str):
            return [self]
        specs = catalog.points(self.algorithm)
        for spec in specs:
            if specs.count(spec) > 1:
                raise InputError(f"algorithm {self.algorithm}: {spec} is in the grid twice")
        return [self] if specs == [self.algorithm.strip()] else [dataclasses.replace(self, algorithm=spec) for spec in specs]

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str) -> Experiment:
        """An experiment from parsed TOML; ``where`` names the file in errors."""
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise InputError(f"{where}: no setting {key!r}{catalog._nearest(key, known)}; settings: {', '.join(known)}")
        if "topology" not in values:
            raise InputError(f"{where}: topology is missing; write topology = \"...\"")
        return cls(**{"agents": None, **DEFAULTS, **values})


def read_toml(path: Path) -> list[Experiment]:
    """The experiments of a TOML file: one, or one for each entry of a list ``algorithm = [...]`` and each point of a grid."""
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    named = values.get("algorithm")
    each = [{**values, "algorithm": one} for one in named] if isinstance(named, list) else [values]
    return [point for one in each for point in Experiment.from_mapping(one, str(path)).points()]


def _plain(value: Any, above: tuple[int, ...] = ()) -> Any:
    """A value as JSON: content where it can be read, else its type's name. ``above`` holds the ids on the way here (cycles)."""
    if isinstance(value, str):
        return _with_content(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if id(value) in above or len(above) > 20:
        return kind
    inner = (*above, id(value))
    if isinstance(value, Tensor):
        value = value.detach().to_dense().cpu()
        value = value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        if value.ndim == 0 and value.dtype.kind in "biuf":
            return value.item()
        content = repr(value.tolist()).encode() if value.dtype.hasobject else np.ascontiguousarray(value).tobytes()
        return f"array{value.shape}{value.dtype}:" + hashlib.sha256(content).hexdigest()[:16]
    if isinstance(value, list | tuple):
        return [_plain(item, inner) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, inner) for key, item in value.items()}
    if hasattr(value, "edges") and hasattr(value, "nodes"):  # networkx
        return {"type": kind, "nodes": [str(n) for n in value.nodes], "edges": sorted(f"{edge[0]}-{edge[1]}" for edge in value.edges)}
    if callable(getattr(value, "tocoo", None)):  # scipy sparse
        coordinates = value.tocoo()
        return {"type": kind, "entries": [_plain(np.asarray(each)) for each in (*coordinates.coords, coordinates.data)]}
    fields = dict(getattr(value, "__dict__", {}))
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    described = {key: _plain(item, inner) for key, item in sorted(fields.items()) if not callable(item)}
    return {"type": kind, "code": _code(type(value)), **described}


def _code(kind: type) -> str:
    """A digest of a class's text, so that two classes of one name differ; empty where there is no text to read."""
    import inspect

    try:
        return hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        return ""


def _with_content(spec: str) -> str:
    """A spec that names files stands for their content: the fingerprint must change when a file does."""
    return spec + "".join(f" #{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}" for path in catalog.paths(spec))


@dataclass(frozen=True)
class Problem:
    """An experiment with its parts built and checked: what the runner needs.

    ``x0`` is [R, N, d] in the experiment's dtype; ``rounds`` is T; ``points`` are the experiments of a batch (``distopt.grid.stack``).
    """

    experiment: Experiment
    mixing: Mixing
    scenario: Any
    algorithm: Any
    channels: dict[str, Channel[Any]]
    key: Key
    rounds: int
    x0: Tensor
    points: tuple[Experiment, ...] = ()

    @property
    def agents(self) -> int:
        """N."""
        return self.key.total


@surroundings.set_aside()
def build(experiment: Experiment, like: Problem | None = None) -> Problem:
    """Build and check every part. ``like`` lends its scenario and mixing: for several algorithms on the same data and network.

    Raises:
        InputError: an unknown name, a disconnected graph, weights an algorithm cannot use, a starting point of the wrong
            shape, more rounds than the data have.
    """
    seed, trials = experiment.seed, range(experiment.trials)
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
    if named:
        with default_dtype(x0.dtype):
            state = algorithm.init(x0.clone())
        for name in named:
            leaf(state, name)
    return Problem(experiment, mixing, scenario, algorithm, channels, key, rounds, x0)


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
    """A spec string, networkx graph, weight matrix, Graph or Switching as a checked Graph or Switching of ``agents`` agents."""
    built = catalog.make("topologies", topology, _given(topology, agents, seed)) if isinstance(topology, str) else topology
    if hasattr(built, "nodes") and hasattr(built, "edges"):
        built = graph_from_networkx(built)
    elif isinstance(built, np.ndarray | Tensor) or hasattr(built, "tocsr"):
        built = graph_from_matrix(_dense(built))
    elif isinstance(built, list | tuple):
        try:
            built = graph_from_matrix(np.asarray(built, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise error if isinstance(error, InputError) else InputError(
                "topology was given as a list that is no [N, N] matrix of numbers; rows must have equal lengths"
            ) from error
    if not isinstance(built, Graph | Switching):
        raise InputError(f"topology {_label(topology)} is neither a graph nor a weight matrix; give a name, a networkx graph or an [N, N] array")
    if agents is not None and built.agents != agents:
        raise InputError(f"topology {_label(topology)} has {built.agents} agents, not {agents}; leave agents out or make them equal")
    if isinstance(built, Graph):
        check_connected(built)
    return built


def _dense(matrix: Any) -> Any:
    """A torch matrix of any layout or precision as a plain one; others as they are."""
    if not isinstance(matrix, Tensor):
        return matrix
    return (matrix.detach().to_dense() if matrix.layout != torch.strided else matrix.detach()).cpu().double()


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
    try:
        start = torch.as_tensor(x0, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"x0={x0!r}: must be a number or an array of shape [{agents}, {dim}]") from None
    if start.ndim > 3 or (start.ndim > 0 and start.shape not in {(dim,), (agents, dim), shape}):
        raise InputError(f"x0 has shape {list(start.shape)}; give a number, [{dim}], [{agents}, {dim}] or {list(shape)}")
    start = start.to(DTYPES[experiment.dtype])
    if not bool(torch.isfinite(start).all()):
        raise InputError(f"x0 is not finite in {experiment.dtype}")
    return start.clone().expand(shape)
