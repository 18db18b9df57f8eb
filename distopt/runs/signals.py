"""Ctrl-C and SIGTERM, as a batch system sends it: the first asks a run to save itself and end, the second ends it at once.

A batch system signals every process of a run. Only the one that leads acts upon it; what it started leaves the signal to it,
and ends with it, however it ends.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

ASKING = (signal.SIGINT, signal.SIGTERM)

ECHO = 1.0
"""Seconds in which a second signal counts as the first one: a batch system signals torchrun and its ranks, and torchrun signals the ranks again."""


class Stop:
    """Whether the run should end: ``signal`` is the number of the first Ctrl-C or SIGTERM.

    While ``patient``, the run is to end itself at its next checkpoint, or when it has written what it has to; otherwise there is
    nothing to save, and a KeyboardInterrupt is raised at once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.patient = False
        self._since = 0.0

    @property
    def code(self) -> int:
        """The exit code, as of a process that the signal ended."""
        return 128 + (self.signal or signal.SIGINT)

    def _ask(self, number: int, frame: object) -> None:
        if self.signal is not None:
            if time.monotonic() - self._since > ECHO:  # a second signal ends it at once
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.signal, self._since = number, time.monotonic()
        if not self.patient:
            raise KeyboardInterrupt


@contextmanager
def stopping() -> Iterator[Stop]:
    """Within it, Ctrl-C and SIGTERM ask a ``Stop`` once; a second one ends the process. What is ignored stays so."""
    stop = Stop()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in ASKING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, stop._ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Within it both signals wait. Processes started here inherit that, and so do their children.

    A process for which SIGTERM waits for ever is ended by SIGKILL.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin(processes: Iterable[Any]) -> None:
    """Start processes of ``multiprocessing`` that ``follow`` this one. A fork collects no garbage before it can set its parent's aside."""
    collects = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            # it warns of forks beside threads; what is started here takes no lock that they might hold
            warnings.simplefilter("ignore", DeprecationWarning)
            with held():
                for process in processes:
                    process.start()
    finally:
        if collects:
            gc.enable()


def follow(parent: int) -> None:
    """Let this process, which ``parent`` started by ``begin``, ignore both signals and end with its parent, however that ends."""
    gc.freeze()  # garbage of the parent's, such as a group of ranks, may wait at its end for threads that are not here
    gc.enable()
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    else:
        threading.Thread(target=_outlive, daemon=True).start()
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


def _outlive() -> None:
    """Wait for the end of the parent, and end."""
    above = multiprocessing.parent_process()
    if above is not None:
        multiprocessing.connection.wait([above.sentinel])
        os._exit(1)
