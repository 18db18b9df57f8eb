"""Error feedback on values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.channels._compressed import Compressing, Warm, decode, encode, start, warmer
from distopt.protocols import Compressor, Payload, Wire
from distopt.ranges import share


class ErrorMemory(NamedTuple):
    """An agent's memory: the compression error ``e`` [R, n, d] so far, and the compressor's warm start."""

    e: Tensor
    warm: Warm


@dataclass(frozen=True)
class ErrorFeedback(Compressing):
    """Add the errors of earlier messages to each value, and send the compressed sum [karimireddy2019].

        p_t = z_t + e_t,        e_{t+1} = p_t - C(p_t),        e_0 = 0
        result: W C(p_t), or z_t + gamma (W - I) C(p_t) where ``gamma`` is given

    z_t, p_t, e_t [R, n, d], C the compressor. Use it for values that are summed, such as the steps of EF-SGD: the sum of all
    messages differs from the sum of all z by e_t only, which stays bounded. For values that replace each other (x, or a tracker)
    it stops at a floor. ``choco``, which is error feedback on their increments, does not. The result with ``gamma`` is that of
    DeepSqueeze [tang2019]; it keeps the agents' mean.

    Raises:
        InputError: ``gamma`` outside (0, 1].

    >>> import torch
    >>> from distopt.channels.error_feedback import ErrorFeedback
    >>> from distopt.compressors.sign import Sign
    >>> class Average:  # three workers around their mean
    ...     own = slice(None)
    ...     def heard(self, payload): return payload
    ...     def weigh(self, rows): return rows.mean(-2, keepdim=True).expand_as(rows)
    >>> channel, z = ErrorFeedback(Sign()), torch.tensor([[[3.0, 1.0], [1.0, -1.0], [0.0, 2.0]]])
    >>> memory = channel.init(z)
    >>> mean, memory = channel(z, channel.encode(z, memory, None), memory, Average())
    >>> mean[0, 0].tolist(), memory.e[0, 0].tolist()
    ([1.3333333730697632, 0.6666666865348816], [1.0, -1.0])
    """

    compressor: Compressor
    gamma: float | None = None

    def __post_init__(self) -> None:
        self._complete("error_feedback")
        if self.gamma is not None:
            share("error_feedback", gamma=self.gamma)

    def init(self, like: Tensor) -> ErrorMemory:
        return ErrorMemory(torch.zeros_like(like), start(self.compressor, like))

    def encode(self, z: Tensor, memory: ErrorMemory, u: Tensor | None) -> Payload:
        return encode(self.compressor, z + memory.e, u, memory.warm)

    def __call__(
        self, z: Tensor, payload: Payload, memory: ErrorMemory, wire: Wire, u: Tensor | None = None
    ) -> tuple[Tensor, ErrorMemory]:
        rows, own = decode(self.compressor, wire.heard(payload), z, wire, u)
        mixed = wire.weigh(rows)
        out = mixed if self.gamma is None else z + self.gamma * (mixed - own)
        return out, ErrorMemory(z + memory.e - own, warmer(self.compressor, payload, z.shape[-1]))

    def bits(self, d: int, itemsize: int) -> int:
        return self.compressor.bits(d, itemsize)
