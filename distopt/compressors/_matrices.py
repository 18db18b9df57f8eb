"""Rows of d numbers as matrices [m, n], and orthonormal vectors. Every number belongs to its row: no sum depends on other rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def shape(d: int, rows: int, rank: int) -> tuple[int, int, int]:
    """m, n and the largest useful rank r of a row of d numbers: m = ``rows``, or ceil(sqrt(d)) where that is 0, n = ceil(d / m).

    >>> shape(10, 0, 1), shape(10, 2, 9)
    ((4, 3, 1), (2, 5, 2))
    """
    m = min(rows, d) if rows else next(m for m in range(int(d**0.5), d + 1) if m * m >= d)
    n = -(-d // m)
    return m, n, min(rank, m, n)


def matrices(z: Tensor, m: int, n: int) -> Tensor:
    """Rows z [..., d] as [..., m, n]; the last row of each is padded with zeros."""
    return torch.nn.functional.pad(z, (0, m * n - z.shape[-1])).reshape(*z.shape[:-1], m, n)


def start(length: int, rank: int, dtype: torch.dtype) -> Tensor:
    """``rank`` vectors in no special direction, one after the other: [rank length]."""
    return torch.cos(torch.arange(1, length * rank + 1, dtype=torch.float64).square()).to(dtype)


def unit(v: Tensor) -> Tensor:
    """Vectors [..., m] of length 1; zeros stay. Scaled by the largest number first, so that no square overflows."""
    largest = v.abs().amax(-1, keepdim=True)
    v = v / torch.where(largest > 0, largest, 1.0)
    length = v.square().sum(-1, keepdim=True).sqrt()
    return v / torch.where(length > 0, length, 1.0)


def orthonormal(vectors: Sequence[Tensor]) -> list[Tensor]:
    """Vectors [..., m] made orthonormal one after the other (Gram-Schmidt); zeros stay.

    A vector that depends on those before it becomes zero: its remainder is rounding error.

    >>> [v.tolist() for v in orthonormal([torch.tensor([2.0, 0.0]), torch.tensor([1.0, -3.0]), torch.tensor([1.0, 1.0])])]
    [[1.0, 0.0], [0.0, -1.0], [0.0, 0.0]]
    """
    found: list[Tensor] = []
    for v in vectors:
        rounding = v.abs().amax(-1, keepdim=True) * (8 + v.shape[-1]) * torch.finfo(v.dtype).eps
        for _ in range(2):  # once leaves a rounding error behind where vectors are nearly alike
            for other in found:
                v = v - other * (other * v).sum(-1, keepdim=True)
        found.append(unit(torch.where(v.abs().amax(-1, keepdim=True) > rounding, v, 0.0)))
    return found
