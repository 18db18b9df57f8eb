"""Shared by all channels that compress: a stream of values through a compressor, with its warm start as memory."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distopt.optional import ChannelDefaults
from distopt.protocols import Compressor, Payload, Wire
from distopt.ranges import compressor

Warm = Tensor | tuple[()]
"""What the next encoding starts from [R, n, *], or nothing."""


class Compressing(ChannelDefaults):
    """A channel that draws what its compressor draws."""

    compressor: Any

    @property
    def shared(self) -> bool:
        return bool(self.compressor.shared)

    def words(self, d: int) -> int:
        return int(self.compressor.words(d))

    def _complete(self, channel: str) -> None:
        """Check the compressor, and add the optional attributes that a user's class leaves out."""
        object.__setattr__(self, "compressor", compressor(channel, self.compressor))


def start(compressor: Any, like: Tensor) -> Warm:
    """The start of the first encoding of rows of the form of ``like`` [R, n, d]."""
    if compressor.start is None:
        return ()
    first: Tensor = compressor.start(like.shape[-1], like.dtype).to(like.device)
    return first.expand(*like.shape[:-1], *first.shape).clone()


def encode(compressor: Compressor, z: Tensor, u: Tensor | None, warm: Warm) -> Payload:
    """The payload of rows z [R, n, d]."""
    return compressor.encode(z, u, warm) if isinstance(warm, Tensor) else compressor.encode(z, u)


def decode(compressor: Compressor, heard: Payload, z: Tensor, wire: Wire, u: Tensor | None) -> tuple[Tensor, Tensor]:
    """The decoded rows [R, h, d] of the heard agents, and those of the block's agents among them [R, n, d]."""
    rows = compressor.decode(heard, z.shape[-1], z.dtype, u)
    return rows, rows[..., wire.own, :]


def warmer(compressor: Any, payload: Payload, d: int) -> Warm:
    """The start of the next encoding, after this own payload."""
    if compressor.warm is None:
        return ()
    following: Tensor = compressor.warm(payload, d)
    return following
