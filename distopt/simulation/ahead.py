"""Making the next thing in another thread while this one is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(made: Callable[[int], T], starts: range, overlap: bool) -> Iterator[T]:
    """What ``made`` makes of each start; the next one in another thread while the caller works on this one.

    Without ``overlap`` they run one after the other. Scenarios run under torch's default precision, which all threads
    share. So float64 data can be made in parallel only to float64 rounds, and only if float64 is already the default.
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
