"""Workers in processes of their own, on one machine or several, as ranks of torch.distributed (gloo; their rows by NCCL where they have GPUs).

Rank 0 leads and holds the first block of agents; the other ranks do as it orders until it stops them. There are two ways to start:

- ``engine="ranks:workers=4"`` starts three more processes on this machine, and ends them with the run;
- under torchrun every rank calls ``torchrun_group``: there rank 0 goes on to run experiments, the others serve it.

On CPUs no number differs from those of any other engine. A message carries its round and its name, and is refused under any other; a rank
that fails ends the run with one error that names it; ranks that die or stay silent for ``timeout`` seconds are replaced where they were
started here.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
import tomllib
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.costs.data import Blocks
from distopt.engines import local
from distopt.engines.transports import nccl
from distopt.engines.transports.gloo import ORDER, TIMEOUT, GlooTransport, Group, dist
from distopt.engines.workers.group import FaultTolerant, WorkerEngine, WorkerGroup
from distopt.engines.workers.halo import pack, size, unpack
from distopt.engines.workers.partition import Partition, divide
from distopt.engines.workers.worker import Report, Worker
from distopt.errors import InputError, RunError, first_line
from distopt.experiment import Experiment
from distopt.numerics.trees import default_dtype
from distopt.runs.signals import ASKING, follow, held
from distopt.simulation import grid, surroundings
from distopt.simulation.problem import Problem, build
from distopt.simulation.round import AgentState, standing

DEVICES = {"gloo": "cpu", "nccl": "cuda"}
"""Where the agents live, by what carries their rows."""

IDLE = timedelta(
    days=30
)  # for rank 0's next order: it may be solving for the comparator; when it ends, so do the connections


class Order(NamedTuple):
    """What rank 0 tells the others to do: a method of ``Worker``, "build" or "stop", its settings (JSON) and tensors."""

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
        """What carries the rows by ``backend``, if not the transport; all ranks must ask for it at once."""
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


class Ranks:
    """A ``WorkerGroup`` on the ranks of a group, led from rank 0, which is worker 0.

    Args:
        problem, blocks: as for every engine.
        orders: to the other ranks.
        partition: who holds which agents.
        compiled: whether the rounds are.
        send: whether the other ranks must be told what the problem is; else they were born with it.
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
        """Give an order, unless somebody is known not to take it: of a message to one who has just died gloo may say nothing."""
        self.orders.transport.group.alive()
        self.orders.give(order)

    def place(self, held: AgentState | None) -> None:
        """See ``distopt.engines.workers.group.WorkerGroup``."""
        names = None if held is None else list(held.memory)
        self._tell(Order("place", {"memory": names}, pytree.tree_leaves(held) if held is not None else ()))
        with default_dtype(self.problem.x0.dtype):
            self.worker.place(held)

    def stretch(self, start: int, count: int, rounds: range, keep: tuple[str, ...], best: Tensor) -> Report:
        """See ``distopt.engines.workers.group.WorkerGroup``."""
        self._tell(
            Order(
                "stretch", {"start": start, "count": count, "rounds": [rounds.start, rounds.stop], "keep": keep}, [best]
            )
        )
        with one_thread(), self.orders.transport.group.busy():  # the ranks are the parallelism
            report = self.worker.stretch(start, count, rounds, keep, best)
        assert report is not None
        return report

    def gather(self) -> AgentState:
        """See ``distopt.engines.workers.group.WorkerGroup``."""
        self._tell(Order("gather", {}))
        held = self.worker.gather()
        assert held is not None
        return held

    def close(self) -> None:
        """See ``distopt.engines.workers.group.WorkerGroup``."""
        self._end()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def serve(orders: Orders, born: Problem | None = None) -> bool:
    """Carry out rank 0's orders until it says stop; returns whether it did. A failure is noted for rank 0 to report.

    ``born`` is the problem, where rank 0 has not to say it.
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
                elif what == "stretch":
                    with group.busy():
                        worker.stretch(
                            settings["start"],
                            settings["count"],
                            range(*settings["rounds"]),
                            tuple(settings["keep"]),
                            tensors[0],
                        )
                elif what == "gather":
                    worker.gather()
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


# Ranks of this machine, started from here


def start(
    problem: Problem,
    blocks: Blocks,
    partition: Partition,
    compiled: bool,
    timeout: int = TIMEOUT,
    backend: str = "gloo",
) -> Ranks:
    """Start a process for every block but the first, and lead them. They are ended by ``close``, by a failure, and at the latest with this process.

    On Linux they are forked from this process and know the problem; elsewhere, and where this process uses a GPU, which no
    fork survives, they are new processes that are told it, so that its parts must be spec strings.
    """
    workers = len(partition.blocks)
    surroundings.may_start_processes("the engine ranks")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        here = os.getpid()
        forked = sys.platform == "linux" and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch gives it no types
        context: Any = multiprocessing.get_context("fork" if forked else "spawn")
        processes = [
            context.Process(
                target=_live,
                args=(here, port, me, workers, timeout, problem if forked else None),
                daemon=True,
                name=f"rank {me}",
            )
            for me in range(1, workers)
        ]
        try:
            _begin(processes)
            limit = timedelta(seconds=timeout)
            store = dist.TCPStore(
                "127.0.0.1", port, workers, True, limit, wait_for_workers=False, master_listen_fd=listener.detach()
            )
            group = Group.connect(store, 0, workers, timeout, "127.0.0.1")

            group.ended = lambda: [me for me, process in enumerate(processes, 1) if not process.is_alive()]
            orders = Orders(GlooTransport(group))
            ranks = Ranks(
                problem, blocks, orders, partition, compiled, not forked, lambda: _end(processes, here, orders), backend
            )
        except BaseException:
            _end(processes, here)
            raise
    weakref.finalize(ranks, _end, processes, here)
    return ranks


def _begin(processes: Sequence[Any]) -> None:
    """Start them, without a collection of garbage in a fork before it can set its parent's garbage aside."""
    collects = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # it warns of forks beside threads; a rank takes no lock that they might hold
            with held():
                for process in processes:
                    process.start()
    finally:
        if collects:
            gc.enable()


def _end(processes: Sequence[Any], parent: int, orders: Orders | None = None) -> None:
    if os.getpid() != parent:  # a fork of it that drops what it inherited
        return
    if orders is not None:
        orders.leave()
    for process in processes:
        if process.pid is not None:
            process.kill()  # it holds nothing that is not here too
    for process in processes:
        if process.pid is not None:
            process.join()


def _live(parent: int, port: int, me: int, size: int, timeout: int, problem: Problem | None) -> None:
    """The main function of a rank that ``start`` forked. It exits without cleaning up, which is left to its parent."""
    follow(parent)  # rank 0 acts upon signals, and needs the others for its checkpoint
    done = False
    gc.freeze()  # to destroy an earlier group that is garbage of its parent's would wait for threads that are not here
    gc.enable()
    try:
        torch.set_num_threads(1)  # a fork has none of its parent's threads, and must not ask for them
        compiling = sys.modules.get("torch._inductor.async_compile")
        if compiling is not None:  # a fork has none of its parent's compiling threads either
            compiling.AsyncCompile.pool.cache_clear()
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        store = dist.TCPStore("127.0.0.1", port, size, False, timedelta(seconds=timeout), wait_for_workers=False)
        done = serve(Orders(GlooTransport(Group.connect(store, me, size, timeout, "127.0.0.1"))), problem)
    finally:
        os._exit(0 if done else 1)


# Ranks that torchrun started


_torchrun_group: Orders | None = None  # set while this process leads ranks of torchrun


def launched() -> int:
    """Number of ranks that torchrun started; 0 if this process is not one of them."""
    return int(os.environ["WORLD_SIZE"]) if {"TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE"} <= os.environ.keys() else 0


@contextmanager
def torchrun_group(timeout: int = TIMEOUT) -> Iterator[bool]:
    """Join the ranks that torchrun started. On rank 0 it yields True at once, and the engine "ranks" uses them all; on the others False, at the end.

    ::

        with ranks.torchrun_group() as leads:
            if leads:
                run = distopt.simulate("ring", agents=16, scenario="flights", algorithm="gtadam", engine="ranks")

    Raises:
        RunError: some rank did not come in time; on a serving rank, that rank 0 did not come to its end.
    """
    global _torchrun_group  # noqa: PLW0603  # a process is one rank of one torchrun_group
    rank, ranks = int(os.environ["RANK"]), launched()
    hosts = not rank and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    limit = timedelta(seconds=timeout)
    try:
        store = dist.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), ranks, hosts, limit, wait_for_workers=False
        )
    except RuntimeError as error:
        raise RunError(f"rank {rank}: torchrun's store does not answer: {first_line(error)}") from error
    # After a restart the store still holds what the ranks before it left there.
    fresh = dist.PrefixStore(f"distopt/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    here = "127.0.0.1" if os.environ.get("LOCAL_WORLD_SIZE") == str(ranks) else None
    orders = Orders(GlooTransport(Group.connect(fresh, rank, ranks, timeout, here)))
    if rank:
        for number in ASKING:  # rank 0 acts upon them, and needs the others for its checkpoint
            signal.signal(number, signal.SIG_IGN)
        if not serve(orders):
            orders.transport.leave()
            time.sleep(1)  # torchrun ends all ranks when one has ended: let rank 0 tell why before
            raise SystemExit(1)
        yield False
        return
    _torchrun_group = orders
    try:
        yield True
    finally:
        _torchrun_group = None
        orders.leave()
        try:
            orders.give(Order("stop", {}))
            orders.transport.settle()
        except (InputError, RunError):
            pass  # whoever is not there to be stopped has been told of already


def engine(
    problem: Problem,
    blocks: Blocks,
    mode: local.Mode,
    workers: int = 0,
    timeout: int = TIMEOUT,
    partition: str = "contiguous",
    backend: str = "gloo",
) -> WorkerEngine:
    """``ranks:workers=4,timeout=60,partition=cut``: 2 workers, or as many as torchrun started (see ``distopt.engines.workers.partition.divide``).

    ``backend`` says what carries the rows: gloo, from main memory to main memory; or nccl, from GPU to GPU, where the rounds then run, eagerly.

    Raises:
        InputError: more workers than agents, a time-out under a second, or a backend that there is not or that lacks a GPU for each rank; under
            torchrun another number than its ranks, or a part of the experiment that is no spec string.
        RunError: the processes could not be started.
    """
    if timeout < 1:
        raise InputError(f"ranks: timeout={timeout} seconds, must be at least 1")
    if launched() and workers not in (0, launched()):
        raise InputError(f"torchrun started {launched()} ranks, not {workers}; leave the number of workers out")
    if launched() > 1 and _torchrun_group is None:
        raise InputError(
            "ranks: under torchrun call distopt.engines.ranks.torchrun_group() on every rank, and simulate where it gives True"
        )
    count = launched() or workers or 2
    check(backend, count)
    if backend == "nccl" and mode == "compiled":
        raise InputError("ranks: backend=nccl: rounds on the GPUs of ranks run eagerly; leave --compiled out")
    shared = divide(problem.mixing, count, partition)
    compiled = backend == "gloo" and local.compiles(problem, blocks, mode)
    if _torchrun_group is None:

        def again(workers: WorkerGroup) -> WorkerGroup:
            workers.close()
            return start(problem, blocks, shared, compiled, timeout, backend)

        return WorkerEngine(
            FaultTolerant(start(problem, blocks, shared, compiled, timeout, backend), again), DEVICES[backend]
        )
    _torchrun_group.transport.group.timeout = timeout
    return WorkerEngine(
        Ranks(problem, blocks, _torchrun_group, shared, compiled, True, lambda: None, backend), DEVICES[backend]
    )


def check(backend: str, ranks: int) -> None:
    """Refuse an unknown backend, or one that cannot serve this number of ranks here."""
    if backend not in DEVICES:
        raise InputError(f"ranks: no backend {backend!r}; there are {' and '.join(DEVICES)}")
    if backend == "nccl":
        nccl.check(int(os.environ["LOCAL_WORLD_SIZE"]) if launched() else ranks)
