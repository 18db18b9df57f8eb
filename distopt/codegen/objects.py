"""Compiles modules with llvmlite, and loads what was compiled."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from typing import Any

Run = Callable[[int, int, int, int], None]
"""``run(k0, k1, pointers, strides)``: rounds k0 .. k1 - 1. The arrays are handed over by address. It does not hold Python's lock."""

_lock = threading.Lock()
_alive: list[Any] = []  # engines own the code that functions point to; code stays for the life of the process


@functools.cache
def machine() -> Any:
    """The target of this processor."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(llvm.get_host_cpu_name(), features, opt=2, reloc="pic", jit=True)


def compiled(text: str, target: Any = None) -> bytes:
    """The object file of a module."""
    import llvmlite.binding as llvm

    with _lock:
        target = target or machine()
        module = llvm.parse_assembly(text)
        module.triple, module.data_layout = llvm.get_default_triple(), str(target.target_data)
        module.verify()
        options = llvm.create_pipeline_tuning_options(speed_level=3)
        options.loop_vectorization = options.slp_vectorization = True
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
        _alive.append(engine)
    run: Run = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)(address)
    return run
