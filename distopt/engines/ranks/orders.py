"""Rank 0's orders to the other ranks, and how these carry them out."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.costs.data import Blocks
from distopt.engines.transports import nccl
from distopt.engines.transports.gloo import ORDER, GlooTransport
from distopt.engines.workers.halo import pack, size, unpack
from distopt.engines.workers.partition import Partition
from distopt.engines.workers.worker import Worker
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.sums import torch_on_one_thread
from distopt.numerics.trees import default_dtype
from distopt.simulation import grid
from distopt.simulation.problem import Problem, build
from distopt.simulation.round import AgentState, standing
from distopt.simulation.runner import Segment

DEVICES = {"gloo": "cpu", "nccl": "cuda"}
"""Where the agents live, by what carries their rows."""

IDLE = timedelta(
    days=30
)  # long enough for rank 0's next order, since it may be solving for the comparator; if it ends, so do the connections


class Order(NamedTuple):
    """An order of rank 0: a method of ``Worker``, "build" or "stop", its settings (JSON) and tensors."""

    what: str
    settings: dict[str, Any]
    tensors: Sequence[Tensor] = ()


@dataclass
class Orders:
    """Rank 0's orders to all others, numbered; and what carries their rows, where that is not the transport."""

    transport: GlooTransport
    count: int = 0
    rows: nccl.NcclTransport | None = None

    def give(self, order: Order) -> None:
        """Tell all other ranks."""
        forms = [(list(each.shape), str(each.dtype).removeprefix("torch.")) for each in order.tensors]
        text = json.dumps([order.what, order.settings, forms]).encode()
        body = pack([torch.frombuffer(bytearray(text), dtype=torch.uint8), *order.tensors])
        others = range(1, self.transport.group.size)
        self.transport.send((self.count, ORDER), dict.fromkeys(others, pack([torch.tensor([len(text), len(body)])])))
        self.transport.send((self.count, ORDER + " in full"), dict.fromkeys(others, body))
        self.count += 1

    def take(self) -> Order:
        """Wait for rank 0's next order, however long it takes."""
        sizes = [((2,), torch.int64)]
        first = torch.empty(size(sizes), dtype=torch.uint8)
        self.transport.expect((self.count, ORDER), {0: first}).wait(IDLE)
        length, whole = unpack(first, sizes)[0].tolist()
        body = torch.empty(whole, dtype=torch.uint8)
        self.transport.expect((self.count, ORDER + " in full"), {0: body}).wait()
        self.count += 1
        text = ((length,), torch.uint8)
        what, settings, forms = json.loads(bytes(unpack(body, [text])[0].numpy()))
        return Order(
            what, settings, unpack(body, [text, *((tuple(shape), getattr(torch, dtype)) for shape, dtype in forms)])[1:]
        )

    def carrier(self, backend: str) -> nccl.NcclTransport | None:
        """The carrier of rows for ``backend``, if it is not the transport. All ranks must call this at once."""
        if backend == "nccl" and self.rows is None:
            check(backend, self.transport.group.size)
            self.rows = nccl.connect(
                self.transport.group, int(os.environ["LOCAL_RANK"]) if launched() else self.transport.group.rank
            )
        return self.rows if backend == "nccl" else None

    def leave(self) -> None:
        """Drop the connections of the carrier."""
        if self.rows is not None:
            self.rows.leave()


class RankGroup:
    """A ``WorkerGroup`` on the ranks of a group, led from rank 0, which is worker 0.

    Args:
        problem, blocks: as for every engine.
        orders: to the other ranks.
        partition: who holds which agents.
        compiled: whether the rounds are.
        send: whether to send the problem to the other ranks; else they were forked with it.
        end: ends the other ranks.
        backend: what carries the rows.
    """

    def __init__(
        self,
        problem: Problem,
        blocks: Blocks,
        orders: Orders,
        partition: Partition,
        compiled: bool,
        send: bool,
        end: Callable[[], object],
        backend: str = "gloo",
    ) -> None:
        self.problem, self.orders, self.compiled, self._end = problem, orders, compiled, end
        points = [experiment.to_toml() for experiment in problem.points or (problem.experiment,)] if send else []
        settings = {"experiments": points, "length": blocks.length, "compiled": compiled, "backend": backend}
        self._tell(Order("build", settings, [torch.from_numpy(partition.owner())]))
        self.worker = Worker(problem, partition, 0, orders.transport, blocks.length, compiled, orders.carrier(backend))

    def _tell(self, order: Order) -> None:
        """Give an order, unless a rank is known to have ended: gloo may not report a message to a rank that has just died."""
        self.orders.transport.group.alive()
        self.orders.give(order)

    def place(self, held: AgentState | None) -> None:
        """See ``distopt.engines.workers.group.WorkerGroup``."""
        names = None if held is None else list(held.memory)
        self._tell(Order("place", {"memory": names}, pytree.tree_leaves(held) if held is not None else ()))
        with default_dtype(self.problem.x0.dtype):
            self.worker.place(held)

    def advance(self, start: int, count: int, rounds: range, keep: tuple[str, ...], best: Tensor) -> Segment:
        """See ``distopt.engines.workers.group.WorkerGroup``."""
        self._tell(
            Order(
                "advance", {"start": start, "count": count, "rounds": [rounds.start, rounds.stop], "keep": keep}, [best]
            )
        )
        with torch_on_one_thread(), self.orders.transport.group.busy():  # the ranks are the parallelism
            report = self.worker.advance(start, count, rounds, keep, best)
        assert report is not None
        return report

    def fetch(self) -> AgentState:
        """See ``distopt.engines.workers.group.WorkerGroup``."""
        self._tell(Order("fetch", {}))
        held = self.worker.fetch()
        assert held is not None
        return held

    def close(self) -> None:
        """See ``distopt.engines.workers.group.WorkerGroup``."""
        self._end()


def serve(orders: Orders, born: Problem | None = None) -> bool:
    """Carry out rank 0's orders until "stop"; returns whether that came. A failure is noted for rank 0 to report.

    ``born`` is the problem, if this process was forked with it.
    """
    group = orders.transport.group
    worker: Worker | None = None
    try:
        while True:
            what, settings, tensors = orders.take()
            if what == "stop":
                return True
            if what == "build":
                rows = orders.carrier(settings["backend"])
                problem = born or rebuilt(settings["experiments"])
                worker = Worker(
                    problem,
                    Partition.of(tensors[0]),
                    group.rank,
                    orders.transport,
                    settings["length"],
                    settings["compiled"],
                    rows,
                )
                continue
            assert worker is not None
            with default_dtype(worker.problem.x0.dtype):
                if what == "place":
                    worker.place(
                        None if settings["memory"] is None else standing(worker.whole, settings["memory"], tensors)
                    )
                elif what == "advance":
                    with group.busy():
                        worker.advance(
                            settings["start"],
                            settings["count"],
                            range(*settings["rounds"]),
                            tuple(settings["keep"]),
                            tensors[0],
                        )
                elif what == "fetch":
                    worker.fetch()
                orders.transport.settle()
    except Exception as error:
        group.failed(error)
    finally:
        orders.leave()
    return False


def rebuilt(experiments: Sequence[str]) -> Problem:
    """The problem that rank 0 has, from the TOML texts of its experiments: one, or those of a batch."""
    points = [Experiment.from_mapping(tomllib.loads(text), "rank 0's experiment") for text in experiments]
    with default_dtype(torch.float64):
        first = build(points[0])
        return grid.stack([first, *(build(point, first) for point in points[1:])])


def launched() -> int:
    """Number of ranks that torchrun started; 0 if this process is not one of them."""
    return int(os.environ["WORLD_SIZE"]) if {"TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE"} <= os.environ.keys() else 0


def check(backend: str, ranks: int) -> None:
    """Refuse an unknown backend, or one that cannot be used with this number of ranks here."""
    if backend not in DEVICES:
        raise InputError(f"ranks: no backend {backend!r}; there are {' and '.join(DEVICES)}")
    if backend == "nccl":
        nccl.check(int(os.environ["LOCAL_WORLD_SIZE"]) if launched() else ranks)
