"""A block's part of the weights: which rows it hears and sends in a round, and how it weighs them.

Each worker makes the halo of its block from the table of the whole network. So both ends of every message know its size
and order, and messages carry no addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt.engines.workers.partition import Partition, links, rounds_in
from distopt.network.rows import Table, Tables
from distopt.numerics.trees import moved

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Halo:
    """One block's weights in a chunk of rounds. Round k is entry k, or 0 where one entry serves all rounds.

    Attributes:
        tables: the rows of the own agents in each of the network's tables, with indices into the heard rows. All agents
            with a weight for one of them are heard, so one set of rows serves all channels.
        own: int64 [K|1, n], the places of the block's agents among the heard ones.
        width: h, the largest number of rows heard in a round, or a little more.
        order: for each round, None if the heard rows are the own rows followed by the h - n that arrive; else int64
            [h], the place of each among those. Places that a round does not need repeat an own row, which its table
            does not mention.
        send: for each round, block -> int64 places of the own rows that it needs.
        receive: for each round, block -> how many rows come from it. Arrived rows lie block after block, in ascending id in each.
    """

    tables: Tables
    own: Tensor
    width: int
    order: tuple[Tensor | None, ...]
    send: tuple[dict[int, Tensor], ...]
    receive: tuple[dict[int, int], ...]

    def on(self, device: torch.device) -> Halo:
        """The same with its tensors on a device."""
        if device.type == "cpu":
            return self
        tables, own, order, send = moved((self.tables, self.own, self.order, self.send), device)
        return replace(self, tables=tables, own=own, order=order, send=send)


def halo(tables: Tables, partition: Partition, me: int) -> Halo:
    """The halo of block ``me`` of a network whose weights are ``tables``."""
    agents, blocks, owner = partition.agents, len(partition.blocks), partition.owner()
    ids = np.asarray(partition.blocks[me])
    rounds = max(map(rounds_in, tables))
    k, i, j = links(tables, agents)
    hears, serves = (owner[i] == me) & (owner[j] != me), (owner[i] != me) & (owner[j] == me)
    needed = np.unique(k[hears] * agents + j[hears])
    asked = np.unique((k[serves] * blocks + owner[i[serves]]) * agents + j[serves])

    starts = np.searchsorted(needed, np.arange(rounds + 1) * agents)
    most, others = int(np.diff(starts).max()), agents - len(ids)
    # W that changes gets a rounded width, so that most chunks of rounds have rows of one shape
    width = len(ids) + (most if rounds == 1 else min(-(-most // 8) * 8, others))
    own, order = np.empty((rounds, len(ids)), np.int64), list[Tensor | None]()
    ascends = any(
        table.everyone.shape[-1] for table in tables
    )  # a sum over all rows in this order, which decides its bits
    place = np.full((rounds, agents), -1)  # each agent's place among the heard ones
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
    own_tables = tuple(_rows(table, ids, place) for table in tables)
    return Halo(own_tables, torch.from_numpy(own), width, tuple(order), tuple(send), tuple(receive))


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
        *_slots(table, ids, moved),
        *_senders(table, ids, moved),
    )


def _slots(table: Table, ids: Ints, moved: Callable[[Tensor, Ints], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The slots of the agents ``ids``. Other ends are numbered among the slots of the heard rows; that of an agent not heard is the row's own."""
    index, weight, side = table.slot_index, table.slot_weight, table.slot_side
    if not index.shape[-1]:
        return index, weight, side
    agent, slot = np.divmod(index[:, :, ids].numpy(), index.shape[-1])
    return (
        moved(torch.from_numpy(agent), ids) * index.shape[-1] + torch.from_numpy(slot),
        weight[:, :, ids].contiguous(),
        side[:, :, ids].contiguous(),
    )


def _senders(table: Table, ids: Ints, moved: Callable[[Tensor, Ints], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The senders of the agents ``ids``; a sender of weight 0 that is not heard is replaced by the agent itself."""
    index, weight, own = table.sender_index, table.sender_weight, table.sender_own
    if not index.shape[-1]:
        return index, weight, own
    return moved(index[:, :, ids], ids), weight[:, :, ids].contiguous(), own[:, :, ids].contiguous()


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
