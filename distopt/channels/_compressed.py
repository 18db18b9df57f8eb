"""Shared by all channels that compress: a stream of values through a compressor, with its warm start as memory."""

from __future__ import annotations

from torch import Tensor

from distopt.protocols import Compressor, Payload, Wire

Warm = Tensor | tuple[()]
"""What the next encoding starts from [R, n, *], or nothing."""


def start(compressor: Compressor, like: Tensor) -> Warm:
    """The start of the first encoding of rows of the form of ``like`` [R, n, d]."""
    if not hasattr(compressor, "start"):
        return ()
    first: Tensor = compressor.start(like.shape[-1], like.dtype).to(like.device)
    return first.expand(*like.shape[:-1], *first.shape).clone()


def encode(compressor: Compressor, z: Tensor, u: Tensor | None, warm: Warm) -> Payload:
    """The payload of rows z [R, n, d]."""
    return compressor.encode(z, u, warm) if isinstance(warm, Tensor) else compressor.encode(z, u)


def decode(compressor: Compressor, heard: Payload, z: Tensor, wire: Wire, u: Tensor | None) -> tuple[Tensor, Tensor]:
    """The heard rows [R, h, d] of a heard payload, and the own ones among them [R, n, d]: what everybody takes z [R, n, d] for."""
    rows = compressor.decode(heard, z.shape[-1], z.dtype, u)
    return rows, rows[..., wire.own, :]


def warmer(compressor: Compressor, payload: Payload, d: int) -> Warm:
    """The start of the next encoding, after this own payload."""
    if not hasattr(compressor, "warm"):
        return ()
    following: Tensor = compressor.warm(payload, d)
    return following


def words(compressor: Compressor, d: int) -> int:
    """How many uniforms a row of d numbers draws."""
    return compressor.words(d) if hasattr(compressor, "words") else 0
