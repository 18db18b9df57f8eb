"""Two processes of this machine that meet and add their numbers by gloo: whether ranks can work here."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from datetime import timedelta
from typing import Any

import torch

from distopt.engines.transports.gloo import Group, dist
from distopt.errors import RunError, first_line
from distopt.runs.signals import begin, follow


def meet(limit: int = 10) -> float:
    """The seconds that two processes take to find each other over loopback and to add 1 and 2.

    The second one is forked from this process on Linux and a new process elsewhere, as ranks are. It ends with this one. Neither waits
    longer than ``limit`` seconds for the other.

    >>> meet(60) > 0
    True

    Raises:
        RunError: they did not meet, or their sum is wrong; the message says why.
    """
    begun = time.perf_counter()
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        other = context.Process(target=_second, args=(os.getpid(), port, limit), daemon=True)
        begin([other])
        try:
            wait = timedelta(seconds=limit)
            listening = listener.detach()
            store = dist.TCPStore("127.0.0.1", port, 2, True, wait, wait_for_workers=False, master_listen_fd=listening)
            found = _added(store, 0, limit)
        except RuntimeError as error:  # a RunError among them
            raise RunError(first_line(error)) from error
        finally:
            other.kill()
            other.join()
    if found != 3:
        raise RunError(f"1 + 2 is {found} by gloo")
    return time.perf_counter() - begun


def _added(store: Any, rank: int, limit: int) -> float:
    numbers = torch.tensor([1.0 + rank])
    Group.connect(store, rank, 2, limit, "127.0.0.1").pg.allreduce([numbers]).wait(timedelta(seconds=limit))
    return float(numbers)


def _second(parent: int, port: int, limit: int) -> None:
    """The main function of the second process. It exits without cleaning up, which is left to its parent."""
    follow(parent)
    done = False
    try:
        torch.set_num_threads(1)
        _added(dist.TCPStore("127.0.0.1", port, 2, False, timedelta(seconds=limit), wait_for_workers=False), 1, limit)
        done = True
    finally:
        os._exit(0 if done else 1)
