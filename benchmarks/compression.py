"""How fast signs are packed and unpacked, and how many bytes each compressor sends.

Usage: python benchmarks/compression.py [--log]    --log writes benchmarks/results/compression.json

Encode and decode of the scaled sign on one long row, one thread, compiled as in a run and eager, next to a plain copy of the same array
(which reads and writes each number once: the machine's bandwidth) and to numpy.packbits with the scale. Best of interleaved repetitions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from machine import header, log, machine
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.catalog import make
from distopt.checks.compressors import there_and_back
from distopt.compressors.sign import Sign
from distopt.engines.compiled import SAME_BITS, prepare_process

NUMBERS = 2**24
REPEATS = 7
DIM = 10_000  # of the table of bytes
SPECS = (
    "identity", "cast", "cast:to=bf16", "natural", "dither:precision=8", "dither:precision=2", "qsgd:levels=4", "qsgd:levels=1", "sign",
    "unscaled_sign", "topk:fraction=0.01", "randomk:fraction=0.01", "lowrank:rank=1",
)  # fmt: skip


def by_numpy(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The scaled sign there and back with numpy."""
    packed, scale = np.packbits(z >= 0), np.abs(z).sum() / len(z)
    bits = np.unpackbits(packed, count=len(z))
    return np.where(bits, scale, -scale).astype(z.dtype)


def throughput(dtype: torch.dtype) -> dict[str, float]:
    """Seconds there and back for a row of ``NUMBERS``."""
    z = torch.randn(1, NUMBERS, dtype=dtype, generator=torch.Generator().manual_seed(0))
    there, room, sign = z[0].numpy(), torch.empty_like(z), Sign()

    def eager(z: Tensor) -> Tensor:
        return sign.decode(sign.encode(z), NUMBERS, dtype)

    encode = torch.compile(sign.encode, fullgraph=True, dynamic=False, options=SAME_BITS)
    decode = torch.compile(sign.decode, fullgraph=True, dynamic=False, options=SAME_BITS)

    def compiled(z: Tensor) -> Tensor:
        return decode(encode(z), NUMBERS, dtype)

    assert torch.allclose(compiled(z), eager(z)) and np.allclose(by_numpy(there), eager(z)[0].numpy(), rtol=1e-5)
    ways: dict[str, Callable[[], object]] = {
        "copy": lambda: room.copy_(z),
        "encode": lambda: encode(z),
        "compiled": lambda: compiled(z),
        "eager": lambda: eager(z),
        "numpy": lambda: by_numpy(there),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(REPEATS):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def sizes() -> list[dict[str, Any]]:
    """Bytes of a row of ``DIM`` float32 numbers, counted from the payload, and what is lost of a normal row, |C(z) - z|^2 / |z|^2."""
    z = torch.randn(4, 1, DIM, generator=torch.Generator().manual_seed(0))
    found = []
    for spec in SPECS:
        payload, back = there_and_back(make("compressors", spec), z)
        took = sum(leaf.shape[-1] * leaf.element_size() for leaf in pytree.tree_leaves(payload))
        lost = float((back - z).square().sum() / z.square().sum())
        found.append({"compressor": spec, "bytes": took, "times_fewer": 4 * DIM / took, "lost": lost})
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", action="store_true")
    asked = parser.parse_args()
    about = machine()
    print(header(about))
    prepare_process()
    torch.set_num_threads(1)
    speeds = {}
    print(f"scaled sign of {NUMBERS:,} numbers there and back, milliseconds, and over a plain copy")
    for dtype in (torch.float32, torch.float64):
        name = str(dtype).removeprefix("torch.")
        seconds = speeds[name] = throughput(dtype)
        print(f"{name}  " + "  ".join(f"{way} {1e3 * each:.1f} ({each / seconds['copy']:.2f}x)" for way, each in seconds.items()), flush=True)
    table = sizes()
    print(f"bytes of a message of {DIM:,} float32 numbers, and the part of a normal row that is lost")
    for row in table:
        print(f"{row['compressor']:24s}{row['bytes']:8d}  {row['times_fewer']:7.1f} times fewer  {row['lost']:.3g}")
    if asked.log:
        log("compression", {"numbers": NUMBERS, "seconds": speeds, "dim": DIM, "sizes": table}, about)


if __name__ == "__main__":
    main()
