"""The loops in C: ``in_c`` as one writes it down (plain.c), ``in_tight_c`` as fast as we could make it (loops.c), ``stream`` bytes alone."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import hashlib
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from problems import Array, Logistic, Problem, Ring, arrays, clocked

from distopt.codegen.folder import own


class CAdam(ctypes.Structure):
    """The C side's struct of constants."""

    _fields_ = [(name, ctypes.c_double) for name in ("lr", "b1", "b2", "eps", "cap")]


LIBRARY = ("-shared", "-fPIC")
FLAGS = {"plain.c": ("-O3", "-march=native"), "loops.c": ("-O3", "-march=native", "-fno-math-errno", "-fopenmp-simd")}


@functools.cache
def compiled(source: str, compiler: str = "gcc") -> ctypes.CDLL:
    """A source file, built once for each text, compiler and processor, and kept in the user's own cache."""
    path, flags = Path(__file__).with_name(source), FLAGS[source]
    target = subprocess.run([compiler, "-march=native", "-Q", "--help=target"], capture_output=True, check=True).stdout
    name = hashlib.sha256(b"".join([path.read_bytes(), target, repr((compiler, flags)).encode()])).hexdigest()[:16]
    library = own("loops") / f"{name}.so"
    if not library.exists():
        part = library.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, *flags, *LIBRARY, "-o", part, path, "-lmvec", "-lm"], check=True)
        part.replace(library)
    return ctypes.CDLL(str(library))


def pointer(z: NDArray[Any]) -> ctypes.c_void_p:
    if not z.flags.c_contiguous:
        raise ValueError("the C loops take contiguous arrays only")
    return ctypes.c_void_p(z.ctypes.data)


def pointers(*given: NDArray[Any]) -> list[ctypes.c_void_p]:
    return [pointer(z) for z in given]


def long(*numbers: int) -> list[ctypes.c_long]:
    return [ctypes.c_long(n) for n in numbers]


def in_c(problem: Problem) -> tuple[Array, float]:
    """The plain loop, compiled on first use."""
    library = compiled("plain.c")
    adam = ctypes.byref(CAdam(*dataclasses.astuple(problem.adam)))

    def on_ring(rounds: int) -> tuple[Array, float]:
        assert isinstance(problem, Ring)
        N, d = problem.a.shape
        x, s, m, v, g = arrays((2, N, d), (2, N, d), *[(N, d)] * 3)
        given = pointers(x, s, m, v, g, problem.a, problem.c, problem.p)
        start = time.perf_counter()
        library.plain_ring(*long(rounds, N, d), *given, *long(len(problem.p)), adam)
        return x[rounds % 2].copy(), time.perf_counter() - start

    def on_graph(rounds: int) -> tuple[Array, float]:
        assert isinstance(problem, Logistic)
        K, N, S, d = problem.A.shape
        x, s, m, v, g, gn = arrays((2, N, d), (2, N, d), *[(N, d)] * 3, (d,))
        given = pointers(x, s, m, v, g, gn, problem.begin, problem.column, problem.weight, problem.A, problem.y)
        start = time.perf_counter()
        library.plain_graph(*long(rounds, N, d, S), *given, *long(K), ctypes.c_double(problem.l2), adam)
        return x[rounds % 2].copy(), time.perf_counter() - start

    return clocked(on_ring if isinstance(problem, Ring) else on_graph, problem.rounds)


def in_tight_c(problem: Problem) -> tuple[Array, float]:
    """The tight loop, compiled on first use."""
    library = compiled("loops.c")
    adam = ctypes.byref(CAdam(*dataclasses.astuple(problem.adam)))

    def on_ring(rounds: int) -> tuple[Array, float]:
        assert isinstance(problem, Ring)
        N, d = problem.a.shape
        x, s, m, v, g, a, c, tile = arrays((N + 3, d), (N + 3, d), *[(N, d)] * 5, (512 + 8 * d,))
        a[:], c[:] = problem.a, problem.c
        given = pointers(x, s, m, v, g, a, c, problem.p)
        library.ring_quadratic.restype = ctypes.c_long
        start = time.perf_counter()
        first = library.ring_quadratic(*long(rounds, N, d), *given, *long(len(problem.p)), pointer(tile), adam)
        return x[first : first + N].copy(), time.perf_counter() - start

    def on_graph(rounds: int) -> tuple[Array, float]:
        assert isinstance(problem, Logistic)
        K, N, S, d = problem.A.shape
        ld = -(-d // 8) * 8
        x, s, m, v, g, change, pull = arrays((2, N, ld), (2, N, ld), *[(N, ld)] * 4, (S,))
        given = pointers(x, s, m, v, g, change, problem.begin, problem.column, problem.weight, problem.A, problem.y)
        library.csr_logistic.restype = None
        start = time.perf_counter()
        library.csr_logistic(
            *long(rounds, N, d, ld, S), *given, *long(K), ctypes.c_double(problem.l2), pointer(pull), adam
        )
        return x[rounds % 2, :, :d].copy(), time.perf_counter() - start

    return clocked(on_ring if isinstance(problem, Ring) else on_graph, problem.rounds)


def stream(problem: Ring) -> float:
    """Seconds of one pass over the bytes of a round: 96 per coordinate and agent, read and written in place as a round does."""
    n = problem.a.size

    def run(passes: int) -> tuple[Array, float]:
        given = arrays(*[(n,)] * 7)
        start = time.perf_counter()
        compiled("loops.c").stream(*long(passes, n), *pointers(*given))
        return np.zeros(0), time.perf_counter() - start

    return clocked(run, 1)[1]
