"""Values that are not as wide as x: every compressor that draws, on every kind of channel, against plain loops over floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers.driving import Floats
from torch import Tensor
from torch.utils._pytree import tree_leaves

import distopt
from distopt.catalog import registry
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.random import words
from distopt.simulation.problem import build
from distopt.simulation.round import begun

N, D, ROUNDS, LR, SEED = 6, 5, 12, 0.05, 3
WIDTHS = {"u": D, "w": 1, "pair": 2 * D + 1}


class State(NamedTuple):
    u: Tensor  # what push-sum sends [R, n, d]
    w: Tensor  # its weight [R, n, 1]
    pair: Tensor  # two vectors and a number in one message [R, n, 2 d + 1]


@dataclass(frozen=True)
class PushSum:
    """Push-sum with a third value, wider than x: x = u / w + what came with it."""

    lr: float = LR
    channels = ("u", "w", "pair")

    def init(self, x: Tensor) -> State:
        one = torch.ones_like(x[..., :1])
        return State(x.clone(), one, torch.cat([x, -2 * x, one], -1))

    def update(self, g: Tensor, state: State, x: Tensor, mix: Any) -> tuple[Tensor, State]:
        u, w, pair = mix("u", state.u - self.lr * g), mix("w", state.w), mix("pair", state.pair)
        d = x.shape[-1]
        return u / w + 0.01 * (pair[..., :d] - pair[..., d : 2 * d]), State(u, w, torch.cat([x, -2 * x, w], -1))


# The compressors, one row of plain numbers z with its uniforms u


def qsgd(z: Floats, u: Floats, levels: int = 4) -> Floats:
    length = math.sqrt(sum(each * each for each in z))
    if length == 0:
        return np.zeros(len(z))
    return np.array(
        [
            math.copysign(min(levels, math.floor(levels * abs(a) / length + b)) * length / levels, a)
            for a, b in zip(z, u, strict=True)
        ]
    )


def dither(z: Floats, u: Floats, precision: int = 3, block: int = 4) -> Floats:
    s, out = 2 ** (precision - 1) - 1, []
    for start in range(0, len(z), block):
        part = z[start : start + block]
        top = max(abs(each) for each in part)
        for a, b in zip(part, u[start : start + block], strict=True):
            out.append(0.0 if top == 0 else math.copysign(min(s, math.floor(s * abs(a) / top + b)) * top / s, a))
    return np.array(out)


def natural(z: Floats, u: Floats) -> Floats:
    out = []
    for a, b in zip(z, u, strict=True):
        mantissa, exponent = math.frexp(abs(a))  # abs(a) = mantissa 2^exponent, mantissa in [1/2, 1)
        out.append(0.0 if a == 0 else math.copysign(math.ldexp(1.0 if b < 2 * mantissa - 1 else 0.5, exponent), a))
    return np.array(out)


def randomk(z: Floats, u: Floats, k: int = 2) -> Floats:
    places = sorted(range(len(z)), key=lambda place: -u[place])[: min(k, len(z))]
    return np.array([a if place in places else 0.0 for place, a in enumerate(z)])


COMPRESSORS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "qsgd": qsgd,
    "dither(precision=3,block=4)": dither,
    "natural": natural,
    "randomk(k=2)": randomk,
    "qsgd(levels=9)": lambda z, u: qsgd(z, u, 9),
}
CHANNELS = ("naive", "error_feedback", "choco")


def sent_bits(compressor: str, d: int) -> int:
    """Of a row of d numbers in float64, counted by hand."""
    planes = 8 * -(-d // 8)
    return {
        "qsgd": 4 * planes + 64,  # a sign and three bits for 0 .. 4
        "qsgd(levels=9)": 5 * planes + 64,
        "dither(precision=3,block=4)": 3 * planes + 64 * -(-d // 4),
        "natural": 12 * planes,
        "randomk(k=2)": 64 * min(2, d),
    }[compressor]


class Loop:
    """A channel over all agents, number by number, with the uniforms that its address gives."""

    def __init__(self, kind: str, compressor: str, name: str, W: Floats) -> None:
        self.kind, self.name, self.W, self.compress = kind, name, W, COMPRESSORS[compressor]
        self.shared, self.t = compressor.startswith("randomk"), 0
        self.kept = np.zeros((N, WIDTHS[name]))  # errors, or public copies

    def __call__(self, z: Floats) -> Floats:
        width, rows = z.shape[1], 1 if self.shared else N
        u = words(SEED, f"channel/{self.name}", 0, self.t * rows * width, rows * width).reshape(rows, width)
        self.t += 1
        wanted = z if self.kind == "naive" else z + self.kept if self.kind == "error_feedback" else z - self.kept
        sent = np.stack([self.compress(wanted[i], u[0 if self.shared else i]) for i in range(N)])
        if self.kind == "error_feedback":
            self.kept = wanted - sent
        if self.kind == "choco":
            sent = self.kept = self.kept + sent
        out = np.zeros_like(z)
        for i in range(N):
            for j in range(N):
                out[i] += 0.3 * self.W[i, j] * (sent[j] - sent[i]) if self.kind == "choco" else self.W[i, j] * sent[j]
        return z + out if self.kind == "choco" else out


def looped(kind: str, compressor: str, grad: Callable[[Floats], Floats], x: Floats) -> Floats:
    W = np.zeros((N, N))
    for i in range(N):
        W[i, i] = W[i, (i + 1) % N] = W[i, (i - 1) % N] = 1 / 3  # Metropolis weights of a ring
    through = {name: Loop(kind, compressor, name, W) for name in WIDTHS}
    u, w, pair = x.copy(), np.ones((N, 1)), np.concatenate([x, -2 * x, np.ones((N, 1))], 1)
    points = [x]
    for _ in range(ROUNDS):
        u, w, mixed = through["u"](u - LR * grad(x)), through["w"](w), through["pair"](pair)
        pair = np.concatenate([x, -2 * x, w], 1)
        x = u / w + 0.01 * (mixed[:, :D] - mixed[:, D : 2 * D])
        points.append(x)
    return np.stack(points)


def asked(kind: str, compressor: str, **more: Any) -> dict[str, Any]:
    channel = f"{kind}:compressor={compressor}" + (",gamma=0.3" if kind == "choco" else "")
    rng = np.random.default_rng(0)
    return {
        "topology": "ring",
        "agents": N,
        "scenario": f"quadratic:dim={D}",
        "algorithm": PushSum(),
        "channel": channel,
        "rounds": ROUNDS,
        "seed": SEED,
        "x0": rng.normal(size=(N, D)) + 3,
        "record": "x,w",
        **more,
    }


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("kind", CHANNELS)
def test_each_channel_draws_for_the_width_of_its_own_value(kind: str, compressor: str) -> None:
    ask = asked(kind, compressor)
    run = distopt.simulate(**ask)
    problem = build(Experiment(**{**ask, "record": ()}))
    data = problem.scenario.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), problem.key)
    one = type(data)(*(leaf[0] for leaf in data)) if isinstance(data, tuple) else data[0]
    expected = looped(
        kind, compressor, lambda x: problem.scenario.grad(torch.tensor(x)[None], one)[0].numpy(), ask["x0"]
    )
    assert np.abs(expected).max() < 1e3 and np.abs(expected[-1] - expected[0]).max() > 0.1, (
        "the comparison would mean nothing"
    )
    assert np.abs(run["x"][0] - expected).max() < 1e-9
    assert run["bits"][0, -1] == ROUNDS * sum(sent_bits(compressor, width) for width in WIDTHS.values())


@pytest.mark.slow
@pytest.mark.parametrize("compressor", [*COMPRESSORS, "lowrank", "sign", "topk(k=2)"])
@pytest.mark.parametrize("kind", CHANNELS)
def test_workers_and_grids_have_the_bits_of_one_block(kind: str, compressor: str) -> None:
    ask = asked(kind, compressor, trials=2)
    alone = distopt.simulate(**ask)
    spread = distopt.simulate(**ask, engine="threads:workers=3")
    for name in alone:
        assert np.array_equal(alone[name], spread[name], equal_nan=True), name


def test_ranks_have_the_bits_of_one_block() -> None:
    ask = asked("choco", "qsgd")
    alone, spread = distopt.simulate(**ask), distopt.simulate(**ask, engine="ranks:workers=2")
    assert all(np.array_equal(alone[name], spread[name], equal_nan=True) for name in alone)


def test_a_weight_of_one_stays_a_weight() -> None:
    """One number through ``qsgd`` is its own length, so it arrives as it is."""
    assert np.abs(distopt.simulate(**asked("naive", "qsgd"))["w"] - 1).max() < 1e-12


def test_memory_and_uniforms_have_the_width_of_their_value() -> None:
    problem = build(Experiment(**asked("choco", "randomk(k=2)")))
    assert problem.plan.widths == WIDTHS
    assert len(tree_leaves(begun(problem, ["w"]))) == 1 + 3 + 2
    for name in ("exact", "choco:compressor=sign"):
        assert build(Experiment(**{**asked("naive", "sign"), "channel": name})).plan.widths == WIDTHS


# What is refused


class Shrinking(PushSum):
    """Sends two numbers where the first round sent one."""

    def update(self, g: Tensor, state: State, x: Tensor, mix: Any) -> tuple[Tensor, State]:
        late = bool((state.w != 1).any())

        def other(name: str, z: Tensor) -> Tensor:
            out: Tensor = mix(name, torch.cat([z, z], -1) if late and name == "w" else z)
            return out[..., :1] * 1.5 if name == "w" else out

        return super().update(g, state, x, other)


class Flat(PushSum):
    """Sends a number for each agent without an axis for it."""

    def update(self, g: Tensor, state: State, x: Tensor, mix: Any) -> tuple[Tensor, State]:
        return super().update(
            g, state, x, lambda name, z: mix(name, z[..., 0])[..., None] if name == "w" else mix(name, z)
        )


@pytest.mark.parametrize("engine", ["local", "threads:workers=3"])
@pytest.mark.parametrize("channel", ["exact", "choco:compressor=sign", "naive:compressor=qsgd"])
def test_a_width_that_changes_between_rounds_is_refused(channel: str, engine: str) -> None:
    ask = {**asked("naive", "qsgd"), "algorithm": Shrinking(), "channel": channel}
    with pytest.raises(InputError, match="sends 'w' with 2 numbers per agent, and 1 in the first round"):
        distopt.simulate(**ask, engine=engine)


def test_a_value_without_an_axis_for_its_numbers_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"sends 'w' of shape \[1, 6\]; it must be \[trials, agents, \*\], here \[1, 6, \*\]"
    ):
        distopt.simulate(**{**asked("naive", "qsgd"), "algorithm": Flat()})


class EverySecond:
    """Gossips in every second round alone."""

    channels = ("x",)

    def init(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., :1])

    def update(self, g: Tensor, state: Tensor, x: Tensor, mix: Any) -> tuple[Tensor, Tensor]:
        x = x - 0.1 * g
        return (mix("x", x) if int(state[0, 0, 0]) % 2 else x), state + 1


@pytest.mark.parametrize("channel", ["exact", "naive:compressor=qsgd", "choco:compressor=natural"])
def test_a_channel_that_the_first_round_leaves_out_is_as_wide_as_x(channel: str) -> None:
    ask = {**asked("naive", "qsgd"), "algorithm": EverySecond(), "channel": channel, "record": "x"}
    alone, spread = distopt.simulate(**ask), distopt.simulate(**ask, engine="threads:workers=2")
    assert alone.status == "done" and np.array_equal(alone["x"], spread["x"])


class LateAndWide(EverySecond):
    """Sends twice as many numbers as x has, and none in the first round."""

    def update(self, g: Tensor, state: Tensor, x: Tensor, mix: Any) -> tuple[Tensor, Tensor]:
        def wide(name: str, z: Tensor) -> Tensor:
            return mix(name, torch.cat([z, z], -1))[..., : z.shape[-1]]

        return super().update(g, state, x, wide)


def test_a_late_value_that_is_remembered_must_be_as_wide_as_x() -> None:
    ask = {**asked("naive", "sign"), "algorithm": LateAndWide(), "record": "x"}
    assert distopt.simulate(**{**ask, "channel": "exact"}).status == "done"
    with pytest.raises(InputError, match=r"\(or in x, if the first round does not send it\)"):
        distopt.simulate(**{**ask, "channel": "choco:compressor=sign"})


def test_an_algorithm_that_counts_its_rounds_counts_no_more_than_there_are() -> None:
    class Counting(PushSum):
        count = 0

        def update(self, g: Tensor, state: State, x: Tensor, mix: Any) -> tuple[Tensor, State]:
            object.__setattr__(self, "count", self.count + 1)
            return super().update(g, state, x, mix)

    counting = Counting()
    distopt.simulate(**{**asked("naive", "qsgd"), "algorithm": counting}, mode="eager")
    assert counting.count == ROUNDS


def test_the_catalogue_has_no_other_compressor_that_draws() -> None:
    drawing = {name for name in registry.names("compressors") if registry.make("compressors", name).words(4)}
    assert drawing == {each.partition("(")[0] for each in COMPRESSORS}


@pytest.mark.slow
def test_compiled_rounds_have_the_numbers_of_eager_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's front end alone: what is traced has the widths of an eager round."""
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, **_: compile_(f, dynamic=False, fullgraph=True, backend="aot_eager")
    )
    ask = asked("choco", "qsgd")
    eager = distopt.simulate(**ask, mode="eager")
    for engine in ("local", "threads:workers=2"):
        compiled = distopt.simulate(**ask, mode="compiled", engine=engine)
        for name in eager:
            np.testing.assert_allclose(
                compiled[name], eager[name], rtol=0, atol=1e-11 * max(1.0, np.nanmax(np.abs(eager[name]))), err_msg=name
            )
