"""One experiment has the same bits on one block and on any workers, whatever the order in which their messages arrive."""

import dataclasses
import heapq
import threading
from typing import Any

import numpy as np
import pytest
import torch
from helpers.battery import PARTITIONS, N, Problems, differences
from helpers.blocks import NETWORKS, made, on
from torch import Tensor

import distopt
from distopt.engines.threads import ThreadGroup
from distopt.engines.workers import worker
from distopt.engines.workers.group import WorkerEngine
from distopt.engines.workers.partition import Partition
from distopt.errors import InputError
from distopt.numerics.trees import tensors
from distopt.protocols import Wire
from distopt.simulation import runner
from distopt.simulation.round import copied


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("trials", [1, 2])
def test_every_network_has_the_same_bits_on_any_workers(network: str, dtype: str, trials: int) -> None:
    for algorithm in ("gtadam:lr=0.01", "gt:lr=0.01,form=atc"):
        problem = made(network, "drifting_logistic", algorithm, dtype=dtype, trials=trials)
        alone, agents = on(problem), problem.problem.agents
        for partition in (
            PARTITIONS.values() if agents == N else (Partition.even(agents, 3), Partition.even(agents, 13))
        ):
            assert differences(alone, on(problem, partition)) == []


@pytest.mark.parametrize("network", ["ring", "star", "complete", "barabasi_albert"])
@pytest.mark.parametrize(
    ("algorithm", "channel"), [("powergossip:lr=0.01,rank=2", "exact"), ("gt:lr=0.01", "powergossip:gamma=0.5,rows=1")]
)
def test_what_each_neighbour_is_told_by_itself_has_the_same_bits_on_any_workers(
    network: str, algorithm: str, channel: str
) -> None:
    for settings in ({"dtype": "float64"}, {"dtype": "float32", "trials": 2}):
        problem = made(network, "moving_target:dim=7", algorithm, channel=channel, **settings)
        alone, agents = on(problem), problem.problem.agents
        for name, partition in (
            PARTITIONS.items()
            if agents == N
            else [("even", Partition.even(agents, 3)), ("odd", Partition.even(agents, 13))]
        ):
            assert differences(alone, on(problem, partition)) == [], name


@pytest.mark.parametrize("network", ["ring", "random_matching", "ring dropping"])
def test_delayed_and_reordered_messages_change_nothing(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = made(network, trials=2)
    alone = on(problem)
    arrived: list[int] = []
    deliver = heapq.heappop
    monkeypatch.setattr(
        "distopt.engines.threads.heapq.heappop", lambda heap: arrived.append(heap[0][1]) or deliver(heap)
    )
    for name, partition in PARTITIONS.items():
        for seed in range(2):
            arrived.clear()
            assert differences(alone, on(problem, partition, shuffled=True, seed=seed)) == [], name
            assert arrived != sorted(arrived), "nothing overtook anything"


def test_a_run_of_several_stretches_continues_on_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = made("random_matching", rounds=20)
    monkeypatch.setattr(problem.comparison.blocks, "length", 8)
    problem.comparison.blocks.count = 3
    assert problem.problem.x0.numel() * 8 < 1000
    for module in ("local.eager", "workers.group"):
        monkeypatch.setattr(f"distopt.engines.{module}.room", lambda x: 3)
    alone, shared = on(problem), on(problem, PARTITIONS["3"])
    assert differences(alone, shared) == []


def chunks(
    problem: Problems, engine: Any, start: runner.Carry | None = None
) -> list[tuple[runner.Chunk, runner.Carry]]:
    out = []
    for chunk in runner.run(
        problem.problem, problem.comparison.comparator, problem.comparison.blocks, engine, start=start
    ):
        out.append((chunk, chunk.carry(copied(engine.fetch()))))
    return out


def test_what_the_agents_hold_goes_on_in_any_other_number_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PATIENCE", 1e9)
    problem = made(rounds=12)
    monkeypatch.setattr("distopt.engines.workers.group.room", lambda x: 4)
    blocks = problem.comparison.blocks
    whole = chunks(problem, WorkerEngine(ThreadGroup(problem.problem, blocks, PARTITIONS["3"])))
    again = chunks(problem, WorkerEngine(ThreadGroup(problem.problem, blocks, PARTITIONS["5"])), whole[0][1])
    assert [chunk.start for chunk, _ in again] == [4, 8]
    for (one, stood), (other, stands) in zip(whole[1:], again, strict=True):
        assert torch.equal(stood.x, stands.x)
        assert all(np.array_equal(one.metrics[name], other.metrics[name]) for name in one.metrics)


def test_what_the_agents_hold_is_fetched_when_asked_for_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PATIENCE", 1e9)
    problem = made("ring", "moving_target:dim=3", rounds=6)
    fetched = []
    fetch = worker.Worker.fetch
    monkeypatch.setattr(worker.Worker, "fetch", lambda self: fetched.append(self.me) or fetch(self))
    monkeypatch.setattr("distopt.engines.workers.group.room", lambda x: 2)
    engine = WorkerEngine(ThreadGroup(problem.problem, problem.comparison.blocks, PARTITIONS["2"]))
    plain = dataclasses.replace(problem.problem, experiment=dataclasses.replace(problem.problem.experiment, record=()))
    for each, fetches in ((plain, 0), (problem.problem, 3)):  # the runner asks where x is recorded
        run = runner.run(each, problem.comparison.comparator, problem.comparison.blocks, engine)
        assert len(list(run)) == 3 and sorted(fetched) == [0] * fetches + [1] * fetches
        fetched.clear()
        held = engine.fetch()
        assert held.x.shape == (1, N, 3) and engine.fetch() is held
        assert sorted(fetched) == ([] if fetches else [0, 1])
        fetched.clear()


def test_the_engine_is_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    ask: dict[str, Any] = {"agents": 6, "scenario": "moving_target", "algorithm": "gt", "rounds": 4, "record": ("x",)}
    seen = []
    walk = worker.Worker.walk
    monkeypatch.setattr(worker.Worker, "walk", lambda self, *args: seen.append(self.ids) or walk(self, *args))
    shared = distopt.simulate("ring", engine="threads:workers=4", **ask)
    assert sorted(seen) == [(0, 1), (2, 3), (4,), (5,)]
    assert np.array_equal(shared["x"], distopt.simulate("ring", **ask)["x"])
    wrong = {
        "thread": "no .thread. among the engines .did you mean threads",
        "threads:w=3": "no parameter 'w'",
        "threads:workers=a": "whole number",
        "threads:7": "6 agents",
    }
    for spec, message in wrong.items():
        with pytest.raises(InputError, match=message):
            distopt.simulate("ring", engine=spec, **ask)


class Dithered:
    """A channel that rounds to whole multiples of 2^-10 at random, and remembers how often each agent sent."""

    def init(self, like: Tensor) -> Tensor:
        return torch.zeros_like(like[..., :1])

    def words(self, d: int) -> int:
        return d

    def encode(self, z: Tensor, memory: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
        assert u is not None and u.shape == z.shape
        return (z * 1024 + u.to(z.dtype)).floor().to(torch.int32), memory + 1

    def __call__(
        self, z: Tensor, payload: tuple[Tensor, Tensor], memory: Tensor, wire: Wire, u: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        numbers, counts = wire.heard(payload)
        assert torch.equal(counts[:, wire.own], memory + 1)
        return wire.weigh(numbers.to(z.dtype) / 1024), memory + 1

    def bits(self, d: int, itemsize: int) -> int:
        return 32 * d + 8 * itemsize


class Lending:
    """A channel whose memory begins with the tensor that it is given."""

    def init(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return like, like

    def encode(self, z: Tensor, memory: tuple[Tensor, Tensor], u: Tensor | None) -> Tensor:
        return z

    def __call__(
        self, z: Tensor, payload: Tensor, memory: tuple[Tensor, Tensor], wire: Wire, u: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return wire.weigh(wire.heard(payload)), memory

    def bits(self, d: int, itemsize: int) -> int:
        return 8 * itemsize * d


def test_memory_begins_with_the_run_and_shares_nothing() -> None:
    problem = made(algorithm="gt:lr=0.01,form=atc", channel=Lending(), trials=2).problem
    held = runner.begin(problem).held
    leaves = [leaf for name in ("s", "x") for leaf in held.memory[name]]
    assert [leaf.shape for leaf in leaves] == [problem.x0.shape] * 4
    assert len({leaf.untyped_storage().data_ptr() for leaf in tensors(held)}) == len(tensors(held))
    assert not any(leaf.any() for leaf in leaves)


@pytest.mark.parametrize("algorithm", ["gt:lr=0.01", "gt:lr=0.01,form=atc"])
@pytest.mark.parametrize("network", ["ring", "random_matching", "complete"])
def test_a_channel_with_memory_noise_and_packed_rows_has_the_same_bits(algorithm: str, network: str) -> None:
    problem = made(network, algorithm=algorithm, channel=Dithered(), trials=2)
    alone = on(problem)
    assert torch.equal(alone.held.memory["x"], torch.full((2, N, 1), 5.0, dtype=torch.float64))
    assert not np.array_equal(alone.run["x"], on(made(network, algorithm=algorithm, trials=2)).run["x"]), (
        "the channel does nothing"
    )
    for name in ("3", "13", "scattered"):
        assert differences(alone, on(problem, PARTITIONS[name])) == []


# Failures


class Fails:
    """One agent's algorithm that fails in the third round."""

    channels = ("x",)

    def init(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., :1])

    def update(self, g: Tensor, state: Tensor, x: Tensor, mix: Any) -> tuple[Tensor, Tensor]:
        if x.shape[-2] == 1 and int(state.max()) == 2:
            raise ZeroDivisionError("agent 15 has enough")
        return mix("x", x), state + 1


def test_a_worker_that_fails_stops_all_and_is_raised_once() -> None:
    problem = made(algorithm=Fails())
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError, match="agent 15"):
        on(problem, Partition((tuple(range(8)), tuple(range(8, 15)), (15,))))
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon and "do" in thread.name:
            thread.join(5)
    assert threading.active_count() == before


class Shared:
    """A state with a leaf that belongs to no agent."""

    channels = ("x",)

    def init(self, x: Tensor) -> Tensor:
        return torch.zeros(1, 1, 1, dtype=x.dtype)

    def update(self, g: Tensor, state: Tensor, x: Tensor, mix: Any) -> tuple[Tensor, Tensor]:
        return mix("x", x), state + 1


def test_a_leaf_that_belongs_to_no_agent_is_refused() -> None:
    problem = made(algorithm=Shared())
    with pytest.raises(InputError, match="to be shared among workers"):
        on(problem, PARTITIONS["3"])
