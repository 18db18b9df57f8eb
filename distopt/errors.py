"""Errors for the user: a request that cannot be served, and a run that failed."""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """A request that cannot be served. The message says what, where, and what to do; the command line exits with 2."""


class RunError(RuntimeError):
    """A run failed while it was going. The message names the round; the command line exits with 1."""


class WorkerLost(RunError):
    """A worker is lost or silent. Another worker can take over its agents, so the run may continue."""


def needs(package: str, what: str, extra: str) -> None:
    """Refuse in one line what needs a package that is not installed; ``extra`` is the extra of distopt that brings it.

    Raises:
        InputError: the package is not installed.

    >>> needs("numpy", "to_arrays()", "export")
    """
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{what} needs {package}; install it with: pip install 'distopt[{extra}]'")


_by_command = False


@contextmanager
def by_command() -> Iterator[None]:
    """Inside this context the user is at the command line, and messages name options (see ``either``)."""
    global _by_command  # noqa: PLW0603  # global, not thread-local: threads of a run name what the run names
    before, _by_command = _by_command, True
    try:
        yield
    finally:
        _by_command = before


def either(command: str, python: str) -> str:
    """The option of the command line or the Python argument, depending on which of the two the user is using.

    >>> with by_command():
    ...     print("choose another folder with " + either("--out", "out="))
    choose another folder with --out
    >>> print("choose another folder with " + either("--out", "out="))
    choose another folder with out=
    """
    return command if _by_command else python


def printable(text: str) -> str:
    """A text that is safe to print: control characters, and those that reverse text, are shown as escapes.

    >>> printable("a\\x1b[31mb\\n")
    'a\\\\x1b[31mb\\\\n'
    """
    return "".join(
        char if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else repr(char)[1:-1] for char in text
    )


MESSAGE = 1000
"""The most characters of a message that are printed. Longer ones echo long input, such as a file's content."""


def shortened(text: str) -> str:
    """A message, without its middle where it is very long.

    >>> len(shortened("x" * 10**6)) < 1100
    True
    """
    left_out = len(text) - MESSAGE
    return (
        text
        if left_out <= 0
        else f"{text[: MESSAGE * 2 // 3]} ... ({left_out:,} characters) ... {text[-MESSAGE // 3 :]}"
    )


USERS = "distopt_user_"
"""The first letters of the module names of users' files."""


def slip(error: BaseException) -> str:
    """File and line of a user's file where an error arose, such as "mine.py, line 3"; "" if it did not arise in one.

    >>> slip(ValueError("x"))
    ''
    """
    found, trace = "", error.__traceback__
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__", "")).startswith(USERS):
            found = f"{trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return found


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
