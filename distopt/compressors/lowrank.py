"""Rows as matrices of low rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distopt.compressors._matrices import matrices, orthonormal, shape, start, unit
from distopt.numerics.sums import tree_sum
from distopt.optional import CompressorDefaults
from distopt.ranges import whole


@dataclass(frozen=True)
class LowRank(CompressorDefaults):
    """A row of d numbers as a matrix M [m, n] and of it P P' M, P [m, r] orthonormal: one power iteration a message [vogels2019].

        P = orthonormal(M Q_prev),    Q = M' P,    C(z) = P Q'

    r = ``rank``; m = ``rows``, or ceil(sqrt(d)) where that is 0, and the last row is padded with zeros. Q_prev is the Q of the message
    before (the warm start, kept by the channel). On slowly changing values it approaches the best r directions. C is a
    projection, so |C(z)| <= |z|, but only delta = 0 holds for every z. P and Q travel, (m + n) r numbers.

    Raises:
        InputError: a rank below 1, or negative rows.

    >>> import torch
    >>> from distopt.compressors.lowrank import LowRank
    >>> low, z = LowRank(rank=1), torch.tensor([[1.0, 2.0, 2.0, 4.0]], dtype=torch.float64)  # [[1, 2], [2, 4]] has rank 1
    >>> warm = low.start(4, z.dtype).expand(1, -1)
    >>> [round(each, 9) for each in low.decode(low.encode(z, None, warm), 4, z.dtype)[0].tolist()]
    [1.0, 2.0, 2.0, 4.0]
    """

    rank: int = 1
    rows: int = 0

    def __post_init__(self) -> None:
        whole("lowrank", 1, rank=self.rank)
        whole("lowrank", 0, rows=self.rows)

    def _shape(self, d: int) -> tuple[int, int, int]:
        """m, n and r of a row of d numbers."""
        return shape(d, self.rows, self.rank)

    def start(self, d: int, dtype: torch.dtype) -> Tensor:
        _, n, r = self._shape(d)
        return start(n, r, dtype)

    def encode(self, z: Tensor, u: Tensor | None = None, warm: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert warm is not None, "lowrank starts from where it was"
        m, n, r = self._shape(z.shape[-1])
        matrix = matrices(z, m, n)
        left = orthonormal(
            [(matrix * unit(q).unsqueeze(-2)).sum(-1) for q in warm.reshape(*warm.shape[:-1], r, n).unbind(-2)]
        )
        right = [tree_sum(matrix * p.unsqueeze(-1)).squeeze(-2) for p in left]
        return torch.cat(left, -1), torch.cat(right, -1)

    def decode(self, payload: tuple[Tensor, Tensor], d: int, dtype: torch.dtype, u: Tensor | None = None) -> Tensor:
        r = self._shape(d)[2]
        left, right = (each.reshape(*each.shape[:-1], r, -1) for each in payload)
        total = left[..., 0, :, None] * right[..., 0, None, :]
        for k in range(1, r):
            total = total + left[..., k, :, None] * right[..., k, None, :]
        return total.flatten(-2)[..., :d].to(dtype)

    def warm(self, payload: tuple[Tensor, Tensor], d: int) -> Tensor:
        """The Q of a message, or the start if Q is zero, since zero would stay zero."""
        right = payload[1]
        dead = (right == 0).all(-1, keepdim=True)
        return torch.where(dead, self.start(d, right.dtype).to(right.device), right)

    def bits(self, d: int, itemsize: int) -> int:
        m, n, r = self._shape(d)
        return 8 * itemsize * r * (m + n)

    def delta(self, d: int) -> float:
        return 0.0

    def omega(self, d: int) -> None:
        return None
