"""The cases of the equality battery, and what runs a case on an engine and compares two of its runs bit by bit."""

from __future__ import annotations

import functools
import inspect
from typing import Any, NamedTuple

import numpy as np
import torch
from helpers.spelling import stepping, suited

import distopt
from distopt.catalog import registry
from distopt.costs.data import Blocks
from distopt.engines import local
from distopt.engines.threads import ThreadGroup
from distopt.engines.workers.group import WorkerEngine
from distopt.engines.workers.partition import Partition
from distopt.experiment import Experiment
from distopt.numerics.trees import tensors
from distopt.runs.execution import Comparison, MakeEngine, execute
from distopt.simulation import runner
from distopt.simulation.problem import Problem, build
from distopt.simulation.round import AgentState

N = 16
PARTITIONS = {
    "2": Partition.even(N, 2),
    "3": Partition.even(N, 3),
    "5": Partition.even(N, 5),
    "13": Partition.even(N, 13),
    "scattered": Partition((tuple(range(0, N, 3)), tuple(range(1, N, 3)), tuple(range(2, N, 3)))),
}
FORMS = ("dgd:lr=0.02,form=atc", "gt:lr=0.01,form=atc")
ALGORITHMS = [*(stepping(name, 0.01) for name in registry.names("algorithms")), *FORMS]
CHOCO = "choco:compressor=sign,gamma=0.3"
MATRICES = ("digits:window=2", "rbf_drift:features=2,classes=3,window=2")
"""Softmax regressions: the gradient of an agent is the product of two matrices. The small one is for compilers, which take a minute for the other."""
VECTORS = ("drifting_logistic", "moving_target:dim=3")
SMALL: dict[str, Any] = {"network": "ring", "agents": 6, "rounds": 2}
"""For compilers, which see one block of it where there are three."""


class Case(NamedTuple):
    """An algorithm with a channel on a scenario, in a precision, with so many trials."""

    algorithm: str
    channel: str
    scenario: str
    dtype: str = "float64"
    trials: int = 1

    @property
    def averages(self) -> bool:
        """Whether it needs W = 1/N, or a star."""
        return bool(registry.make("algorithms", self.algorithm).weights == "average")

    def __str__(self) -> str:
        return f"{self.algorithm} {self.channel.partition(':')[0]} {self.scenario.partition(':')[0]}"


def cases(matrices: str = MATRICES[0]) -> list[Case]:
    """Every algorithm with exact messages and with signs through ``choco``, each on a scenario with matrix gradients and on another one.

    The other scenario is one for exact messages and another for signs. What brings a channel of its own has that one, with signs
    the second time where it lets its compressor be chosen. What samples rows of data has
    a scenario with such rows every time. Precisions and trials go round.
    """
    out = []
    for k, algorithm in enumerate(ALGORITHMS):
        method = registry.make("algorithms", algorithm)
        for i in range(2):
            channel, spec = ("exact", CHOCO)[i], algorithm
            if i and method.channel is not None:
                chosen = (
                    "compressor"
                    in inspect.signature(registry.maker("algorithms", registry.Spec.parse(algorithm).name)).parameters
                )
                channel, spec = "exact", f"{algorithm},compressor=sign" if chosen else algorithm
            for j, scenario in enumerate((matrices, VECTORS[(k + i) % 2])):
                out.append(
                    Case(
                        spec,
                        channel,
                        suited(algorithm, scenario),
                        ("float64", "float32")[(k + i + j) % 2],
                        1 + (k // 2 + i) % 2,
                    )
                )
    return out


class Problems(NamedTuple):
    problem: Problem
    comparison: Comparison


def posed(case: Case, **settings: Any) -> Problems:
    """The problem of a case: a few rounds of which x is recorded."""
    ask = {
        "network": "erdos_renyi",
        "agents": N,
        "rounds": 5,
        "x0": 0.3,
        "dtype": case.dtype,
        "trials": case.trials,
        **settings,
    }
    network = "star" if case.averages else ask["network"]
    del ask["network"]
    problem = build(
        Experiment(
            network, scenario=case.scenario, algorithm=case.algorithm, channel=case.channel, record=("x",), **ask
        )
    )
    return Problems(problem, solved(case.scenario, ask["agents"], ask["rounds"], ask["trials"]))


@functools.cache
def solved(scenario: str, agents: int, rounds: int, trials: int) -> Comparison:
    """Data and comparator, which no network and no algorithm changes; those of the digits take seconds."""
    return Comparison.of(build(Experiment("ring", agents, scenario, "dgd", rounds=rounds, trials=trials)))


class Outcome(NamedTuple):
    run: distopt.Run
    held: AgentState


def on(problems: Problems, engine: MakeEngine = local.local, mode: local.Mode = "eager") -> Outcome:
    """The run on an engine, and what the agents hold in the end."""
    problem, comparison = problems
    held = []

    def make(problem: Problem, blocks: Blocks, mode: local.Mode) -> Any:
        made: Any = engine(problem, blocks, mode)
        advance = made.advance

        def noted(*args: Any) -> runner.Segment:
            segment: runner.Segment = advance(*args)
            held[:] = [made.fetch()]
            return segment

        made.advance = noted
        return made

    return Outcome(execute(problem.experiment, problem=problem, comparison=comparison, mode=mode, engine=make), held[0])


def threads(partition: Partition, **delays: Any) -> MakeEngine:
    """The engine of workers in threads, whose messages are delayed and reordered."""
    return lambda problem, blocks, mode: WorkerEngine(
        ThreadGroup(problem, blocks, partition, local.compiles(problem, blocks, mode), **delays)
    )


def moves(outcome: Outcome) -> bool:
    """Whether the agents went somewhere, and not to infinity."""
    x = outcome.run["x"]
    return bool(np.isfinite(x).all() and np.abs(x[:, -1] - x[:, 0]).max() > 1e-6)


def differences(one: Outcome, other: Outcome) -> list[str]:
    """The metrics, trajectories and leaves of x, state and memory that have other bits."""
    assert list(one.run) == list(other.run)
    names = [name for name in one.run if not np.array_equal(one.run[name], other.run[name], equal_nan=True)]
    mine, theirs = tensors(one.held), tensors(other.held)
    assert len(mine) == len(theirs) > 0
    return names + [
        f"leaf {k}"
        for k, (a, b) in enumerate(zip(mine, theirs, strict=True))
        if a.dtype != b.dtype or not torch.equal(a, b)
    ]


def same_in_simulate(engine: str, **ask: Any) -> None:
    """See that ``simulate`` of a ring gives the same bits on an engine as in one block, eagerly and compiled."""
    for mode in ("eager", "compiled"):
        here, there = (distopt.simulate("ring", mode=mode, engine=each, **ask) for each in ("local", engine))
        pairs = [(here[name], there[name]) for name in here] if isinstance(ask["algorithm"], list) else [(here, there)]
        for one, other in pairs:
            assert all(np.array_equal(one[key], other[key], equal_nan=True) for key in one)
