"""Ray, and the cluster that a run uses: a running one, or one of its own.

A cluster that the run starts only listens on this machine, and requires a token. Its files are in a folder that only its user can
read, and it ends with the process that started it.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from distopt.errors import InputError, first_line
from distopt.runs.files import LOCK, locked
from distopt.runs.signals import held

TOKENS = (2, 52)
"""The first version of Ray that can require a token."""

SHORT = 38
"""The longest path of a cluster's folder: Ray appends to it, and the name of a socket has at most 107 bytes."""


def library(own: bool = False) -> Any:
    """Ray. ``own``: it will start its own cluster, which sends nothing to the outside and only listens on this machine."""
    if own:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault(
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0"
        )  # "no cluster": all its servers bind to loopback
    try:
        import ray
    except ImportError as error:
        raise InputError(
            f"the ray engine needs Ray ({first_line(error)}); install it with: pip install 'distopt[ray]'"
        ) from error
    if tuple(int(part) for part in ray.__version__.split(".")[:2]) < TOKENS:
        raise InputError(
            f"Ray {ray.__version__} has no tokens, so anyone who reaches its ports can run code as you; pip install --upgrade 'distopt[ray]'"
        )
    return ray


@contextmanager
def cluster(address: str = "", cpus: int | None = None) -> Iterator[None]:
    """Inside this context the process is connected to a Ray cluster.

    Args:
        address: of a running cluster, ``auto`` for the one of this machine. Empty: the cluster that this process is connected to
            already, else one of ``cpus`` places that is started here and stopped in the end.

    Raises:
        InputError: Ray is not installed, or no cluster answers at the address.
    """
    ray = library(own=not address)
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    with ExitStack() as stack:
        place = None if address else stack.enter_context(_folder())
        stack.callback(_shutdown, ray)
        try:
            if address:
                ray.init(address=address, **quiet)
            else:
                with held():  # a batch system signals all processes, but they must run until this one has saved the run
                    ray.init(address="local", num_cpus=cpus, include_dashboard=False, _temp_dir=place, **quiet)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            what = f"no Ray cluster answers at {address}" if address else "Ray could not be started here"
            raise InputError(f"{what}: {first_line(error)}") from error
        finally:
            if main and handler is not None:
                signal.signal(signal.SIGTERM, handler)  # restore the handler that Ray replaced
        if not address and "RAY_AUTH_MODE" not in os.environ:  # Ray sets this variable if it makes the token
            raise InputError(
                f"Ray {ray.__version__} lets any user of this machine in; set RAY_AUTH_MODE=token, or install a later version"
            )
        yield


def _shutdown(ray: Any) -> None:
    """Leave the cluster, and kill the processes that were started for it: they hold no data and ignore SIGTERM."""
    node = getattr(getattr(ray._private, "worker", None), "_global_node", None)
    if node is None or not getattr(node, "all_processes", None):  # others started it
        ray.shutdown()
        return
    kill = node.kill_all_processes
    node.kill_all_processes = lambda *_, **__: kill(check_alive=False)
    servers = [each.process.pid for several in node.all_processes.values() for each in several]
    with ExitStack() as stack:
        below = []
        for pid in [inner for server in servers for inner in _below(server)]:
            with suppress(OSError):  # it has ended
                below.append(os.pidfd_open(pid))
                stack.callback(os.close, below[-1])
        ray.shutdown()
        for each in below:  # they would try to reach the stopped server for another minute
            with suppress(OSError):  # it has ended
                signal.pidfd_send_signal(each, signal.SIGKILL)


def _below(pid: int) -> list[int]:
    """All descendants of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended
            for child in map(int, task.read_text().split()):
                found += [child, *_below(child)]
    return found


@contextmanager
def _folder() -> Iterator[str]:
    """A temporary folder for a cluster's files, removed at the end. Folders left by killed processes are removed now."""
    above = tempfile.gettempdir()
    above = above if len(above) + len("/distopt-ray-12345678/r") <= SHORT else "/tmp"
    for left in Path(above).glob("distopt-ray-*"):
        with suppress(OSError, InputError):  # another user's, or in use
            if left.stat().st_uid == os.getuid() and (left / LOCK).exists():
                with locked(left):
                    shutil.rmtree(left, ignore_errors=True)
    try:
        place = tempfile.mkdtemp(prefix="distopt-ray-", dir=above)
    except OSError as error:
        raise InputError(
            f"Ray could not be started: no folder for its files in {above}: {error.strerror}; name another with TMPDIR"
        ) from error
    try:
        with locked(Path(place)):
            yield os.path.join(place, "r")  # Ray opens this folder to everybody; the folder above stays closed
    finally:
        for _ in range(20):  # processes that are ending may still write
            shutil.rmtree(place, ignore_errors=True)
            if not os.path.exists(place):
                break
            time.sleep(0.1)
