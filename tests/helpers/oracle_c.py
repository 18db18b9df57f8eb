"""Emitted functions compiled from their readable C text, where there is a C compiler: an oracle for bits."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
from pathlib import Path

from distopt.codegen.function import Function
from distopt.codegen.objects import Run

COMPILER = shutil.which("gcc") or shutil.which("clang")


def by_c(function: Function, folder: Path, *flags: str) -> Run:
    """The function ``run`` as the C compiler makes it."""
    text = function.source()
    place = folder / hashlib.sha1((text + " ".join(flags)).encode()).hexdigest()
    place.with_suffix(".c").write_text(text)
    asked = ["-O2", "-march=native", "-ffp-contract=off", "-fwrapv", "-w", *flags, "-shared", "-fPIC"]
    command = [str(COMPILER), *asked, "-o", f"{place}.so", f"{place}.c", "-lm"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    library = ctypes.CDLL(f"{place}.so")
    run: Run = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)(
        ("run", library)
    )
    return run
