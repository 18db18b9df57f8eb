"""The scaled sign of EF-signSGD."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from distopt.compressors._packed import flags, signs, size
from distopt.errors import InputError
from distopt.optional import CompressorDefaults


@dataclass(frozen=True)
class Sign(CompressorDefaults):
    """C(z) = (|z|_1 / d) sign(z) [karimireddy2019], with sign(0) = 1: one bit a number and one scale.

    With ``segments``, sizes joined by +, such as "784+10", each part of a row has its own scale |part|_1 / size, as the paper's
    experiments scale the tensors of a model one by one. The rest of the row is one more part. In ``distopt.optim`` "tensors" stands
    for the sizes of the model's tensors. |C(z) - z|^2 = (1 - phi) |z|^2 exactly, phi = |z|_1^2 / (d |z|_2^2) the density, at least
    1 / d (with segments 1 / the largest). The scale travels in z's precision. A NaN makes its part NaN.

    Raises:
        InputError: segments that are not positive sizes, or longer than the row.

    >>> import torch
    >>> from distopt.compressors.sign import Sign
    >>> sign, z = Sign(), torch.tensor([[3.0, -1.0, 2.0]])
    >>> sign.decode(sign.encode(z), 3, z.dtype).tolist(), sign.bits(d=1000, itemsize=4)
    ([[2.0, -2.0, 2.0]], 1032)
    """

    segments: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.segments, str) or not re.fullmatch(
            r"tensors|(0*[1-9][0-9]{0,8}(\+0*[1-9][0-9]{0,8})*)?", self.segments
        ):
            raise InputError(f"sign: segments must be sizes joined by +, such as 784+10, got {self.segments!r}")

    def _sizes(self, d: int) -> list[int]:
        if self.segments == "tensors":
            raise InputError("sign: segments=tensors works in distopt.optim only; give sizes, such as 784+10")
        sizes = [int(size) for size in self.segments.split("+")] if self.segments else []
        if sum(sizes) > d:
            raise InputError(f"sign: segments={self.segments} are {sum(sizes)} numbers, but a row has {d}")
        return [*sizes, d - sum(sizes)] if sum(sizes) < d else sizes

    def encode(self, z: Tensor, u: Tensor | None = None, warm: Tensor | None = None) -> tuple[Tensor, Tensor]:
        parts = torch.split(z, self._sizes(z.shape[-1]), -1)
        scale = torch.stack([(part.abs() / part.shape[-1]).sum(-1) for part in parts], -1)  # divided first: no overflow
        return flags(z >= 0), scale

    def decode(self, payload: tuple[Tensor, Tensor], d: int, dtype: torch.dtype, u: Tensor | None = None) -> Tensor:
        packed, scale = payload
        scale = scale.to(dtype)
        sizes = self._sizes(d)
        if len(sizes) == 1:
            return signs(packed, d, scale)
        spread = torch.cat([scale[..., k : k + 1].expand(*scale.shape[:-1], size) for k, size in enumerate(sizes)], -1)
        return signs(packed, d, torch.ones_like(scale[..., :1])) * spread

    def bits(self, d: int, itemsize: int) -> int:
        return size(d, 1) + 8 * itemsize * len(self._sizes(d))

    def delta(self, d: int) -> float:
        return 1 / max(self._sizes(d))

    def omega(self, d: int) -> None:
        return None
