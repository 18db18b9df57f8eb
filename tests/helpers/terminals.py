"""A command in a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def resized(fd: int, rows: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def in_terminal(
    words: Sequence[str],
    where: Path,
    then: Callable[[str, int, int], bool] = lambda said, pid, fd: False,
    rows: int = 40,
    columns: int = 100,
    terminal: str = "xterm",
) -> tuple[str, int]:
    """What ``distopt`` with these words writes to a terminal, and its exit code.

    ``then`` is called with what was written so far, the process id and the terminal, until it returns True.
    """
    leader, follower = pty.openpty()
    resized(leader, rows, columns)
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "distopt", *words],
        cwd=where,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**environment, "TERM": terminal},
        start_new_session=True,
    )
    os.close(follower)
    said, acted, ends = b"", False, time.monotonic() + 300
    while time.monotonic() < ends:
        if select.select([leader], [], [], 0.1)[0]:
            try:
                piece = os.read(leader, 65536)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            said += piece
        if not acted:
            acted = then(said.decode(errors="replace"), process.pid, leader)
    os.close(leader)
    code = process.wait(60)
    return said.decode(errors="replace"), code
