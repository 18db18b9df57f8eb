"""Runs on compiled and eager rounds, and how far apart they are."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from helpers.spelling import suited
from torch import Tensor

import distopt
from distopt.catalog import registry
from distopt.engines.local import local
from distopt.experiment import Experiment
from distopt.numerics.trees import tensors
from distopt.runs.execution import Comparison, MakeEngine, execute
from distopt.simulation.problem import Problem, build

FORMS = ("gt:form=atc", "dgd:form=atc", "gt:direction=amsgrad", "gt:direction=nesterov")
CHANNELS = ("exact", "choco(sign)", "error_feedback(topk)")
MATRICES, VECTORS = "rbf_drift:features=4,classes=3,window=2", "moving_target:dim=3"
MANY = "moving_target:dim=20,kappa=100"
"""For Lanczos' method: where it makes more products than there are curvatures, its last vectors are rounding."""
DIFFERENCES = ("bandit", "lanczos_rate")
"""What divides differences by their width: of those in float32 few digits are left."""
NETWORKS: dict[str, dict[str, Any]] = {
    "constant": {},
    "one-peer": {"topology": "one_peer_exponential", "agents": 8},
    "dropped links": {"drop_links": 0.2},
}


class Case(NamedTuple):
    algorithm: str
    channel: str
    scenario: str
    network: str
    dtype: str = "float64"

    def __str__(self) -> str:
        return "/".join([self.algorithm, self.channel, self.scenario.partition(":")[0], self.network, self.dtype])


SMALL = Case("gtadam", "exact", VECTORS, "constant")


def cases() -> list[Case]:
    """Every algorithm and form with every channel, scenario and network that it can be asked with; precisions go round."""
    found = []
    for algorithm in [*registry.names("algorithms"), *FORMS]:
        method = registry.make("algorithms", algorithm)
        weights = method.weights
        average, networks = (
            weights == "average",
            [each for each in NETWORKS if each != "one-peer" or weights != "symmetric"],
        )
        constant = average or method.channel is not None  # a star, or a channel that keeps sums
        for channel in CHANNELS if method.channel is None else ("exact",):
            if algorithm == "ader" and "topk" in channel:
                channel = "error_feedback(topk:k=6)"  # its six experts begin as copies: of one alone, which is not said
            for scenario in (MATRICES, MANY if algorithm == "lanczos_rate" else VECTORS):
                for network in ("constant",) if constant or channel.startswith("choco") else networks:
                    dtype = ("float64", "float32")[len(found) % 3 == 2 and algorithm not in DIFFERENCES]
                    of = suited(algorithm, scenario)
                    found.append(Case("star/" * average + algorithm, channel, of, network, dtype))
    return found


@functools.cache
def solved(scenario: str, agents: int, trials: int = 1) -> Comparison:
    return Comparison.of(build(Experiment("ring", agents, scenario, "dgd", rounds=8, trials=trials)))


def posed(case: Case, **settings: Any) -> Problem:
    """A few rounds from a random start, where no numbers are equal: which of equal ones is the largest is nobody's promise."""
    network = {"topology": "ring", "agents": 5, **NETWORKS[case.network], **settings}
    star, _, algorithm = case.algorithm.rpartition("/")
    topology = "star" if star else network.pop("topology")
    network.pop("topology", None)
    agents, rounds = network.pop("agents"), network.pop("rounds", 8)
    asked = Experiment(
        topology,
        agents,
        case.scenario,
        algorithm,
        rounds=rounds,
        channel=case.channel,
        dtype=case.dtype,
        **network,
        record=("x",),
    )
    problem = build(asked)
    start = torch.randn(problem.x0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return dataclasses.replace(problem, x0=start.to(problem.x0.dtype))


def eagerly(problem: Problem, blocks: Any, mode: Any) -> Any:
    return local(problem, blocks, "eager")


class Outcome(NamedTuple):
    run: distopt.Run
    held: list[Tensor]
    engine: Any


def on(problem: Problem, comparison: Comparison, engine: MakeEngine = local) -> Outcome:
    """The run on an engine; by default compiled on the local one."""
    made: list[Any] = []

    def make(problem: Problem, blocks: Any, mode: Any) -> Any:
        made.append(engine(problem, blocks, mode))
        return made[0]

    run = execute(problem.experiment, problem=problem, comparison=comparison, engine=make)
    return Outcome(run, tensors(made[0].fetch()), made[0])


def differ(one: Outcome, other: Outcome, close: float) -> list[str]:
    """Metrics, trajectories and leaves that differ by more than rounding, measured by the largest number of each."""
    pairs = {name: (np.asarray(one.run[name]), np.asarray(other.run[name])) for name in one.run}
    pairs |= {f"leaf {k}": (a.numpy(), b.numpy()) for k, (a, b) in enumerate(zip(one.held, other.held, strict=True))}
    found = []
    for name, (a, b) in pairs.items():
        a, b = (np.nan_to_num(each.astype(np.float64)) for each in (a, b))
        scale = 1.0 if name == "tracker_invariant" else max(np.abs(b).max(initial=0), 1e-300)
        if np.abs(a - b).max(initial=0) > close * scale:
            found.append(f"{name} {np.abs(a - b).max() / scale:.0e}")
    return found


def with_algorithm(problem: Problem, algorithm: Any) -> Problem:
    return build(dataclasses.replace(problem.experiment, algorithm=algorithm))
