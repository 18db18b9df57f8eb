"""Whole numbers of few bits packed into bytes, and sizes."""

from __future__ import annotations

import torch
from torch import Tensor


def planes(codes: Tensor, width: int) -> Tensor:
    """Codes [..., d] in 0 .. 2^width - 1 as uint8 [..., width ceil(d / 8)]: bit plane after bit plane.

    Byte j of a plane holds the bits of numbers j, j + m, j + 2 m, ..., m = ceil(d / 8), so that packing reads and writes along rows.

    >>> planes(torch.tensor([1, 0, 3, 2]), 2).tolist(), unplaned(planes(torch.tensor([1, 0, 3, 2]), 2), 4, 2).tolist()
    ([5, 12], [1, 0, 3, 2])
    """
    if width == 1:
        return _plane(codes)
    return torch.cat([_plane((codes >> p) & 1) for p in range(width)], -1)


def unplaned(packed: Tensor, d: int, width: int) -> Tensor:
    """The d codes that ``planes`` packed: uint8 [..., d] for one plane, else int64."""
    if width == 1:
        return _unplaned(packed, d)
    parts = torch.split(packed, size(d, 1) // 8, -1)
    codes = _unplaned(parts[0], d).to(torch.int64)
    for p, part in enumerate(parts[1:], 1):
        codes = codes | (_unplaned(part, d).to(torch.int64) << p)
    return codes


def size(d: int, width: int) -> int:
    """Bits that d codes of ``width`` bits take, in whole bytes a plane."""
    return 8 * width * -(-d // 8)


def width_of(largest: int) -> int:
    """Bits that hold the numbers 0 .. largest, at least one."""
    return max(1, largest.bit_length())


def _plane(bits: Tensor) -> Tensor:
    d = bits.shape[-1]
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -d % 8))
    rows = padded.reshape(*padded.shape[:-1], 8, -1).unbind(-2)
    byte = rows[0]
    for k, row in enumerate(rows[1:], 1):
        byte = byte | (row << k)
    return byte


def _unplaned(packed: Tensor, d: int) -> Tensor:
    return torch.cat([(packed >> k) & 1 for k in range(8)], -1)[..., :d]
