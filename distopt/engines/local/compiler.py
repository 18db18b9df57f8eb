"""The C++ compiler of compiled rounds, and the folder of its libraries, into which only the user can write.

Libraries are loaded from that folder without a question. So it is never one whose name others can guess and make first, as torch's
own choice is: a folder of the system's directory for temporary files.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from distopt.codegen.folder import own
from distopt.errors import InputError, first_line

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
PROBE = 'extern "C" int distopt_probe() { return 42; }\n'
_PLAIN = re.compile(r"[^\s\"'\\]+")  # torch writes paths into command lines, and takes those apart at blanks

_settled: set[Path] = set()


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
    folder = own("inductor", asked if asked.is_absolute() and not theirs else None, _unfit)
    os.environ[VARIABLE] = str(folder)
    _settled.add(folder)
    return folder


def _unfit(folder: Path) -> str | None:
    """Why torch cannot use a folder."""
    return None if _PLAIN.fullmatch(str(folder)) else f"{str(folder)!r} has a blank or a quote in its name"


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
    # torch would build and load a library for each vector instruction set that the processor has: seconds, in every process
    return {"cpp_cache_precompile_headers": headers, "cpp.vec_isa_ok": True}
