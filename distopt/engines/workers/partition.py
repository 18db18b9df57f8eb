"""Who holds which agents: contiguous ids, or blocks between which few links run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from distopt.errors import InputError
from distopt.network.network import Network
from distopt.network.rows import Table, Tables

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

WAYS = ("contiguous", "cut")

SEEN = 64
"""Rounds of a time-varying network whose links count."""

SMOOTHINGS = 200
"""Steps of the random walk that turns an order of the agents into one in which neighbours are close."""

SWAPS = 200
"""The most pairs that are exchanged before the gain is measured; each exchange costs O(N)."""


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
            raise InputError(
                "blocks of agents must hold every agent 0 .. N-1 once, each at least one, in ascending order"
            )

    @classmethod
    def even(cls, agents: int, workers: int) -> Partition:
        """Contiguous blocks whose sizes differ by one at most, the larger ones first."""
        if not 1 <= workers <= agents:
            raise InputError(
                f"{agents} agents cannot be shared among {workers} workers: give each worker at least one agent"
            )
        return cls(tuple(tuple(int(i) for i in ids) for ids in np.array_split(np.arange(agents), workers)))

    @classmethod
    def of(cls, owner: ArrayLike) -> Partition:
        """From the block of each agent [N].

        >>> Partition.of([0, 1, 0]).blocks
        ((0, 2), (1,))
        """
        blocks = np.asarray(owner)
        return cls(tuple(tuple(np.flatnonzero(blocks == b).tolist()) for b in range(int(blocks.max()) + 1)))

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


def check(way: str) -> None:
    """Raise InputError unless this is a way to share agents."""
    if way not in WAYS:
        raise InputError(f"no partition {way!r}; partitions: {', '.join(WAYS)}")


def divide(network: Network, workers: int, way: str = "contiguous") -> Partition:
    """The agents of a network shared among workers in blocks whose sizes differ by one at most.

    "contiguous" takes ids as they come. "cut" looks for blocks with few links between them, so that few rows travel. It halves the
    agents, and the halves again, along an order that follows the graph: reverse Cuthill-McKee, smoothed by a lazy random walk towards
    the Fiedler vector. Then it exchanges pairs across each cut as long as that removes links [kernighan1970]. Where contiguous blocks
    cut no more, they are taken. In a changing network the links of the first rounds count, each as often as it occurs.

    GridScalar never depend on it. One worker computes it and sends it to the others, since such iterations round differently on
    other machines.

    Raises:
        InputError: more workers than agents, or no such way.
    """
    check(way)
    even = Partition.even(network.agents, workers)
    if way == "contiguous" or workers == 1:
        return even
    t = torch.arange(1 if network.constant else SEEN).reshape(-1, 1, 1, 1)
    tables = network.rows(t)
    if any(table.everyone.shape[-1] for table in tables):  # a complete graph: all partitions cut as many links
        return even
    graph = between(tables, network.agents)
    owner = np.empty(network.agents, np.int64)
    _halve(graph, np.arange(network.agents), [len(block) for block in even.blocks], 0, owner)
    found = Partition.of(owner)
    return found if cut(graph, found) < cut(graph, even) else even


def between(tables: Tables, agents: int) -> csr_matrix:
    """How often each pair of agents is linked: symmetric, [N, N], sparse, without a diagonal."""
    from scipy.sparse import csr_matrix  # few runs need scipy, whose import takes 25 MB

    _, i, j = links(tables, agents)
    i, j = i[i != j], j[i != j]
    one_way = csr_matrix((np.ones(len(i)), (i, j)), (agents, agents))
    return (one_way + one_way.T).tocsr()


def cut(graph: csr_matrix, partition: Partition) -> float:
    """How often links run between blocks, each counted in both directions.

    >>> from scipy.sparse import csr_matrix
    >>> path = csr_matrix(np.diag([1.0, 1.0], 1) + np.diag([1.0, 1.0], -1))
    >>> cut(path, Partition(((0, 1), (2,)))), cut(path, Partition(((0, 2), (1,))))
    (2.0, 4.0)
    """
    pairs, owner = graph.tocoo(), partition.owner()
    return float(pairs.data[owner[pairs.row] != owner[pairs.col]].sum())


def _halve(graph: csr_matrix, ids: Ints, sizes: Sequence[int], first: int, owner: Ints) -> None:
    """Give the agents ``ids`` to blocks ``first``, ... of these sizes."""
    if len(sizes) == 1:
        owner[ids] = first
        return
    half = len(sizes) // 2
    inner = graph[ids][:, ids].tocsr()
    left = np.zeros(len(ids), bool)
    left[np.argsort(_smooth(inner), kind="stable")[: sum(sizes[:half])]] = True
    _exchange(inner, left)
    _halve(graph, ids[left], sizes[:half], first, owner)
    _halve(graph, ids[~left], sizes[half:], first + half, owner)


def _smooth(graph: csr_matrix) -> Floats:
    """A number for each agent, close to those of its neighbours."""
    from scipy.sparse import diags
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    agents = graph.shape[0]
    value = np.empty(agents)
    value[reverse_cuthill_mckee(graph, symmetric_mode=True)] = np.linspace(-1, 1, agents)
    degree = np.asarray(graph.sum(1)).ravel()
    walk = diags(1 / np.maximum(degree, 1)) @ graph
    for _ in range(SMOOTHINGS):
        value = np.where(degree > 0, (value + walk @ value) / 2, value)
        value = value - value.mean()
        value = value / max(float(np.abs(value).max()), 1e-300)
    return value


def _exchange(graph: csr_matrix, left: NDArray[np.bool_]) -> None:
    """Exchange agents of the two sides, in pairs, until no row of exchanges removes a link; ``left`` is changed.

    A row takes the pair that gains most, even where that is a loss, and never the same agent twice; it is kept up to its best point.
    """
    while True:
        side = np.where(left, 1.0, -1.0)
        gain = -side * (graph @ side)  # links across less links inside, were the agent to move
        free = np.ones(len(left), bool)
        moves, gained = [], [0.0]
        for _ in range(min(int(left.sum()), int((~left).sum()), SWAPS)):
            a, b = (int(np.argmax(np.where(free & mine, gain, -np.inf))) for mine in (left, ~left))
            gained.append(gained[-1] + gain[a] + gain[b] - 2 * graph[a, b])
            moves.append([a, b])
            for moved in (a, b):
                row = slice(graph.indptr[moved], graph.indptr[moved + 1])
                near = graph.indices[row]
                gain[near] += 2 * side[near] * side[moved] * graph.data[row]
                free[moved], side[moved] = False, -side[moved]
        best = int(np.argmax(gained))
        if not best:
            return
        for pair in moves[:best]:
            left[pair] = ~left[pair]


def links(tables: Tables, agents: int) -> tuple[Ints, Ints, Ints]:
    """(round, receiver, sender) of every weight that is not zero, in any trial and of any table; a complete network's in full."""
    rounds = max(map(rounds_in, tables))
    found = []
    for table in tables:
        k, i, j = _links(table, agents)
        repeat = rounds // rounds_in(table)  # one entry serves all rounds
        every = np.repeat(np.arange(repeat), len(k))
        found.append((np.tile(k, repeat) + every, np.tile(i, repeat), np.tile(j, repeat)))
    k, i, j = (np.concatenate(each) for each in zip(*found, strict=True))
    return k, i, j


def rounds_in(table: Table) -> int:
    """How many rounds a table has an entry for; 1 where one serves all."""
    return max(leaf.shape[0] for leaf in table)


def _links(table: Table, agents: int) -> tuple[Ints, Ints, Ints]:
    """See ``links``."""
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
