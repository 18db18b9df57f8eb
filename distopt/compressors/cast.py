"""Half precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from distopt.optional import CompressorDefaults
from distopt.ranges import choice

_TYPES = {"fp16": (torch.float16, 11, 24), "bf16": (torch.bfloat16, 8, 133)}
"""Type, bits of its significand, and the power of its smallest number."""


@dataclass(frozen=True)
class Cast(CompressorDefaults):
    """Numbers in fp16 or bf16, as fractions of the row's largest absolute value, which travels in z's precision: nothing overflows.

    The rounding error is at most 2^-p of a number (p = 11 for fp16, 8 for bf16), or half the smallest number of the type if
    the number is tiny beside the largest. So delta = 1 - (2^-p + 2^-q sqrt(d))^2, q = 25 for fp16, 134 for bf16.

    Raises:
        InputError: another type.

    >>> import torch
    >>> from distopt.compressors.cast import Cast
    >>> cast, z = Cast("bf16"), torch.tensor([[1e300, 1e299]], dtype=torch.float64)
    >>> [f"{each:.3g}" for each in cast.decode(cast.encode(z), 2, z.dtype)[0].tolist()]
    ['1e+300', '1e+299']
    """

    to: Literal["fp16", "bf16"] = "fp16"

    def __post_init__(self) -> None:
        choice("cast", tuple(_TYPES), to=self.to)

    def encode(self, z: Tensor, u: Tensor | None = None, warm: Tensor | None = None) -> tuple[Tensor, Tensor]:
        largest = z.abs().amax(-1, keepdim=True)
        return (z / torch.where(largest > 0, largest, 1.0)).to(_TYPES[self.to][0]), largest

    def decode(self, payload: tuple[Tensor, Tensor], d: int, dtype: torch.dtype, u: Tensor | None = None) -> Tensor:
        halves, largest = payload
        return halves.to(dtype) * largest.to(dtype)

    def bits(self, d: int, itemsize: int) -> int:
        return 16 * d + 8 * itemsize

    def delta(self, d: int) -> float:
        _, significand, smallest = _TYPES[self.to]
        return max(0.0, float(1 - (2.0**-significand + 2.0 ** -(smallest + 1) * d**0.5) ** 2))

    def omega(self, d: int) -> None:
        return None
