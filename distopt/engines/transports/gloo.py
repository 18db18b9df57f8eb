"""Messages between processes by gloo (torch.distributed): connected workers, and the transport that carries their rows.

A message carries its round and its name, and is refused under any other. No rank waits for ever: the first rank that fails, or
finds another one lost or silent, notes this in the store, and all ranks report the same error.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from distopt.engines.workers.exchange import Tag
from distopt.engines.workers.halo import FRONT
from distopt.errors import InputError, RunError, WorkerLost, first_line

dist: Any = torch.distributed  # torch does not declare all that it exports

TIMEOUT = 60
"""Seconds that a rank waits for a message of another. Ranks that compile wait for each other's compilation too."""

HEADER = struct.Struct("<qI52s")  # FRONT bytes long
"""In front of a message: its round, the check sum of its name, and the beginning of its name."""

GRACE = 0.5
"""Seconds that a lost rank has to note its reason: gloo breaks its connections before it reports that another rank is silent."""

ORDER = "order"

CLOSING = 2**31 - 1
"""The number of a message that is never sent."""

FAILURES: dict[str, type[Exception]] = {"input": InputError, "run": RunError, "lost": WorkerLost}
"""The failures of a rank that it reports to the others."""


@lru_cache(1024)
def header(tag: Tag) -> tuple[bytes, int]:
    """A tag as it travels, and the number by which gloo tells messages apart; headers distinguish two tags with the same number."""
    name = tag[1].encode()
    head = HEADER.pack(tag[0], zlib.crc32(name), name[:52])
    return head, zlib.crc32(head) >> 1


@lru_cache
def patient(seconds: int) -> timedelta:
    """How long to wait for a message."""
    return timedelta(seconds=seconds)


def describe(head: bytes) -> str:
    """A header in words."""
    number, _, name = HEADER.unpack(head)
    return f"round {number}, {name.rstrip(bytes(1)).decode(errors='replace')}"


@dataclass
class Group:
    """The ranks of one run, connected.

    Attributes:
        pg: sends and receives (``torch.distributed.ProcessGroupGloo``).
        store: where the first failure is noted, so that all ranks tell of the same one.
        timeout: seconds that a message may take.
        round: of the last message.
        ended: which ranks are known to have ended, by whoever started them.
    """

    pg: Any
    store: Any
    rank: int
    size: int
    timeout: int = TIMEOUT
    round: int = 0
    ended: Callable[[], list[int]] = list

    @classmethod
    def connect(cls, store: Any, rank: int, size: int, timeout: int, address: str | None = None) -> Group:
        """Wait until all ranks are here.
        ``address`` is this machine's address for the others; None: the address of its
        host name.

        Raises:
            RunError: some rank did not come in time.
        """
        limit = timedelta(seconds=timeout)
        try:
            if address:
                options = dist.ProcessGroupGloo._Options()
                options._devices, options._timeout = [dist.ProcessGroupGloo.create_device(hostname=address)], limit
                pg = dist.ProcessGroupGloo(store, rank, size, options)
            else:
                pg = dist.ProcessGroupGloo(store, rank, size, limit)
        except RuntimeError as error:
            raise RunError(
                f"rank {rank}: not all of {size} ranks met within {timeout} s: {first_line(error)}"
            ) from error
        return cls(pg, store, rank, size, timeout)

    def reach(self, tag: Tag) -> None:
        """This rank's exchange is now the one of this tag."""
        if not tag[1].startswith(ORDER):
            self.round = tag[0]

    def report_failure(self, kind: str, message: str) -> Exception:
        """Note a failure, of a ``kind`` among ``FAILURES``; the error to raise, which is the first that any rank noted."""
        with contextlib.suppress(
            RuntimeError
        ):  # the store was lost with its host, so only this rank's own view is known
            kind, message = json.loads(self.store.compare_set("failed", "", json.dumps([kind, message])))
        return FAILURES[kind](message)

    def alive(self) -> None:
        """Raise if a rank is known to have ended."""
        for rank in self.ended():
            raise self.report_failure("lost", f"rank {rank} was lost in round {self.round}")

    def silent(self, peers: Sequence[int], tag: Tag) -> Exception:
        """The error to raise when nothing comes from one of ``peers``."""
        return self.report_failure(
            "lost", f"{_one_of(peers)} did not answer within {self.timeout} s in round {self._round(tag)}"
        )

    def poll(self) -> None:
        """Raise the failure that any rank has noted, or that a rank has ended."""
        self.alive()
        if self.store.check(["failed"]):
            raise self.report_failure("run", "")  # raises the failure that is noted in the store

    def check_header(self, head: bytes, due: bytes, sender: int) -> None:
        """Refuse a message whose header is not the expected one."""
        if head != due:
            raise self.report_failure(
                "run",
                f"rank {self.rank} got a message ({describe(head)}) from rank {sender} where ({describe(due)}) was due",
            )

    def _round(self, tag: Tag) -> int:
        return self.round if tag[1].startswith(ORDER) else tag[0]

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While rounds run, let gloo's threads of this process take no core from the thread that sends.

        One that took its place would spin, for a time slice of milliseconds, on the lock that the sender holds.
        """
        threads = (
            [int(task.name) for task in Path("/proc/self/task").iterdir() if _is_gloo(task)]
            if sys.platform == "linux"
            else []
        )
        _schedule(threads, "SCHED_BATCH")
        try:
            yield
        finally:
            _schedule(threads, "SCHED_OTHER")

    def failed(self, error: Exception) -> Exception:
        """The error to raise, on all ranks, for an error on this one."""
        if isinstance(error, RunError):
            return error  # noted already
        if isinstance(error, InputError):
            return self.report_failure("input", str(error))
        return self.report_failure(
            "run", f"rank {self.rank} failed in round {self.round}: {type(error).__name__}: {first_line(error)}"
        )

    def close(self) -> None:
        """Break the connections, which the other ranks notice at once. Objects may still refer to them, as those of an error do."""
        for peer in range(self.size):
            if self.pg is not None and peer != self.rank:
                with contextlib.suppress(RuntimeError):  # gloo breaks all of them where a message does not come in time
                    self.pg.recv([torch.empty(1)], peer, CLOSING).wait(timedelta(milliseconds=1))
        self.pg = None

    def lost(self, peers: Sequence[int], tag: Tag, error: RuntimeError) -> Exception:
        """The error to raise, on all ranks, for one between this rank and one of ``peers``."""
        if "timed out" in str(error).lower() or "timeout" in str(error).lower():
            return self.silent(peers, tag)
        end = time.monotonic() + GRACE
        with contextlib.suppress(RuntimeError):  # the store was lost
            while not self.store.check(["failed"]) and time.monotonic() < end:
                time.sleep(0.01)
        return self.report_failure("lost", f"{_one_of(peers)} was lost in round {self._round(tag)}")


def _one_of(peers: Sequence[int]) -> str:
    return " or ".join(f"rank {peer}" for peer in peers)


def _is_gloo(task: Path) -> bool:
    try:
        return (task / "comm").read_text().startswith("gloo")
    except OSError:  # it has ended
        return False


def _schedule(threads: list[int], policy: str) -> None:
    for thread in threads:
        with contextlib.suppress(OSError):  # it has ended, or this system does not let us: then it is slower
            os.sched_setscheduler(thread, getattr(os, policy), os.sched_param(0))


@dataclass(slots=True)
class Arriving:
    """Messages under way (see ``distopt.engines.workers.exchange.Arriving``), with the header that they should have."""

    group: Group
    tag: Tag
    due: bytes
    coming: list[tuple[int, Tensor, Any]]

    def wait(self, patience: timedelta | None = None) -> None:
        """Return when all are here, or raise after ``patience`` (None: the group's)."""
        group, due, limit = self.group, self.due, patience or patient(self.group.timeout)
        group.reach(self.tag)
        for sender, buffer, work in self.coming:
            try:
                work.wait(limit)
            except RuntimeError as error:
                raise group.lost([sender], self.tag, error) from error
            group.check_header(ctypes.string_at(buffer.data_ptr(), FRONT), due, sender)


@dataclass
class GlooTransport:
    """A worker's ``Transport`` through a group."""

    group: Group
    _leaving: list[tuple[int, Tag, Any, Tensor]] = field(default_factory=list)

    def expect(self, tag: Tag, into: dict[int, Tensor]) -> Arriving:
        """See ``distopt.engines.workers.exchange.Transport``."""
        (due, number), coming = header(tag), []
        for sender, buffer in into.items():
            try:
                coming.append((sender, buffer, self.group.pg.recv([buffer], sender, number)))
            except RuntimeError as error:
                raise self.group.lost([sender], tag, error) from error
        return Arriving(self.group, tag, due, coming)

    def send(self, tag: Tag, outgoing: dict[int, Tensor]) -> None:
        """See ``distopt.engines.workers.exchange.Transport``."""
        self.settle()
        self.group.reach(tag)
        head, number = header(tag)
        for receiver, buffer in outgoing.items():
            ctypes.memmove(buffer.data_ptr(), head, FRONT)
            try:
                self._leaving.append((receiver, tag, self.group.pg.send([buffer], receiver, number), buffer))
            except RuntimeError as error:
                raise self.group.lost([receiver], tag, error) from error

    def settle(self, patience: timedelta | None = None) -> None:
        """Wait until all sent messages are taken. Their receivers do the same exchanges in the same order, and already wait for them."""
        limit = patience or patient(self.group.timeout)
        for receiver, tag, work, _ in self._leaving:
            try:
                work.wait(limit)
            except RuntimeError as error:
                raise self.group.lost([receiver], tag, error) from error
        self._leaving.clear()

    def leave(self) -> None:
        """Drop the connections. The other ranks notice that at once."""
        self._leaving.clear()
        self.group.pg = None
