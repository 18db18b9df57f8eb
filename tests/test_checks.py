"""Each check of the battery must fail on a class that breaks just that promise, and say which one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from distopt.algorithms.dgd import DGD
from distopt.algorithms.gt import GT, GTState
from distopt.catalog import make, names
from distopt.channels.exact import Exact
from distopt.checks import check_algorithm, check_channel, check_direction, check_scenario, check_topology
from distopt.directions.momentum import Momentum, MomentumState
from distopt.graphs import Arcs, Graph, graph_from_edges
from distopt.random import Key
from distopt.scenarios.quadratic import Curves, Quadratic


@pytest.mark.parametrize("spec", [*names("algorithms"), "gt:form=atc", "gt:form=aug_dgm,direction=amsgrad(bias_correction=true)"])
def test_algorithms(spec: str) -> None:
    check_algorithm(make("algorithms", spec))


@pytest.mark.parametrize("spec", [*names("directions"), "adam:eps_inside=false,cap=none,bias_correction=true"])
def test_directions(spec: str) -> None:
    check_direction(make("directions", spec))


def fails(check: Callable[[Any], None], broken: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check(broken)


class Good:
    """GT with its update open to sabotage."""

    channels: ClassVar[tuple[str, ...]] = ("x", "s")

    def __init__(self) -> None:
        self.inner, self.count = GT(0.05), 0

    def init(self, x: Tensor) -> Any:
        return self.inner.init(x)

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return self.inner.update(g, state, x, mix)


class NoChannels(Good):
    channels: ClassVar[Any] = "x"


class StrangeWeights(Good):
    weights = "nice"


class UnusedChannel(Good):
    channels: ClassVar[tuple[str, ...]] = ("x", "s", "v")


class LazyFirstRound(Good):
    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return self.inner.update(g, state, x, mix if bool(state.g.any()) else lambda _, z: z)


class InPlace(Good):
    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        new, after = self.inner.update(g, state, x, mix)
        return x.copy_(new), after


class Counts(Good):
    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        self.count += 1
        new, after = self.inner.update(g, state, x, mix)
        return new + self.count * 1e-6, after


class FlatState(Good):
    def init(self, x: Tensor) -> Any:
        return GTState(torch.zeros_like(x[0]), torch.zeros_like(x), ())


class NumberInState(Good):
    def init(self, x: Tensor) -> Any:
        return GTState(torch.zeros_like(x), torch.zeros_like(x), 0)


class Grows(Good):
    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        new, after = self.inner.update(g, state, x, mix)
        return new, after._replace(direction=(g,))


class Widens(Good):
    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        new, after = self.inner.update(g, state, x, mix)
        return new.double(), after


class CouplesTrials(Good):
    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return self.inner.update(g / g.norm(), state, x, mix)


class CouplesAgents(Good):
    channels: ClassVar[tuple[str, ...]] = ("x",)

    def init(self, x: Tensor) -> Any:
        return ()

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return mix("x", x) - 0.1 * g.mean(-2, keepdim=True), ()


class KnowsNumbers(CouplesAgents):
    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return mix("x", x) - 0.1 * g * torch.arange(g.shape[-2], dtype=g.dtype)[:, None], ()


class Drifts(CouplesAgents):
    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return mix("x", x) * 0.999 - 0.1 * g, ()


class WrongTracker(Good):
    tracks = "s"

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        s = 0.9 * mix("s", state.s) + g - state.g
        return mix("x", x) - 0.05 * s, GTState(s, g, ())


class Explodes(CouplesAgents):
    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return mix("x", x) - g / 0.0, ()


def test_an_algorithm_that_keeps_all_promises_passes() -> None:
    check_algorithm(Good())


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (NoChannels, "channels must be a tuple"),
        (StrangeWeights, "weights must be"),
        (UnusedChannel, "each once, every round"),
        (LazyFirstRound, "each once, every round"),
        (InPlace, "changes its inputs in place"),
        (Counts, "not pure"),
        (FlatState, r"a leaf has shape \[5, 3\]"),
        (NumberInState, "every leaf must be a tensor, found int"),
        (Grows, "changes its structure or shapes in round 0"),
        (Widens, "float32 into"),
        (CouplesTrials, "trial 0 alone differs"),
        (CouplesAgents, "learns of another one without mix"),
        (KnowsNumbers, "numbering of the agents matters"),
        (Drifts, "agents that agree and see zero gradients move"),
        (WrongTracker, "mean of the trackers"),
        (Explodes, "not finite after round 0"),
    ],
)
def test_broken_algorithms(broken: Callable[[], Any], words: str) -> None:
    fails(check_algorithm, broken(), words)


class DirectionInPlace(Momentum):
    def __call__(self, s: Tensor, state: MomentumState) -> tuple[Tensor, MomentumState]:
        m = state.m.mul_(self.b).add_(s)
        return m, MomentumState(m)


class DirectionNormalised(Momentum):
    def __call__(self, s: Tensor, state: MomentumState) -> tuple[Tensor, MomentumState]:
        m = self.b * state.m + s / (1e-30 + s.norm())
        return m, MomentumState(m)


class DirectionDividesByZero(Momentum):
    def __call__(self, s: Tensor, state: MomentumState) -> tuple[Tensor, MomentumState]:
        m = self.b * state.m + s * s
        return s / m.sqrt(), MomentumState(m)


class DirectionStartsAtOne(Momentum):
    def init(self, x: Tensor) -> MomentumState:
        return MomentumState(torch.ones_like(x))


class DirectionWidens(Momentum):
    def __call__(self, s: Tensor, state: MomentumState) -> tuple[Tensor, MomentumState]:
        return s.double(), state


class DirectionForgetsShape(Momentum):
    def __call__(self, s: Tensor, state: MomentumState) -> tuple[Tensor, MomentumState]:
        return s, MomentumState(state.m[..., :1])


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (DirectionInPlace, "in place"),
        (DirectionNormalised, "alone gets another direction"),
        (DirectionDividesByZero, "not finite at gradients|not zero"),
        (DirectionStartsAtOne, "not zero"),
        (DirectionWidens, "float32 into"),
        (DirectionForgetsShape, "structure or shapes"),
    ],
)
def test_broken_directions(broken: Callable[[], Any], words: str) -> None:
    fails(check_direction, broken(), words)


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
        return Curves(torch.ones(lead, dtype=torch.float64), torch.randn(lead, generator=generator, dtype=torch.float64))


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
class Percent(Moving):
    def accuracy(self, x: Tensor, b: Curves) -> Tensor:
        return 50 + 0 * x[..., 0]


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
        (lambda agents: graph_from_edges(agents + 1, [(i, i + 1) for i in range(agents)]), "makes 9 agents when asked for 8"),
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


class ChannelLosesMean(Exact):
    def __call__(self, z: Tensor, payload: Any, memory: Any, wire: Any, u: Any = None) -> tuple[Tensor, Any]:
        return wire.weigh(wire.heard(payload).sign()), memory


class ChannelFlatMemory(Exact):
    def init(self, z: Tensor) -> Any:
        return (z[0],)


class ChannelCouplesTrials(Exact):
    def __call__(self, z: Tensor, payload: Any, memory: Any, wire: Any, u: Any = None) -> tuple[Tensor, Any]:
        return wire.weigh(wire.heard(payload)) + 1e-9 * (z - z.mean(-2, keepdim=True)) * z.norm(), memory


class ChannelInPlace(Exact):
    def __call__(self, z: Tensor, payload: Any, memory: Any, wire: Any, u: Any = None) -> tuple[Tensor, Any]:
        return z.copy_(wire.weigh(wire.heard(payload))), memory


class ChannelEncodesByChance(Exact):
    def encode(self, z: Tensor, memory: Any, u: Any) -> Tensor:
        return z + torch.rand(1, dtype=z.dtype)


class ChannelPayloadGrows(Exact):
    def encode(self, z: Tensor, memory: Any, u: Any) -> Any:
        return z if float(z[0, 0, 0]) > 0 else (z, z)

    def __call__(self, z: Tensor, payload: Any, memory: Any, wire: Any, u: Any = None) -> tuple[Tensor, Any]:
        return wire.weigh(z), memory


class ChannelFreeOfCharge(Exact):
    def bits(self, d: int, itemsize: int) -> int:
        return 0


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (ChannelLosesMean, "mean over the agents changes"),
        (ChannelFlatMemory, "a leaf has shape"),
        (ChannelCouplesTrials, "trial 0 alone differs"),
        (ChannelInPlace, "in place"),
        (ChannelEncodesByChance, "not pure"),
        (ChannelPayloadGrows, "payload changes"),
        (ChannelFreeOfCharge, "bits"),
    ],
)
def test_broken_channels(broken: Callable[[], Any], words: str) -> None:
    fails(check_channel, broken(), words)
    if broken is ChannelLosesMean:
        check_channel(broken(), keeps_mean=False)


def test_dgd_with_row_weights_is_accepted() -> None:
    assert DGD.weights == "row"
    check_algorithm(DGD())
