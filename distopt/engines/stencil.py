"""A block's part of the weights: which rows it hears and sends in a round, and how it weighs them.

Everybody makes the stencil of its own block from the table of the whole network, so both ends of every message know its
size and its order, and none carries an address.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt.errors import InputError
from distopt.mixing import Table

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Partition:
    """Which agents each worker holds: ascending global ids, every agent once, no block empty.

    >>> Partition.even(5, 2).blocks
    ((0, 1, 2), (3, 4))

    Raises:
        InputError: a block that is empty or not ascending, or an agent that is held twice or not at all.
    """

    blocks: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        held = sorted(i for block in self.blocks for i in block)
        if held != list(range(len(held))) or any(not block or list(block) != sorted(block) for block in self.blocks):
            raise InputError("blocks of agents must hold every agent 0 .. N-1 once, each at least one, in ascending order")

    @classmethod
    def even(cls, agents: int, workers: int) -> Partition:
        """Contiguous blocks whose sizes differ by one at most, the larger ones first."""
        if not 1 <= workers <= agents:
            raise InputError(f"{agents} agents cannot be shared among {workers} workers: give each worker at least one agent")
        return cls(tuple(tuple(int(i) for i in ids) for ids in np.array_split(np.arange(agents), workers)))

    @property
    def agents(self) -> int:
        """N."""
        return sum(len(block) for block in self.blocks)

    def owner(self) -> Ints:
        """The block of each agent, int64 [N]."""
        owner = np.empty(self.agents, np.int64)
        for b, ids in enumerate(self.blocks):
            owner[list(ids)] = b
        return owner


@dataclass(frozen=True)
class Stencil:
    """One block's weights in a chunk of rounds. Round k is entry k, or 0 where one entry serves all rounds.

    Attributes:
        table: the rows of the own agents, with indices into the heard rows.
        own: int64 [K|1, n], where the own agents stand among the heard ones.
        width: h, the largest number of rows heard in a round.
        order: for each round, None where the heard rows are the own rows followed by the h - n that arrive; else int64 [h], where each
            lies among those. Places that a round does not need repeat an own row, which its table does not mention.
        send: for each round, block -> int64 places of the own rows that it needs.
        receive: for each round, block -> how many rows come from it. Arrived rows lie block after block, in ascending id in each.
    """

    table: Table
    own: Tensor
    width: int
    order: tuple[Tensor | None, ...]
    send: tuple[dict[int, Tensor], ...]
    receive: tuple[dict[int, int], ...]


def stencil(table: Table, partition: Partition, me: int) -> Stencil:
    """The stencil of block ``me`` of a network whose weights are ``table``."""
    agents, blocks, owner = partition.agents, len(partition.blocks), partition.owner()
    ids = np.asarray(partition.blocks[me])
    rounds = max(leaf.shape[0] for leaf in table)
    k, i, j = _links(table, agents)
    hears, serves = (owner[i] == me) & (owner[j] != me), (owner[i] != me) & (owner[j] == me)
    needed = np.unique(k[hears] * agents + j[hears])
    asked = np.unique((k[serves] * blocks + owner[i[serves]]) * agents + j[serves])

    starts = np.searchsorted(needed, np.arange(rounds + 1) * agents)
    width = len(ids) + int(np.diff(starts).max())
    own, order = np.empty((rounds, len(ids)), np.int64), list[Tensor | None]()
    ascends = table.everyone.shape[-1] > 0  # a sum over all rows as they stand: their order decides its bits
    place = np.full((rounds, agents), -1)  # of each agent among the heard ones
    receive = []
    for t in range(rounds):
        halo = needed[starts[t] : starts[t + 1]] % agents
        halo = halo[np.argsort(owner[halo], kind="stable")]  # as they arrive
        heard = np.concatenate([ids, halo])
        lies = np.argsort(heard) if ascends else np.arange(len(heard))
        order.append(torch.from_numpy(np.pad(lies, (0, width - len(heard)))) if ascends or len(heard) < width else None)
        place[t, heard[lies]] = np.arange(len(heard))
        own[t] = place[t, ids]
        senders, counts = np.unique(owner[halo], return_counts=True)
        receive.append({int(b): int(c) for b, c in zip(senders, counts, strict=True)})
    send: list[dict[int, Tensor]] = [{} for _ in range(rounds)]
    groups, first, counts = np.unique(asked // agents, return_index=True, return_counts=True)
    for group, start, count in zip(groups.tolist(), first.tolist(), counts.tolist(), strict=True):
        rows = asked[start : start + count] % agents
        send[group // blocks][group % blocks] = torch.from_numpy(np.searchsorted(ids, rows))
    return Stencil(_rows(table, ids, place), torch.from_numpy(own), width, tuple(order), tuple(send), tuple(receive))


def _links(table: Table, agents: int) -> tuple[Ints, Ints, Ints]:
    """(round, receiver, sender) of every weight that is not zero, in any trial; a complete network's in full."""
    if table.everyone.shape[-1]:
        i, j = np.divmod(np.arange(agents**2), agents)
        return np.zeros_like(i), i, j
    parts = []
    for index, weight, rows in (
        (table.index, table.weight, np.arange(agents)),
        (table.hub_index, table.hub_weight, table.hub_rows.flatten().numpy()),
    ):
        k, r, row, slot = np.nonzero(weight.numpy())
        sender = np.broadcast_to(index.numpy(), weight.shape)[k, r, row, slot]
        parts.append((k, rows[row], sender))
    k, i, j = (np.concatenate(each) for each in zip(*parts, strict=True))
    return k, i, j


def _rows(table: Table, ids: Ints, place: Ints) -> Table:
    """The rows of the agents ``ids``, their terms counted by ``place`` [rounds, N]; a term of weight 0 that is not heard is the row's own."""

    def moved(index: Tensor, receivers: Ints) -> Tensor:
        old = index.numpy()
        t = np.arange(len(place)).reshape(-1, 1, 1, 1)
        new = place[t, np.broadcast_to(old, (len(place), *old.shape[1:]))]
        return torch.from_numpy(np.where(new < 0, place[t, receivers.reshape(1, 1, -1, 1)], new))

    hubs = table.hub_rows.flatten().numpy()
    mine = np.flatnonzero(np.isin(hubs, ids))
    return Table(
        moved(table.index[:, :, ids], ids),
        table.weight[:, :, ids].contiguous(),
        torch.from_numpy(np.searchsorted(ids, hubs[mine])).reshape(1, 1, -1),
        moved(table.hub_index[:, :, mine], hubs[mine]),
        table.hub_weight[:, :, mine].contiguous(),
        table.everyone,
    )


FRONT = 64
"""Bytes in front of every message that are its carrier's, for a header."""


def pack(rows: Sequence[Tensor], places: Tensor | None = None) -> Tensor:
    """Tensors of any precision as one message of bytes, each padded to a multiple of 8; with ``places``, these entries of axis 1 of each.

    >>> one, two = unpack(pack([torch.ones(1, 3), torch.zeros(2)]), [((1, 3), torch.float32), ((2,), torch.float32)])
    >>> one.tolist(), two.tolist()
    ([[1.0, 1.0, 1.0]], [0.0, 0.0])
    >>> unpack(pack([torch.tensor([[1, 2, 3]])], torch.tensor([2, 0])), [((1, 2), torch.int64)])[0].tolist()
    [[3, 1]]
    """
    forms = [(row.shape if places is None else (row.shape[0], len(places), *row.shape[2:]), row.dtype) for row in rows]
    message = torch.empty(size(forms), dtype=torch.uint8)
    for row, into in zip(rows, unpack(message, forms), strict=True):
        if places is None:
            into.copy_(row)
        else:
            torch.index_select(row, 1, places, out=into)
    return message


def unpack(message: Tensor, forms: Sequence[tuple[Sequence[int], torch.dtype]]) -> list[Tensor]:
    """What ``pack`` packed, of these shapes and precisions."""
    out, start = [], FRONT
    for shape, dtype in forms:
        length = prod(shape) * dtype.itemsize
        out.append(message[start : start + length].view(dtype).view(tuple(shape)))
        start += _padded(length)
    return out


def size(forms: Sequence[tuple[Sequence[int], torch.dtype]]) -> int:
    """The bytes of a message of these shapes and precisions."""
    return FRONT + sum(_padded(prod(shape) * dtype.itemsize) for shape, dtype in forms)


def _padded(length: int) -> int:
    return length + -length % 8
