"""Standard output and error for the whole command: a stream that is closed, or has lost its reader, drops what is written."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

import click

from distopt.errors import printable


def lasting_streams() -> None:
    """Make the streams of this process such ones."""
    null = os.open(os.devnull, os.O_RDWR)
    while null <= 2:  # else the next opened file would become the standard output
        null = os.dup(null)
    os.close(null)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # as long as the process lives
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal has no letters for
        setattr(sys, name, Lasting(stream))


class Lasting:
    """A text stream. After its reader has ended, writing to it has no effect."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As a text stream does."""
        try:
            self._stream.write(text)
        except BrokenPipeError:
            self._leave()
        return len(text)

    def flush(self) -> None:
        """As a text stream does."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._leave()

    def _leave(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


def say(text: str, err: bool = False) -> None:
    """Print a line for the user, with control characters made harmless."""
    click.echo(printable(text), err=err)


def width() -> int:
    """Columns of the terminal."""
    return max(40, shutil.get_terminal_size().columns)
