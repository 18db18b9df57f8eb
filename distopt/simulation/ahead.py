"""Making the next thing in another thread while this one is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(made: Callable[[int], T], starts: range, overlap: bool) -> Iterator[T]:
    """What ``made`` makes of each start; the next one in another thread while the caller works on this one.

    Without ``overlap`` one after the other: torch's default precision, under which scenarios run, is not a thread's own, so
    data in float64 can only be made beside rounds in float64, and where that is the default already.
    """
    if not overlap:
        yield from map(made, starts)
        return
    with ThreadPoolExecutor(1, "distopt-data") as pool:
        waiting: Future[T] | None = None
        for start in starts:
            ready = waiting.result() if waiting else made(start)
            waiting = pool.submit(made, start + starts.step) if start + starts.step < starts.stop else None
            yield ready
