"""The C++ compiler of compiled rounds, and the folder of its libraries, into which only the user can write.

Libraries are loaded from that folder without a question. So it is never one whose name others can guess and make first, as torch's
own choice is: a folder of the system's directory for temporary files.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from distopt.errors import InputError, first_line

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
PROBE = 'extern "C" int distopt_probe() { return 42; }\n'
_PLAIN = re.compile(r"[^\s\"'\\]+")  # torch writes paths into command lines, and takes those apart at blanks

_settled: set[Path] = set()


class CompileWarning(UserWarning):
    """A run that should be compiled runs eagerly, or is compiled again each time."""


def compiler() -> str | None:
    """The C++ compiler that torch.compile would call, or None."""
    return shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))


def fault() -> str | None:
    """Why rounds cannot be compiled on this machine, with what to do; None where they can."""
    found = compiler()
    if found is None:
        if (named := os.environ.get("CXX")) is not None:
            return f"there is no C++ compiler {named!r}, which CXX names; install it, or unset CXX"
        return "there is no C++ compiler; install g++"
    return _tried(found, settle())


@functools.cache
def _tried(compiler: str, folder: Path) -> str | None:
    """The error, if any, of building a library in the folder and loading it."""
    if not _PLAIN.fullmatch(str(folder)):
        return f"the compiler's folder {str(folder)!r} has a blank or a quote in its name; set XDG_CACHE_HOME to one without"
    other = "put a working g++ first in PATH, or name one in CXX"
    with tempfile.TemporaryDirectory(dir=folder) as place:
        source, library = Path(place, "probe.cpp"), Path(place, "probe.so")
        source.write_text(PROBE)
        try:
            done = subprocess.run(
                [compiler, "-shared", "-fPIC", "-o", library, source],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=60,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"the C++ compiler {compiler} cannot be run ({error}); {other}"
        if done.returncode or not library.exists():
            said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[0][:200]
            return f"the C++ compiler {compiler} does not work: {said} (exit code {done.returncode}); {other}"
        try:
            works = ctypes.CDLL(str(library)).distopt_probe() == 42
        except (OSError, AttributeError) as error:
            return f"what {compiler} makes in {folder} cannot be loaded ({error}); {other}, or XDG_CACHE_HOME to a folder that may hold programs"
    return None if works else f"the C++ compiler {compiler} makes wrong code; {other}"


def told(error: Exception) -> str:
    """The error of torch's compiler in one line, with the first error of the C++ compiler."""
    lines = [line.strip() for line in str(error).splitlines()]
    deeper = next((line for line in lines[1:] if "error: " in line), None)
    return first_line(error) + (f": {deeper}" if deeper else "")


def refused(error: Exception) -> InputError:
    """The error for rounds that cannot be compiled, with advice."""
    return InputError(f"these rounds cannot be compiled; run them eagerly: {told(error)}")


def settle() -> Path:
    """Tell torch the folder of compiled rounds, and return it. Call it before anything of ``torch._dynamo`` or ``torch._inductor`` is imported.

    A folder that the user names in TORCHINDUCTOR_CACHE_DIR is taken where nobody else can write into it; a folder that torch chose is not.
    """
    asked = Path(os.environ.get(VARIABLE, ""))
    if asked in _settled:
        return asked
    theirs = asked.parent == Path(tempfile.gettempdir()) and asked.name.startswith(
        "torchinductor_"
    )  # torch's own choice, which it notes there
    folder = own("inductor", asked if asked.is_absolute() and not theirs else None)
    os.environ[VARIABLE] = str(folder)
    _settled.add(folder)
    return folder


def own(name: str, asked: Path | None = None) -> Path:
    """A folder for code that is loaded: ``asked``, or the one of this name in the user's cache. Made where it is not there, with mode 0700.

    Where others could write into it, or it cannot be made, there is a private one instead for as long as this process lives, and a warning.
    """
    try:
        folder = asked or _home() / "distopt" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        why = exposed(folder)
        if why is None:
            if asked is None:
                folder.chmod(0o700)
            if not os.access(folder, os.W_OK | os.X_OK):
                why = f"{folder} cannot be written"
            elif not _PLAIN.fullmatch(str(folder)):
                why = f"{str(folder)!r} has a blank or a quote in its name"
    except (OSError, RuntimeError) as error:  # there is no home folder, for one
        why = f"the cache folder cannot be made ({error})"
    return folder if why is None else _private(why)


def _home() -> Path:
    """The user's folder for caches. A relative one does not count, as the standard for XDG_CACHE_HOME has it."""
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
        f"{why}; compiled code goes to a private folder and is compiled anew each time; set XDG_CACHE_HOME to a folder that is yours alone",
        CompileWarning,
        stacklevel=2,
    )
    return folder


def exposed(folder: Path) -> str | None:
    """Why others could put files into a folder or another folder into its place; None where only its owner, who runs this, and root can."""
    me, real = os.geteuid(), folder.resolve()
    for place in (real, *real.parents):
        about = place.stat()
        if about.st_uid != me and (about.st_uid != 0 or place == real):
            return f"{place} belongs to another user"
        # a group with the number of its user is the user's alone; in a sticky folder nobody can move what is another's
        shared = about.st_mode & stat.S_IWOTH or (about.st_mode & stat.S_IWGRP and about.st_gid != about.st_uid)
        if shared and (place == real or not about.st_mode & stat.S_ISVTX):
            return f"{place} can be written by others"
    return None


def options() -> dict[str, Any]:
    """Options of torch.compile that keep its headers too in the folder; headers are compiled beforehand where that works."""
    codecache = importlib.import_module("torch._inductor.codecache")
    folder = settle() / "precompiled_headers"
    # torch puts them into its own folder, whatever it is told; it makes them by way of a temporary folder and openssl
    headers = (
        hasattr(codecache, "_HEADER_DIR")
        and shutil.which("openssl") is not None
        and _PLAIN.fullmatch(tempfile.gettempdir()) is not None
    )
    if headers:
        vars(codecache).update(_HEADER_DIR=str(folder), _HEADER_LOCK_DIR=str(folder / "locks"))
    return {"cpp_cache_precompile_headers": headers}
