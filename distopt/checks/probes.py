"""Check of probes: functions of a run between two rounds, which change nothing and do not depend on earlier readings."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distopt.checks._common import ROUNDS, N, R, copied, mixed, normals, require, same_bits, weights
from distopt.costs.data import Blocks
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.network.net import Rehearsal
from distopt.numerics.trees import at, default_dtype
from distopt.simulation.probing import Probing
from distopt.simulation.problem import Problem, build
from distopt.simulation.round import AgentState


def check_probe(probe: Any, scenario: Any = "quadratic:dim=3", algorithm: Any = "gt") -> None:
    """Check a probe against ``distopt.protocols.Probe``. It looks at six rounds of two trials; with ``every`` above 5 at the last one alone.

    Promises:

    - ``every`` is a whole number above 0, and ``measure`` gives a number for each of its ``columns``.
    - On harmless points they are not all nan.
    - It is pure and changes nothing that it sees.
    - A reading does not depend on earlier readings in the same process: a resumed run has none.
    - Trials are independent.

    Raises:
        AssertionError: naming the first promise that is broken.
        InputError: an unknown scenario or algorithm, or a wrong value in one of them.

    >>> class Largest:
    ...     every = 2
    ...     def measure(self, seen):
    ...         return float(seen.grad(seen.mean).abs().max())
    >>> print(check_probe(Largest()))
    None
    """
    who = type(probe).__name__
    plain = Experiment("ring", N, scenario, algorithm, rounds=ROUNDS, trials=R)
    build(plain)  # raises what is wrong with these
    try:
        problem = build(Experiment("ring", N, scenario, algorithm, rounds=ROUNDS, trials=R, probe=(probe,)))
        with default_dtype(torch.float64):
            _check(problem, who)
    except InputError as error:
        raise AssertionError(f"{who}: {error}") from None


Read = dict[str, NDArray[np.float64]]


def _check(problem: Problem, who: str) -> None:
    data, stood = Blocks(problem.scenario, problem.key, ROUNDS).get(0), list(_rounds(problem))
    before = copied((stood, data))
    whole, again = Probing([problem]), Probing([problem])
    some = False
    for t, held in enumerate(stood):
        if not whole.due(t):
            continue
        read, twice = (_read(each, t, held, data) for each in (whole, again))
        require(_same(read, twice), f"{who}: not pure: a round gives other numbers when it is measured again")
        require(same_bits(before, (stood, data)), f"{who}: measure changes what it sees in place")
        alone = _read(Probing([problem]), t, held, data)
        require(
            _same(read, alone), f"{who}: a reading depends on what was kept from earlier ones: a resumed run has none"
        )
        some = some or any(bool(np.isfinite(each).any()) for each in read.values())
        lone = Probing([problem])
        lone.look(0, t, held, at(data, t), diverged={0})
        rest = {name: each[:, 0] for name, each in lone.columns(0, np.array([t])).items()}
        same = all(np.array_equal(rest[name][1:], read[name][1:], equal_nan=True) for name in read)
        require(same, f"{who}: a trial alone differs from the same trial beside others")
    require(some, f"{who}: nothing but nan on harmless points")


def _rounds(problem: Problem) -> Any:
    """Random points before each round, with the states that the algorithm has there."""
    scenario, data = problem.scenario, Blocks(problem.scenario, problem.key, ROUNDS).get(0)
    points, w = normals(ROUNDS, R, N, problem.x0.shape[-1], seed=9), weights()
    state = problem.algorithm.init(points[0].clone())
    for t, x in enumerate(points):
        yield AgentState(x, state, {})
        now = at(data, t)

        def grad(y: torch.Tensor, b: Any = now) -> torch.Tensor:
            g: torch.Tensor = scenario.grad(y, b)
            return g.clone()

        _, state = problem.algorithm.update(grad(x), state, x.clone(), Rehearsal(lambda _, z: mixed(w, z), x, t, grad))


def _read(probing: Probing, t: int, held: AgentState, data: Any) -> Read:
    probing.look(0, t, held, at(data, t), diverged=())
    return {name: each[:, 0] for name, each in probing.columns(0, np.array([t])).items()}


def _same(one: Read, other: Read) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)
