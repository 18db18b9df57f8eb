"""Workers in threads of this process, for tests. The messages are those between machines, in any order."""

from __future__ import annotations

import heapq
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from distopt.costs.data import Blocks
from distopt.engines import local
from distopt.engines.workers.exchange import Tag
from distopt.engines.workers.group import WorkerEngine
from distopt.engines.workers.partition import Partition, divide
from distopt.engines.workers.worker import Worker
from distopt.numerics.trees import default_dtype
from distopt.simulation.problem import Problem
from distopt.simulation.round import AgentState
from distopt.simulation.runner import Segment

T = TypeVar("T")


class Stopped(Exception):
    """Another worker failed, so this one stops waiting."""


class Mailbox:
    """The messages of all workers, by receiver, sender and tag.

    Args:
        shuffled: whether messages wait until all active workers wait for one. Then they arrive in a random order, one
            by one, until a worker can continue. No clock is involved: the order depends on ``seed`` only.
        seed: of the order.
    """

    def __init__(self, shuffled: bool = False, seed: int = 0) -> None:
        self._here: dict[tuple[int, int, Tag], Tensor] = {}
        self._changed = threading.Condition()
        self._shuffled, self._draw = shuffled, random.Random(seed)
        self._under_way: list[tuple[float, int, tuple[int, int, Tag], Tensor]] = []
        self._awaited: set[tuple[int, int, Tag]] = set()
        self._count, self._working = 0, 0
        self._stopped = False

    def put(self, address: tuple[int, int, Tag], message: Tensor) -> None:
        """Send a message to (receiver, sender, tag)."""
        with self._changed:
            self._count += 1
            heapq.heappush(
                self._under_way, (self._draw.random() if self._shuffled else 0.0, self._count, address, message)
            )
            self._deliver()

    def take(self, address: tuple[int, int, Tag], length: int) -> Tensor:
        """Wait for the message and take it away."""
        with self._changed:
            self._awaited.add(address)
            self._deliver()
            self._changed.wait_for(lambda: self._stopped or address in self._here)
            self._awaited.remove(address)
            if self._stopped:
                raise Stopped
            message = self._here.pop(address)
        if message.numel() != length:
            raise RuntimeError(
                f"worker {address[0]} expected {length} bytes from worker {address[1]} as {address[2]}, got {message.numel()}"
            )
        return message

    def begin(self, workers: int) -> None:
        """Note that ``workers`` workers begin a task."""
        with self._changed:
            self._working = workers

    def end(self) -> None:
        """A worker has ended it and waits for no more messages."""
        with self._changed:
            self._working -= 1
            self._deliver()

    def _deliver(self) -> None:
        """Let those messages arrive that may."""
        while self._under_way and not (
            self._shuffled and (len(self._awaited) < self._working or self._awaited & self._here.keys())
        ):
            _, _, address, message = heapq.heappop(self._under_way)
            if address in self._here:
                raise RuntimeError(f"worker {address[1]} sent worker {address[0]} two messages as {address[2]}")
            self._here[address] = message
        self._changed.notify_all()

    def stop(self) -> None:
        """Wake all waiting workers; they raise ``Stopped``."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


@dataclass(frozen=True)
class _Arriving:
    mailbox: Mailbox
    me: int
    tag: Tag
    into: dict[int, Tensor]

    def wait(self) -> None:
        for sender, buffer in self.into.items():
            buffer.copy_(self.mailbox.take((self.me, sender, self.tag), buffer.numel()))


@dataclass(frozen=True)
class InMemoryTransport:
    """A worker's ``Transport`` through a mailbox."""

    mailbox: Mailbox
    me: int

    def expect(self, tag: Tag, into: dict[int, Tensor]) -> _Arriving:
        """See ``distopt.engines.workers.exchange.Transport``."""
        return _Arriving(self.mailbox, self.me, tag, into)

    def send(self, tag: Tag, outgoing: dict[int, Tensor]) -> None:
        """See ``distopt.engines.workers.exchange.Transport``. A copy is on its way, however long that may be."""
        for receiver, message in outgoing.items():
            self.mailbox.put((receiver, self.me, tag), message.clone())


class ThreadGroup:
    """A ``WorkerGroup`` that runs each worker's task in its own thread.

    Args:
        problem, blocks: as for every engine.
        partition: who holds which agents.
        compiled: whether the rounds are.
        shuffled, seed: see ``Mailbox``.
    """

    def __init__(
        self,
        problem: Problem,
        blocks: Blocks,
        partition: Partition,
        compiled: bool = False,
        shuffled: bool = False,
        seed: int = 0,
    ) -> None:
        self.mailbox = Mailbox(shuffled, seed)
        self.workers = [
            Worker(problem, partition, me, InMemoryTransport(self.mailbox, me), blocks.length, compiled)
            for me in range(len(partition.blocks))
        ]
        self._dtype, self.compiled = problem.x0.dtype, compiled

    def place(self, held: AgentState | None) -> None:
        """See ``distopt.engines.workers.group.WorkerGroup``."""
        self._all(self._dtype, lambda worker: worker.place(held))

    def advance(self, start: int, count: int, rounds: range, keep: tuple[str, ...], best: Tensor) -> Segment:
        """See ``distopt.engines.workers.group.WorkerGroup``."""
        self._all(torch.float64, lambda worker: worker.load(start, count))
        self._all(self._dtype, lambda worker: worker.walk(rounds, keep))
        report = self._all(torch.float64, lambda worker: worker.measure(best))
        assert report is not None
        return report

    def fetch(self) -> AgentState:
        """See ``distopt.engines.workers.group.WorkerGroup``."""
        held = self._all(self._dtype, Worker.fetch)
        assert held is not None
        return held

    def close(self) -> None:
        """Nothing stays between two tasks."""

    def _all(self, dtype: torch.dtype, task: Callable[[Worker], T]) -> T:
        """Run a task on all workers at once, and return its result on worker 0. The first to fail stops the others."""
        results: dict[int, T] = {}
        failures: list[BaseException] = []

        def do(worker: Worker) -> None:
            try:
                results[worker.me] = task(worker)
                self.mailbox.end()
            except Stopped:
                pass
            except BaseException as error:
                failures.append(error)
                self.mailbox.stop()

        threads = [threading.Thread(target=do, args=(worker,), daemon=True) for worker in self.workers]
        cores = torch.get_num_threads()
        torch.set_num_threads(1)  # the workers are the parallelism
        self.mailbox.begin(len(threads))
        try:
            with default_dtype(dtype):  # the default precision belongs to the whole process, so no worker sets it
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        except BaseException:  # an interruption
            self.mailbox.stop()
            raise
        finally:
            torch.set_num_threads(cores)
        if failures:
            raise failures[0]
        return results[0]


def threads(
    problem: Problem, blocks: Blocks, mode: local.Mode, workers: int = 2, partition: str = "contiguous"
) -> WorkerEngine:
    """Workers in threads of this process, to test what workers exchange.

    ``threads:workers=3,partition=cut``: see ``distopt.engines.workers.partition.divide``.

    Raises:
        InputError: more workers than agents.
    """
    return WorkerEngine(
        ThreadGroup(problem, blocks, divide(problem.network, workers, partition), local.compiles(problem, blocks, mode))
    )
