"""Random rounding to powers of two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distopt.compressors._packed import planes, size, unplaned
from distopt.optional import CompressorDefaults

_FORMS = {8: (torch.int64, 52, 11), 4: (torch.int32, 23, 8)}
"""By bytes of a number: whole numbers of that size, bits of the mantissa and of the exponent."""


@dataclass(frozen=True)
class Natural(CompressorDefaults):
    """Natural compression [horvath2022]: |z| is rounded to 2^e or 2^(e+1), e = floor(log2 |z|), at random so that the mean is z.

    Unbiased, with omega = 1 / 8. A sign and the exponent of the floating-point format travel: 12 bits a number in float64, 9 in
    float32. Numbers below the smallest normal one become 0 or that one. NaN and infinity become NaN.

    >>> import torch
    >>> from distopt.compressors.natural import Natural
    >>> natural, z = Natural(), torch.tensor([[3.0, -5.0, 0.0]])
    >>> natural.decode(natural.encode(z, torch.tensor([[0.4, 0.4, 0.4]])), 3, z.dtype).tolist()
    [[4.0, -4.0, 0.0]]
    """

    def words(self, d: int) -> int:
        return d

    def encode(self, z: Tensor, u: Tensor | None = None, warm: Tensor | None = None) -> Tensor:
        assert u is not None, "natural rounds at random"
        whole, mantissa, exponent = _FORMS[z.element_size()]
        bits = z.contiguous().view(whole).to(torch.int64)
        power, top = (bits >> mantissa) & (2**exponent - 1), 2**exponent - 1
        up = u * 2.0**mantissa < (bits & (2**mantissa - 1)).to(torch.float64)
        rounded = torch.where(power < top, (power + up).clamp(max=top - 1), top)
        return planes(2 * rounded + (z < 0), exponent + 1)

    def decode(self, payload: Tensor, d: int, dtype: torch.dtype, u: Tensor | None = None) -> Tensor:
        whole, mantissa, exponent = _FORMS[dtype.itemsize]
        codes = unplaned(payload, d, exponent + 1)
        power = codes >> 1
        sizes = (power << mantissa).to(whole).view(dtype)
        signed = torch.where((codes & 1) == 1, -sizes, sizes)
        return torch.where(power < 2**exponent - 1, signed, torch.nan)

    def bits(self, d: int, itemsize: int) -> int:
        return size(d, _FORMS[itemsize][2] + 1)

    def delta(self, d: int) -> None:
        return None

    def omega(self, d: int) -> float:
        return 1 / 8
