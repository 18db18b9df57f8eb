"""Padded sparse rows: how W is stored, and sums over its rows.

Neighbours are summed in ascending global id, the agent itself in its place among them. A row of more than 32 terms is cut
into blocks of 32; each block is summed in that order and the block sums are added pairwise. This order belongs to the row
alone, so a number does not depend on the chunk of rounds, on the padding or on where the row is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.network.graphs import Floats, Ints
from distopt.numerics.sums import tree_sum

BLOCK = 32  # terms that are summed one after another


class Table(NamedTuple):
    """The weights of a chunk of rounds. Round k is ``leaf[k if leaf.shape[0] > 1 else 0]`` of every leaf.

    Attributes:
        index: int64 [K|1, R|1, n, D], the terms of each row in ascending id, itself among them; padded with itself.
        weight: float64 [K|1, R|1, n, D], 0 where padded.
        hub_rows: int64 [1, 1, h], the rows that are too long for D terms; their ``weight`` above is 0.
        hub_index, hub_weight: [K|1, R|1, h, Dh], the terms of those rows; Dh is a multiple of 32.
        everyone: float64 [1, 1, 1, c]; where c = 1, this weight times the sum over ALL rows is added (a complete graph with
            equal weights, for which D = 1), and the rows must then be all N, in ascending id.
        slot_index: int64 [1, 1, n, E], of each link of each agent (``distopt.network.links.slots``), which of the other rows' slots is its other
            end; E = 0 unless a channel sends over each link something of its own.
        slot_weight, slot_side: float64 [1, 1, n, E] and [K|1, R|1, n, E], its weight, and 1 at its end of lower id, -1 at the other; both are 0
            where a slot is empty, and the latter where no message arrives on it.
        sender_index, sender_weight, sender_own: int64 and float64 [K|1, R|1, n, D], those whom each row hears on a fixed graph in ascending id,
            their weights, 0 where a message is lost or a place empty, and the own weight [K|1, R|1, n, 1] (see
            ``distopt.network.net.Senders``); D = 0 unless a channel keeps something of each sender.
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody asks a table for
    weight: Tensor
    hub_rows: Tensor
    hub_index: Tensor
    hub_weight: Tensor
    everyone: Tensor
    slot_index: Tensor = torch.empty(1, 1, 1, 0, dtype=torch.int64)
    slot_weight: Tensor = torch.empty(1, 1, 1, 0, dtype=torch.float64)
    slot_side: Tensor = torch.empty(1, 1, 1, 0, dtype=torch.float64)
    sender_index: Tensor = torch.empty(1, 1, 1, 0, dtype=torch.int64)
    sender_weight: Tensor = torch.empty(1, 1, 1, 0, dtype=torch.float64)
    sender_own: Tensor = torch.empty(1, 1, 1, 0, dtype=torch.float64)


Tables = tuple[Table, ...]
"""The different weights of a network: one table where all channels have the same."""


def apply(table: Table, z: Tensor) -> Tensor:
    """W z for one round: ``table`` leaves without their first axis ([R|1, n, D], ...), z [R, n, d]; result in z's dtype.

    >>> from distopt.network.graphs import graph_from_edges
    >>> from distopt.network.mixing import ConstantMixing
    >>> W = ConstantMixing(graph_from_edges(3, [[0, 1], [1, 2]]), "metropolis")
    >>> table = Table(*(leaf[0] for leaf in W.rows(torch.zeros(1, 1, 1, 1, dtype=torch.int64))))
    >>> apply(table, torch.tensor([[[3.0], [0.0], [6.0]]])).flatten().tolist()
    [2.0, 3.0, 4.0]
    """
    out = _gather(table.index, table.weight, z)
    if table.hub_rows.shape[-1]:
        hubs, width = table.hub_index.shape[-2:]
        rows = (-1, hubs * (width // BLOCK), BLOCK)
        sums = _gather(table.hub_index.reshape(rows), table.hub_weight.reshape(rows), z)
        sums = tree_sum(sums.reshape(*sums.shape[:-2], hubs, -1, sums.shape[-1])).squeeze(-2)
        out = out.index_copy(-2, table.hub_rows[0], sums)
    if table.everyone.shape[-1]:
        out = out + table.everyone.to(z.dtype) * tree_sum(z)
    return out


def arcs(tables: Sequence[Table], agents: int) -> Tensor:
    """How many ordered pairs of agents i, j have a weight w_ij that is not zero in one of the tables, float64 [K|1, R|1].

    >>> from distopt.network.graphs import graph_from_edges
    >>> from distopt.network.mixing import ConstantMixing
    >>> W = ConstantMixing(graph_from_edges(3, [[0, 1], [1, 2]]), "metropolis")
    >>> arcs([W.rows(torch.zeros(1, 1, 1, 1, dtype=torch.int64))], 3).tolist()
    [[4.0]]
    """
    if any(table.everyone.shape[-1] for table in tables):
        return torch.full((1, 1), float(agents * (agents - 1)), dtype=torch.float64)
    masks = [[*_others(table, agents)] for table in tables]
    if len(tables) == 1:
        return sum((there.sum((-2, -1)).double() for _, _, there in masks[0]), torch.zeros(1, 1, dtype=torch.float64))
    shapes = [there.shape[:2] for parts in masks for _, _, there in parts]
    lead = (max(k for k, _ in shapes), max(r for _, r in shapes))
    found = []
    for rows, index, there in (part for parts in masks for part in parts):
        shape = (*lead, *there.shape[2:])
        codes = rows.unsqueeze(-1) * agents + index
        place = torch.arange(lead[0] * lead[1]).reshape(*lead, 1, 1) * agents**2
        found.append((place + codes.expand(shape))[there.expand(shape)])
    each = torch.unique(torch.cat(found)) // agents**2
    return torch.bincount(each, minlength=lead[0] * lead[1]).double().reshape(lead)


def longest(table: Table, codes: Ints, lengths: Floats, agents: int) -> Tensor:
    """The greatest length of the links that have a weight w_ij that is not zero, float64 [K|1, R|1]; 0 where there is none.

    ``codes`` are the numbers i N + j of all links, i < j, sorted, and ``lengths`` theirs.
    """
    found = torch.zeros(1, 1, dtype=torch.float64)
    if not len(lengths):
        return found
    if table.everyone.shape[-1]:
        return found + float(lengths.max())
    known, of_known = torch.from_numpy(codes), torch.from_numpy(lengths)
    for rows, index, there in _others(table, agents):
        if not there.numel():
            continue
        receivers = rows.unsqueeze(-1)
        code = torch.minimum(receivers, index) * agents + torch.maximum(receivers, index)
        each = of_known[torch.searchsorted(known, code).clamp(max=len(known) - 1)]
        found = torch.maximum(found, torch.where(there, each, 0.0).amax((-2, -1)))
    return found


def _others(table: Table, agents: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The rows [n] of a table, their terms [K|1, R|1, n, D], and which of those are of other agents and not zero."""
    for rows, index, weight in (
        (torch.arange(agents), table.index, table.weight),
        (table.hub_rows[0, 0], table.hub_index, table.hub_weight),
    ):
        yield rows, index, (weight != 0) & (index != rows.unsqueeze(-1))


def _gather(index: Tensor, weight: Tensor, z: Tensor) -> Tensor:
    """sum_k weight[..., k] z[index[..., k]], one term after the other."""
    weight = weight.to(z.dtype)
    trial = torch.arange(z.shape[0], device=z.device).unsqueeze(-1) if index.shape[0] > 1 else None
    out = z
    for k in range(index.shape[-1]):
        rows = z[:, index[0, :, k]] if trial is None else z[trial, index[..., k]]
        term = weight[..., k : k + 1] * rows
        out = out + term if k else term
    return out


class Pattern:
    """Where the terms of B matrices of N rows go in a padded table; self terms are added, terms sorted by (row, column).

    ``rows`` count 0 .. B N - 1. Values are then given in the order of the links followed by the B N self terms.
    """

    def __init__(self, agents: int, blocks: int, rows: Ints, columns: Ints) -> None:
        total = blocks * agents
        own = np.arange(total)
        code = np.concatenate([rows * agents + columns, own * agents + own % agents])
        self.order = np.argsort(code)
        code = code[self.order]
        if (code[1:] == code[:-1]).any():
            i, j = divmod(int(code[1:][code[1:] == code[:-1]][0]) % agents**2, agents)
            raise InputError(
                f"the topology lists the link from agent {j} to agent {i} twice in one round, or as a self loop"
            )
        row, column = code // agents, code % agents
        self.length = np.bincount(row, minlength=total)
        self.first = np.cumsum(self.length) - self.length
        slot = np.arange(len(row)) - self.first[row]
        longest = self.length.reshape(blocks, agents).max(0)
        self.width, self.hubs, self.hub_width = _storage(longest, blocks > 1)
        place = np.full(agents, -1)
        place[self.hubs] = np.arange(len(self.hubs))
        place = place[row % agents]
        self.short, self.long = np.flatnonzero(place < 0), np.flatnonzero(place >= 0)
        self.at = row[self.short] * self.width + slot[self.short]
        block = row[self.long] // agents
        self.hub_at = (block * len(self.hubs) + place[self.long]) * self.hub_width + slot[self.long]
        self.shape = (blocks, agents, self.width)
        self.hub_shape = (blocks, len(self.hubs), self.hub_width)
        index = np.repeat(own % agents, self.width)
        index[self.at] = column[self.short]
        hub_index = np.tile(np.repeat(self.hubs, self.hub_width), blocks)
        hub_index[self.hub_at] = column[self.long]
        self.index, self.hub_index = index.reshape(self.shape), hub_index.reshape(self.hub_shape)

    @property
    def slots(self) -> int:
        """GridScalar stored per matrix."""
        return int(np.prod(self.shape[1:]) + np.prod(self.hub_shape[1:]))

    def table(self, values: Floats, lead: tuple[int, int]) -> Table:
        """Sorted values, [terms] of all B matrices or [K, R, terms] of one pattern, as a table of ``lead`` = (K, R)."""
        outer = values.shape[:-1]
        short, long = np.zeros((*outer, int(np.prod(self.shape)))), np.zeros((*outer, int(np.prod(self.hub_shape))))
        short[..., self.at] = values[..., self.short]
        long[..., self.hub_at] = values[..., self.long]
        once = lead if self.shape[0] > 1 else (1, 1)  # one pattern: its index is the same in every round and trial
        return Table(
            torch.from_numpy(self.index.reshape(*once, *self.shape[1:])),
            torch.from_numpy(short.reshape(*lead, *self.shape[1:])),
            torch.from_numpy(self.hubs).reshape(1, 1, -1),
            torch.from_numpy(self.hub_index.reshape(*once, *self.hub_shape[1:])),
            torch.from_numpy(long.reshape(*lead, *self.hub_shape[1:])),
            torch.empty(1, 1, 1, 0, dtype=torch.float64),
        )


def _storage(longest: Ints, switching: bool) -> tuple[int, Ints, int]:
    """D, the rows kept apart, and Dh, for rows of these lengths: as few padded numbers as the numerics allow."""
    top, none = int(longest.max()), np.empty(0, np.int64)
    if top <= BLOCK:
        # a switching graph gets a rounded D, so that most chunks of rounds have tables of one shape
        return (top if top <= 4 or not switching else -(-top // 8) * 8), none, BLOCK
    wide = -(-top // BLOCK) * BLOCK
    if switching and 2 * int((longest > BLOCK).sum()) > len(longest):
        return 1, np.arange(len(longest)), wide
    width = min((4, 8, 16, 32), key=lambda D: len(longest) * D + int((longest > D).sum()) * wide)
    return width, np.flatnonzero(longest > width), wide
