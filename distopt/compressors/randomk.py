"""Numbers at random places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distopt.compressors._sparse import check, count
from distopt.optional import CompressorDefaults
from distopt.ranges import flag


@dataclass(frozen=True)
class RandomK(CompressorDefaults):
    """k numbers at random places, other ones in each round; the rest become 0 [stich2018]; ``k``, or a ``fraction`` of the row where k = 0.

    The places follow from uniforms addressed by trial and round, the same for the whole network. So receivers know them, and only the
    k values travel. delta = k / d; with ``unbiased`` the values are multiplied by d / k, and omega = d / k - 1. A NaN anywhere makes
    the message NaN.

    Raises:
        InputError: k below 0, or a ``fraction`` outside (0, 1].

    >>> import torch
    >>> from distopt.compressors.randomk import RandomK
    >>> random, z, u = RandomK(k=1), torch.tensor([[3.0, -5.0, 2.0]]), torch.tensor([[0.7, 0.9, 0.2]])
    >>> random.decode(random.encode(z, u), 3, z.dtype, u).tolist()
    [[0.0, -5.0, 0.0]]
    """

    k: int = 0
    fraction: float = 0.01
    unbiased: bool = False
    shared: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check("randomk", self.k, self.fraction)
        flag("randomk", unbiased=self.unbiased)

    def words(self, d: int) -> int:
        return d

    def _places(self, u: Tensor | None, d: int, lead: torch.Size) -> Tensor:
        assert u is not None, "randomk draws its places"
        return u.topk(count(self.k, self.fraction, d), -1).indices.expand(*lead, -1)

    def encode(self, z: Tensor, u: Tensor | None = None, warm: Tensor | None = None) -> Tensor:
        d = z.shape[-1]
        values = torch.gather(z, -1, self._places(u, d, z.shape[:-1])) + (z * 0).sum(-1, keepdim=True)
        return values * (d / count(self.k, self.fraction, d)) if self.unbiased else values

    def decode(self, payload: Tensor, d: int, dtype: torch.dtype, u: Tensor | None = None) -> Tensor:
        zero = torch.zeros(*payload.shape[:-1], d, dtype=dtype, device=payload.device)
        return zero.scatter(-1, self._places(u, d, payload.shape[:-1]), payload.to(dtype))

    def bits(self, d: int, itemsize: int) -> int:
        return 8 * itemsize * count(self.k, self.fraction, d)

    def delta(self, d: int) -> float | None:
        return None if self.unbiased else count(self.k, self.fraction, d) / d

    def omega(self, d: int) -> float | None:
        return d / count(self.k, self.fraction, d) - 1 if self.unbiased else None
