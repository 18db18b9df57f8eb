"""Channels against loops written agent by agent from their papers, and what each promises of means, floors and lost messages."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from helpers.driving import ROUNDS, Costs, D, Linked, N, driven, ring, sign
from torch import Tensor

import distopt
from distopt.catalog import registry
from distopt.channels.choco import Choco
from distopt.channels.error_feedback import ErrorFeedback
from distopt.channels.exact import Exact
from distopt.channels.naive import Naive
from distopt.checks import check_channel
from distopt.compressors.identity import Identity
from distopt.compressors.sign import Sign
from distopt.compressors.topk import TopK
from distopt.engines import threads
from distopt.engines.workers.group import WorkerEngine
from distopt.engines.workers.partition import Partition
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.runs.execution import Comparison
from distopt.simulation.problem import Problem, build

COMPRESSORS = ["sign", "topk(k=2)", "identity"]
MADE = [f"choco:compressor={c},gamma=0.2" for c in COMPRESSORS] + [
    "choco:compressor=sign,gamma=0.2,alpha=0.5",
    "choco:compressor=sign,order=old",
]


class Steps:
    """x_{t+1} = x_t - mix(lr g_t): workers that share steps and not points."""

    channels = ("step",)

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def update(self, g: Tensor, state: tuple[()], x: Tensor, mix: Any) -> tuple[Tensor, tuple[()]]:
        return x - mix("step", 0.05 * g), state


def test_error_feedback_is_the_loop_of_ef_signsgd() -> None:
    costs, average = Costs(), np.full((N, N), 1 / N)
    found, _, memory = driven(Steps(), ErrorFeedback(Sign()), average, costs)
    x, e = costs.c / 2, np.zeros((N, D))
    for t in range(ROUNDS):
        g = costs.grad(x, t)
        sent = []
        for i in range(N):
            p = 0.05 * g[i] + e[i]
            delta = sign(p)
            e[i] = p - delta
            sent.append(delta)
        x = x - sum(sent) / N
        assert np.abs(found[t + 1] - x).max() < 1e-13
    assert np.abs(memory["step"].e[0].numpy() - e).max() < 1e-13
    assert np.abs(e).max() > 1e-3


@pytest.mark.parametrize("order", ["new", "old"])
@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_choco_is_the_loop_over_public_copies(order: Any, alpha: float) -> None:
    costs, W, gamma, lr = Costs(1), ring(), 0.3, 0.05
    found, *_ = driven(registry.make("algorithms", f"dgd:lr={lr}"), Choco(Sign(), gamma, alpha, order), W, costs)
    x, copies = costs.c / 2, np.zeros((N, D))
    for t in range(ROUNDS):
        q = np.stack([sign(x[i] - copies[i]) for i in range(N)])
        public = copies + q if order == "new" else copies.copy()
        g = costs.grad(x, t)
        new = np.empty_like(x)
        for i in range(N):
            new[i] = x[i] - lr * g[i]
            for j in range(N):
                new[i] += gamma * W[i, j] * (public[j] - public[i])
        copies = copies + alpha * q
        x = new
        assert np.abs(found[t + 1] - x).max() < 1e-12


def test_choco_without_loss_is_exact_mixing() -> None:
    for name in ("gt", "gtadam", "dgd", "nids", "extra"):
        algorithm = registry.make("algorithms", f"{name}:lr=0.02")
        exact, *_ = driven(algorithm, Exact(), ring(), Costs(2))
        through, *_ = driven(algorithm, Choco(Identity(), gamma=1.0), ring(), Costs(2))
        assert np.abs(exact - through).max() < 1e-11, name  # sums of increments round otherwise


def test_choco_sends_error_feedback_on_increments() -> None:
    channel, draw = Choco(Sign()), np.random.default_rng(3)
    stream = torch.tensor(np.cumsum(draw.normal(size=(50, 1, N, D)), 0))
    memory, before, e = channel.init(stream[0]), np.zeros((N, D)), np.zeros((N, D))
    for z in stream:
        payload = channel.encode(z, memory, None)
        sent = channel.compressor.decode(payload, D, z.dtype)[0].numpy()
        p = z[0].numpy() - before + e
        assert np.abs(np.stack([sign(row) for row in p]) - sent).max() < 1e-12
        e, before = p - sent, z[0].numpy()
        _, memory = channel(z, payload, memory, LinkedWire())


class LinkedWire(Linked):
    """The wire of one channel."""

    def __init__(self) -> None:
        super().__init__(ring())

    def heard(self, payload: Any) -> Any:
        return payload

    def weigh(self, rows: Tensor) -> Tensor:
        return super().weigh("x", rows)


@pytest.mark.parametrize("spec", MADE)
@pytest.mark.parametrize("algorithm", ["gt:lr=0.02", "gt:lr=0.02,form=atc", "gtadam:lr=0.01"])
def test_trackers_keep_the_mean_of_the_gradients(spec: str, algorithm: str) -> None:
    _, state, _ = driven(registry.make("algorithms", algorithm), registry.make("channels", spec), ring(), Costs(4))
    assert float((state.s - state.g).mean(-2).abs().max()) < 1e-12


def error(channel: Any, rounds: int = 4000) -> float:
    """How far gradient tracking ends from the minimiser of costs that stand still."""
    costs = Costs(5, speed=0.0)
    points, *_ = driven(registry.make("algorithms", "gt:lr=0.02"), channel, ring(), costs, rounds)
    best = (costs.a * costs.c).sum(0) / costs.a.sum()
    return float(np.abs(points[-1] - best).max())


@pytest.mark.slow
def test_increments_reach_the_optimum_and_values_stall() -> None:
    assert error(Choco(Sign(), gamma=0.2)) < 1e-10
    assert error(Choco(TopK(1), gamma=0.2)) < 1e-10
    floors = {"error feedback": error(ErrorFeedback(Sign(), gamma=0.2), 1500), "naive": error(Naive(Sign()), 300)}
    assert all(not floor < 1e-3 for floor in floors.values()), floors  # nan, where it ran away, is no success either


@pytest.mark.parametrize(
    "spec", [*MADE, "choco:compressor=topk(k=1),resync=3", "error_feedback:compressor=sign,gamma=0.5"]
)
def test_channels_pass_the_battery(spec: str) -> None:
    check_channel(registry.make("channels", spec))


@pytest.mark.parametrize(
    "spec", ["naive:compressor=sign", "error_feedback:compressor=topk(k=1)", "choco:compressor=sign,gamma=none"]
)
def test_channels_that_change_means_pass_the_rest_of_the_battery(spec: str) -> None:
    check_channel(registry.make("channels", spec), keeps_mean=False)
    with pytest.raises(AssertionError, match="mean over the agents changes"):
        check_channel(registry.make("channels", spec))


# Lost messages


def with_a_loss(channel: str, lost: int | None, monkeypatch: pytest.MonkeyPatch, rounds: int = 60) -> distopt.Run:
    """A run on two workers whose message from block 1 to block 0 in round ``lost`` arrives as zeros."""
    experiment = Experiment("ring", 8, "moving_target:dim=5", "gt:lr=0.02", channel, rounds=rounds, record=("s", "g"))
    right = threads.InMemoryTransport.send

    def send(self: threads.InMemoryTransport, tag: Any, outgoing: dict[int, Tensor]) -> None:
        if tag[0] == lost and self.me == 1 and "s" in tag[1].split("+"):
            outgoing = {block: torch.zeros_like(message) for block, message in outgoing.items()}
        right(self, tag, outgoing)

    monkeypatch.setattr(threads.InMemoryTransport, "send", send)

    def make(problem: Problem, blocks: Any, mode: Any) -> Any:
        return WorkerEngine(threads.ThreadGroup(problem, blocks, Partition.even(problem.agents, 2)))

    problem = build(experiment)
    run = distopt.runs.execution.execute(
        experiment, problem=problem, comparison=Comparison.of(problem), mode="eager", engine=make
    )
    monkeypatch.undo()
    return run


def test_a_lost_message_shows_in_the_invariant_and_resynchronising_heals_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for channel, heals in (("choco:compressor=sign", False), ("choco:compressor=sign,resync=8", True)):
        clean = with_a_loss(channel, None, monkeypatch)["tracker_invariant"][0]
        assert clean.max() < 1e-12
        hurt = with_a_loss(channel, 20, monkeypatch)["tracker_invariant"][0]
        assert hurt[:20].max() < 1e-12 and hurt[20] > 1e-4, "the loss does not show"
        assert bool(hurt[37:].max() < 1e-11) is heals, (channel, hurt[30:].max())


def test_a_lost_message_is_reported() -> None:
    run = distopt.simulate(
        "ring", agents=8, scenario="moving_target", algorithm="gt:lr=0.02", channel="choco:compressor=sign", rounds=40
    )
    assert distopt.report.summary.drift(run) is None
    with pytest.warns(UserWarning, match=r"trackers have left .* in round \d+: the channel"):
        distopt.simulate(
            "ring",
            agents=8,
            scenario="moving_target",
            algorithm="gt:lr=0.02",
            channel="naive:compressor=sign",
            rounds=40,
        )


# What is refused


@pytest.mark.parametrize(("network", "drop"), [("random_matching", 0.0), ("one_peer_exponential", 0.0), ("ring", 0.2)])
def test_copies_refuse_links_that_come_and_go(network: str, drop: float) -> None:
    ask: dict[str, Any] = {"agents": 8, "scenario": "moving_target", "algorithm": "gt", "rounds": 5, "drop_links": drop}
    with pytest.raises(InputError, match="choco keeps sums of what neighbours sent.*fixed topology"):
        distopt.simulate(network, channel="choco:compressor=sign", **ask)
    for channel in ("naive:compressor=sign", "error_feedback:compressor=sign,gamma=0.5"):
        distopt.simulate(network, channel=channel, **ask)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("choco:compressor=sign,gamma=0", "gamma must lie in"),
        ("choco:compressor=sign,alpha=2", "alpha must lie in"),
        ("choco:compressor=sign,order=both", "order"),
        ("choco:compressor=sign,resync=-1", "resync"),
        ("choco:gamma=0.1", "compressor must be given"),
        ("choco:compressor=sing", "did you mean sign"),
        ("error_feedback:compressor=sign,gamma=2", "gamma must lie in"),
    ],
)
def test_bad_channels_are_refused_in_one_line(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        registry.make("channels", spec)
    assert "\n" not in str(caught.value)


class Brings:
    """An algorithm with a channel of its own for one of its values."""

    channels = ("x", "y")

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def init(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def update(self, g: Tensor, state: Tensor, x: Tensor, mix: Any) -> tuple[Tensor, Tensor]:
        return mix("x", x) - 0.1 * g, mix("y", state + g)


def test_an_algorithm_may_bring_its_channels() -> None:
    ask: dict[str, Any] = {"agents": 8, "scenario": "moving_target:dim=16", "rounds": 5}
    one = distopt.simulate("ring", algorithm=Brings(Naive(Sign())), **ask)
    two = distopt.simulate("ring", algorithm=Brings({"x": Exact(), "y": "naive:compressor=sign"}), **ask)
    small, large = Sign().bits(16, 8), 16 * 64
    assert one["bits"][0].tolist() == list(itertools.accumulate([2 * small] * 5))
    assert two["bits"][0].tolist() == list(itertools.accumulate([small + large] * 5))
    with pytest.raises(InputError, match="brings its own channel"):
        distopt.simulate("ring", algorithm=Brings(Exact()), channel="naive:compressor=sign", **ask)
    with pytest.raises(InputError, match="sends 'y'"):
        distopt.simulate("ring", algorithm=Brings({"x": Exact()}), **ask)
