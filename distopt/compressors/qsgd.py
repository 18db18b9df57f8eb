"""Random rounding to levels of the row's length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distopt.compressors._packed import planes, size, unplaned, width_of
from distopt.optional import CompressorDefaults
from distopt.ranges import COUNTED, flag, whole


@dataclass(frozen=True)
class QSGD(CompressorDefaults):
    """QSGD [alistarh2017]: each number becomes |z|_2 sign(z) l / s, s = ``levels``, with l = floor(s |z_k| / |z|_2 + u), u uniform.

    Unbiased, with omega = min(d / s^2, sqrt(d) / s). ``contraction`` divides by 1 + omega, which gives the contraction delta = 1
    / (1 + omega) that error feedback needs. A sign and a level of ceil(log2(s + 1)) bits a number and the length travel (without
    the entropy code of the paper).

    Raises:
        InputError: less than one level, or more than 2^24.

    >>> import torch
    >>> from distopt.compressors.qsgd import QSGD
    >>> qsgd, z = QSGD(levels=2), torch.tensor([[3.0, -4.0]], dtype=torch.float64)
    >>> qsgd.decode(qsgd.encode(z, torch.tensor([[0.9, 0.0]])), 2, z.dtype).tolist()
    [[5.0, -2.5]]
    """

    levels: int = 4
    contraction: bool = False

    def __post_init__(self) -> None:
        whole("qsgd", 1, COUNTED, levels=self.levels)  # a level is a whole number in z's precision
        flag("qsgd", contraction=self.contraction)

    @property
    def _width(self) -> int:
        return 1 + width_of(int(self.levels))

    def words(self, d: int) -> int:
        return d

    def encode(self, z: Tensor, u: Tensor | None = None, warm: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert u is not None, "qsgd rounds at random"
        largest = z.abs().amax(-1, keepdim=True)
        unit = z / torch.where(largest > 0, largest, 1.0)  # so that no square overflows
        length = unit.square().sum(-1, keepdim=True).sqrt()
        level = (
            (self.levels * unit.abs() / torch.where(length > 0, length, 1.0) + u.to(z.dtype))
            .floor()
            .clamp(0, self.levels)
        )
        codes = 2 * level.to(torch.int64) + (z < 0)
        return planes(codes, self._width), largest * length

    def decode(self, payload: tuple[Tensor, Tensor], d: int, dtype: torch.dtype, u: Tensor | None = None) -> Tensor:
        packed, length = payload
        codes = unplaned(packed, d, self._width).to(torch.int64)
        shrunk = self.levels * ((1 + self._variance(d)) if self.contraction else 1.0)
        sizes = (codes >> 1).to(dtype) / shrunk * length.to(dtype)
        return torch.where((codes & 1) == 1, -sizes, sizes)

    def bits(self, d: int, itemsize: int) -> int:
        return size(d, self._width) + 8 * itemsize

    def _variance(self, d: int) -> float:
        return float(min(d / self.levels**2, d**0.5 / self.levels))

    def delta(self, d: int) -> float | None:
        return 1 / (1 + self._variance(d)) if self.contraction else None

    def omega(self, d: int) -> float | None:
        return None if self.contraction else self._variance(d)
