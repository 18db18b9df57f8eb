"""Settings of the process: a run sets aside those that its owner made, and restores them at the end."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.context import ForkProcess

import numpy as np
import torch

from distopt.errors import InputError
from distopt.numerics.trees import default_dtype


class _Here:
    """This process: one run at a time, since torch's default precision is not a thread's own; and whether it is a fork of another."""

    def __init__(self, forked: bool = False) -> None:
        self.lock, self.forked = threading.RLock(), forked


_here = _Here()


def _born() -> None:
    global _here  # noqa: PLW0603  # a fork has its own: the lock may have been another thread's, which is not here
    _here = _Here(forked=True)


os.register_at_fork(after_in_child=_born)


@contextmanager
def set_aside() -> Iterator[None]:
    """Within it torch and numpy are as in a new process, so that no number depends on what was set before; a second thread waits.

    Set aside are torch's default device and precision, inference mode, autocast, the precision of float32 products, and what numpy does
    about floating-point errors. A fork computes with one thread: its parent's are not there, and to ask for them would wait for ever.
    """
    with _here.lock, ExitStack() as stack:
        _set(stack)
        yield


def _set(stack: ExitStack) -> None:
    if torch.empty(0).device.type != "cpu":  # torch 2.8 cannot say the default device once it was set to None
        stack.enter_context(torch.device("cpu"))
    stack.enter_context(default_dtype(torch.float32))
    stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    torch.set_float32_matmul_precision("highest")
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.enable_grad())
    for kind in ("cpu", "cuda"):
        if torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
    stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
    if (_here.forked or isinstance(multiprocessing.current_process(), ForkProcess)) and torch.get_num_threads() > 1:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)


def may_start_processes(who: str) -> None:
    """Refuse to start processes where the process may have no children.

    Raises:
        InputError: this is a worker of a ``multiprocessing.Pool``.
    """
    if multiprocessing.current_process().daemon:
        raise InputError(
            f"{who} starts processes, which a worker of multiprocessing.Pool may not do; use another engine there (local or threads: "
            "the results are the same), or a concurrent.futures.ProcessPoolExecutor"
        )
