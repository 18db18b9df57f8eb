"""The exact channel: every value crosses every link uncompressed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from distopt.optional import ChannelDefaults
from distopt.protocols import Wire


@dataclass(frozen=True)
class Exact(ChannelDefaults):
    """Send z itself: the result is W z, and there is no memory.

    >>> Exact().bits(d=10, itemsize=8)
    640
    """

    def init(self, like: Tensor) -> tuple[()]:
        return ()

    def encode(self, z: Tensor, memory: tuple[()], u: Tensor | None) -> Tensor:
        return z

    def __call__(
        self, z: Tensor, payload: Tensor, memory: tuple[()], wire: Wire, u: Tensor | None = None
    ) -> tuple[Tensor, tuple[()]]:
        return wire.weigh(wire.heard(payload)), memory

    def bits(self, d: int, itemsize: int) -> int:
        return 8 * itemsize * d
