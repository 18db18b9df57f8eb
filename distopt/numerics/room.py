"""Memory and disk of the machine. Requests that need more than there is are refused."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from distopt.errors import InputError

NO_MEMORY = "there is not enough memory; lower agents, trials or the number of runs at a time, or the scenario's dim"


def size(count: float) -> str:
    """Bytes in words.

    >>> size(128e12), size(3.2e9), size(7e5)
    ('128 TB', '3.2 GB', '0.7 MB')
    """
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB")):
        if count >= unit:
            return f"{count / unit:,.3g} {name}"
    return f"{count / 1e6:.1f} MB"


def available() -> int:
    """The bytes of memory that this process can still use: the least of the machine's, its control group's and its own limit.

    A source that is missing (no Linux, no control group, other files) sets no limit.
    """
    found = [2**63]
    with contextlib.suppress(OSError, ValueError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    found += [most - used for most, used in _groups()]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError, ValueError):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            found.append(limit - pages * resource.getpagesize())
    return max(min(found), 0)


def whole() -> tuple[int, int | None]:
    """The bytes of memory of the machine, and those that its control group lets this process have; None where it sets no limit."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = min((most for most, _ in _groups()), default=machine)
    return machine, limit if limit < machine else None


def _groups() -> Iterator[tuple[int, int]]:
    """Of each control group of this process that sets a limit: the limit, and what is used of it."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, place = line.split(":", 2)
        if kinds in ("", "memory"):
            base = Path("/sys/fs/cgroup", kinds)
            most, used = (
                ("memory.limit_in_bytes", "memory.usage_in_bytes") if kinds else ("memory.max", "memory.current")
            )
            for folder in (base / place.lstrip("/"), base):
                with contextlib.suppress(OSError, ValueError):
                    yield int((folder / most).read_text()), int((folder / used).read_text())


def memory(needed: float, what: str, lower: str) -> None:
    """Refuse ``what`` if it needs more memory than is available; ``lower`` names the settings to lower.

    Raises:
        InputError: it does.
    """
    if needed > (have := available()):
        raise InputError(
            f"{what} would need at least {size(needed)} of memory, and {size(have)} are free; lower {lower}"
        )


def disk(needed: float, folder: Path, what: str, lower: str) -> None:
    """Refuse ``what`` if it needs more room than the disk of ``folder`` has.

    Raises:
        InputError: it does.
    """
    there = next((each for each in (folder, *folder.absolute().parents) if each.exists()), None)
    if there is not None and needed > (have := shutil.disk_usage(there).free):
        raise InputError(
            f"{what} would need at least {size(needed)} in {folder}, and {size(have)} are free; lower {lower}"
        )


def exhausted(error: BaseException) -> bool:
    """Whether an error means that memory is exhausted: Python's MemoryError, or torch's RuntimeError for the CPU."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def trim() -> None:
    """Give the system back the memory that is free in this process. glibc keeps it otherwise, where its pieces are below 32 MB."""
    give = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if give is not None:
        give(0)
