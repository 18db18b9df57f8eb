"""Large rounds in several threads: each does its share of the turns of a loop, and all meet before the next one.

Every number is computed by one thread, from the same numbers in the same order as with one thread alone, so the bits are the same. A
function's strides are followed by what its threads need: the thread's number, the number of threads, the address of the barrier's counter,
and the address of a function that yields the processor.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from typing import Any

import torch

from distopt.codegen.objects import Run

LARGE = 2**17
"""Numbers of a leaf that goes from round to round from which on threads pay. A round has about twenty meetings."""

SHARE = LARGE // 2  # numbers that a thread has at least

MEETING = """\
define internal void @meet(ptr %met, i64 %all, ptr %pause) noinline nounwind {
entry:
  %own = atomicrmw add ptr %met, i64 1 acq_rel
  br label %look
look:
  %looks = phi i64 [ 0, %entry ], [ %next, %wait ], [ %next, %rest ]
  %come = load atomic i64, ptr %met acquire, align 8
  %there = icmp uge i64 %come, %all
  br i1 %there, label %done, label %wait
wait:
  %next = add i64 %looks, 1
  %few = and i64 %next, 1023
  %tired = icmp eq i64 %few, 0
  br i1 %tired, label %rest, label %look
rest:
  call void %pause()
  br label %look
done:
  ret void
}"""
"""Waits until so many have come in all, and lets others have the processor now and then."""


def entered(first: int) -> list[str]:
    """The words after the strides that a thread reads, starting with this one."""
    words = [("thread", "i64"), ("threads", "i64"), ("met", "ptr"), ("pause", "ptr")]
    lines = []
    for k, (name, type) in enumerate(words):
        lines += [
            f"%at_{name} = getelementptr i64, ptr %strides, i64 {first + k}",
            f"%{name} = load {type}, ptr %at_{name}",
        ]
    return lines


def met(number: int, meetings: int) -> list[str]:
    """The meeting after part ``number`` of a round that has so many."""
    return [
        f"%past{number} = mul i64 %kept, {meetings}",
        f"%so_far{number} = add i64 %past{number}, {number + 1}",
        f"%all{number} = mul i64 %so_far{number}, %threads",
        f"call void @meet(ptr %met, i64 %all{number}, ptr %pause)",
    ]


@functools.cache
def _pause() -> int | None:
    """The address of what lets other threads have the processor; None where none is known."""
    try:
        system: Any = ctypes.CDLL(None) if os.name == "posix" else ctypes.CDLL("kernel32")
        own = system.sched_yield if os.name == "posix" else system.SwitchToThread
    except (OSError, AttributeError):
        return None
    return ctypes.cast(own, ctypes.c_void_p).value


def count(numbers: int) -> int:
    """How many threads do rounds on so many numbers: as many as torch has, with enough to do for each."""
    return max(1, min(torch.get_num_threads(), numbers // SHARE)) if _pause() and not _busy() else 1


def _busy() -> bool:
    """Whether so many want the processors that threads would wait long for each other's turn."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1)


def together(run: Run, k0: int, k1: int, pointers: int, strides: Any, threads: int) -> None:
    """Call ``run`` in so many threads, or in as many as can be started. An interruption is raised after the rounds."""
    met, ready = ctypes.c_int64(0), threading.Event()
    crew = [(ctypes.c_int64 * (len(strides) + 4))(*strides) for _ in range(threads)]

    def own(words: Any) -> None:
        ready.wait()
        run(k0, k1, pointers, ctypes.addressof(words))

    started: list[threading.Thread] = []
    try:
        for words in crew if threads > 1 else ():
            thread = threading.Thread(target=own, args=(words,), name="distopt-rounds", daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:  # there is no room for more
        pass
    finally:  # so that no thread waits for a missing one
        for place, words in enumerate(crew):
            words[len(strides) :] = [place, max(1, len(started)), ctypes.addressof(met), _pause() or 0]
        ready.set()
        for thread in started:
            thread.join()
    if not started:
        own(crew[0])
