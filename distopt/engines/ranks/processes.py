"""Ranks of this machine: processes that rank 0 starts, and that end with it."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import weakref
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch

from distopt.costs.data import Blocks
from distopt.engines.ranks.orders import Orders, RankGroup, serve
from distopt.engines.transports.gloo import TIMEOUT, GlooTransport, Group, dist
from distopt.engines.workers.partition import Partition
from distopt.runs.signals import begin, follow
from distopt.simulation import surroundings
from distopt.simulation.problem import Problem


def start(
    problem: Problem,
    blocks: Blocks,
    partition: Partition,
    compiled: bool,
    timeout: int = TIMEOUT,
    backend: str = "gloo",
) -> RankGroup:
    """Start a process for every block but the first, and lead them. They are ended by ``close``, by a failure, and at the latest with this process.

    On Linux they are forked from this process and have the problem. Elsewhere, and if this process uses a GPU, which a
    fork cannot use, they are new processes that receive the problem. Its parts must then be spec strings.
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
            begin(processes)
            limit = timedelta(seconds=timeout)
            store = dist.TCPStore(
                "127.0.0.1", port, workers, True, limit, wait_for_workers=False, master_listen_fd=listener.detach()
            )
            group = Group.connect(store, 0, workers, timeout, "127.0.0.1")

            group.ended = lambda: [me for me, process in enumerate(processes, 1) if not process.is_alive()]
            orders = Orders(GlooTransport(group))
            ranks = RankGroup(
                problem, blocks, orders, partition, compiled, not forked, lambda: _end(processes, here, orders), backend
            )
        except BaseException:
            _end(processes, here)
            raise
    weakref.finalize(ranks, _end, processes, here)
    return ranks


def _end(processes: Sequence[Any], parent: int, orders: Orders | None = None) -> None:
    if os.getpid() != parent:  # a fork of this process, which closes inherited resources
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
    try:
        torch.set_num_threads(1)  # a fork has none of its parent's threads, and must not wait for them
        store = dist.TCPStore("127.0.0.1", port, size, False, timedelta(seconds=timeout), wait_for_workers=False)
        done = serve(Orders(GlooTransport(Group.connect(store, me, size, timeout, "127.0.0.1"))), problem)
    finally:
        os._exit(0 if done else 1)
