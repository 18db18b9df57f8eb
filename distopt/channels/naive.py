"""Compression without memory: the warning example."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from distopt.channels._compressed import Compressing, Warm, decode, encode, start, warmer
from distopt.protocols import Compressor, Payload, Wire


@dataclass(frozen=True)
class Naive(Compressing):
    """Send C(z) and ignore the error: the result is W C(z), and the error does not vanish.

    C is ``compressor``, z [R, n, d]. Everybody, the agent itself too, takes C(z_j) for z_j. The error of each value is lost, so
    the agents' averages are not kept. Methods that rely on averages (gradient tracking) end far from the optimum. Use ``choco``
    for a method and this one to see why. With an unbiased or scaled sign and workers around an average it is the compression of
    SIGNSGD [karimireddy2019].

    >>> import torch
    >>> from distopt.channels.naive import Naive
    >>> from distopt.compressors.identity import Identity
    >>> Naive(Identity()).bits(d=10, itemsize=8)
    640
    """

    compressor: Compressor

    def __post_init__(self) -> None:
        self._complete("naive")

    def init(self, like: Tensor) -> Warm:
        return start(self.compressor, like)

    def encode(self, z: Tensor, memory: Warm, u: Tensor | None) -> Payload:
        return encode(self.compressor, z, u, memory)

    def __call__(
        self, z: Tensor, payload: Payload, memory: Warm, wire: Wire, u: Tensor | None = None
    ) -> tuple[Tensor, Warm]:
        rows, _ = decode(self.compressor, wire.heard(payload), z, wire, u)
        return wire.weigh(rows), warmer(self.compressor, payload, z.shape[-1])

    def bits(self, d: int, itemsize: int) -> int:
        return self.compressor.bits(d, itemsize)
