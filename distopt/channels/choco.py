"""Public copies that are kept up to date by compressed increments: CHOCO, and the COMM procedure of C-GT and LEAD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from distopt.channels._compressed import Compressing, Warm, decode, encode, start, warmer
from distopt.protocols import Compressor, Payload, Wire
from distopt.ranges import COUNTED, choice, share, whole


class Ledger(NamedTuple):
    """The memory that resynchronising needs.

    Attributes:
        said: the sum of the agent's public copies over all rounds [R, n, d].
        applied: the sum of the weighted copies that it used, including corrections [R, n, d].
        turn: which block of coordinates is next, the same at every agent [R, n, 1].
    """

    said: Tensor
    applied: Tensor
    turn: Tensor


class ChocoMemory(NamedTuple):
    """The memory of an agent. Its size does not depend on the degree.

    Attributes:
        copy: the public copy h_i, which every neighbour holds [R, n, d].
        mixed: the sum over its senders, sum_j w_ij h_j [R, n, d], updated by their messages.
        warm: the compressor's warm start.
        ledger: see ``Ledger``; empty without ``resync``.
    """

    copy: Tensor
    mixed: Tensor
    warm: Warm
    ledger: Ledger | tuple[()]


@dataclass(frozen=True)
class Choco(Compressing):
    """CHOCO: agents mix public copies of their values and send what brings these up to date [koloskova2019].

        q_t = C(z_t - h_t)                  sent
        hhat_t = h_t + q_t                  the estimate of z_t, with order "new"
        h_{t+1} = h_t + alpha q_t           h_0 = 0
        result: z_t + gamma (W - I) hhat_t  ("old": h_t in place of hhat_t), or W hhat_t where ``gamma`` is none

    z_t, h_t [R, n, d], C the compressor. As 1'(W - I) = 0, the result has the agents' mean of z_t for any C, so gradient tracking
    keeps its invariant. With alpha = 1, q_t is error feedback on the increments of z: C(z_t - z_{t-1} + e_t), e the error. With
    alpha < 1 it is the COMM procedure of C-GT and LEAD [liao2022, liu2021]. With an identity C and gamma = alpha = 1 the result is W
    z_t. The larger the error of C, the smaller ``gamma`` must be: 0.01 .. 1, tuned.

    The sums of copies are only valid for a constant W: networks whose links fail or change are refused. A lost message makes the
    receiver's sum wrong for ever; the tracking invariant shows it. ``resync`` = K repairs that within K rounds. Each message then
    also carries a K-th part of the coordinates uncompressed, in turn: of the copy, and of the sum of the copies over all rounds.
    From these a receiver computes what it missed and corrects for it, so that means are as if nothing had been lost. These 2 d / K
    numbers a message count as bits. Sums over T rounds have a rounding error of about T eps, and so has the invariant.

    Raises:
        InputError: gamma or alpha outside (0, 1], an unknown ``order``, or a ``resync`` below 0 or above 2^24.

    >>> import torch
    >>> from distopt.channels.choco import Choco
    >>> from distopt.compressors.sign import Sign
    >>> class Average:
    ...     own = slice(None)
    ...     def heard(self, payload): return payload
    ...     def weigh(self, rows): return rows.mean(-2, keepdim=True).expand_as(rows)
    >>> channel, x = Choco(Sign(), gamma=0.5), torch.tensor([[[3.0, 1.0], [1.0, -1.0]]], dtype=torch.float64)
    >>> memory = channel.init(x)
    >>> for _ in range(60):
    ...     x, memory = channel(x, channel.encode(x, memory, None), memory, Average())
    >>> [[round(each, 6) + 0.0 for each in row] for row in x[0].tolist()]  # both at the mean
    [[2.0, 0.0], [2.0, 0.0]]
    """

    compressor: Compressor
    gamma: float | None = 0.3
    alpha: float = 1.0
    order: Literal["new", "old"] = "new"
    resync: int = 0
    constant: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._complete("choco")
        share("choco", alpha=self.alpha)
        if self.gamma is not None:
            share("choco", gamma=self.gamma)
        choice("choco", ("new", "old"), order=self.order)
        whole("choco", 0, COUNTED, resync=self.resync)

    def init(self, like: Tensor) -> ChocoMemory:
        zero = torch.zeros_like(like)
        ledger = Ledger(zero.clone(), zero.clone(), zero[..., :1].clone()) if self.resync else ()
        return ChocoMemory(zero, zero.clone(), start(self.compressor, like), ledger)

    def encode(self, z: Tensor, memory: ChocoMemory, u: Tensor | None) -> Payload:
        payload = encode(self.compressor, z - memory.copy, u, memory.warm)
        if not isinstance(memory.ledger, Ledger):
            return payload
        copies = (memory.copy, memory.ledger.said)  # before this round: what the receivers should have
        return payload, tuple(torch.gather(each, -1, self._part(memory.ledger, z.shape[-1])) for each in copies)

    def __call__(
        self, z: Tensor, payload: Payload, memory: ChocoMemory, wire: Wire, u: Tensor | None = None
    ) -> tuple[Tensor, ChocoMemory]:
        copy, mixed, _, ledger = memory
        missed: Tensor | float = 0.0
        heard = wire.heard(payload)
        if isinstance(ledger, Ledger):
            (payload, _), (heard, told) = payload, heard
            mixed, missed, ledger = self._resynchronised(mixed, ledger, told, wire)
        rows, q = decode(self.compressor, heard, z, wire, u)
        arrived = wire.weigh(rows)
        seen, public = (mixed + arrived, copy + q) if self.order == "new" else (mixed, copy)
        out = seen + missed if self.gamma is None else z + self.gamma * (seen - public + missed)
        if isinstance(ledger, Ledger):
            ledger = ledger._replace(said=ledger.said + public, applied=ledger.applied + seen)
        if self.order == "new" and self.alpha == 1:
            after, weighed = public, seen
        else:
            after, weighed = copy + self.alpha * q, mixed + self.alpha * arrived
        return out, ChocoMemory(after, weighed, warmer(self.compressor, payload, z.shape[-1]), ledger)

    def bits(self, d: int, itemsize: int) -> int:
        return self.compressor.bits(d, itemsize) + (2 * 8 * itemsize * self._width(d) if self.resync else 0)

    def _width(self, d: int) -> int:
        return -(-d // self.resync)

    def _part(self, ledger: Ledger, d: int) -> Tensor:
        """The coordinates of this turn, int64 [R, n, width]; past the end the last one is repeated."""
        width = self._width(d)
        return (ledger.turn.to(torch.int64) * width + torch.arange(width, device=ledger.turn.device)).clamp(max=d - 1)

    def _resynchronised(
        self, mixed: Tensor, ledger: Ledger, told: tuple[Tensor, Tensor], wire: Wire
    ) -> tuple[Tensor, Tensor, Ledger]:
        """The weighted copies with this round's coordinates corrected, the correction, and the ledger."""
        d = mixed.shape[-1]
        width = self._width(d)
        place = torch.arange(d, device=mixed.device) - ledger.turn.to(torch.int64) * width
        due = (place >= 0) & (place < width)
        copies, said = (torch.gather(wire.weigh(rows), -1, place.clamp(0, width - 1)) for rows in told)
        missed = torch.where(due, said - ledger.applied, 0.0)
        turn = torch.remainder(ledger.turn + 1, self.resync)
        return torch.where(due, copies, mixed), missed, Ledger(ledger.said, ledger.applied + missed, turn)
