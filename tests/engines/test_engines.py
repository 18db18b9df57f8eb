"""One experiment has the same bits on one block and on any workers, whatever the order in which their messages arrive."""

import dataclasses
import heapq
import threading
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers import battery
from helpers.battery import PARTITIONS, N, Outcome, Problems, differences, threads
from torch import Tensor

import distopt
from distopt.catalog import registry
from distopt.engines import local
from distopt.engines.threads import ThreadGroup
from distopt.engines.workers import exchange, worker
from distopt.engines.workers.group import WorkerEngine
from distopt.engines.workers.halo import FRONT, halo, pack, size, unpack
from distopt.engines.workers.partition import Partition
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.network.net import known_at_start
from distopt.network.network import mixing_of
from distopt.network.rows import Table, apply
from distopt.network.topology import build_topology
from distopt.numerics.random import Key
from distopt.numerics.trees import at, tensors
from distopt.protocols import Wire
from distopt.runs.execution import Comparison
from distopt.simulation import runner
from distopt.simulation.problem import build
from distopt.simulation.round import copied

NETWORKS: dict[str, dict[str, Any]] = {
    "ring": {},
    "star": {"agents": 40},
    "complete": {},
    "erdos_renyi": {},
    "random_matching": {},
    "ring dropping": {"drop_links": 0.3},
}


def made(
    network: str = "ring", scenario: Any = "moving_target:dim=3", algorithm: Any = "gtadam:lr=0.01", **settings: Any
) -> Problems:
    """A problem of a few rounds that records what it can."""
    ask = {"agents": N, "rounds": 5, "x0": 0.3, **NETWORKS.get(network, {}), **settings}
    problem = build(
        Experiment(network.removesuffix(" dropping"), scenario=scenario, algorithm=algorithm, record=("x",), **ask)
    )
    return Problems(problem, Comparison.of(problem))


def on(problems: Problems, partition: Partition | None = None, mode: local.Mode = "eager", **delays: Any) -> Outcome:
    """The run on workers, or local where there is no partition."""
    return battery.on(problems, threads(partition, **delays) if partition else local.local, mode)


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


# What travels


class Counted(NamedTuple):
    tags: list[tuple[int, int, exchange.Tag, int]]


def travelling(
    problem: Problems, partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[int, int, exchange.Tag, int]]:
    """(sender, receiver, tag, bytes) of every message of the rounds."""
    out: list[tuple[int, int, exchange.Tag, int]] = []
    from distopt.engines.threads import Mailbox

    put = Mailbox.put

    def noted(self: Mailbox, address: tuple[int, int, exchange.Tag], message: Tensor) -> None:
        out.append((address[1], address[0], address[2], message.numel()))
        put(self, address, message)

    monkeypatch.setattr(Mailbox, "put", noted)
    on(problem, partition)
    return [each for each in out if each[2][1] not in ("sums", "mean", "values", "held")]


def test_only_boundary_rows_travel_all_channels_of_a_round_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = travelling(made("ring", rounds=3), PARTITIONS["2"], monkeypatch)
    assert sorted(sent) == sorted(
        (a, 1 - a, (t, "s+x"), FRONT + 2 * 2 * 3 * 8) for a in (0, 1) for t in range(3)
    )  # 2 rows of x and s each, dim 3


def test_what_a_round_computes_is_sent_when_it_is_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = travelling(made("ring", algorithm="gt:form=atc", rounds=1), PARTITIONS["2"], monkeypatch)
    assert sorted(sent) == sorted((a, 1 - a, (0, name), FRONT + 2 * 3 * 8) for a in (0, 1) for name in ("s", "x"))


def test_a_link_that_fails_carries_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = made("ring dropping", algorithm="dgd", rounds=12)
    sent = travelling(problem, PARTITIONS["2"], monkeypatch)
    W = problem.problem.network.mixings[0].dense(torch.arange(12).reshape(-1, 1, 1, 1))[:, 0]
    expected = sorted(
        (a, 1 - a, (t, "x"), FRONT + 8 * 3 * len(rows))
        for t in range(12)
        for a, (mine, theirs) in enumerate(((range(8), range(8, 16)), (range(8, 16), range(8))))
        if (rows := {j for j in mine for i in theirs if W[t, i, j]})
    )
    assert sorted(sent) == expected
    assert len({bytes_ for *_, bytes_ in sent}) > 1, "every round sent the same: nothing was dropped"


# Stencils, messages, early sending


@pytest.mark.parametrize("network", [*NETWORKS, "resampled_erdos_renyi", "one_peer_exponential", "barabasi_albert"])
def test_a_stencil_weighs_its_rows_as_the_whole_table_does(network: str) -> None:
    problem = made(network, trials=2).problem
    t = torch.arange(7).reshape(-1, 1, 1, 1)
    tables, agents = problem.network.rows(t), problem.agents
    z = torch.randn(2, agents, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for partition in (Partition.even(agents, 4), Partition((tuple(range(0, agents, 2)), tuple(range(1, agents, 2))))):
        parts = [halo(tables, partition, me) for me in range(len(partition.blocks))]
        for k in range(7):
            whole = apply(Table(*(at(leaf, k) for leaf in tables[0])), z)
            for me, part in enumerate(parts):
                ids = list(partition.blocks[me])
                arrived = [
                    z[:, list(partition.blocks[b])][:, of(parts[b].send, k)[me]] for b in sorted(of(part.receive, k))
                ]
                assert [rows.shape[1] for rows in arrived] == [
                    count for _, count in sorted(of(part.receive, k).items())
                ]
                heard, order = torch.cat([z[:, ids], *arrived], 1), of(part.order, k)
                heard = heard if order is None else heard[:, order]
                assert heard.shape[1] == part.width
                assert torch.equal(heard[:, at(part.own, k)], z[:, ids])
                mixed = apply(Table(*(at(leaf, k) for leaf in part.tables[0])), heard)
                assert torch.equal(mixed, whole[:, ids]), (partition, k, me)


def of(entries: tuple[Any, ...], k: int) -> Any:
    return entries[k if len(entries) > 1 else 0]


def test_heard_rows_stand_as_they_arrive_and_in_ascending_order_where_all_are_summed() -> None:
    scattered = Partition(((0, 4, 5), (1, 2, 3, 6, 7)))
    part = halo((whole_table("ring"),), scattered, 0)
    assert (part.width, part.order) == (7, (None,))  # 0 4 5, then 1 3 6 7 from block 1
    assert part.own.tolist() == [[0, 1, 2]]
    assert part.receive == ({1: 4},)
    assert {b: rows.tolist() for b, rows in part.send[0].items()} == {1: [0, 1, 2]}
    part = halo((whole_table("complete"),), scattered, 0)
    (order,) = part.order
    assert order is not None
    assert torch.tensor([0, 4, 5, 1, 2, 3, 6, 7])[order].tolist() == list(range(8))
    assert part.own.tolist() == [[0, 4, 5]]


def whole_table(topology: str) -> Table:
    """The table of 8 agents that no round changes."""
    return mixing_of(build_topology(topology, 8, 0), "metropolis", Key(0, range(8), range(1), 8)).rows(
        torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    )


def test_partitions_are_checked() -> None:
    assert [len(block) for block in Partition.even(16, 13).blocks] == [2, 2, 2] + [1] * 10
    with pytest.raises(InputError, match="at least one agent"):
        Partition.even(3, 4)
    for blocks in (((0, 1), ()), ((0, 2),), ((1, 0),), ((0, 1), (1, 2))):
        with pytest.raises(InputError, match="every agent"):
            Partition(blocks)


def test_a_message_keeps_every_bit() -> None:
    rows = [
        torch.randn(2, 3, 5),
        torch.tensor([[[True], [False]]]),
        torch.tensor([float("nan"), -0.0]),
        torch.empty(1, 0, 4),
    ]
    forms = [(tuple(row.shape), row.dtype) for row in rows]
    message = pack(rows)
    assert message.numel() == size(forms)
    for before, after in zip(rows, unpack(message, forms), strict=True):
        assert before.dtype == after.dtype and before.shape == after.shape
        assert before.contiguous().view(torch.uint8).tolist() == after.contiguous().view(torch.uint8).tolist()


class InPlace:
    """Steps before it mixes, in place: what it mixes is x, but not the x that the round began with."""

    channels = ("x",)

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def update(self, g: Tensor, state: tuple[()], x: Tensor, mix: Any) -> tuple[Tensor, tuple[()]]:
        x.sub_(0.01 * g)
        return mix("x", x), ()


def test_only_what_is_known_at_the_beginning_is_sent_early() -> None:
    x = torch.zeros(1, 2, 3)
    specs = ("gt", "gt:form=atc", "aug_dgm", "dgd", "nids", "extra")
    early = {spec: set(known_at_start(registry.make("algorithms", spec), x)) for spec in specs}
    assert early == {
        "gt": {"x", "s"},
        "gt:form=atc": {"s"},
        "aug_dgm": set(),
        "dgd": {"x"},
        "nids": set(),
        "extra": {"x"},
    }
    assert known_at_start(InPlace(), x) == {}
    problem = made(algorithm=InPlace())
    assert differences(on(problem), on(problem, PARTITIONS["3"])) == []


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


class Growing:
    """A channel whose payload grows from round to round."""

    def init(self, like: Tensor) -> Tensor:
        return torch.zeros_like(like[..., :1])

    def encode(self, z: Tensor, memory: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
        return z, memory.repeat(1, 1, 1 + int(memory.max()))

    def __call__(
        self, z: Tensor, payload: Any, memory: Tensor, wire: Wire, u: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return wire.weigh(wire.heard(payload)[0]), memory + 1

    def bits(self, d: int, itemsize: int) -> int:
        return 0


def test_a_payload_that_changes_its_form_is_refused() -> None:
    with pytest.raises(InputError, match=r"what is sent as x has the form .* in round 1, and had .* before"):
        on(made(algorithm="dgd:lr=0.1", channel=Growing()), PARTITIONS["3"])


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
