"""An experiment with its parts built and checked: what the runner needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from distopt import metrics, probes
from distopt.catalog.parts import called, label, part
from distopt.catalog.places import looking_in
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.metrics import Metric
from distopt.network.churn import JOIN, Churn
from distopt.network.clock import Clock, Timing
from distopt.network.drawn import COIN, falls
from distopt.network.faults import SLEEP, Faults
from distopt.network.network import Network
from distopt.network.topology import build_topologies
from distopt.numerics.random import Key
from distopt.numerics.trees import default_dtype, leaf
from distopt.optional import AlgorithmDefaults, completed
from distopt.ranges import flag
from distopt.simulation import limits, starting, surroundings
from distopt.simulation.attendance import attended, refuse
from distopt.simulation.method import Method
from distopt.simulation.plan import Plan
from distopt.simulation.round import begun, recorded


@dataclass(frozen=True)
class Problem:
    """An experiment with its parts built and checked: what the runner needs.

    ``x0`` is [R, N, d] in the experiment's dtype, ``rounds`` is T, and ``plan`` what a round needs. ``points`` are the
    experiments of a batch (``distopt.simulation.grid.stack``). ``metrics`` and ``probes`` are what is measured, by
    name. ``timing`` is the duration of rounds, if the experiment has a clock.
    """

    experiment: Experiment
    network: Network
    scenario: Any
    algorithm: Any
    key: Key
    rounds: int
    x0: Tensor
    plan: Plan
    points: tuple[Experiment, ...] = ()
    metrics: Mapping[str, Metric] = field(default_factory=metrics.catalogue)
    probes: Mapping[str, Any] = field(default_factory=dict)
    timing: Timing | None = None

    @cached_property
    def channels(self) -> dict[str, Any]:
        """The network's, by name."""
        return self.network.channels

    @cached_property
    def measured(self) -> dict[str, Metric]:
        """The metrics that the scenario and the algorithm can have, by name; without metrics of the agents' own points under churn."""
        return {
            name: each
            for name, each in self.metrics.items()
            if not (each.needs_points and self.experiment.churn)
            and (self.scenario.comparator or not each.compares)
            and each.applies(self.scenario, self.algorithm)
        }

    @cached_property
    def sources(self) -> dict[str, list[tuple[str, Metric]]]:
        """The measured metrics by their method, collected once since they are needed in every round."""
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
        return Method(self.algorithm, self.channels, self.agents, self.plan, self.experiment.sleep)

    @cached_property
    def terms(self) -> int:
        """m, the rows that make up the costs of each agent; 0 where they are no such sum."""
        return self.scenario.terms(self.agents) or 0

    @property
    def evaluations(self) -> Fraction:
        """See ``evaluations``."""
        return evaluations(self.plan, self.algorithm, self.terms)

    def exchanges(self, t: Tensor) -> Tensor:
        """In which of the rounds t [K, 1, 1, 1] agents exchange anything, by trial: 1 or 0, [K, R] or [1, 1] where all are alike."""
        if COIN not in self.plan.widths:
            return torch.ones(1, 1, dtype=torch.float64)
        return falls(self.key.shared.uniform("coin", 1, t), self.algorithm.coin, self.x0.dtype)[..., 0, 0].double()

    @cached_property
    def answer(self) -> str:
        """The trajectory of the points that are measured: "output" where the algorithm has one, else "x"."""
        return "x" if self.algorithm.output is None else "output"


@surroundings.set_aside()
def build(experiment: Experiment, like: Problem | None = None) -> Problem:
    """Build and check every part. ``like`` lends its scenario and weights: for several algorithms on the same data and network.

    Raises:
        InputError: an unknown name, a disconnected graph, weights an algorithm cannot use, a starting point of the wrong
            shape, more rounds than the data have, a scenario whose ``comparator`` is neither True nor False.
    """
    with looking_in(experiment.folder):
        return _build(experiment, like)


def _build(experiment: Experiment, like: Problem | None) -> Problem:
    seed, trials = experiment.seed, range(experiment.trials)
    if like is None:
        limits.agents(experiment)
    topology = {} if like else build_topologies(experiment.topology, experiment.agents, seed)
    agents = like.agents if like else next(iter(topology.values())).agents
    key = Key(seed, range(agents), trials, agents)
    scenario = (
        like.scenario
        if like
        else part("scenarios", experiment.scenario, ("batch", "loss", "grad", "dim"), {"agents": agents})
    )
    flag(f"scenario {label(experiment.scenario)}", comparator=scenario.comparator)
    algorithm = part("algorithms", experiment.algorithm, ("init", "update", "channels"), {})
    who = called("algorithms", experiment.algorithm)
    channel = experiment.channel
    if algorithm.for_rows is not None:
        algorithm = completed(AlgorithmDefaults, algorithm.for_rows(_rows(scenario, agents, experiment)))
    faults = Faults.of(experiment.drop_messages, experiment.sleep, experiment.delay, experiment.clock)
    churn = Churn.of(experiment.churn)
    if churn is not None and algorithm.for_rows is not None:
        raise InputError(f"{who} takes gradients of single rows of data, which do not work with churn; leave churn out")
    if churn is not None and not like:
        scenario = attended(scenario, churn, label(experiment.scenario))
    if scenario.equilibrium is not None and algorithm.gradient_free:
        raise InputError(
            f"{who} estimates gradients from costs, but scenario {label(experiment.scenario)} is a game without them; use an algorithm with gradients"
        )
    if faults.delayed and algorithm.coin is not None:
        raise InputError(
            f"{who} skips the exchange in some rounds, so there may be no earlier message to arrive late; leave delay out"
        )
    x0 = starting.points(experiment, scenario, key, label(experiment.scenario))
    if faults.pace:
        alone = Plan.of(algorithm, {}, x0)
        gradients = float(evaluations(alone, algorithm, scenario.terms(agents) or 0))
        if not gradients:
            raise InputError(
                f"delay=length: {who} evaluates no gradients, so the clock gives its rounds no length; give the delay in rounds"
            )
        faults = faults.paced(faults.pace * gradients)
    network = (
        like.network.paced(faults.pace).serving(algorithm, channel, who)
        if like
        else Network.of(
            topology,
            experiment.weights,
            algorithm,
            channel,
            key,
            experiment.drop_links,
            who,
            faults,
            churn,
        )
    )
    timing = like.timing if like else Timing.of(Clock.of(experiment.clock), topology) if experiment.clock else None
    if timing is not None:
        timing.check(network, who, faults)
    limit = scenario.length(agents)
    if limit is not None and limit < 1:
        raise InputError(
            f"the data of scenario {label(experiment.scenario)} do not suffice for one round of {agents} agents; use fewer agents, or more data"
        )
    if experiment.rounds and limit is not None and experiment.rounds > limit:
        raise InputError(
            f"rounds={experiment.rounds}: the data of scenario {label(experiment.scenario)} last {limit} rounds; give at most that many"
        )
    rounds = experiment.rounds or min(limit or 1000, 1000)
    recordable = ("x",) if algorithm.output is None else ("x", "output")
    named = [name for name in experiment.record if name not in recordable]
    tracks = algorithm.tracks
    with default_dtype(x0.dtype):
        if algorithm.output is not None:
            _require_output(who, algorithm, x0)
        plan = Plan.of(algorithm, network.channels, x0)
        if scenario.prox is not None:
            _require_proximal(who, plan, label(experiment.scenario))
        if faults.sleep:
            plan = replace(plan, widths={**plan.widths, SLEEP: 1})
        if churn is not None:
            refuse(who, algorithm, x0, experiment.probe)
            # the flags of churn come first: everything else depends on them
            late = {name: each._replace(place=None) for name, each in plan.sent.items()}
            plan = replace(plan, sent=late, widths={**plan.widths, JOIN: x0.shape[-1]})
        if tracks is not None:
            _require_tracker(who, tracks, plan.begun[1], x0)
    measured = {**metrics.catalogue(), **metrics.added(experiment.metrics, experiment.record)}
    probing = probes.added(experiment.probe, [*measured, *experiment.record], experiment.every)
    for probe in probing.values():
        probe.check(scenario, algorithm)
    problem = Problem(
        experiment,
        network,
        scenario,
        algorithm,
        key,
        rounds,
        x0,
        plan,
        metrics=measured,
        probes=probing,
        timing=timing,
    )
    for name in named:
        recorded(begun(problem), name)
    return problem


def evaluations(plan: Plan, algorithm: Any, terms: int) -> Fraction:
    """How many gradients an agent evaluates in a round, in the mean; one of a single row of ``terms`` counts as its share."""
    return Fraction(algorithm.full).limit_denominator(10**6) + plan.gradients - 1 + Fraction(plan.rows, terms or 1)


def _rows(scenario: Any, agents: int, experiment: Experiment) -> int:
    """How many rows of data each agent has, for an algorithm that asks for gradients of some of them."""
    terms: int | None = scenario.terms(agents)
    if terms is None or scenario.row_weights is None:
        raise InputError(
            f"algorithm {called('algorithms', experiment.algorithm)} takes gradients of single rows of data that all rounds share, and scenario "
            f"{label(experiment.scenario)} has none; use drifting_logistic, digits_mlp, teacher_student or least_squares, "
            "or gt_storm, which works on streams"
        )
    return terms


def doubts(problems: Iterable[Problem]) -> list[str]:
    """Warnings about the algorithms of these problems on their networks, a line each.

    >>> doubts([build(Experiment("ring", 4, "quadratic", "dgd", rounds=1))])
    []
    """
    asked: set[tuple[int, int]] = set()
    found: list[str] = []
    for problem in problems:
        found += problem.network.doubts
        joins = problem.network.joins
        if joins is not None and (id(joins), problem.rounds) not in asked:
            asked.add((id(joins), problem.rounds))
            found += filter(None, [joins.torn(problem.rounds)])
    return list(dict.fromkeys(found))


def _require_proximal(who: str, plan: Plan, scenario: str) -> None:
    """Refuse an algorithm that would leave out the part of the costs that has no gradient, or take it twice."""
    if not plan.proximal:
        raise InputError(
            f"scenario {scenario} has costs with a part that has no gradient, for which agents need proximal steps, and {who} takes none; "
            "take the direction proximal, as in gt:form=atc,direction=proximal"
        )
    if plan.values:
        raise InputError(
            f"{who} takes values of the costs, in which the part without a gradient of scenario {scenario} is counted, and proximal steps, which "
            "count it again; take gradients"
        )


def _require_tracker(who: str, tracks: Any, state: Any, x: Tensor) -> None:
    """Refuse an algorithm whose ``tracks`` names a leaf that does not exist or cannot hold a gradient."""
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
