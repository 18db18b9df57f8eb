"""The k largest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TopK:
    """The k numbers of largest absolute value, the others 0.

    >>> import torch
    >>> from distopt.compressors.topk import TopK
    >>> top, z = TopK(k=1), torch.tensor([[3.0, -5.0, 2.0]])
    >>> top.decode(top.encode(z), 3, z.dtype).tolist()
    [[0.0, -5.0, 0.0]]
    """

    k: int = 1

    def encode(self, z: Tensor, u: Tensor | None = None, warm: Tensor | None = None) -> tuple[Tensor, Tensor]:
        places = z.abs().topk(min(self.k, z.shape[-1]), -1).indices
        return places.to(torch.int32), torch.gather(z, -1, places)

    def decode(self, payload: tuple[Tensor, Tensor], d: int, dtype: torch.dtype, u: Tensor | None = None) -> Tensor:
        places, values = payload
        zero = torch.zeros(*values.shape[:-1], d, dtype=dtype, device=values.device)
        return zero.scatter(-1, places.to(torch.int64), values.to(dtype))

    def bits(self, d: int, itemsize: int) -> int:
        return min(self.k, d) * (32 + 8 * itemsize)

    def delta(self, d: int) -> float:
        return min(self.k, d) / d

    def omega(self, d: int) -> None:
        return None
