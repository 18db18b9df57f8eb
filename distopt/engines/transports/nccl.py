"""Rows from GPU to GPU by NCCL: each rank's agents live on a GPU of their own, and only reports and orders go through gloo.

NCCL knows no tags, and a send blocks until it is received. So the messages of a tag, those that come and those that go, are one group of
calls: all ranks make the same groups in the same order, which stands for the tag. The headers travel all the same. They are looked at
after a segment, since to look at one of them would make the host wait for the GPU.

Nobody waits for ever here either. A rank runs at most ``AHEAD`` exchanges ahead of its GPU. It polls for the end of an older exchange, so that it
notices the others' notes, ranks that have ended, and silence.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from distopt.engines.transports.gloo import Group, dist, header
from distopt.engines.workers.exchange import Tag
from distopt.engines.workers.halo import FRONT
from distopt.errors import InputError

AHEAD = 2
"""The most exchanges on their way when the next one begins. The GPU always has work, and the host stays close behind it."""

LOOK = 0.1
"""Seconds from one look at what others noted to the next."""


def check(ranks: int) -> None:
    """Refuse more ranks on this machine than it has GPUs, and a torch without NCCL."""
    if not dist.is_nccl_available():
        raise InputError(
            "ranks: backend=nccl: this build of torch has no NCCL; install one for CUDA, or leave backend out (gloo)"
        )
    gpus = torch.cuda.device_count()
    if gpus < ranks:
        numbers = f"{ranks} rank{'s' * (ranks > 1)} on this machine and {gpus} GPU{'s' * (gpus != 1)}"
        raise InputError(f"ranks: backend=nccl: {numbers}; NCCL needs one each")


def connect(group: Group, place: int) -> NcclTransport:
    """Wait until the GPUs of all ranks are connected; this rank's is number ``place`` of its machine.

    Raises:
        WorkerLost: some rank did not come in time.
    """
    transport = NcclTransport(group, communicator(group), gpu(place))
    transport.handshake()
    return transport


def gpu(place: int) -> torch.device:
    """The GPU of this process from now on."""
    torch.cuda.set_device(place)
    return torch.device("cuda", place)


def communicator(group: Group) -> Any:
    """NCCL's side of a group (``torch.distributed.ProcessGroupNCCL``).

    torch's watchdog frees a host that waits for a GPU which waits for a lost message. By default it would also end the process.
    """
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=2 * group.timeout)  # when ``NcclTransport`` should have noticed
    return dist.ProcessGroupNCCL(dist.PrefixStore("nccl", group.store), group.rank, group.size, options)


@dataclass
class _Exchange:
    """The messages of a tag; ``work`` once they are on their way, if there are any."""

    transport: NcclTransport
    tag: Tag
    coming: dict[int, Tensor]
    peers: Sequence[int] = ()
    work: Any = None

    def wait(self) -> None:
        """Later work on the GPU waits for the messages."""
        if self.work is not None:
            self.work.wait()
            self.transport.heads += [
                (self.tag, sender, buffer[:FRONT].clone()) for sender, buffer in self.coming.items()
            ]


@dataclass
class NcclTransport:
    """A worker's ``Rows`` through a group.

    Attributes:
        pg: makes groups of sends and receives (``torch.distributed.ProcessGroupNCCL``).
        heads: of the messages that have come since they were looked at: what they were taken for, from whom, and the bytes on the GPU.
    """

    group: Group
    pg: Any
    device: torch.device
    heads: list[tuple[Tag, int, Tensor]] = field(default_factory=list)
    _due: dict[Tag, _Exchange] = field(default_factory=dict)
    _going: deque[_Exchange] = field(default_factory=deque)
    _fronts: dict[str, Tensor] = field(default_factory=dict)
    _confirmed: int = 0

    def handshake(self) -> None:
        """Exchange a message with every other rank, which makes the connections. NCCL lets its caller wait meanwhile, so another thread calls it."""
        tag, others = (0, "greeting"), self._others
        buffers, failures = (
            torch.empty(2 * len(others), FRONT, dtype=torch.uint8, device=self.device),
            list[Exception](),
        )
        arriving = self.expect(tag, dict(zip(others, buffers, strict=False)))

        def call() -> None:
            try:
                self.send(tag, dict(zip(others, buffers[len(others) :], strict=True)))
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        self._until(lambda: not thread.is_alive(), others, tag)
        for failure in failures:
            raise failure
        arriving.wait()
        self.confirm()

    def expect(self, tag: Tag, into: dict[int, Tensor]) -> _Exchange:
        """See ``distopt.engines.workers.exchange.Transport``. It is received when this rank sends under the same tag."""
        exchange = self._due[tag] = _Exchange(self, tag, into)
        return exchange

    def send(self, tag: Tag, outgoing: dict[int, Tensor]) -> None:
        """See ``distopt.engines.workers.exchange.Transport``."""
        while len(self._going) >= AHEAD:
            self._end(self._going.popleft())
        self.group.reach(tag)
        exchange = self._due.pop(tag)
        exchange.peers = sorted({*exchange.coming, *outgoing})
        if not exchange.peers:
            return
        front = self._front(tag)
        for buffer in outgoing.values():
            buffer[:FRONT] = front
        try:
            self.pg._start_coalescing()
            for sender, buffer in exchange.coming.items():
                self.pg.recv([buffer], sender, 0)
            for receiver, buffer in outgoing.items():
                self.pg.send([buffer], receiver, 0)
            exchange.work = self.pg._end_coalescing()
        except RuntimeError as error:
            raise self.group.lost(exchange.peers, tag, error) from error
        self._going.append(exchange)

    def confirm(self) -> None:
        """See ``distopt.engines.workers.exchange.Rows``. All ranks do so together: one that still waits for rows might not be able to report."""
        while self._going:
            self._end(self._going.popleft())
        if self.heads:
            whole = torch.stack([head for _, _, head in self.heads]).cpu().numpy()
            for (tag, sender, _), head in zip(self.heads, whole, strict=True):
                self.group.check_header(head.tobytes(), header(tag)[0], sender)
            self.heads.clear()
        self._confirmed += 1
        self.group.store.add("confirmed", 1)
        due = self._confirmed * self.group.size
        self._until(lambda: self.group.store.add("confirmed", 0) >= due, self._others, (self.group.round, "confirm"))

    def leave(self) -> None:
        """Close the connections, and drop messages in transit. If NCCL cannot end, it blocks a rank for at most one time-out."""
        if self.pg is not None:
            aborting = threading.Thread(target=self.pg.abort, daemon=True)
            aborting.start()
            aborting.join(self.group.timeout)
        self.pg = None

    @property
    def _others(self) -> list[int]:
        return [rank for rank in range(self.group.size) if rank != self.group.rank]

    def _front(self, tag: Tag) -> Tensor:
        """The header of a tag, where the rows are. Only the first of a name has to go there."""
        number, name = tag
        if name not in self._fronts:
            self._fronts[name] = torch.frombuffer(bytearray(header(tag)[0]), dtype=torch.uint8).to(self.device)
        self._fronts[name][:8].view(torch.int64).fill_(number)
        return self._fronts[name]

    def _end(self, exchange: _Exchange) -> None:
        """Wait until an exchange is over."""
        self._until(exchange.work.is_completed, exchange.peers, exchange.tag)
        try:
            exchange.work.wait()  # raises if it ended by failing
        except RuntimeError as error:
            raise self.group.lost(exchange.peers, exchange.tag, error) from error

    def _until(self, over: Callable[[], bool], peers: Sequence[int], tag: Tag) -> None:
        """Wait until ``over()`` is true.

        A rank that has waited for half the time-out notes this. The ranks without a note are then the cause. If all peers have noted it, one
        of them may know the cause; otherwise it may be any of them.
        """
        key, noted, began = "waits for rows/", False, time.monotonic()
        looked = began
        try:
            while not over():
                now = time.monotonic()
                waited = now - began
                if now - looked > LOOK:
                    looked = now
                    self.group.poll()
                    if waited > self.group.timeout / 2 and not noted:
                        noted = True
                        self.group.store.set(f"{key}{self.group.rank}", "yes")
                    if waited > self.group.timeout:
                        silent = [peer for peer in peers if not self.group.store.check([f"{key}{peer}"])]
                        if silent or waited > 1.5 * self.group.timeout:
                            raise self.group.silent(silent or peers, tag)
                time.sleep(0 if waited < 0.001 else 0.0005)
        except Exception:
            self.leave()
            raise
        if noted:
            self.group.store.delete_key(f"{key}{self.group.rank}")
