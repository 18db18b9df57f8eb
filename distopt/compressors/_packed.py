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
    codes = codes.to(torch.int32) if width < 32 else codes
    d = codes.shape[-1]
    rows = torch.nn.functional.pad(codes, (0, -d % 8)).reshape(*codes.shape[:-1], 8, 1, -(-d // 8)).unbind(-3)
    plane = torch.arange(width, dtype=codes.dtype, device=codes.device)[:, None]
    packed = (rows[0] >> plane) & 1  # all planes at once, and in them the k-th bits of all bytes
    for k, row in enumerate(rows[1:], 1):
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
    return _plane(torch.where(true, 1.0, 0.0).to(torch.float32))


def signs(packed: Tensor, d: int, scale: Tensor) -> Tensor:
    """The d truth values of one plane as scale and -scale [..., d], scale [..., 1].

    >>> signs(flags(torch.tensor([True, False, True])), 3, torch.tensor([2.0])).tolist()
    [2.0, -2.0, 2.0]
    """
    byte = packed.to(torch.int32)
    units = [
        torch.where((byte & 2**k) != 0, 1.0, -1.0).to(torch.float32) for k in range(8)
    ]  # in float32: see ``_plane``
    return torch.cat([unit.to(scale.dtype) * scale for unit in units], -1)[
        ..., :d
    ]  # scaled before they are put together: one pass


def size(d: int, width: int) -> int:
    """Bits that d codes of ``width`` bits take, in whole bytes a plane."""
    return 8 * width * -(-d // 8)


def width_of(largest: int) -> int:
    """Bits that hold the numbers 0 .. largest, at least one."""
    return max(1, largest.bit_length())


def _plane(bits: Tensor) -> Tensor:
    """Ones and zeros [..., d] as bytes; computed in float32, which is exact here: compilers vectorise it, but not bytes."""
    rows = torch.nn.functional.pad(bits, (0, -bits.shape[-1] % 8)).reshape(*bits.shape[:-1], 8, -1).unbind(-2)
    byte = rows[0]
    for k, row in enumerate(rows[1:], 1):
        byte = byte + float(2**k) * row
    return byte.to(torch.uint8)
