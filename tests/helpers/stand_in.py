"""NCCL's part, played over gloo with main memory as the device."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from datetime import timedelta
from typing import Any

from torch import Tensor

from distopt.engines.transports import gloo
from distopt.engines.transports.gloo import dist


class Work:
    """A group of calls on its way. Who waits goes on after ``patience`` seconds all the same, like a host that only told its GPU to wait."""

    patience = 60.0

    def __init__(self) -> None:
        self.over, self.completed = threading.Event(), False

    def end(self, completed: bool) -> None:
        self.completed = completed
        self.over.set()

    def is_completed(self) -> bool:
        return self.completed

    def wait(self) -> None:
        self.over.wait(self.patience)


class StandIn:
    """NCCL's semantics: no tags, the k-th send to a rank meets its k-th receive; a call outside a group would block; groups run in order."""

    def __init__(self, group: gloo.Group) -> None:
        store = dist.PrefixStore("stand-in", group.store)
        self.pg = gloo.Group.connect(store, group.rank, group.size, 60, "127.0.0.1").pg
        self.stream: queue.SimpleQueue[tuple[list[Any], Work] | None] = queue.SimpleQueue()
        self.calls: list[Any] | None = None
        self.counts: Counter[tuple[str, int]] = Counter()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _start_coalescing(self) -> None:
        assert self.calls is None, "a group inside a group"
        self.calls = []

    def _end_coalescing(self) -> Work | None:
        assert self.calls is not None, "no group to end"
        calls, self.calls, work = self.calls, None, Work()
        self.stream.put((calls, work))
        return work if calls else None

    def send(self, letters: list[Tensor], peer: int, tag: int) -> None:
        self._call("send", letters, peer)

    def recv(self, letters: list[Tensor], peer: int, tag: int) -> None:
        self._call("recv", letters, peer)

    def abort(self) -> None:
        """The thread ends before this returns: one that drops a gloo group while the interpreter ends brings the process down with it."""
        self.stream.put(None)
        self.thread.join()

    def _call(self, how: str, letters: list[Tensor], peer: int) -> None:
        assert self.calls is not None, (
            f"a {how} outside a group blocks until its other end is there, which waits likewise"
        )
        self.counts[how, peer] += 1
        self.calls.append((how, letters, peer, self.counts[how, peer]))

    def _run(self) -> None:
        stuck = False
        while (asked := self.stream.get()) is not None:
            calls, work = asked
            try:
                for each in [
                    getattr(self.pg, how)(letters, peer, number) for how, letters, peer, number in calls if not stuck
                ]:
                    each.wait(timedelta(seconds=60))
            except RuntimeError:  # the other end has gone: a GPU would go on waiting, and its host go on
                stuck = True
            work.end(not stuck)
