"""Ctrl-C and SIGTERM, as a batch system sends it: the first asks a run to save itself and end, the second ends it at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

ECHO = 1.0
"""Seconds in which a second signal is the first one told again: a batch system tells torchrun and its ranks, and torchrun tells them, too."""


class Stop:
    """Whether the run is asked to end: ``signal`` is the number of the first Ctrl-C or SIGTERM.

    While ``patient``, the run is to end itself at its next checkpoint; otherwise there is nothing to save, and a
    KeyboardInterrupt is raised at once.
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
            if time.monotonic() - self._since > ECHO:  # asked twice: at once, whatever it is doing
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
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, stop._ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
