"""Compiled functions as C, for people to read, in a folder that they name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distopt.errors import RunError

_folders: list[Path | None] = [None]  # the innermost counts; global, not thread-local, since workers may be threads


@contextmanager
def keeping(folder: str | Path | None) -> Iterator[None]:
    """Within it, every function that is compiled is also written to the folder, which is made where it is not there; None for none.

    Raises:
        RunError: the folder cannot be made.

    >>> import tempfile, torch
    >>> from distopt.codegen.function import compiled
    >>> with tempfile.TemporaryDirectory() as folder, keeping(folder):
    ...     _ = compiled(lambda x, _: ([2 * x[0]], []), [torch.zeros(3)], [], "doubling")
    ...     [file.name.partition("-")[0] for file in Path(folder).iterdir()]
    ['doubling']
    """
    place = None if folder is None else Path(folder)
    if place is not None:
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder}: {error.strerror or error}; name another folder for the code") from error
    _folders.append(place)
    try:
        yield
    finally:
        _folders.pop()


def wanted() -> bool:
    """Whether anybody wants to read functions."""
    return _folders[-1] is not None


def keep(name: str, text: str) -> None:
    """Write a function to the folder. The name of its file contains its purpose and a digest of its text.

    Raises:
        RunError: it cannot be written.
    """
    folder = _folders[-1]
    if folder is None:
        return
    file = folder / f"{name.replace(' ', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.c"
    try:
        file.write_text(text)
    except OSError as error:
        raise RunError(f"{file}: {error.strerror or error}; name another folder for the code") from error
