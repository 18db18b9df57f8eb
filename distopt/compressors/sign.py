"""The scaled sign."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sign:
    """C(z) = (|z|_1 / d) sign(z) [karimireddy2019], with sign(0) = 1.

    >>> import torch
    >>> from distopt.compressors.sign import Sign
    >>> sign, z = Sign(), torch.tensor([[3.0, -1.0, 2.0]])
    >>> sign.decode(sign.encode(z), 3, z.dtype).tolist()
    [[2.0, -2.0, 2.0]]
    """

    def encode(self, z: Tensor, u: Tensor | None = None, warm: Tensor | None = None) -> tuple[Tensor, Tensor]:
        d = z.shape[-1]
        bits = torch.nn.functional.pad((z >= 0).to(torch.uint8), (0, -d % 8)).reshape(*z.shape[:-1], -1, 8)
        powers = 2 ** torch.arange(8, dtype=torch.uint8, device=z.device)
        return (bits * powers).sum(-1, dtype=torch.uint8), z.abs().sum(-1, keepdim=True) / d

    def decode(self, payload: tuple[Tensor, Tensor], d: int, dtype: torch.dtype, u: Tensor | None = None) -> Tensor:
        packed, scale = payload
        shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
        bits = ((packed.unsqueeze(-1) >> shifts) & 1).flatten(-2)[..., :d]
        scale = scale.to(dtype)
        return torch.where(bits == 1, scale, -scale)

    def bits(self, d: int, itemsize: int) -> int:
        return 8 * (-(-d // 8)) + 8 * itemsize

    def delta(self, d: int) -> float:
        return 1 / d

    def omega(self, d: int) -> None:
        return None
