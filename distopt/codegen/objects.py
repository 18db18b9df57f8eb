"""Compiles modules with llvmlite, keeps the results in the user's folder, and loads them.

A file of the folder is named by all that decides about its content: the module's text, the versions of llvmlite and LLVM, the processor
and its features. An object is written to a temporary name and renamed, and begins with a checksum. A damaged one, or one that does not
load, is compiled again. The folder keeps its most recently used files, up to about ``ROOM`` bytes: about one in ``SELDOM`` of the files
that are written starts the search for old ones.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distopt.codegen.folder import own

Run = Callable[[int, int, int, int], None]
"""``run(k0, k1, pointers, strides)``: rounds k0 .. k1 - 1. The arrays are handed over by address. It does not hold Python's lock."""

OPTIMISED = True
"""Whether LLVM's passes run. Without them a module compiles in half the time and runs slower, with the same bits."""

ROOM = 2**28
SELDOM = 64
FORM = 1  # of the files; another number leaves all that there are alone
_SUM = 32  # bytes of the checksum

_lock = threading.RLock()  # LLVM's passes and loaders run in one thread at a time
if hasattr(os, "register_at_fork"):  # a fork has no other thread that could free it: it waits until LLVM is at rest
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@functools.cache
def fault() -> str | None:
    """Why nothing can be compiled here; None where it can."""
    try:
        import llvmlite.binding as llvm
    except (ImportError, OSError) as error:  # llvmlite has no wheel for some platforms
        return f"llvmlite cannot be used here ({error}); pip install 'llvmlite>=0.46'"
    if llvm.llvm_version_info < (20,):
        return f"llvmlite brings LLVM {llvm.llvm_version_info[0]}, and 20 is needed; pip install 'llvmlite>=0.46'"
    if sys.byteorder != "little":
        return "this processor stores numbers the other way round"
    return None


def machine() -> Any:
    """A target for this processor. An engine frees its target machine, so each has its own."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        llvm.get_host_cpu_name(), _features(), opt=2 if OPTIMISED else 0, reloc="pic", jit=True
    )


@functools.cache
def _features() -> str:
    import llvmlite.binding as llvm

    found: str = llvm.get_host_cpu_features().flatten()
    return found


def compiled(text: str, target: Any = None) -> bytes:
    """The object file of a module, for this processor or another target."""
    import llvmlite.binding as llvm

    with _lock:
        target = target or machine()
        module = llvm.parse_assembly(text)
        module.triple, module.data_layout = llvm.get_default_triple(), str(target.target_data)
        module.verify()
        options = llvm.create_pipeline_tuning_options(speed_level=3 if OPTIMISED else 0)
        options.loop_vectorization = options.slp_vectorization = OPTIMISED
        options.loop_interleaving = False
        passes = llvm.create_pass_builder(target, options)
        passes.getModulePassManager().run(module, passes)
        made: bytes = target.emit_object(module)
    return made


def loaded(code: bytes) -> Run:
    """The function ``run`` of an object file."""
    import llvmlite.binding as llvm

    with _lock:
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine())
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        address = engine.get_function_address("run")
    if not address:
        raise RuntimeError("the object file has no function named run")
    run: Any = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)(address)
    run.engine = engine  # it owns the code
    made: Run = run
    return made


def function(text: str, folder: Path | None = None) -> Run:
    """The function ``run`` of a module: from the folder, or compiled and put there."""
    folder = own("functions") if folder is None else folder
    file = folder / f"{key(text)}.o"
    with _lock:  # a text that another thread has compiled meanwhile is found in the folder
        code = _read(file)
        if code is not None:
            with contextlib.suppress(RuntimeError):
                return loaded(code)
        code = compiled(text)
        _write(file, code)
        return loaded(code)


def key(text: str) -> str:
    """The name of a module's file."""
    import llvmlite
    import llvmlite.binding as llvm

    where = (llvm.llvm_version_info, llvm.get_host_cpu_name(), _features())
    about = (FORM, llvmlite.__version__, *where, OPTIMISED, text)
    return hashlib.sha256(repr(about).encode()).hexdigest()[:40]


def _read(file: Path) -> bytes | None:
    """The object of a file; None if there is none, or it is not what was written."""
    try:
        content = file.read_bytes()
        os.utime(file)  # it is in use
    except OSError:
        return None
    code = content[_SUM:]
    return code if hashlib.sha256(code).digest() == content[:_SUM] else None


def _write(file: Path, code: bytes) -> None:
    """Keep an object, and remove the least recently used ones. A full or removed folder is no error; then nothing is kept."""
    try:
        handle, beside = tempfile.mkstemp(dir=file.parent, prefix=".")
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(hashlib.sha256(code).digest() + code)
            os.replace(beside, file)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
        if int(file.stem, 16) % SELDOM == 0:  # to look at thousands of files takes longer than to compile one
            _tidy(file.parent)
    except OSError:
        return


def _tidy(folder: Path) -> None:
    known = []
    with os.scandir(folder) as files:
        for file in files:
            with contextlib.suppress(OSError):  # another process tidies, too
                about = file.stat()
                known.append((about.st_mtime, about.st_size, file.path))
    total = sum(size for _, size, _ in known)
    for _, size, path in sorted(known):
        if total <= ROOM:
            return
        Path(path).unlink(missing_ok=True)
        total -= size
