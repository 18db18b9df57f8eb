"""PowerGossip: low-rank differences along each link."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.compressors._matrices import matrices, orthonormal, shape, start
from distopt.numerics.sums import tree_sum
from distopt.optional import ChannelDefaults
from distopt.protocols import Wire
from distopt.ranges import share, whole


def powergossip(rank: int = 1, rows: int = 0, gamma: float = 1.0) -> PerLink:
    """PowerGossip: both ends of a link move by the difference of their matrices, seen along a few directions [vogels2020].

        V_e = orthonormal(U_e),    right turn: U_e = (Z_i - Z_j) V_e,    D_e = U_e V_e'
                                   left turn:  U_e = (Z_i - Z_j)' V_e,   D_e = V_e U_e'
        result: Z_i - gamma w_ij D_e and Z_j + gamma w_ij D_e, added up over all links e = (i, j), i < j

    Row i of z [R, n, d] is a matrix Z_i [a, b], a = ``rows`` or ceil(sqrt(d)) where that is 0; U_e has r = ``rank`` columns. The turns
    alternate, so each link makes a power iteration on the difference of its ends. It begins with a right turn from a fixed start; a
    column that becomes zero returns to its start. i sends j only Z_i V_e, so both compute the same U_e, bit for bit. Their corrections are
    opposite, so the agents' mean is kept. Only r has to be tuned: gamma in (0, 1] may stay 1. With r = a = b the result is z + gamma (W - I)
    z. W must be constant and symmetric.

    A message has max(a, b) r numbers for each link. ``bits`` counts the links of an agent with the largest degree of the network. The
    authors' code draws the start at random, and sends a r and b r numbers by turns.

    Raises:
        InputError: a rank below 1, negative rows, or gamma outside (0, 1].

    >>> from distopt.channels.powergossip import powergossip
    >>> powergossip(rank=2).for_degree(3).bits(d=100, itemsize=8)  # 3 links, 2 columns of 10 numbers each
    3840
    """
    return PerLink(rank, rows, gamma)


class LinkMemory(NamedTuple):
    """The memory of an agent.

    Attributes:
        vectors: U_e of each of its links, column after column [R, n, E r max(a, b)]: the same bits at both ends.
        turn: 0 where the next turn is a right one, 1 where it is a left one, the same at every agent [R, n, 1].
    """

    vectors: Tensor
    turn: Tensor


@dataclass(frozen=True)
class PerLink(ChannelDefaults):
    """See ``powergossip``; ``slots`` is the largest degree, E."""

    rank: int = 1
    rows: int = 0
    gamma: float = 1.0
    slots: int = 1

    def __post_init__(self) -> None:
        whole("powergossip", 1, rank=self.rank)
        whole("powergossip", 0, rows=self.rows, slots=self.slots)
        share("powergossip", gamma=self.gamma)

    def for_degree(self, slots: int) -> PerLink:
        """The channel for a network whose agents have at most ``slots`` neighbours."""
        return replace(self, slots=slots)

    def init(self, like: Tensor) -> LinkMemory:
        turn = torch.zeros_like(like[..., :1])
        return LinkMemory(
            self._start(like, turn).expand(*like.shape[:-1], self.slots, -1, -1).flatten(-3).clone(), turn
        )

    def encode(self, z: Tensor, memory: LinkMemory, u: Tensor | None) -> Tensor:
        """Z_i V_e (or Z_i' V_e) for each link, [R, n, E, r max(a, b)]."""
        m, n, _ = self._shape(z)
        matrix = matrices(z, m, n).unsqueeze(-3)
        sent = []
        for v in self._directions(z, memory):
            right = tree_sum(matrix.mT * v[..., :n].unsqueeze(-1)).squeeze(-2)
            left = tree_sum(matrix * v[..., :m].unsqueeze(-1)).squeeze(-2)
            sent.append(torch.where(_right(memory), _fit(right, max(m, n)), _fit(left, max(m, n))))
        return torch.cat(sent, -1)

    def __call__(
        self, z: Tensor, payload: Tensor, memory: LinkMemory, wire: Wire, u: Tensor | None = None
    ) -> tuple[Tensor, LinkMemory]:
        m, n, r = self._shape(z)
        slots, right = wire.slots, _right(memory)
        theirs = wire.heard(payload).flatten(1, 2)[:, slots.index]
        ahead = payload - theirs  # the neighbour's end has the same number with the other sign
        weight = slots.weight.to(z.dtype).unsqueeze(-1)
        moves = []
        for v, difference in zip(self._directions(z, memory), ahead.chunk(r, -1), strict=True):
            column, row = torch.where(right, difference, v)[..., :m], torch.where(right, v, difference)[..., :n]
            moves.append((weight * column).unsqueeze(-1) * row.unsqueeze(-2))
        move = tree_sum(sum(moves[1:], start=moves[0]).flatten(-2)).squeeze(-2)[..., : z.shape[-1]]
        vectors = torch.where(slots.side.unsqueeze(-1) > 0, ahead, theirs - payload).reshape(*payload.shape[:-1], r, -1)
        turn = 1 - memory.turn
        vectors = torch.where((vectors == 0).all(-1, keepdim=True), self._start(z, turn), vectors)
        return z - self.gamma * move, LinkMemory(vectors.flatten(-3), turn)

    def bits(self, d: int, itemsize: int) -> int:
        m, n, r = shape(d, self.rows, self.rank)
        return 8 * itemsize * self.slots * r * max(m, n)

    def _shape(self, z: Tensor) -> tuple[int, int, int]:
        return shape(z.shape[-1], self.rows, self.rank)

    def _directions(self, z: Tensor, memory: LinkMemory) -> list[Tensor]:
        """The columns of V_e, r tensors [R, n, E, max(a, b)], zero beyond their length."""
        m, n, r = self._shape(z)
        return orthonormal(memory.vectors.reshape(*z.shape[:-1], self.slots, r, max(m, n)).unbind(-2))

    def _start(self, z: Tensor, turn: Tensor) -> Tensor:
        """The start vectors of a link whose next turn is ``turn`` [R, n, 1], [R, n, 1, r, max(a, b)]."""
        m, n, r = self._shape(z)
        right, left = (_fit(start(size, r, z.dtype).reshape(r, size).to(z.device), max(m, n)) for size in (n, m))
        return torch.where(turn[..., None, None] == 0, right, left)


def _right(memory: LinkMemory) -> Tensor:
    return memory.turn.unsqueeze(-1) == 0


def _fit(v: Tensor, length: int) -> Tensor:
    """Vectors with zeros up to this length."""
    return torch.nn.functional.pad(v, (0, length - v.shape[-1]))
