"""Graphs: fixed ones and ones that change with the round, how they are made, and whether they are connected."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from distopt.errors import InputError
from distopt.network.components import components
from distopt.numerics import room
from distopt.numerics.random import Key, words

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

TOLERANCE = 1e-8
"""How far from 1 the rows or columns of weights that a user gave may sum."""

BYTES_PER_LINK = 64
"""Bytes per link, roughly, while a graph and its weights are made."""

MOST_LINKS = 2**28
"""Links of the largest graph that is made: those of a complete one of 23,170 agents."""

COARSEST = 0.009
"""The same of weights in low precision, however low: a row that sums to 0.99 is a mistake."""

_COARSE = 1e-6
"""A precision is coarse if the distance from 1 to the next number is at least this: 16-bit floats are, float32 is not."""

_SCALINGS = 200
"""How often rows and columns are scaled at most; what symmetric weights then lack goes to the self weights."""


@dataclass(frozen=True)
class Graph:
    """A fixed undirected graph, or a fixed weight matrix in coordinate form. Directed graphs are ``distopt.network.digraphs.Digraph``.

    Attributes:
        agents: N.
        edges: int64 [E, 2], each undirected edge once, i < j, sorted.
        matrix: None, or (rows, columns, values) of a weight matrix the user gave (self weights included); then no weight
            rule is applied.
        positions: None, or [N, 2] for drawing.
        names: None, or what the user calls each agent, for messages.
        notes: what the user should know about how the graph was read, a line each.
        lengths: None, or the kilometres of each of ``edges``, float64 [E] (see ``distopt.network.lengths``).
    """

    agents: int
    edges: Ints
    matrix: tuple[Ints, Ints, Floats] | None = None
    positions: Floats | None = None
    names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    lengths: Floats | None = field(default=None, metadata={"later": True})
    random: ClassVar[bool] = False
    connection: ClassVar[tuple[str, str]] = ("connected", "cannot reach each other")

    @property
    def one_way(self) -> tuple[Ints, Ints] | None:
        """Who hears whom, (receivers, senders), if links have a direction; None if each goes both ways."""
        return None if self.matrix is None else self.matrix[:2]

    def called(self, agent: int) -> str:
        """The name of an agent in messages.

        >>> Graph(2, np.array([[0, 1]]), names=("Oslo", "Rome")).called(1), Graph(1, np.empty((0, 2), np.int64)).called(0)
        ("'Rome'", 'agent 0')
        """
        return f"agent {agent}" if self.names is None else repr(self.names[agent])


@dataclass(frozen=True)
class Arcs:
    """Directed links of a chunk of rounds, flat: agent ``receiver`` hears ``sender`` in round t[round] of trial ``trial``.

    Undirected links appear in both directions; there are no self loops, and the self weights follow from the others. ``weight`` None
    asks for a weight rule.
    """

    round: Ints
    trial: Ints
    receiver: Ints
    sender: Ints
    weight: Floats | None = None


@runtime_checkable
class Switching(Protocol):
    """A topology that changes with the round: a pure function of (rounds, trials), like a scenario.

    What it may have besides: ``distopt.optional.TopologyDefaults``.
    """

    agents: int

    def arcs(self, t: Tensor, key: Key) -> Arcs:
        """The links in rounds t [K, 1, 1, 1] for ``key.trials``; ``Arcs.round`` counts 0 .. K-1, ``Arcs.trial`` 0 .. R-1."""


def graph_from_edges(agents: int, edges: ArrayLike, positions: ArrayLike | None = None) -> Graph:
    """An undirected graph of ``agents`` agents from pairs [E, 2] in any order and direction; repeated pairs count once.

    Raises InputError on a self loop and on an id outside 0 .. agents - 1.

    >>> graph_from_edges(3, [[2, 1], [0, 1], [1, 2]]).edges.tolist()
    [[0, 1], [1, 2]]
    """
    if agents < 1:
        raise InputError(f"a network needs at least 1 agent, not {agents}")
    pairs = np.asarray(edges)
    if pairs.size == 0:
        pairs = np.empty((0, 2), np.int64)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise InputError(
            f"edges must be pairs of whole numbers, shape [E, 2]; got {pairs.dtype} of shape {list(pairs.shape)}"
        )
    pairs = pairs.astype(np.int64)
    outside = (pairs < 0) | (pairs >= agents)
    if outside.any():
        a, b = pairs[outside.any(1)][0]
        raise InputError(f"edge ({a}, {b}) names an agent outside 0 .. {agents - 1}; number the agents from 0")
    loops = pairs[:, 0] == pairs[:, 1]
    if loops.any():
        i = pairs[loops][0, 0]
        raise InputError(f"edge ({i}, {i}) is a self loop; leave it out: every agent keeps a weight for itself anyway")
    code = np.minimum(pairs[:, 0], pairs[:, 1]) * agents + np.maximum(pairs[:, 0], pairs[:, 1])
    if code.size > 1 and not (code[1:] > code[:-1]).all():
        code = np.sort(code)
        code = code[np.concatenate([[True], code[1:] != code[:-1]])]  # several times faster than np.unique
    where = None if positions is None else np.asarray(positions, dtype=np.float64)
    if where is not None and where.shape != (agents, 2):
        raise InputError(f"positions must have shape [{agents}, 2], not {list(where.shape)}")
    return Graph(agents, np.stack([code // agents, code % agents], 1), positions=where)


def graph_from_networkx(G: Any) -> Graph:
    """The graph of a networkx graph, a ``Digraph`` of a directed one: nodes are sorted (as text if they do not compare) and become 0 .. N-1.

    Edge attributes, "weight" among them, are ignored: a weight rule makes the weights. To give your own, use
    ``graph_from_matrix``. Raises InputError for self loops, and nodes that have no order from run to run.

    >>> import networkx as nx
    >>> len(graph_from_networkx(nx.petersen_graph()).edges)
    15
    """
    from distopt.network.digraphs import digraph_from_arcs  # which is made of graphs

    try:
        nodes = sorted(G.nodes)
    except TypeError:
        nodes = sorted(G.nodes, key=str)
        if any(str(node) == object.__repr__(node) for node in nodes):  # a place in memory
            raise InputError(
                "the nodes of the networkx graph cannot be sorted; use networkx.convert_node_labels_to_integers"
            ) from None
    number = {node: i for i, node in enumerate(nodes)}
    for a, b in G.edges():
        if a == b:
            raise InputError(
                f"node {a!r} of the networkx graph is linked to itself; leave it out: every agent keeps a weight for itself anyway"
            )
    made: Callable[..., Graph] = digraph_from_arcs if G.is_directed() else graph_from_edges
    return replace(made(len(nodes), [(number[a], number[b]) for a, b in G.edges()]), names=tuple(map(str, nodes)))


def graph_from_matrix(W: Any) -> Graph:
    """A fixed weight matrix W [N, N] (array, tensor or scipy sparse), row i holds the weights that agent i gives to its senders and itself.

    Only non-zero entries are kept; no weight rule is applied. Rows, or else columns, must sum to 1 within 1e-8, or
    within the precision of W. A W in float32, float16 or bfloat16 is scaled in float64 so that they sum to 1: rows and
    columns if both do, and a symmetric W stays symmetric. Raises InputError unless W is square, finite and has such
    rows or columns. Whether an algorithm can use it is checked later, with the algorithm.

    >>> graph_from_matrix([[0.5, 0.5], [0.25, 0.75]]).edges.tolist()
    [[0, 1]]
    >>> graph_from_matrix(np.full((3, 3), 1 / 3, np.float32)).matrix[2][:2].tolist()
    [0.3333333333333333, 0.3333333333333333]
    """
    shape, rows, columns, values, precision = _entries(W)
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 1:
        raise InputError(f"a weight matrix must be square with at least 1 row, not of shape {list(shape)}")
    agents = int(shape[0])
    bad = ~np.isfinite(values)
    if bad.any():
        raise InputError(f"weight ({rows[bad][0]}, {columns[bad][0]}) is {values[bad][0]}; weights must be finite")
    kept = values != 0
    rows, columns, values = rows[kept], columns[kept], values[kept]
    sums, rounding = _sums(agents, rows, values, precision)
    row = int(np.abs(sums - 1).argmax())
    across, by_column = _sums(agents, columns, values, precision)
    if (
        precision > _COARSE
    ):  # columns that sum to 1 within its rounding may be chance: one row that is off moves each a little
        by_column = TOLERANCE
    if abs(sums[row] - 1) > rounding and np.abs(across - 1).max() <= by_column:
        if precision > TOLERANCE:
            columns, rows, values = _scaled(agents, columns, rows, values, precision, by_column)
    elif abs(sums[row] - 1) > rounding:
        if (values == 1).all():
            raise InputError(
                f"the matrix holds 0 and 1 only (row {row} sums to {sums[row]:.10g}): it is an adjacency matrix, not weights; save it as .csv, "
                "or in Python give networkx.from_numpy_array of it, and a weight rule is applied"
            )
        if np.abs(sums).max() <= rounding and agents > 1:
            raise InputError(
                "the rows of the matrix sum to 0: it is a Laplacian L, not weights; give I - c L, with c = 1 / (1 + max L_ii), say"
            )
        raise InputError(
            f"row {row} of the weights sums to {sums[row]:.10g}; divide each row by its sum so that it is 1"
        )
    elif precision > TOLERANCE:
        rows, columns, values = _scaled(agents, rows, columns, values, precision, rounding)
    off = rows != columns
    edges = graph_from_edges(agents, np.stack([rows[off], columns[off]], 1)).edges
    return Graph(agents, edges, matrix=(rows, columns, values))


def _sums(agents: int, lines: Ints, values: Floats, precision: float) -> tuple[Floats, float]:
    """The sums of rows or columns, and how far from 1 they may be for the precision in which their values were given."""
    widest = int(np.bincount(lines, minlength=agents).max())
    rounding = max(TOLERANCE, min(precision * (1 + math.sqrt(widest)), COARSEST))
    return np.bincount(lines, values, agents).astype(np.float64), rounding


def _entries(W: Any) -> tuple[tuple[int, ...], Ints, Ints, Floats, float]:
    """Shape, rows, columns and values of a matrix in float64, and the distance from 1 to the next number where it was made."""
    precision = 0.0
    if isinstance(W, Tensor):
        precision = torch.finfo(W.dtype).eps if W.is_floating_point() else 0.0
        W = W.detach().to_dense().cpu()
        W = (W.double() if W.is_floating_point() else W).numpy()
    sparse = hasattr(W, "tocoo")
    if isinstance(W, np.ma.MaskedArray):
        raise InputError("the weight matrix is a masked array; give W.filled(0), or another array without a mask")
    W = W if sparse else np.asarray(W)
    if W.dtype.kind not in "biuf":
        raise InputError(f"a weight matrix holds real numbers, not {W.dtype}")
    if W.dtype.kind == "f":
        precision = max(precision, float(np.finfo(W.dtype).eps))
    if sparse:
        W = W.astype(np.float64).tocsr().tocoo()  # through csr: entries given twice are added
        rows, columns, values = W.row, W.col, W.data
    elif W.ndim == 2:
        rows, columns = np.nonzero(W)
        values = W[rows, columns]
    else:
        rows = columns = values = np.empty(0)
    with np.errstate(invalid="ignore"):  # values that are not finite are refused later, by name
        return W.shape, rows.astype(np.int64), columns.astype(np.int64), values.astype(np.float64), precision


def _scaled(
    agents: int, rows: Ints, columns: Ints, values: Floats, precision: float, rounding: float
) -> tuple[Ints, Ints, Floats]:
    """Weights whose rows sum to 1 but for ``rounding``, scaled so that they do; columns too, and symmetry kept, where they had it."""
    from scipy.sparse import coo_array

    W = coo_array((values, (rows, columns)), shape=(agents, agents)).tocsr()
    symmetric = (
        abs(W - W.T) - 2 * precision * abs(W).maximum(abs(W.T))
    ).max() <= 1e-7  # the two halves are rounded separately
    W = ((W + W.T) / 2 if symmetric else W).tocoo()
    rows, columns, values = W.row.astype(np.int64), W.col.astype(np.int64), W.data
    if values.min() >= 0 and (symmetric or np.abs(np.bincount(columns, values, agents) - 1).max() <= rounding):
        for _ in range(_SCALINGS):
            sums, across = np.bincount(rows, values, agents), np.bincount(columns, values, agents)
            if max(np.abs(sums - 1).max(), np.abs(across - 1).max()) < 1e-15:
                break
            values = values / np.sqrt(sums[rows] * across[columns])
    left = 1.0 - np.bincount(rows, values, agents)
    if not symmetric:
        return rows, columns, values / (1.0 - left)[rows]
    off = rows != columns
    diagonal = np.bincount(rows[~off], values[~off], agents) + np.where(np.abs(left) > 1e-14, left, 0.0)
    own = np.flatnonzero(diagonal)
    return (
        np.concatenate([rows[off], own]),
        np.concatenate([columns[off], own]),
        np.concatenate([values[off], diagonal[own]]),
    )


def check_connected(graph: Graph) -> None:
    """Raise InputError unless there is a path from every agent to every other.

    >>> check_connected(graph_from_edges(4, [[0, 1], [2, 3]]))
    Traceback (most recent call last):
    ...
    distopt.errors.InputError: the graph is not connected: it falls into 2 parts (agent 0 and agent 2 cannot reach each other); add links
    """
    if graph.agents < 1:
        raise InputError(f"a network needs at least 1 agent, not {graph.agents}")
    parts = components(graph)
    if (parts != parts[0]).any():
        raise InputError(
            f"the graph is not {graph.connection[0]}: it falls into {len(np.unique(parts))} parts "
            f"({graph.called(0)} and {graph.called(int((parts != parts[0]).argmax()))} {graph.connection[1]}); add links"
        )


def connected(
    draw: Callable[[np.random.Generator], Graph],
    key: Key,
    stream: str,
    advice: str,
    tries: int = 100,
    likely: float = math.inf,
    agents: int = 1,
) -> Graph:
    """The first connected graph among at most ``tries`` independent draws.
    If there is none, the message ends with ``advice``.

    Nothing is drawn where the ``likely`` number of links, their mean, is so small that the N - 1 that connect never come together.

    >>> connected(lambda rng: graph_from_edges(2, [[0, 1]]), Key(0, range(2), [0], 2), "demo", "add links").agents
    2
    """
    for attempt in range(tries if 1e6 * likely >= agents - 1 else 0):
        graph = draw(generator(key, stream, attempt))
        if is_connected(graph):
            return graph
    raise InputError(f"{stream.rpartition('/')[2]}: none of {tries} random graphs was connected; {advice}")


def check_links(count: float, who: str, advice: str, most: int = MOST_LINKS) -> None:
    """Raise InputError, before any memory is taken, if ``who`` would make more than ``most`` links. The message ends with ``advice``.

    >>> check_links(1e12, "complete", "lower the number of agents")
    Traceback (most recent call last):
    ...
    distopt.errors.InputError: complete: about 1e+12 links take 59,604.6 GiB, more than the limit of 16.0 GiB; lower the number of agents
    """
    if count > most:
        size, limit = (f"{each * BYTES_PER_LINK / 2**30:,.1f} GiB" for each in (count, most))
        raise InputError(f"{who}: about {count:.3g} links take {size}, more than the limit of {limit}; {advice}")
    room.memory(count * BYTES_PER_LINK, f"{who}: about {count:.3g} links", advice.removeprefix("lower "))


def is_connected(graph: Graph) -> bool:
    """Whether ``check_connected`` passes.

    >>> is_connected(graph_from_edges(2, [[0, 1]]))
    True
    """
    if graph.matrix is None and len(graph.edges) < graph.agents - 1:
        return False
    parts = components(graph)
    return bool((parts == parts[0]).all())


def generator(key: Key, stream: str, attempt: int = 0) -> np.random.Generator:
    """A generator for drawing one fixed graph, seeded from the address (seed, stream, first trial, attempt).

    >>> key = Key(0, range(4), [0], 4)
    >>> float(generator(key, "demo").random()) == float(generator(key, "demo").random())
    True
    """
    low, high = (words(key.seed, stream, int(key.trials[0]), 4 * attempt, 2) * 2.0**53).astype(np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([low, high], dtype=np.uint64)))


def most_square(agents: int) -> tuple[int, int]:
    """(rows, columns), rows <= columns, rows x columns = agents, with rows as large as possible.

    >>> most_square(12)
    (3, 4)
    """
    if agents < 1:
        raise InputError(f"a network needs at least 1 agent, not {agents}")
    rows = next(rows for rows in range(math.isqrt(agents), 0, -1) if agents % rows == 0)
    return rows, agents // rows


def pair_from_number(number: Ints) -> tuple[Ints, Ints]:
    """Agents (i, j), i < j, of pair j (j - 1) / 2 + i: the pairs of N agents are numbers 0 .. N (N - 1) / 2 - 1.

    >>> [a.tolist() for a in pair_from_number(np.arange(4))]
    [[0, 0, 1, 0], [1, 2, 2, 3]]
    """
    j = ((1 + np.sqrt(1 + 8 * number.astype(np.float64))) / 2).astype(np.int64)
    j -= j * (j - 1) // 2 > number  # the square root may be off by one for large numbers
    j += j * (j + 1) // 2 <= number
    return number - j * (j - 1) // 2, j
