"""An experiment with its parts built and checked: what the runner needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from distopt import metrics
from distopt.catalog import registry
from distopt.catalog.places import looking_in
from distopt.catalog.spec import shown
from distopt.errors import InputError
from distopt.experiment import Experiment, of_path
from distopt.metrics import Metric
from distopt.network.graphs import Graph, Switching, check_connected, graph_from_matrix, graph_from_networkx
from distopt.network.mixing import Mixing
from distopt.network.weights import Kind
from distopt.numerics.random import Key
from distopt.numerics.trees import default_dtype, leaf
from distopt.optional import DEFAULTS, ChannelDefaults, completed
from distopt.simulation import limits, starting, surroundings
from distopt.simulation.method import Method
from distopt.simulation.plan import Plan
from distopt.simulation.round import begun, recorded


@dataclass(frozen=True)
class Problem:
    """An experiment with its parts built and checked: what the runner needs.

    ``x0`` is [R, N, d] in the experiment's dtype; ``rounds`` is T; ``plan`` what a round asks for; ``points`` are the experiments of a
    batch (``distopt.simulation.grid.stack``); ``metrics`` by name what is measured, where it applies.
    """

    experiment: Experiment
    mixing: Mixing
    scenario: Any
    algorithm: Any
    channels: dict[str, Any]
    key: Key
    rounds: int
    x0: Tensor
    plan: Plan
    points: tuple[Experiment, ...] = ()
    metrics: Mapping[str, Metric] = field(default_factory=metrics.catalogue)

    @cached_property
    def measured(self) -> dict[str, Metric]:
        """The metrics that the scenario and the algorithm can have, by name."""
        return {
            name: each
            for name, each in self.metrics.items()
            if (self.scenario.comparator or not each.compares) and each.applies(self.scenario, self.algorithm)
        }

    @cached_property
    def sources(self) -> dict[str, list[tuple[str, Metric]]]:
        """The metrics that are measured, by the method that they have: they are asked for in every round."""
        return {
            source: [(name, each) for name, each in self.measured.items() if callable(getattr(each, source))]
            for source in metrics.SOURCES
        }

    @property
    def agents(self) -> int:
        """N."""
        return self.key.total

    @cached_property
    def method(self) -> Method:
        """What the agents follow, apart from the costs."""
        return Method(self.algorithm, self.channels, self.agents, self.plan)

    @cached_property
    def answer(self) -> str:
        """The trajectory of the points that are measured: "output" where the algorithm has one, else "x"."""
        return "x" if self.algorithm.output is None else "output"


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
    scenario = (
        like.scenario
        if like
        else _part("scenarios", experiment.scenario, ("batch", "loss", "grad", "dim"), {"agents": agents})
    )
    algorithm = _part("algorithms", experiment.algorithm, ("init", "update", "channels"), {})
    who = (
        registry.Spec.parse(experiment.algorithm).name
        if isinstance(experiment.algorithm, str)
        else type(algorithm).__name__.lower()
    )
    kind: Kind = algorithm.weights
    mixing = network.averaged() if kind == "average" else network
    mixing.require(kind, who)
    channels = _channels(experiment, algorithm)
    if any(channel.for_degree is not None for channel in channels.values()):
        mixing = mixing.with_link_slots(
            who if experiment.channel == "exact" else f"channel {_label(experiment.channel)}"
        )
        channels = {
            name: channel
            if channel.for_degree is None
            else completed(ChannelDefaults, channel.for_degree(mixing.slots))
            for name, channel in channels.items()
        }
    if not mixing.constant and (moving := [name for name, channel in channels.items() if channel.constant]):
        raise InputError(
            f"channel {type(channels[moving[0]]).__name__.lower()} keeps sums of what neighbours sent, which only hold while W does not change, "
            "but here links come and go; use a fixed topology without drop_links, or another channel"
        )
    limit = scenario.length(agents)
    if limit is not None and limit < 1:
        raise InputError(
            f"the data of scenario {_label(experiment.scenario)} do not last one round for {agents} agents; give more rows"
        )
    if experiment.rounds and limit is not None and experiment.rounds > limit:
        raise InputError(
            f"rounds={experiment.rounds}: the data of scenario {_label(experiment.scenario)} last {limit} rounds"
        )
    rounds = experiment.rounds or min(limit or 1000, 1000)
    x0 = starting.points(experiment, scenario, key, _label(experiment.scenario))
    recordable = ("x",) if algorithm.output is None else ("x", "output")
    named = [name for name in experiment.record if name not in recordable]
    tracks = algorithm.tracks
    with default_dtype(x0.dtype):
        if algorithm.output is not None:
            _require_output(who, algorithm, x0)
        plan = Plan.of(algorithm, channels, x0)
        if tracks is not None:
            _require_tracker(who, tracks, plan.begun[1], x0)
    measured = {**metrics.catalogue(), **metrics.added(experiment.metrics, experiment.record)}
    problem = Problem(
        experiment,
        mixing,
        scenario,
        algorithm,
        channels,
        key,
        rounds,
        x0,
        plan,
        metrics=measured,
    )
    for name in named:
        recorded(begun(problem), name)
    return problem


def _require_tracker(who: str, tracks: Any, state: Any, x: Tensor) -> None:
    """Refuse an algorithm that says that it tracks with a leaf that it does not have, or that cannot hold a gradient."""
    try:
        tracker = leaf(state, tracks) if isinstance(tracks, str) else None
    except InputError:
        tracker = None
    if tracker is None or tracker.shape != x.shape:
        raise InputError(
            f"algorithm {who}: tracks={tracks!r} must name the leaf of its state that tracks the mean gradient, of x's shape {list(x.shape)}, as in "
            f'tracks = "s"; the state has: {", ".join(getattr(state, "_fields", ())) or "no leaf with a name"}'
        )


def _require_output(who: str, algorithm: Any, x: Tensor) -> None:
    """Refuse an answer that is none of x's form."""
    answer = algorithm.output(x.clone(), algorithm.init(x.clone()))
    if not isinstance(answer, Tensor) or answer.shape != x.shape or answer.dtype != x.dtype:
        found = f"{list(answer.shape)} and {answer.dtype}" if isinstance(answer, Tensor) else type(answer).__name__
        raise InputError(f"algorithm {who}: output gives {found}, not {list(x.shape)} and {x.dtype} as x has")


def _channels(experiment: Experiment, algorithm: Any) -> dict[str, Any]:
    """The channel of each name that the algorithm sends: its own, where it brings any, or the experiment's."""
    needs = ("init", "encode", "bits")
    brought = algorithm.channel
    if brought is None:
        return dict.fromkeys(algorithm.channels, _part("channels", experiment.channel, needs, {}))
    if experiment.channel != "exact":
        raise InputError(
            f"algorithm {_label(experiment.algorithm)} brings its own channel; leave channel={_label(experiment.channel)} out, or use an "
            "algorithm without, such as gt"
        )
    own = brought if isinstance(brought, Mapping) else dict.fromkeys(algorithm.channels, brought)
    if missing := [name for name in algorithm.channels if name not in own]:
        raise InputError(
            f"algorithm {_label(experiment.algorithm)} sends {missing[0]!r}, for which it brings no channel"
        )
    return {name: _part("channels", own[name], needs, {}) for name in algorithm.channels}


def build_topology(topology: Any, agents: int | None, seed: int) -> Graph | Switching:
    """A spec string, path, networkx graph, weight matrix, Graph or Switching as a checked Graph or Switching of ``agents`` agents."""
    topology = of_path("topology", topology) if isinstance(topology, Path) else topology
    built = (
        registry.make("topologies", topology, _given(topology, agents, seed)) if isinstance(topology, str) else topology
    )
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
            raise (
                error
                if isinstance(error, InputError)
                else InputError(
                    "topology was given as a list that is no [N, N] matrix of numbers; rows must have equal lengths"
                )
            ) from error
    if not isinstance(built, Graph | Switching):
        if built is not topology or isinstance(topology, int | float | str | None):
            raise InputError(
                f"topology={shown(topology)}: must be a name such as ring, or the path of a file, as in file:path=graph.edges"
            )
        raise InputError(
            f"topology {_label(topology)} is neither a graph nor a weight matrix; give a name, a networkx graph or an [N, N] array"
        )
    if agents is not None and built.agents != agents:
        raise InputError(
            f"topology {_label(topology)} has {built.agents} agents, not {agents}; leave agents out or make them equal"
        )
    if isinstance(built, Graph):
        check_connected(built)
    return built


def _given(topology: str, agents: int | None, seed: int) -> dict[str, Any]:
    import inspect

    parameter = inspect.signature(registry.maker("topologies", registry.Spec.parse(topology).name)).parameters.get(
        "agents"
    )
    if parameter is not None and parameter.default is parameter.empty and agents is None:
        raise InputError(f"topology {topology}: say how many agents, as in --agents 16 or agents=16")
    return {"agents": agents, "key": Key(seed, range(max(agents or 1, 1)), range(1), max(agents or 1, 1))}


def _part(kind: str, spec: Any, needs: tuple[str, ...], given: dict[str, Any]) -> Any:
    built = registry.make(kind, spec, given) if isinstance(spec, str) else spec
    if isinstance(built, type):
        raise InputError(f"{built.__name__} was given as a class; give an object of it, as in {built.__name__}()")
    for need in needs:
        if not hasattr(built, need):
            raise InputError(f"{_label(spec)} cannot serve among the {kind}: it has no {need!r}")
    return completed(DEFAULTS[kind], built)


def _label(spec: Any) -> str:
    return spec if isinstance(spec, str) else type(spec).__name__
