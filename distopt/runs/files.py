"""Files that are either whole or absent, and locks on folders: one process writes at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from distopt.errors import InputError, RunError, either
from distopt.runs.reading import regular

LOCK = ".lock"


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A file beside ``path`` that takes its place once it is whole and on the disk, so ``path`` is always the old file or the new one.

    Raises:
        RunError: it cannot be written; the old one stays.
    """
    beside = path.with_name(path.name + ".part")
    try:
        with open(
            beside, "wb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK, 0o666)
        ) as file:  # a pipe would wait
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException as error:
        with suppress(OSError):  # the original error is more useful
            beside.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise RunError(f"cannot write {path}: {error.strerror or error}; earlier results are kept") from error


def write_text(path: Path, text: str) -> None:
    """A small file, as ``written`` writes it."""
    with written(path) as file:
        file.write(text.encode())


@contextmanager
def locked(folder: Path, above: Path | None = None) -> Iterator[None]:
    """Inside this context no other process writes to ``folder``, or to the folders of the runs in it.
    The lock dies with its process.

    Args:
        folder: of a run, or of several.
        above: the folder of several runs that this one is of. Others of them may be written meanwhile, but not all as one.

    Raises:
        InputError: another process does.
    """
    ways = [(folder, fcntl.LOCK_EX), *([(above, fcntl.LOCK_SH)] if above is not None else [])]
    with ExitStack() as held:
        for each, way in ways:
            try:
                if os.path.lexists(each / LOCK):
                    with regular(each / LOCK):  # a pipe would wait
                        pass
                file = held.enter_context((each / LOCK).open("w"))
                fcntl.flock(file, way | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"{each} is being written by another run; wait for it, or choose another folder with {either('--out', 'out=')}"
                ) from error
            except OSError as error:
                raise InputError(
                    f"cannot write to {each}: {error.strerror}; choose another folder with {either('--out', 'out=')}"
                ) from error
        yield
