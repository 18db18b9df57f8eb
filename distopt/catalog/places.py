"""The files of an experiment. Relative paths are relative to the folder where it was started, or to that of its TOML file."""

from __future__ import annotations

import os
import tomllib
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from distopt.errors import InputError

_TOML_BYTES = 2**24
_folder: ContextVar[str | None] = ContextVar("folder", default=None)


@contextmanager
def looking_in(folder: str | None) -> Iterator[None]:
    """Within it, relative paths are relative to ``folder``, in place of the folder where the process is."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def whereabouts(text: str) -> Path:
    """The path that a text names, ``~`` expanded; a relative one in the present folder for relative paths."""
    path = Path(os.path.expanduser(text))  # leaves an unknown ~user alone, where Path.expanduser raises
    folder = _folder.get()
    if (
        folder is None or path.is_absolute() or Path(folder) == here() or not Path(folder).is_dir()
    ):  # another machine may have no such folder
        return path
    return Path(folder) / path


def here() -> Path:
    """The current folder; ``.`` if it was removed."""
    try:
        return Path.cwd()
    except OSError:
        return Path(".")


def place(text: str) -> Path | None:
    """The file that a text names (see ``whereabouts``), if there is one. Its name may be in another Unicode form: ``ü`` as one sign or two."""
    for form in (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)):
        path = whereabouts(form)
        try:
            if path.is_file():
                return path
        except (OSError, ValueError):  # too long to be a path
            return None
    return None


def rooted(path: str) -> bool:
    """Whether a path begins at the root or in a home folder, so that it is the same from everywhere."""
    return path.startswith(("/", "~"))


def missing(text: str) -> str:
    """The message for a missing file: its name, and where it was looked for."""
    return f"there is no file {text!r}" + ("" if rooted(text) else f" in {(here() / whereabouts('.')).resolve()}")


def toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        InputError: it cannot be read, or is no TOML.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a file")
        if path.stat().st_size > _TOML_BYTES:
            raise InputError(f"{path}: {path.stat().st_size:,} bytes, too large for a TOML file")
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not TOML: it is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    except RecursionError as error:
        raise InputError(f"{path}: not TOML: its lists are nested too deeply") from error
    except InputError:
        raise
    except ValueError as error:  # a number of too many digits, for one
        raise InputError(f"{path}: not TOML: {error}") from error
