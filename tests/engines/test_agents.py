"""Agents driven by hand-made gradients, as a training script drives them, have the bits of a simulated run."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor

import distopt
from distopt.catalog import registry
from distopt.engines.threads import InMemoryTransport, Mailbox
from distopt.engines.transports.gloo import GlooTransport, Group
from distopt.engines.workers.agents import CHUNK, Agents
from distopt.engines.workers.exchange import Tag, Transport
from distopt.engines.workers.partition import Partition
from distopt.errors import InputError
from distopt.network.network import Network
from distopt.network.topology import build_topology
from distopt.numerics.random import Key
from distopt.simulation.method import Method

N, D, ROUNDS = 7, 3, CHUNK + 6
CASES = [
    ("gt:lr=0.1", "exact"),
    ("dgd:lr=0.1,form=atc", "naive:compressor=qsgd"),
    ("gtadam:lr=0.05", "choco:compressor=sign,gamma=0.3"),
    ("dgd:lr=0.1", "exact"),
]
BLOCKS = {"2": Partition.even(N, 2), "scattered 3": Partition.of([0, 1, 2, 0, 1, 2, 0])}


class Task(NamedTuple):
    """A network of agents, and the name by which their costs differ from those of other tasks."""

    algorithm: str
    channel: str = "exact"
    network: str = "ring"
    dtype: str = "float64"
    shift: float = 0.0

    def gradients(self, x: Tensor, t: int, ids: Sequence[int]) -> Tensor:
        """Of |x - c_{i,t}|^2 / 2 with c_{i,t} = sin(i + t + shift), for the agents ``ids``."""
        return x - self.centres(torch.tensor([[[float(t)]]], dtype=torch.float64), torch.tensor(ids)).to(x.dtype)

    def centres(self, t: Tensor, ids: Tensor) -> Tensor:
        """[..., n, d]."""
        return torch.sin(ids[:, None].double() + t + self.shift).expand(*t.shape[:-2], len(ids), D)


ONE_BY_ONE = threading.Lock()
"""Agents are made under torch's default precision, which is the whole process's: threads must not want different ones at the same time."""


@dataclass(frozen=True)
class Costs:
    """The scenario of a task's costs, for the simulator."""

    task: Task
    dim: int = D

    def batch(self, t: Tensor, key: Key) -> Tensor:
        return self.task.centres(t.double(), key.agents)

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        return (x - b).square().sum(-1) / 2

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        return x - b


def simulated(task: Task) -> NDArray[Any]:
    """x_0 .. x_T of all agents, [T + 1, N, d]."""
    run = distopt.simulate(
        task.network,
        agents=N,
        scenario=Costs(task),
        algorithm=task.algorithm,
        channel=task.channel,
        rounds=ROUNDS,
        dtype=task.dtype,
        record="x",
        mode="eager",
    )
    found: NDArray[Any] = run["x"][0]
    return found


@dataclass
class Noted:
    """A transport that notes what it sends."""

    transport: Transport
    events: list[Any] = field(default_factory=list)

    def expect(self, tag: Tag, into: dict[int, Tensor]) -> Any:
        return self.transport.expect(tag, into)

    def send(self, tag: Tag, outgoing: dict[int, Tensor]) -> None:
        self.events.append(tag)
        self.transport.send(tag, outgoing)


def agents(task: Task, partition: Partition, me: int, transport: Transport, prefix: str = "") -> Agents:
    """The agents of a block of a task, without any scenario."""
    everyone = Key(0, range(N), range(1), N)
    algorithm = registry.make("algorithms", task.algorithm, {})
    network = Network.of(build_topology(task.network, N, 0), "metropolis", algorithm, task.channel, everyone)
    ids = partition.blocks[me]
    x = torch.zeros(1, len(ids), D, dtype=getattr(torch, task.dtype))
    with ONE_BY_ONE:
        method = Method.of(algorithm, network.channels, N, x)
        made = Agents(method, network, partition, me, Key(0, ids, range(1), N), transport, prefix=prefix)
        made.place(x)
    return made


def life(
    tasks: Sequence[Task], partition: Partition, early: bool, me: int, transport: Transport
) -> tuple[list[NDArray[Any]], list[Any]]:
    """The points of a block's agents in several tasks side by side, [T + 1, n, d] each, and what happened."""
    noted, ids = Noted(transport), partition.blocks[me]
    prefixes = ["", *(f"{k}/" for k in range(1, len(tasks)))]
    each = [agents(task, partition, me, noted, prefix) for task, prefix in zip(tasks, prefixes, strict=True)]
    points = [[one.x.clone()] for one in each]
    for t in range(ROUNDS):
        for one in each:
            assert one.t == t
            if early:
                one.send()
                one.send()  # once is enough
        for task, one, path in zip(tasks, each, points, strict=True):
            g = task.gradients(one.x, t, ids)
            noted.events.append("gradients")
            path.append(one.step(g).clone())
    for one in each:
        one.end()
    return [torch.stack(path)[:, 0].numpy() for path in points], noted.events


def whole(partition: Partition, found: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The blocks' points in the order of the agents."""
    order = np.argsort([i for block in partition.blocks for i in block])
    return np.concatenate(found, 1)[:, order]


def in_threads(partition: Partition, one: Callable[[int, Transport], Any]) -> list[Any]:
    """What ``one(me, transport)`` gives for each block, in a thread for each; messages arrive in any order."""
    mailbox, count = Mailbox(shuffled=True), len(partition.blocks)
    mailbox.begin(count)

    def do(me: int) -> Any:
        try:
            found = one(me, InMemoryTransport(mailbox, me))
        except BaseException:
            mailbox.stop()
            raise
        mailbox.end()
        return found

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(do, range(count)))


@pytest.mark.parametrize("early", [False, True], ids=["in the step", "early"])
@pytest.mark.parametrize(("algorithm", "channel"), CASES)
@pytest.mark.parametrize("blocks", BLOCKS)
def test_agents_without_a_scenario_have_the_bits_of_a_simulated_run(
    blocks: str, algorithm: str, channel: str, early: bool
) -> None:
    partition = BLOCKS[blocks]
    for network in ("ring", *(["random_matching"] if "choco" not in channel else [])):
        task = Task(algorithm, channel, network)
        expected = simulated(task)
        assert len(np.unique(expected)) > N * D  # they move
        found = in_threads(partition, partial(life, [task], partition, early))
        assert np.array_equal(whole(partition, [points for (points,), _ in found]), expected), network


@pytest.mark.parametrize(
    ("form", "known"), [("", ["x+s", "s+x"]), (",form=atc", ["s"])], ids=["all is known", "the tracker is known"]
)
def test_what_is_known_at_the_start_of_a_round_leaves_before_its_gradients(form: str, known: list[str]) -> None:
    task, partition = Task(f"gt:lr=0.1{form}"), BLOCKS["2"]
    for early in (False, True):
        for _, events in in_threads(partition, partial(life, [task], partition, early)):
            events = events[: 1 + max(k for k, event in enumerate(events) if event == "gradients")]
            sent = [k for k, event in enumerate(events) if isinstance(event, tuple) and event[1] in known]
            gradients = [k for k, event in enumerate(events) if event == "gradients"]
            before = [events[k][0] for k, g in zip(sent, gradients, strict=False) if k < g]
            assert before == (list(range(ROUNDS)) if early else [])
            assert {events[k][1] for k in sent} <= set(known)
            assert len(sent) >= ROUNDS - 1


@pytest.mark.parametrize("early", [False, True])
def test_two_prefixes_share_a_transport(early: bool) -> None:
    tasks = [
        Task("gtadam:lr=0.05", dtype="float32"),
        Task("gtadam:lr=0.05", "choco:compressor=sign,gamma=0.3", shift=2.0),
    ]
    partition = BLOCKS["scattered 3"]
    found = in_threads(partition, partial(life, tasks, partition, early))
    for k, task in enumerate(tasks):
        assert np.array_equal(whole(partition, [points[k] for points, _ in found]), simulated(task))
    names = {tag[1] for _, events in found for tag in events if isinstance(tag, tuple)}
    assert len(names) == 2
    assert {name.startswith("1/") for name in names} == {False, True}


def test_messages_of_one_prefix_would_meet_those_of_the_other() -> None:
    """The test above would fail without prefixes."""
    partition = BLOCKS["2"]

    def twice(me: int, transport: Transport) -> None:
        for one in [agents(Task("dgd:lr=0.1"), partition, me, transport) for _ in range(2)]:
            one.send()

    with pytest.raises(RuntimeError, match="two messages"):
        in_threads(partition, twice)


def rank(tasks: Sequence[Task], partition: Partition, early: bool, me: int, store: str) -> list[NDArray[Any]]:
    """``life`` in a process of its own, connected by gloo."""
    torch.set_num_threads(1)
    group = Group.connect(torch.distributed.FileStore(store, len(partition.blocks)), me, 2, 30, "127.0.0.1")
    transport = GlooTransport(group)
    try:
        with group.busy():
            points, _ = life(tasks, partition, early, me, transport)
            transport.settle()
        group.pg.barrier().wait()
    finally:
        transport.leave()
    return points


@pytest.mark.usefixtures("nothing_stays")
@pytest.mark.slow
def test_two_processes_connected_by_gloo_have_the_same_bits(tmp_path: Path) -> None:
    partition = BLOCKS["2"]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for early in (False, True):
            for k, tasks in enumerate(([Task(*CASES[0]), Task(*CASES[2])], [Task(*CASES[3])])):
                store = str(tmp_path / f"{early} {k}")
                found = pool.starmap(rank, [(tasks, partition, early, me, store) for me in range(2)], 1)
                for j, task in enumerate(tasks):
                    assert np.array_equal(whole(partition, [points[j] for points in found]), simulated(task)), task
        pool.close()
        pool.join()


def test_agents_go_on_from_what_they_held() -> None:
    task, partition = Task("gtadam:lr=0.05", "choco:compressor=sign,gamma=0.3"), BLOCKS["2"]
    expected = simulated(task)

    def interrupted(me: int, transport: Transport) -> NDArray[Any]:
        one, ids = agents(task, partition, me, transport), partition.blocks[me]
        for t in range(5):
            one.step(task.gradients(one.x, t, ids))
        one.send()  # what is under way when they are placed is awaited
        stood = one.held
        one.step(task.gradients(one.x, 5, ids))
        one.send()
        one.place(stood, 5)
        other = agents(task, partition, me, transport, "other/")
        other.place(stood, 5)
        for t in range(5, ROUNDS):
            other.step(task.gradients(other.x, t, ids))
        return other.x[0].numpy()

    found = in_threads(partition, interrupted)
    assert np.array_equal(whole(partition, [points[None] for points in found])[0], expected[-1])


BREAKS: dict[str, Callable[[Agents], object]] = {
    "end": Agents.end,
    "place": lambda one: one.place(one.held, one.t),
    "send, end": lambda one: (one.send(), one.end()),
    "load": lambda one: one.load(one.t, 3),
    "begin, end": lambda one: (one.load(one.t, 3), one.begin(range(2)), one.end()),
    "begin twice": lambda one: (one.load(one.t, 3), one.begin(range(2)), one.begin(range(3))),
}
"""What may be asked of agents between two rounds, and changes nothing."""


@pytest.mark.parametrize("between", BREAKS)
@pytest.mark.parametrize("blocks", BLOCKS)
def test_rounds_may_end_and_be_begun_again_at_any_time(blocks: str, between: str) -> None:
    partition = BLOCKS[blocks]
    for network, (algorithm, channel) in zip(("ring", "random_matching"), (CASES[2], CASES[0]), strict=True):
        task = Task(algorithm, channel, network)

        def broken(task: Task, me: int, transport: Transport) -> NDArray[Any]:
            one = agents(task, partition, me, transport)
            for t in range(ROUNDS):
                one.step(task.gradients(one.x, t, partition.blocks[me]))
                BREAKS[between](one)
            return one.x.numpy()

        found = in_threads(partition, partial(broken, task))
        assert np.array_equal(whole(partition, found)[0], simulated(task)[-1]), network


class Twice:
    """A step along the gradient at a point ahead."""

    channels = ("x",)

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return mix("x", x) - 0.1 * mix.grad(x - 0.1 * g), state


def test_a_second_gradient_is_taken_from_the_caller_or_asked_for() -> None:
    x, key = torch.tensor([[[1.0], [3.0]]], dtype=torch.float64), Key(0, range(2), range(1), 2)
    network = Network.of(build_topology("path", 2, 0), "metropolis", Twice(), "exact", key)
    method = Method.of(Twice(), network.channels, 2, x)
    assert method.plan.gradients == 2
    one = Agents(method, network, Partition.even(2, 1), 0, key, InMemoryTransport(Mailbox(), 0), project=torch.ceil)
    one.place(x)
    with pytest.raises(InputError, match=r"gradient at another point.*step\(g, grad\)"):
        one.step(x)
    one.place(x)
    assert torch.equal(one.step(x, lambda y: 2 * y), torch.ceil(2 - 0.2 * (0.9 * x)))
    assert one.t == 1


def test_what_agents_are_given_is_checked() -> None:
    one = agents(Task("dgd:lr=0.1"), Partition.even(N, 1), 0, InMemoryTransport(Mailbox(), 0))
    before = one.x.clone()
    for x in (torch.zeros(1, N + 1, D), torch.zeros(N, D), torch.zeros(1, N, 1), torch.zeros(1, N, D, 1)):
        for held in (x, one.held._replace(x=x)):
            with pytest.raises(InputError, match=rf"x has shape \[.*\]; the points .* are \[trials, {N}, {D}\]"):
                one.place(held)
    with pytest.raises(InputError, match="a leaf of the algorithm's state"):
        one.place(one.held._replace(state=torch.zeros(1, N + 1, D)))
    for g in (torch.tensor(1.0), torch.ones(1, 1, 1), torch.ones(2, N, D), torch.ones(1, N, D, dtype=torch.float32)):
        with pytest.raises(
            InputError, match=rf"step was given gradients of shape .*, not \[1, {N}, {D}\] and .*float64"
        ):
            one.step(g)
    assert one.t == 0 and torch.equal(one.x, before)
    assert not torch.equal(one.step(torch.ones_like(before)), before)  # a refused gradient spoils nothing


def test_agents_that_stand_nowhere_say_so() -> None:
    one = agents(Task("dgd:lr=0.1"), Partition.even(N, 1), 0, InMemoryTransport(Mailbox(), 0))
    new = Agents(one.method, one.network, one.partition, 0, one.key, InMemoryTransport(Mailbox(), 0))
    for ask in (lambda: new.x, lambda: new.held, new.send, lambda: new.step(one.x)):
        with pytest.raises(InputError, match=r"have no points yet; begin with place\(x\)"):
            ask()
