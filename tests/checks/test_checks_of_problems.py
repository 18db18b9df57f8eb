"""The conformance checks of scenarios and topologies: what keeps all promises passes, and what breaks one is told which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from checks.test_checks import fails
from torch import Tensor

from distopt.checks import check_scenario, check_topology
from distopt.network.graphs import Arcs, Graph, graph_from_edges
from distopt.numerics.random import Key
from distopt.scenarios.drifting_logistic import DriftingLogistic, Points
from distopt.scenarios.quadratic import Curves, Quadratic


@dataclass(frozen=True)
class Moving(Quadratic):
    dim: int = 3

    def batch(self, t: Tensor, key: Key) -> Curves:
        return Curves(1 + key.uniform("test.a", self.dim, t), key.normal("test.c", self.dim, t))


@dataclass(frozen=True)
class Consumes(Moving):
    def batch(self, t: Tensor, key: Key) -> Curves:
        lead = (len(t), len(key.trials), len(key.agents), self.dim)
        generator = torch.Generator().manual_seed(key.seed)
        return Curves(
            torch.ones(lead, dtype=torch.float64), torch.randn(lead, generator=generator, dtype=torch.float64)
        )


@dataclass(frozen=True)
class WrongShape(Moving):
    def batch(self, t: Tensor, key: Key) -> Curves:
        a, c = super().batch(t, key)
        return Curves(a[:, :, :, :1].squeeze(0)[:, 0, 0], c)


@dataclass(frozen=True)
class Infinite(Moving):
    def batch(self, t: Tensor, key: Key) -> Curves:
        a, c = super().batch(t, key)
        return Curves(a, torch.where(t == 3, torch.inf, c))


@dataclass(frozen=True)
class WrongGradient(Moving):
    def grad(self, x: Tensor, b: Curves) -> Tensor:
        return b.a * x - b.c


@dataclass(frozen=True)
class SummedLoss(Moving):
    def loss(self, x: Tensor, b: Curves) -> Tensor:
        return super().loss(x, b).sum(-1)


@dataclass(frozen=True)
class MeanCentre(Moving):
    def optimum(self, b: Curves) -> Tensor:
        return b.c.mean(-2)


@dataclass(frozen=True)
class WrongHessian(Moving):
    def hessian(self, x: Tensor, b: Curves) -> Tensor:
        return torch.diag_embed(2 * b.a.expand_as(x).sum(-2))


@dataclass(frozen=True)
class ForgetsRidge(DriftingLogistic):
    def linear_rows(self, b: Points) -> tuple[Tensor, Tensor, Tensor, float]:
        return b.X, b.y, b.w, 0.0


@dataclass(frozen=True)
class TooConvex(Moving):
    def modulus(self, b: Curves) -> Tensor:
        return 1.05 * super().modulus(b)


@dataclass(frozen=True)
class TooSmooth(Moving):
    def smoothness(self, b: Curves) -> Tensor:
        return 0.95 * super().smoothness(b)


@dataclass(frozen=True)
class ByAgent(Moving):
    def modulus(self, b: Curves) -> Tensor:
        return b.a.amin(-1)


@dataclass(frozen=True)
class SaysNothing(Moving):
    def modulus(self, b: Curves) -> None:
        return None

    def smoothness(self, b: Curves) -> None:
        return None


@dataclass(frozen=True)
class Percent(Moving):
    def accuracy(self, x: Tensor, b: Curves) -> Tensor:
        return 50 + 0 * x[..., 0]


class Boxed(Moving):
    """What keeps all promises, in a box and from random points."""

    def project(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1)

    def start(self, key: Key) -> Tensor:
        return key.normal("test.start", self.dim)[0].clamp(-1, 1)


class ShrinkingProjection(Boxed):
    def project(self, x: Tensor) -> Tensor:
        return 0.9 * x


class JointProjection(Boxed):
    def project(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1)


class FlatProjection(Boxed):
    def project(self, x: Tensor) -> Tensor:
        return x[..., :1]


class ProjectionInPlace(Boxed):
    def project(self, x: Tensor) -> Tensor:
        return x.clamp_(-1, 1)


class FlatStart(Boxed):
    def start(self, key: Key) -> Tensor:
        return torch.zeros(2, dtype=torch.float64)


class EndlessStart(Boxed):
    def start(self, key: Key) -> Tensor:
        return torch.full((1, 1, self.dim), torch.inf)


class ConsumedStart(Boxed):
    def start(self, key: Key) -> Tensor:
        generator = torch.Generator().manual_seed(key.seed)
        return torch.randn(len(key.trials), len(key.agents), self.dim, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (ShrinkingProjection(), "project moves a point that is allowed"),
        (JointProjection(), "project moves an agent otherwise alone"),
        (FlatProjection(), "project turns x"),
        (ProjectionInPlace(), "project changes x in place"),
        (FlatStart(), "start has shape"),
        (EndlessStart(), "start gives points that are not finite"),
        (ConsumedStart(), "start is not addressed"),
    ],
)
def test_broken_projections_and_starts(broken: Any, words: str) -> None:
    check_scenario(Boxed())
    fails(check_scenario, broken, words)


class Sparse(Boxed):
    """What keeps all promises, with a part of the costs, |x|_1 / 4, that has no gradient."""

    project = optimum = best_fixed = linear_rows = None

    def loss(self, x: Tensor, b: Curves) -> Tensor:
        return super().loss(x, b) + x.abs().sum(-1) / 4

    def prox(self, x: Tensor, lr: Tensor) -> Tensor:
        return torch.sign(x) * (x.abs() - lr / 4).clamp(min=0)


class TooSparse(Sparse):
    def prox(self, x: Tensor, lr: Tensor) -> Tensor:
        return torch.sign(x) * (x.abs() - lr / 2).clamp(min=0)


class JointlySparse(Sparse):
    def prox(self, x: Tensor, lr: Tensor) -> Tensor:
        return super().prox(x, lr) * (1 - lr * x.norm(dim=(-2, -1), keepdim=True))


class FlatProx(Sparse):
    def prox(self, x: Tensor, lr: Tensor) -> Tensor:
        return x[..., :1]


class SmoothMinimiser(Sparse):
    optimum = Moving.optimum


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (TooSparse(), "grad is not the derivative of loss in round 0"),
        (JointlySparse(), "prox moves an agent otherwise alone"),
        (FlatProx(), "prox turns x"),
        (SmoothMinimiser(), "gradients at optimum sum to"),
    ],
)
def test_broken_proximal_steps(broken: Any, words: str) -> None:
    check_scenario(Sparse())
    fails(check_scenario, broken, words)


def test_a_scenario_that_keeps_all_promises_passes() -> None:
    check_scenario(Moving())


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Consumes(), "batch is not addressed"),
        (WrongShape(), "a leaf of batch has shape"),
        (Infinite(), "not finite"),
        (WrongGradient(), "grad is not the derivative of loss in round 0"),
        (SummedLoss(), r"loss has shape \[2\]"),
        (MeanCentre(), "gradients at optimum sum to"),
        (WrongHessian(), "hessian is not the derivative"),
        (ForgetsRidge(), "linear_rows gives other costs than loss in round 0"),
        (TooConvex(), "not as strongly convex as modulus says in round 0"),
        (TooSmooth(), "changes faster than smoothness says in round 0"),
        (ByAgent(), r"modulus must be finite numbers of at least 0, of shape \[6\|1, 2\|1\]"),
        (Percent(), "accuracy must be a fraction"),
    ],
)
def test_broken_scenarios(broken: Any, words: str) -> None:
    fails(check_scenario, broken, words)


def edges(*pairs: tuple[int, int]) -> Any:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Graph(4, edges((0, 1), (2, 3))), "falls into 2 parts"),
        (Graph(3, edges((1, 0), (1, 2))), "pairs i < j"),
        (Graph(3, edges((1, 2), (0, 1))), "sorted"),
        (Graph(3, edges((0, 1), (0, 1), (1, 2))), "each once"),
        (Graph(3, edges((0, 1), (1, 3))), "outside 0 .. 2"),
        (Graph(3, np.array([[0.0, 1.0], [1.0, 2.0]])), "int64"),
        (Graph(2, edges((0, 1)), positions=np.zeros((3, 2))), "positions"),
        (
            lambda agents: graph_from_edges(agents + 1, [(i, i + 1) for i in range(agents)]),
            "makes 9 agents when asked for 8",
        ),
        (lambda agents: "ring", "makes a str"),
    ],
)
def test_broken_graphs(broken: Any, words: str) -> None:
    fails(check_topology, broken, words)


def test_a_maker_that_draws_anew_each_time() -> None:
    draw = np.random.default_rng(0)

    def restless(agents: int) -> Graph:
        path = [(i, i + 1) for i in range(agents - 1)]
        return graph_from_edges(agents, [*path, (0, int(draw.integers(2, agents)))])

    fails(check_topology, restless, "another graph from the same key")


@dataclass
class Shuffle:
    """A ring of which every round keeps each link with probability 1/2: a good switching topology to spoil."""

    agents: int = 6
    fault: str = ""
    asked: int = 0

    def arcs(self, t: Tensor, key: Key) -> Arcs:
        self.asked += 1
        found = []
        for k, round_ in enumerate(t.reshape(-1).tolist()):
            for r, trial in enumerate(key.trials.tolist()):
                address = [round_, trial, self.asked] if self.fault == "consumes" else [round_, trial]
                up = np.random.default_rng(address).random(self.agents) < (0.0 if self.fault == "silent" else 0.5)
                for i in np.flatnonzero(up).tolist():
                    j = (i + 1) % self.agents
                    found.append((k, r, i, j))
                    if self.fault != "one way":
                        found.append((k, r, j, i))
                if self.fault == "loop":
                    found.append((k, r, 0, 0))
        flat = np.array(found, dtype=np.int64).reshape(-1, 4).T
        return Arcs(flat[0], flat[1], flat[2], flat[3])


def test_a_switching_topology_that_keeps_all_promises_passes() -> None:
    check_topology(Shuffle())


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("consumes", "depend on what else is asked"),
        ("one way", "one direction only"),
        ("loop", "self loop"),
        ("silent", "falls into 6 parts"),
    ],
)
def test_broken_switching_topologies(fault: str, words: str) -> None:
    fails(check_topology, Shuffle(fault=fault), words)
