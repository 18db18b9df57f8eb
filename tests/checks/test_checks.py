"""Each check of the battery must fail on a class that breaks just that promise, and say which one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from distopt.algorithms.dgd import DGD
from distopt.algorithms.gt import GT, GTState
from distopt.catalog.registry import make, names
from distopt.channels.exact import Exact
from distopt.checks import check_algorithm, check_channel, check_direction
from distopt.directions.momentum import Momentum, MomentumState


@pytest.mark.parametrize(
    "spec", [*names("algorithms"), "gt:form=atc", "aug_dgm:direction=amsgrad(bias_correction=true)"]
)
def test_algorithms(spec: str) -> None:
    check_algorithm(make("algorithms", spec))


@pytest.mark.parametrize(
    "spec",
    [
        *names("directions"),
        "adam:eps_inside=false,cap=none,bias_correction=true",
        "theopoula:eta=0.1,beta=100.0",
        "adashift:phi=identity",
        "losing_momentum:decay=inverse",
    ],
)
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


class MoreGradients(CouplesAgents):
    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return mix("x", x) - 0.1 * (mix.grad(x - g) if int(mix.t) else g), ()


class MoreNumbers(CouplesAgents):
    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return mix("x", x) - 0.1 * g * (mix.uniform(1).to(g.dtype) if int(mix.t) else 0.5), ()


class KnowsOthersByGradients(CouplesAgents):
    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return mix("x", x) - 0.1 * mix.grad(x - g.mean(-2, keepdim=True)), ()


class FlatOutput(Good):
    def output(self, x: Tensor, state: Any) -> Tensor:
        return x[..., :1]


class MeanOutput(Good):
    def output(self, x: Tensor, state: Any) -> Tensor:
        return x.mean(-2, keepdim=True).expand_as(x)


class OutputInPlace(Good):
    def output(self, x: Tensor, state: Any) -> Tensor:
        return x.mul_(0.5)


class CountingOutput(Good):
    def output(self, x: Tensor, state: Any) -> Tensor:
        self.count += 1
        return x + self.count


class Extragradient(CouplesAgents):
    """What keeps all promises and asks for all that a round has."""

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        lr = 0.1 / (1 + mix.t)
        return mix("x", x) - lr * mix.grad(mix.x - lr * g) * (0.5 + mix.uniform(1)), ()

    def output(self, x: Tensor, state: Any) -> Tensor:
        return x + 0.0


class Explodes(CouplesAgents):
    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return mix("x", x) - g / 0.0, ()


def test_an_algorithm_that_keeps_all_promises_passes() -> None:
    check_algorithm(Good())
    check_algorithm(Extragradient())


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
        (MoreGradients, "round 1 asks for 1 further gradients and 0 uniform numbers, the first one for 0 and 0"),
        (MoreNumbers, "round 1 asks for 0 further gradients and 1 uniform numbers"),
        (KnowsOthersByGradients, "learns of another one without mix"),
        (FlatOutput, "output must give"),
        (MeanOutput, "output gives an agent alone another answer"),
        (OutputInPlace, "output changes its inputs in place"),
        (CountingOutput, "output is not pure"),
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


class DirectionAsks(Momentum):
    """What keeps all promises and asks for the round."""

    def __call__(self, s: Tensor, state: MomentumState, mix: Any) -> tuple[Tensor, MomentumState]:  # three on purpose
        m = self.b * state.m + s + 0.1 * mix.x
        return m / (1 + mix.t), MomentumState(m)


class DirectionAsksForTheMean(Momentum):
    def __call__(self, s: Tensor, state: MomentumState, mix: Any) -> tuple[Tensor, MomentumState]:  # three on purpose
        return s + mix.x.mean(-2, keepdim=True), state


def test_a_direction_that_asks_for_the_round_passes() -> None:
    check_direction(DirectionAsks())


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
        (DirectionAsksForTheMean, "alone gets another direction"),
        (DirectionForgetsShape, "structure or shapes"),
    ],
)
def test_broken_directions(broken: Callable[[], Any], words: str) -> None:
    fails(check_direction, broken(), words)


class ChannelLosesMean(Exact):
    def __call__(self, z: Tensor, payload: Any, memory: Any, wire: Any, u: Any = None) -> tuple[Tensor, Any]:
        return wire.weigh(wire.heard(payload).sign()), memory


class ChannelFlatMemory(Exact):
    def init(self, like: Tensor) -> Any:
        return (like[0],)


class ChannelStartsFromValue(Exact):
    def init(self, like: Tensor) -> Any:
        return (like.clone(),)


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
        (ChannelStartsFromValue, "init looks at the numbers"),
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
