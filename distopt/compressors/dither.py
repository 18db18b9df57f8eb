"""Random rounding to few bits in blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distopt.compressors._packed import planes, size, unplaned
from distopt.optional import CompressorDefaults
from distopt.ranges import whole


@dataclass(frozen=True)
class Dither(CompressorDefaults):
    """Numbers of ``precision`` = b bits in blocks of ``block``, rounded at random between levels of the block's largest [liu2021].

        C(z)_k = (M / s) sign(z_k) floor(s |z_k| / M + u_k),     M = max |z| over the block, s = 2^(b-1) - 1, u uniform

    One of the b bits is the sign; M travels in z's precision for each block. Unbiased, with omega = min(B / (4 s^2), sqrt(B) / s), where
    B is the largest block. The variance of a number is at most (M / s)^2 / 4, and at most |z_k| M / s.

    Raises:
        InputError: fewer than 2 bits, more than 16, or an empty block.

    >>> import torch
    >>> from distopt.compressors.dither import Dither
    >>> dither, z = Dither(precision=2), torch.tensor([[4.0, -1.0]])
    >>> dither.decode(dither.encode(z, torch.tensor([[0.0, 0.8]])), 2, z.dtype).tolist()
    [[4.0, -4.0]]
    """

    precision: int = 2
    block: int = 512

    def __post_init__(self) -> None:
        whole("dither", 2, 16, precision=self.precision)
        whole("dither", 1, block=self.block)

    @property
    def _levels(self) -> int:
        return int(2 ** (self.precision - 1)) - 1

    def words(self, d: int) -> int:
        return d

    def _spread(self, scales: Tensor, d: int) -> Tensor:
        """One number a block [..., blocks] as one a coordinate [..., d]."""
        return scales.unsqueeze(-1).expand(*scales.shape, min(self.block, d)).flatten(-2)[..., :d]

    def encode(self, z: Tensor, u: Tensor | None = None, warm: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert u is not None, "dither rounds at random"
        d = z.shape[-1]
        block = min(self.block, d)
        padded = torch.nn.functional.pad(z.abs(), (0, -d % block))
        scales = padded.reshape(*z.shape[:-1], -1, block).amax(-1)
        unit = z.abs() / self._spread(torch.where(scales > 0, scales, 1.0), d)
        level = (self._levels * unit + u.to(z.dtype)).floor().clamp(0, self._levels)
        return planes(2 * level.to(torch.int64) + (z < 0), self.precision), scales

    def decode(self, payload: tuple[Tensor, Tensor], d: int, dtype: torch.dtype, u: Tensor | None = None) -> Tensor:
        packed, scales = payload
        codes = unplaned(packed, d, self.precision)
        sizes = (codes >> 1).to(dtype) / self._levels * self._spread(scales.to(dtype), d)
        return torch.where((codes & 1) == 1, -sizes, sizes)

    def bits(self, d: int, itemsize: int) -> int:
        return size(d, self.precision) + 8 * itemsize * -(-d // min(self.block, d))

    def delta(self, d: int) -> None:
        return None

    def omega(self, d: int) -> float:
        block = min(self.block, d)
        return float(min(block / (4 * self._levels**2), block**0.5 / self._levels))
