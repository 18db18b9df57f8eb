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
    first, *rows = _eighths(codes.to(torch.int32) if width < 32 else codes)
    plane = torch.arange(width, dtype=first.dtype, device=codes.device)[:, None]
    packed = (first >> plane) & 1  # all planes at once, and in them the k-th bits of all bytes
    for k, row in enumerate(rows, 1):
        packed = packed | ((row >> plane) & 1) << k
    return packed.to(torch.uint8).flatten(-2)


def unplaned(packed: Tensor, d: int, width: int) -> Tensor:
    """The d codes that ``planes`` packed, int64 [..., d]."""
    k = torch.arange(8, dtype=torch.uint8, device=packed.device)[:, None]
    codes = torch.zeros((), dtype=torch.int64, device=packed.device)
    for p, plane in enumerate(packed.reshape(*packed.shape[:-1], width, 1, -(-d // 8)).unbind(-3)):
        codes = codes | ((plane >> k) & 1).to(torch.int64) << p  # the p-th bits of all numbers
    return codes.flatten(-2)[..., :d]


def flags(true: Tensor) -> Tensor:
    """Truth values [..., d] as one plane, uint8 [..., ceil(d / 8)]."""
    packed, *rows = _eighths(true.to(torch.uint8))
    for k, row in enumerate(rows, 1):
        packed = packed | row << k
    return packed.flatten(-2)


def signs(packed: Tensor, d: int, scale: Tensor) -> Tensor:
    """The d truth values of one plane as scale and -scale [..., d], scale [..., 1].

    >>> signs(flags(torch.tensor([True, False, True])), 3, torch.tensor([2.0])).tolist()
    [2.0, -2.0, 2.0]
    """
    return torch.cat([torch.where((packed & 2**k) != 0, scale, -scale) for k in range(8)], -1)[..., :d]


def size(d: int, width: int) -> int:
    """Bits that d codes of ``width`` bits take, in whole bytes a plane."""
    return 8 * width * -(-d // 8)


def width_of(largest: int) -> int:
    """Bits that hold the numbers 0 .. largest, at least one."""
    return max(1, largest.bit_length())


def _eighths(z: Tensor) -> tuple[Tensor, ...]:
    """The numbers k m .. (k + 1) m - 1 of z [..., d], m = ceil(d / 8), for k = 0 .. 7: [..., 1, m] each, with zeros at the end."""
    d = z.shape[-1]
    return torch.nn.functional.pad(z, (0, -d % 8)).reshape(*z.shape[:-1], 8, 1, -(-d // 8)).unbind(-3)
