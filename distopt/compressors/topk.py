"""The largest numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distopt.compressors._packed import planes, size, unplaned, width_of
from distopt.compressors._sparse import check, count
from distopt.optional import CompressorDefaults


@dataclass(frozen=True)
class TopK(CompressorDefaults):
    """The k numbers of largest absolute value; the others become 0 [stich2018]; ``k``, or a ``fraction`` of the row where k = 0.

    delta = k / d. k values in z's precision and k places of ceil(log2 d) bits travel. A NaN counts as largest.

    Raises:
        InputError: k below 0, or a ``fraction`` outside (0, 1].

    >>> import torch
    >>> from distopt.compressors.topk import TopK
    >>> top, z = TopK(k=1), torch.tensor([[3.0, -5.0, 2.0]])
    >>> top.decode(top.encode(z), 3, z.dtype).tolist()
    [[0.0, -5.0, 0.0]]
    """

    k: int = 0
    fraction: float = 0.01

    def __post_init__(self) -> None:
        check("topk", self.k, self.fraction)

    def encode(self, z: Tensor, u: Tensor | None = None, warm: Tensor | None = None) -> tuple[Tensor, Tensor]:
        d = z.shape[-1]
        places = z.abs().topk(count(self.k, self.fraction, d), -1).indices
        return planes(places, width_of(d - 1)), torch.gather(z, -1, places)

    def decode(self, payload: tuple[Tensor, Tensor], d: int, dtype: torch.dtype, u: Tensor | None = None) -> Tensor:
        packed, values = payload
        places = unplaned(packed, values.shape[-1], width_of(d - 1)).to(torch.int64)
        zero = torch.zeros(*values.shape[:-1], d, dtype=dtype, device=values.device)
        return zero.scatter(-1, places, values.to(dtype))

    def bits(self, d: int, itemsize: int) -> int:
        k = count(self.k, self.fraction, d)
        return size(k, width_of(d - 1)) + 8 * itemsize * k

    def delta(self, d: int) -> float:
        return count(self.k, self.fraction, d) / d

    def omega(self, d: int) -> None:
        return None
