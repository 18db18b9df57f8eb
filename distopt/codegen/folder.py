"""The folder for compiled code, into which only the user can write: code in it is loaded without a check.

So it is never a folder that others could create first, such as one in the system's directory for temporary files.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path


class CompileWarning(UserWarning):
    """A run that should be compiled runs eagerly, or is compiled again each time."""


def own(name: str, asked: Path | None = None, unfit: Callable[[Path], str | None] = lambda folder: None) -> Path:
    """A folder for code that is loaded: ``asked``, or the one of this name in the user's cache. Made where it is not there, with mode 0700.

    If the folder cannot be used (see ``found``), a private folder is used until this process ends, with a warning.
    """
    folder, why = found(name, asked, unfit)
    return folder if folder is not None and why is None else _private(why or "there is no cache folder")


def found(
    name: str, asked: Path | None = None, unfit: Callable[[Path], str | None] = lambda folder: None
) -> tuple[Path | None, str | None]:
    """The folder that ``own`` would take, and why it will not do; None where it does.

    It will not where others could write into it, where it cannot be made or written, or where ``unfit`` says why.
    """
    folder = asked
    try:
        folder = asked or _home() / "distopt" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        why = exposed(folder)
        if why is None:
            if asked is None:
                folder.chmod(0o700)
            if not os.access(folder, os.W_OK | os.X_OK):
                why = f"{folder} cannot be written"
            else:
                why = unfit(folder)
    except (OSError, RuntimeError) as error:  # there is no home folder, for one
        why = f"the cache folder cannot be made ({error})"
    return folder, why


def _home() -> Path:
    """The user's folder for caches. A relative path is ignored, as the standard for XDG_CACHE_HOME requires."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return named if named.is_absolute() else Path.home() / ".cache"


@functools.cache
def _private(why: str) -> Path:
    """A temporary folder for this process and its children."""
    folder, maker = Path(tempfile.mkdtemp(prefix="distopt-")), os.getpid()

    def tidy() -> None:
        if os.getpid() == maker:  # not in a fork
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(tidy)
    warnings.warn(
        f"{why}; code is compiled into a private folder, again in each process; set XDG_CACHE_HOME to a folder that only you can write to",
        CompileWarning,
        stacklevel=2,
    )
    return folder


def exposed(folder: Path) -> str | None:
    """Why others could write into a folder or replace it; None if only its owner, who runs this, and root can."""
    me, real = os.geteuid(), folder.resolve()
    for place in (real, *real.parents):
        about = place.stat()
        if about.st_uid != me and (about.st_uid != 0 or place == real):
            return f"{place} belongs to another user"
        # a group with the user's own number has only this user; in a sticky folder users cannot move others' files
        shared = about.st_mode & stat.S_IWOTH or (about.st_mode & stat.S_IWGRP and about.st_gid != about.st_uid)
        if shared and (place == real or not about.st_mode & stat.S_ISVTX):
            return f"{place} can be written by others"
    return None
