"""No compression."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distopt.optional import CompressorDefaults


@dataclass(frozen=True)
class Identity(CompressorDefaults):
    """C(z) = z: to see what a channel does without loss.

    >>> from distopt.compressors.identity import Identity
    >>> Identity().bits(d=10, itemsize=8)
    640
    """

    def encode(self, z: Tensor, u: Tensor | None = None, warm: Tensor | None = None) -> Tensor:
        return z

    def decode(self, payload: Tensor, d: int, dtype: torch.dtype, u: Tensor | None = None) -> Tensor:
        return payload.to(dtype)

    def bits(self, d: int, itemsize: int) -> int:
        return 8 * itemsize * d

    def delta(self, d: int) -> float:
        return 1.0

    def omega(self, d: int) -> float:
        return 0.0
