"""The sign without a scale, as signSGD sends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from distopt.compressors._packed import flags, signs, size
from distopt.optional import CompressorDefaults
from distopt.ranges import choice


@dataclass(frozen=True)
class UnscaledSign(CompressorDefaults):
    """C(z) = sign(z) in {-1, 1} [bernstein2018]: no contraction, since the size of z is lost.

    One bit a number, so sign(0) must be 1 or -1: ``zero`` is "plus" or "minus". (In numpy and torch sign(0) = 0, and a known
    counterexample to signSGD then does not work.) One more bit marks a row that holds a NaN; all of that row decodes to NaN.

    Raises:
        InputError: another ``zero``.

    >>> import torch
    >>> from distopt.compressors.unscaled_sign import UnscaledSign
    >>> sign, z = UnscaledSign(zero="minus"), torch.tensor([[3.0, -1.0, 0.0]])
    >>> sign.decode(sign.encode(z), 3, z.dtype).tolist()
    [[1.0, -1.0, -1.0]]
    """

    zero: Literal["plus", "minus"] = "plus"

    def __post_init__(self) -> None:
        choice("unscaled_sign", ("plus", "minus"), zero=self.zero)

    def encode(self, z: Tensor, u: Tensor | None = None, warm: Tensor | None = None) -> Tensor:
        positive = z >= 0 if self.zero == "plus" else z > 0
        return flags(torch.cat([positive, z.isnan().any(-1, keepdim=True)], -1))

    def decode(self, payload: Tensor, d: int, dtype: torch.dtype, u: Tensor | None = None) -> Tensor:
        values = signs(payload, d + 1, torch.ones((), dtype=dtype, device=payload.device))
        return torch.where(values[..., d:] > 0, torch.nan, values[..., :d])

    def bits(self, d: int, itemsize: int) -> int:
        return size(d + 1, 1)

    def delta(self, d: int) -> None:
        return None

    def omega(self, d: int) -> None:
        return None
