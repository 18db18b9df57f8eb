"""What can be seen of this machine without importing anything heavy: versions, cores, memory, folders and optional packages."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distopt._version import __version__
from distopt.errors import first_line
from distopt.numerics import room

Status = Literal["ok", "none", "note", "fail"]
"""It works; it is not here and need not be; it works with less, or something optional fails; the core does not work."""

LEAST_PYTHON = (3, 11)
LEAST_MEMORY, LEAST_DISK = 10**9, 10**9
"""Bytes below which a note says that there is little."""

FOR = {
    "fastest": "--weights fastest",
    "topohub": "the topology topohub",
    "ray": "--engine ray",
    "reproduce": "real digits in distopt reproduce",
    "export": "distopt export to Parquet, and xarray",
    "tensorboard": "--tensorboard",
}
"""What an extra of the package is for."""

DEVELOPING = ("test", "docs")
"""Extras for those who change distopt itself."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        status: how it stands.
        value: what was found, or the reason of a failure.
        advice: what to do about it; empty where nothing need be done.
    """

    name: str
    status: Status
    value: str
    advice: str = ""


def watched(name: str, look: Callable[[], Finding], core: bool = True, advice: str = "") -> Finding:
    """What ``look`` finds. Whatever it raises is a finding, too.

    >>> watched("division", lambda: Finding("division", "ok", str(1 // 0))).status
    'fail'
    """
    try:
        return look()
    except Exception as error:
        return Finding(name, "fail" if core else "note", f"{type(error).__name__}: {first_line(error)}", advice)


def seen() -> Iterator[Finding]:
    """All findings of this module, in their order."""
    yield watched("Python", python)
    yield watched("distopt", packages, advice="pip install . in the checkout: this copy was not installed")
    for name, look in (("cores", cores), ("memory", memory), ("cache", cache), ("runs", runs)):
        yield watched(name, look, core=False)
    for extra, needs in extras().items():
        yield optional(extra, needs)


def python() -> Finding:
    """The interpreter."""
    told = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info < LEAST_PYTHON:
        return Finding("Python", "fail", told, f"install Python {'.'.join(map(str, LEAST_PYTHON))} or newer")
    return Finding("Python", "ok", told)


def packages() -> Finding:
    """Version and place of distopt, and whether what it needs is installed."""
    told = f"{__version__} ({Path(__file__).parent.parent})"
    wrong = [each for each in needed("") if unmet(each) is not None]
    if wrong:
        typed = " ".join(f"'{each}'" for each in wrong)
        return Finding(
            "distopt", "fail", f"{told}; {', '.join(unmet(each) or '' for each in wrong)}", f"pip install {typed}"
        )
    return Finding("distopt", "ok", f"{told}, with the {len(needed(''))} packages that it needs")


def needed(extra: str) -> list[str]:
    """The requirements of an extra of distopt, as in ``ray>=2.52``; those of distopt itself for "".

    >>> [each.partition(">=")[0] for each in needed("")][:2], needed("ray")
    (['torch', 'numpy'], ['ray>=2.52'])
    """
    found = [each.partition(";") for each in importlib.metadata.requires("distopt") or []]
    return [what.strip() for what, _, when in found if re.findall(r'extra == "(\w+)"', when) == ([extra] * bool(extra))]


def extras() -> dict[str, list[str]]:
    """What each extra needs, by its name, without those for developing."""
    try:
        names = importlib.metadata.metadata("distopt").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:  # which the finding on packages says
        return {}
    return {name: needed(name) for name in names if name not in DEVELOPING}


def unmet(requirement: str) -> str | None:
    """Why a requirement is not met; None where it is.

    >>> unmet("click>=8.1"), unmet("click>=1000"), unmet("no-such-package>=1")
    (None, 'click ... is older than 1000', 'no-such-package is not installed')
    """
    name, _, least = requirement.partition(">=")
    try:
        there = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"{name} is not installed"
    return f"{name} {there} is older than {least}" if numbers(there) < numbers(least) else None


def numbers(version: str) -> list[int]:
    """The first numbers of a version.

    >>> numbers("2.13.0+cpu") > numbers("2.6")
    True
    """
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3]]


def optional(extra: str, needs: list[str]) -> Finding:
    """Whether the packages of an extra are installed."""
    name, use = f"extra {extra}", f", for {FOR[extra]}" if extra in FOR else ""
    wrong = [why for each in needs if (why := unmet(each)) is not None]
    if wrong:
        return Finding(name, "none", f"{', '.join(wrong)}{use}", f"pip install 'distopt[{extra}]'")
    there = [each.partition(">=")[0] for each in needs]
    return Finding(name, "ok", ", ".join(f"{each} {importlib.metadata.version(each)}" for each in there) + use)


def cores() -> Finding:
    """The cores that this process may use, and whether others use them."""
    all_ = os.cpu_count() or 1
    mine = len(os.sched_getaffinity(0)) if sys.platform == "linux" else all_
    share = quota(Path("/sys/fs/cgroup/cpu.max"))
    told = f"{mine} of {all_}" + (f", {share:g} at a time by its control group" if share and share < mine else "")
    load = os.getloadavg()[0]
    if load > 1.5 * mine:
        told += f"; the machine is busy (load {load:.1f})"
        return Finding("cores", "note", told, "expect longer times; compiled rounds of large networks use one thread")
    return Finding("cores", "ok", told)


def quota(file: Path) -> float | None:
    """The processors that a control group lets its processes have together; None where it sets no limit."""
    try:
        most, period = file.read_text().split()
        return int(most) / int(period)
    except (OSError, ValueError):  # "max", or there is no such file
        return None


def memory() -> Finding:
    """Memory that is free, of how much."""
    (machine, limit), free = room.whole(), room.available()
    told = f"{room.size(free)} free of {room.size(limit or machine)}"
    told += f", the limit of its control group (the machine has {room.size(machine)})" if limit else ""
    if free < LEAST_MEMORY:
        return Finding("memory", "note", told, "end other programs, or run fewer agents, trials and runs at a time")
    return Finding("memory", "ok", told)


def cache() -> Finding:
    """The folder where compiled rounds are kept."""
    from distopt.codegen.folder import found

    folder, why = found("functions")
    if folder is None or why is not None:
        advice = "set XDG_CACHE_HOME to a folder that is yours alone; without it rounds are compiled anew each time"
        return Finding("cache", "note", why or "there is no cache folder", advice)
    used = 0
    for file in folder.iterdir():
        with contextlib.suppress(OSError):  # another process writes and tidies there
            used += file.stat().st_size
    return stored("cache", folder, f"{folder} holds {room.size(used)} of compiled rounds")


def runs() -> Finding:
    """The folder where runs are written: ``runs``, in the folder where the process is."""
    folder = Path.cwd() / "runs"
    there = next(each for each in (folder, *folder.parents) if each.is_dir())
    advice = "go to a folder of yours, or name one with --out"
    if folder.exists() and not folder.is_dir():
        return Finding("runs", "note", f"{folder} is a file, not a folder", advice)
    try:
        with tempfile.TemporaryFile(dir=there):
            return stored("runs", there, f"{folder} can be written")
    except OSError as error:
        return Finding("runs", "note", f"{folder} cannot be written ({error.strerror or error})", advice)


def stored(name: str, folder: Path, told: str) -> Finding:
    """A folder that can be written, with the room that its disk has."""
    free = shutil.disk_usage(folder).free
    told += f"; {room.size(free)} of disk are free"
    return Finding(name, "ok", told) if free >= LEAST_DISK else Finding(name, "note", told, "make room on the disk")
