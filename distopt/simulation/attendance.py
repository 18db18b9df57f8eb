"""The costs of the present agents under churn, and checks of what churn cannot be combined with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.network.churn import Churn
from distopt.network.net import Rehearsal
from distopt.numerics.random import Key
from distopt.numerics.sums import tree_sum
from distopt.numerics.trees import default_dtype, tensors, tree_map


class Attendance(NamedTuple):
    """The data of a scenario, and which agents are present.

    Attributes:
        inner: the data.
        here: float64 [K, R, n, 1], 1 for present agents and else 0.
        number: float64 [K, R, 1, 1], the number of present agents.
    """

    inner: Any
    here: Tensor
    number: Tensor


class Attended:
    """The costs of a scenario for the present agents: f_{i,t} counts as 0 while agent i is away.

    So F_t is the sum over the present agents, and x*_t minimises that. Newton's method finds it, from the scenario's
    own minimiser or guess. How curved the costs are is not passed on, so regrets have no certificate.

    Args:
        inner: the scenario.
        churn: how agents leave and join.
    """

    def __init__(self, inner: Any, churn: Churn) -> None:
        self.inner, self.churn, self.dim = inner, churn, int(inner.dim)
        self.rounds, self.comparator, self.eager = inner.rounds, inner.comparator, inner.eager
        self.project, self.lmo, self.start = inner.project, inner.lmo, inner.start
        self.optimum = self.best_fixed = self.hessian = self.linear_rows = self.row_weights = None
        self.modulus = self.smoothness = self.equilibrium = self.prox = None
        found = inner.guess or inner.optimum
        self.guess = None if found is None else _of_inner(found)
        self.accuracy = None if inner.accuracy is None else self._accuracy
        self.persistence = None if inner.persistence is None else self._persistence

    def batch(self, t: Tensor, key: Key) -> Attendance:
        """See ``distopt.protocols.Scenario``."""
        there = self.churn.present(t, key).double()
        return Attendance(self.inner.batch(t, key), there[:, :, key.agents], tree_sum(there))

    def loss(self, x: Tensor, b: Attendance) -> Tensor:
        """See ``distopt.protocols.Scenario``."""
        value: Tensor = self.inner.loss(x, b.inner) * b.here[..., 0]
        return value

    def grad(self, x: Tensor, b: Attendance) -> Tensor:
        """See ``distopt.protocols.Scenario``."""
        g: Tensor = self.inner.grad(x, b.inner) * b.here
        return g

    def length(self, agents: int) -> int | None:
        """That of the scenario."""
        rounds: int | None = self.inner.length(agents)
        return rounds

    def terms(self, agents: int) -> int | None:
        """Those of the scenario."""
        rows: int | None = self.inner.terms(agents)
        return rows

    def _accuracy(self, x: Tensor, b: Attendance) -> Tensor:
        return torch.where(b.here[..., 0] > 0, self.inner.accuracy(x, b.inner), torch.nan)

    def _persistence(self, b: Attendance) -> Tensor:
        return torch.where(b.here[..., 0] > 0, self.inner.persistence(b.inner), torch.nan)


def attended(scenario: Any, churn: Churn, who: str) -> Attended:
    """The scenario with the costs of the present agents.

    Raises:
        InputError: the scenario is a game, whose equilibrium needs all players; or it restricts the points, or its
            costs have a part without a gradient, and the best points are only known for all agents.
    """
    if scenario.equilibrium is not None:
        raise InputError(f"scenario {who} is a game of all agents, but with churn some are away; leave churn out")
    if scenario.project is not None and scenario.comparator:
        raise InputError(
            f"scenario {who} restricts the points, and its best allowed point is only known for all agents; leave churn out"
        )
    if scenario.prox is not None:
        raise InputError(
            f"scenario {who} has costs with a part that has no gradient, and their minimisers are known for all agents alone; use it without churn"
        )
    return Attended(scenario, churn)


def refuse(who: str, algorithm: Any, x: Tensor, probe: Any) -> None:
    """Refuse what does not go with agents that leave and join: an algorithm that does in round 0 what it does not do later, and probes.

    ``x`` [R, N, d] are points of the run.
    """
    if probe:
        raise InputError("probes need the costs of all agents, but with churn some are away; leave probe or churn out")
    plain, few = copy.copy(algorithm), x[:1, :2]
    if callable(getattr(plain, "lr", None)):  # a schedule continues; agents that join do not restart it
        plain = replace(plain, lr=0.125)
    d = few.shape[-1]
    g = torch.linspace(-1.0, 2.0, few.numel(), dtype=x.dtype).reshape(few.shape)

    def after(t: int) -> list[Tensor]:
        """What the algorithm makes of points and gradients in round t of a network that halves."""
        state = tree_map(torch.clone, plain.init(g.clone()))
        round = Rehearsal(lambda name, z: z / 2, g.clone(), t, grad=lambda y: y + d)
        return tensors(plain.update(g.clone(), state, g.clone(), round))

    with default_dtype(x.dtype):
        alike = all(torch.equal(one, other) for one, other in zip(after(0), after(7), strict=True))
    if not alike:
        raise InputError(
            f"algorithm {who} treats round 0 differently, but with churn agents restart in other rounds; use another algorithm, "
            "such as gt, gtadam, extra or dgd"
        )


def _of_inner(found: Callable[[Any], Tensor]) -> Callable[[Attendance], Tensor]:
    return lambda b: found(b.inner)
