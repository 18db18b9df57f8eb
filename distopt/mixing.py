"""Graphs, mixing weights, and W as an operator that is applied, never stored as an N x N array.

Neighbours are summed in ascending global id, the agent itself in its place among them. A row of more than 32 terms is cut
into blocks of 32; each block is summed in that order and the block sums are added pairwise. This order belongs to the row
alone, so a number does not depend on the chunk of rounds, on the padding or on where the row is stored.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from distopt.errors import InputError
from distopt.random import Key, words

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Kind = Literal["row", "doubly", "symmetric"]

RULES = ("metropolis", "lazy_metropolis", "max_degree", "best_constant", "fastest")
_SPECTRAL = ("best_constant", "fastest")  # rules that look at the whole graph at once
_BLOCK = 32  # terms that are summed one after another
_DENSE = 1500  # agents up to which a spectrum is computed from a dense matrix
_SDP = 100  # agents up to which a semidefinite program ends in minutes
_TOLERANCE = 1e-8  # on row and column sums of weights that a user gave


@dataclass(frozen=True)
class Graph:
    """A fixed undirected graph, or a fixed weight matrix in coordinate form.

    Attributes:
        agents: N.
        edges: int64 [E, 2], each undirected edge once, i < j, sorted.
        matrix: None, or (rows, columns, values) of a weight matrix the user gave (self weights included); then no weight
            rule is applied.
        positions: None, or [N, 2] for drawing.
    """

    agents: int
    edges: Ints
    matrix: tuple[Ints, Ints, Floats] | None = None
    positions: Floats | None = None


@dataclass(frozen=True)
class Arcs:
    """Directed links of a chunk of rounds, flat: agent ``receiver`` hears ``sender`` in round t[round] of trial ``trial``.

    Undirected links appear in both directions; there are no self loops. ``weight`` None asks for a weight rule.
    """

    round: Ints
    trial: Ints
    receiver: Ints
    sender: Ints
    weight: Floats | None = None


@runtime_checkable
class Switching(Protocol):
    """A topology that changes with the round: a pure function of (rounds, trials), like a scenario.

    Optional attribute ``random``: False says that every trial sees the same links; they are then asked for only once.
    """

    agents: int

    def arcs(self, t: Tensor, key: Key) -> Arcs:
        """The links in rounds t [K, 1, 1, 1] for ``key.trials``; ``Arcs.round`` counts 0 .. K-1, ``Arcs.trial`` 0 .. R-1."""


class Table(NamedTuple):
    """The weights of a chunk of rounds. Round k is ``leaf[k if leaf.shape[0] > 1 else 0]`` of every leaf.

    Attributes:
        index: int64 [K|1, R|1, n, D], the terms of each row in ascending id, itself among them; padded with itself.
        weight: float64 [K|1, R|1, n, D], 0 where padded.
        hub_rows: int64 [1, 1, h], the rows that are too long for D terms; their ``weight`` above is 0.
        hub_index, hub_weight: [K|1, R|1, h, Dh], the terms of those rows; Dh is a multiple of 32.
        everyone: float64 [1, 1, 1, c]; where c = 1, this weight times the sum over ALL rows is added (a complete graph with
            equal weights, for which D = 1), and the rows must then be all N, in ascending id.
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody asks a table for
    weight: Tensor
    hub_rows: Tensor
    hub_index: Tensor
    hub_weight: Tensor
    everyone: Tensor


def apply(table: Table, z: Tensor) -> Tensor:
    """W z for one round: ``table`` leaves without their first axis ([R|1, n, D], ...), z [R, n, d]; result in z's dtype.

    >>> W = Mixing(graph_from_edges(3, [[0, 1], [1, 2]]), "metropolis", Key(0, range(3), range(1), 3))
    >>> table = Table(*(leaf[0] for leaf in W.tables(torch.zeros(1, 1, 1, 1, dtype=torch.int64))))
    >>> apply(table, torch.tensor([[[3.0], [0.0], [6.0]]])).flatten().tolist()
    [2.0, 3.0, 4.0]
    """
    out = _gather(table.index, table.weight, z)
    if table.hub_rows.shape[-1]:
        hubs, width = table.hub_index.shape[-2:]
        rows = (-1, hubs * (width // _BLOCK), _BLOCK)
        sums = _gather(table.hub_index.reshape(rows), table.hub_weight.reshape(rows), z)
        sums = _pairwise(sums.reshape(*sums.shape[:-2], hubs, -1, sums.shape[-1])).squeeze(-2)
        out = out.index_copy(-2, table.hub_rows[0], sums)
    if table.everyone.shape[-1]:
        out = out + table.everyone.to(z.dtype) * _pairwise(z)
    return out


def _gather(index: Tensor, weight: Tensor, z: Tensor) -> Tensor:
    """sum_k weight[..., k] z[index[..., k]], unrolled over k so that a compiler fuses it into one pass."""
    weight = weight.to(z.dtype)
    trial = torch.arange(z.shape[0], device=z.device).unsqueeze(-1) if index.shape[0] > 1 else None
    out = z
    for k in range(index.shape[-1]):
        rows = z[:, index[0, :, k]] if trial is None else z[trial, index[..., k]]
        term = weight[..., k : k + 1] * rows
        out = out + term if k else term
    return out


def _pairwise(z: Tensor) -> Tensor:
    """Sum over axis -2 (kept, length 1) by adding neighbours pairwise: the same bits on every device and in every block."""
    while z.shape[-2] > 1:
        if z.shape[-2] % 2:
            z = torch.nn.functional.pad(z, (0, 0, 0, 1))
        z = z[..., 0::2, :] + z[..., 1::2, :]
    return z


# ------------------------------------------------------------------------------------------------------------------ graphs


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
        raise InputError(f"edges must be pairs of whole numbers, shape [E, 2]; got {pairs.dtype} of shape {list(pairs.shape)}")
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
    """The graph of an undirected networkx graph: nodes are sorted (as text if they do not compare) and become 0 .. N-1.

    Edge attributes, "weight" among them, are ignored: a weight rule makes the weights. To give your own, use
    ``graph_from_matrix``. Directed graphs and self loops are refused.

    >>> import networkx as nx
    >>> len(graph_from_networkx(nx.petersen_graph()).edges)
    15
    """
    if G.is_directed():
        raise InputError("the networkx graph is directed; pass G.to_undirected(), or a weight matrix to graph_from_matrix")
    try:
        nodes = sorted(G.nodes)
    except TypeError:
        nodes = sorted(G.nodes, key=str)
    number = {node: i for i, node in enumerate(nodes)}
    return graph_from_edges(len(nodes), [(number[a], number[b]) for a, b in G.edges()])


def graph_from_matrix(W: Any) -> Graph:
    """A fixed weight matrix W [N, N] (array, tensor or scipy sparse), row i being how agent i weighs what it hears.

    Only non-zero entries are kept; no weight rule is applied. Raises InputError unless W is square, finite and has rows that
    sum to 1 within 1e-8. Whether its columns do, or whether it is symmetric, is checked when an algorithm asks for it.

    >>> graph_from_matrix([[0.5, 0.5], [0.25, 0.75]]).edges.tolist()
    [[0, 1]]
    """
    if hasattr(W, "tocoo"):
        sparse = W.tocsr().tocoo()  # through csr: entries given twice are added
        shape, rows, columns, values = sparse.shape, sparse.row, sparse.col, sparse.data
    else:
        full = W.detach().cpu().numpy() if isinstance(W, Tensor) else np.asarray(W)
        if full.dtype.kind not in "biuf":
            raise InputError(f"a weight matrix holds real numbers, not {full.dtype}")
        shape = full.shape
        if len(shape) == 2:
            rows, columns = np.nonzero(full)
            values = full[rows, columns]
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 1:
        raise InputError(f"a weight matrix must be square with at least 1 row, not of shape {list(shape)}")
    agents = int(shape[0])
    rows, columns, values = rows.astype(np.int64), columns.astype(np.int64), values.astype(np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        raise InputError(f"weight ({rows[bad][0]}, {columns[bad][0]}) is {values[bad][0]}; weights must be finite")
    kept = values != 0
    rows, columns, values = rows[kept], columns[kept], values[kept]
    sums = np.bincount(rows, values, agents)
    row = int(np.abs(sums - 1).argmax())
    if abs(sums[row] - 1) > _TOLERANCE:
        raise InputError(f"row {row} of the weights sums to {sums[row]:.10g}; divide each row by its sum so that it is 1")
    off = rows != columns
    edges = graph_from_edges(agents, np.stack([rows[off], columns[off]], 1)).edges
    return Graph(agents, edges, matrix=(rows, columns, values))


def check_connected(graph: Graph) -> None:
    """Raise InputError unless every agent can hear, over some path, from every other (for a matrix: in both directions).

    >>> check_connected(graph_from_edges(4, [[0, 1], [2, 3]]))
    Traceback (most recent call last):
    ...
    distopt.errors.InputError: the graph is not connected: it falls into 2 parts (agent 0 and agent 2 cannot reach each other); add links
    """
    if graph.agents < 1:
        raise InputError(f"a network needs at least 1 agent, not {graph.agents}")
    parts = _components(graph)
    if parts.max() > 0:
        other = int((parts != parts[0]).argmax())
        raise InputError(
            f"the graph is not connected: it falls into {parts.max() + 1} parts (agent 0 and agent {other} cannot reach each other); add links"
        )


def connected(draw: Callable[[np.random.Generator], Graph], key: Key, stream: str, advice: str, tries: int = 100) -> Graph:
    """The first connected graph among at most ``tries`` independent draws; ``advice`` tells what to change if there is none.

    >>> connected(lambda rng: graph_from_edges(2, [[0, 1]]), Key(0, range(2), [0], 2), "demo", "add links").agents
    2
    """
    for attempt in range(tries):
        graph = draw(generator(key, stream, attempt))
        if is_connected(graph):
            return graph
    raise InputError(f"{stream.rpartition('/')[2]}: none of {tries} random graphs was connected; {advice}")


def is_connected(graph: Graph) -> bool:
    """Whether ``check_connected`` passes.

    >>> is_connected(graph_from_edges(2, [[0, 1]]))
    True
    """
    return bool(_components(graph).max() == 0)


def _components(graph: Graph) -> Ints:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, columns = graph.edges.T if graph.matrix is None else graph.matrix[:2]
    links = coo_array((np.ones(len(rows)), (rows, columns)), shape=(graph.agents, graph.agents))
    directed = graph.matrix is not None
    labels: Ints = connected_components(links, directed=directed, connection="strong")[1].astype(np.int64)
    return labels


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


# ----------------------------------------------------------------------------------------------------------------- weights


def _by_degree(rule: str, mine: Ints, other: Ints, top: Ints | int) -> Floats:
    """Weights of links between agents of these degrees; ``top`` is the largest degree of the round."""
    if rule == "max_degree":
        return np.broadcast_to(1.0 / (1.0 + np.asarray(top)), mine.shape).astype(np.float64)
    weight: Floats = 1.0 / (1.0 + np.maximum(mine, other))
    return weight / 2 if rule == "lazy_metropolis" else weight


def _laplacian(graph: Graph) -> Any:
    from scipy.sparse import coo_array

    i, j = graph.edges.T
    n, ones = graph.agents, np.ones(len(i))
    degree = np.bincount(graph.edges.ravel(), minlength=n).astype(np.float64)
    diagonal = np.arange(n)
    values = np.concatenate([degree, -ones, -ones])
    return coo_array((values, (np.concatenate([diagonal, i, j]), np.concatenate([diagonal, j, i]))), shape=(n, n)).tocsr()


def _extreme(A: Any, symmetric: bool = True) -> float:
    """The largest |eigenvalue| of a sparse matrix or operator; raises ArpackNoConvergence where the top is too crowded."""
    from scipy.sparse.linalg import eigs, eigsh

    n = A.shape[0]
    if symmetric:
        return abs(float(eigsh(A, k=1, which="LM", return_eigenvectors=False, v0=_start(n), maxiter=300)[0]))
    return abs(complex(eigs(A, k=1, which="LM", return_eigenvectors=False, v0=_start(n), ncv=64, maxiter=300)[0]))


def _nearest(A: Any, shift: float) -> Floats:
    """The two eigenvalues, ascending, of the sparse symmetric A that lie nearest to ``shift``, which is none of them."""
    from scipy.sparse.linalg import eigsh

    return np.sort(eigsh(A.tocsc(), k=2, sigma=shift, which="LM", return_eigenvectors=False, v0=_start(A.shape[0])))


def _start(n: int) -> Floats:
    """A fixed starting vector: ARPACK's own is random, and weights must not be."""
    return words(0, "mixing/start", 0, 0, n) - 0.5


def _best_constant(graph: Graph) -> float:
    """The a of W = I - a L with the smallest second largest |eigenvalue|: 2 / (lambda_2 + lambda_max) [xiao2004]."""
    L, n = _laplacian(graph), graph.agents
    if n <= _DENSE:
        values = np.linalg.eigvalsh(L.toarray())
        return float(2.0 / (values[1] + values[-1]))
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator

    bound = 2.0 * float(L.diagonal().max())  # no eigenvalue of L is larger

    def flipped(x: Floats) -> Floats:  # bound I - L with the eigenvalue of the vector of ones moved to 0
        x = x.ravel()
        moved: Floats = bound * (x - x.mean()) - L @ x
        return moved

    try:
        return 2.0 / (bound - _extreme(LinearOperator((n, n), matvec=flipped, dtype=np.float64)) + _extreme(L))
    except ArpackNoConvergence:
        return 2.0 / float(_nearest(L, -1e-3 / n)[1] + _nearest(L, bound + 1e-3 / n)[1])


def _fastest(graph: Graph) -> Floats:
    """Link weights >= 0 with the smallest second largest |eigenvalue|, by semidefinite programming [boyd2004]."""
    try:
        import cvxpy as cp
    except ImportError as error:
        raise InputError('weight rule "fastest" needs cvxpy: pip install "distopt[fastest]", or use best_constant') from error
    from scipy.sparse import csr_array

    n, count = graph.agents, len(graph.edges)
    if n > _SDP:
        raise InputError(f'weight rule "fastest" is a semidefinite program: at most {_SDP} agents, not {n}; use best_constant')
    i, j = graph.edges.T
    link = np.arange(count)
    touches = csr_array((np.ones(2 * count), (np.concatenate([i, j]), np.concatenate([link, link]))), shape=(n, count))
    flow = np.concatenate([i * n + i, j * n + j, i * n + j, j * n + i])  # vec of (e_i - e_j)(e_i - e_j)'
    signs = np.repeat([1.0, 1.0, -1.0, -1.0], count)
    laplacians = csr_array((signs, (flow, np.tile(link, 4))), shape=(n * n, count))
    w, s = cp.Variable(count, nonneg=True), cp.Variable()
    off = np.eye(n) - np.ones((n, n)) / n - cp.reshape(laplacians @ w, (n, n), order="C")  # type: ignore[attr-defined]
    problem = cp.Problem(cp.Minimize(s), [off << s * np.eye(n), off >> -s * np.eye(n), touches @ w <= 1])
    problem.solve(solver=cp.CLARABEL)  # type: ignore[no-untyped-call]
    if w.value is None or problem.status not in ("optimal", "optimal_inaccurate"):
        raise InputError(f'weight rule "fastest" found no solution ({problem.status}); use best_constant or metropolis')
    weight = np.maximum(np.asarray(w.value, dtype=np.float64), 0.0)
    return weight / max(1.0, float((touches @ weight).max()))  # the solver's last digits must not make a self weight negative


def _rule_name(rule: str) -> str:
    name = "lazy_metropolis" if rule == "lazy" else rule
    if name not in RULES:
        close = difflib.get_close_matches(name, RULES, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"unknown weight rule {rule!r}{hint} Known: {', '.join(RULES)}")
    return name


def _unordered(numbers: Ints) -> int:
    """A 64-bit hash of a multiset: equal whatever the order, and far cheaper to compare than two sorted arrays."""
    x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return int((x ^ (x >> np.uint64(32))).sum(dtype=np.uint64))


def _flaw(kind: Kind, receiver: Ints, sender: Ints, weight: Floats, own: Floats) -> str | None:
    """What keeps these weights (off the diagonal, and ``own`` on it) from being of this kind; None if nothing does."""
    n = len(own)
    rows = own + np.bincount(receiver, weight, n)
    worst = int(np.abs(rows - 1).argmax())
    if abs(rows[worst] - 1) > _TOLERANCE:
        return f"row {worst} of W sums to {rows[worst]:.6g}"
    if kind == "row":
        return None
    if kind == "symmetric":
        from scipy.sparse import coo_array

        W = coo_array((weight, (receiver, sender)), shape=(n, n)).tocsr()
        gap = abs(W - W.T).tocoo()
        if gap.nnz and gap.data.max() > _TOLERANCE:
            i, j = int(gap.row[gap.data.argmax()]), int(gap.col[gap.data.argmax()])
            return f"W[{i}, {j}] = {W[i, j]:.6g} and W[{j}, {i}] = {W[j, i]:.6g}"
    columns = own + np.bincount(sender, weight, n)
    worst = int(np.abs(columns - 1).argmax())
    return f"column {worst} of W sums to {columns[worst]:.6g}" if abs(columns[worst] - 1) > _TOLERANCE else None


_ASKED: dict[Kind, tuple[str, str]] = {
    "row": ("row-stochastic", "divide each row by its sum"),
    "doubly": ("doubly stochastic", "give weights whose columns also sum to 1, or let a rule such as metropolis make them"),
    "symmetric": ("symmetric", "give symmetric weights, or let a rule such as metropolis make them"),
}


# ------------------------------------------------------------------------------------------------------------------ mixing


class _Pattern:
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
            raise InputError(f"the topology lists the link from agent {j} to agent {i} twice in one round, or a self loop")
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
        """Numbers stored per matrix."""
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
    if top <= _BLOCK:
        # a switching graph gets a rounded D, so that most chunks of rounds have tables of one shape
        return (top if top <= 4 or not switching else -(-top // 8) * 8), none, _BLOCK
    wide = -(-top // _BLOCK) * _BLOCK
    if switching and 2 * int((longest > _BLOCK).sum()) > len(longest):
        return 1, np.arange(len(longest)), wide
    width = min((4, 8, 16, 32), key=lambda D: len(longest) * D + int((longest > D).sum()) * wide)
    return width, np.flatnonzero(longest > width), wide


class Mixing:
    """The mixing matrix W_t of a network: row i says how agent i weighs its neighbours and itself.

    Weights of a link (i, j) by rule, with degrees d without self loops; the self weight is 1 minus the others:

    - ``metropolis``: 1 / (1 + max(d_i, d_j)) [xiao2007];
    - ``lazy_metropolis`` (or ``lazy``): half of that, so that no eigenvalue is negative;
    - ``max_degree``: 1 / (1 + max_k d_k);
    - ``best_constant``: 2 / (lambda_2 + lambda_max) of the Laplacian, the best single weight [xiao2004];
    - ``fastest``: non-negative weights with the largest spectral gap, by semidefinite programming (small graphs) [boyd2004].

    All are symmetric, hence doubly stochastic. A weight matrix in ``Graph.matrix``, and weights in ``Arcs``, are used as given.

    With ``drop_links`` = p each undirected link fails with probability p, anew in every round and trial, in both directions;
    both ends add its weight to their self weights, so that W_t stays symmetric and doubly stochastic.

    Args:
        topology: a fixed or a switching graph.
        rule: name of the weight rule.
        key: seed and trials (its agents are not used: W is that of the whole network).
        drop_links: p in [0, 1).

    >>> ring = graph_from_edges(4, [[0, 1], [1, 2], [2, 3], [0, 3]])
    >>> round(Mixing(ring, "metropolis", Key(0, range(4), range(1), 4)).spectral_gap(), 6)
    0.666667
    """

    def __init__(self, topology: Graph | Switching, rule: str, key: Key, drop_links: float = 0.0) -> None:
        self.agents, self.rule, self.drop_links = topology.agents, _rule_name(rule), float(drop_links)
        if self.agents < 1:
            raise InputError(f"a network needs at least 1 agent, not {self.agents}")
        if not 0.0 <= self.drop_links < 1.0:
            raise InputError(f"drop_links is the probability that a link fails in a round: 0 <= drop_links < 1, not {drop_links}")
        self.constant = isinstance(topology, Graph) and not self.drop_links
        self._topology = topology
        self._asked: tuple[Kind, str] | None = None
        same = self.constant or not (self.drop_links or getattr(topology, "random", True))
        trials = key.trials.tolist()
        self._key = Key(key.seed, range(self.agents), trials[:1] if same else trials, self.agents)
        if isinstance(topology, Graph):
            self._start_graph(topology)
        elif self.rule in _SPECTRAL:
            raise InputError(
                f"weight rule {self.rule} needs one fixed graph, and {type(topology).__name__} changes every round; "
                "use metropolis, lazy_metropolis or max_degree"
            )
        elif self.drop_links:
            self.require("symmetric", "drop_links")

    def _start_graph(self, graph: Graph) -> None:
        """Weights of a fixed graph: of each undirected link (``_edges``), or of each arc where the matrix is given."""
        n = self.agents
        if graph.matrix is not None:
            rows, columns, values = graph.matrix
            self._own: Floats = np.bincount(rows[rows == columns], values[rows == columns], n).astype(np.float64)
            off = rows != columns
            self._receiver, self._sender, self._weight = rows[off], columns[off], values[off]
            if self.drop_links:
                self.require("symmetric", "drop_links")
                half = np.flatnonzero(self._receiver < self._sender)
                half = half[np.lexsort((self._sender[half], self._receiver[half]))]
                self._edges = np.stack([self._receiver[half], self._sender[half]], 1)
                self._use_edges(self._weight[half], self._own)
            return
        self._edges = graph.edges
        i, j = graph.edges.T
        degree = np.bincount(graph.edges.ravel(), minlength=n)
        if self.rule in _SPECTRAL and len(graph.edges):
            check_connected(graph)
            weight = _fastest(graph) if self.rule == "fastest" else np.full(len(graph.edges), _best_constant(graph))
        else:
            weight = _by_degree(self.rule, degree[i], degree[j], int(degree.max()))
        self._use_edges(weight, None)

    def _use_edges(self, weight: Floats, own: Floats | None) -> None:
        i, j = self._edges.T
        n = self.agents
        if self._even(2 * len(weight), weight):  # a complete graph needs no list of its N (N - 1) arcs
            self._own = np.full(n, 1.0 - (n - 1) * weight[0])
            self._receiver, self._sender, self._weight = i, j, weight
            return
        if own is None:
            own = 1.0 - (np.bincount(i, weight, n) + np.bincount(j, weight, n)).astype(np.float64)
        self._own = own
        self._receiver, self._sender = np.concatenate([i, j]), np.concatenate([j, i])
        self._weight = np.concatenate([weight, weight])

    def _even(self, arcs: int, weight: Floats) -> bool:
        """Whether the graph is complete with one weight off the diagonal, so that a sum over everyone does."""
        n = self.agents
        return n > 2 and not self.drop_links and arcs == n * (n - 1) and bool((weight == weight[0]).all())

    @cached_property
    def _complete(self) -> bool:
        graph = self._topology
        if not isinstance(graph, Graph):
            return False
        return self._even(len(self._weight) if graph.matrix is not None else 2 * len(self._edges), self._weight)

    @cached_property
    def _pattern(self) -> _Pattern:
        return _Pattern(self.agents, 1, self._receiver, self._sender)

    @cached_property
    def _values(self) -> Floats:
        values: Floats = np.concatenate([self._weight, self._own])[self._pattern.order]
        return values

    @cached_property
    def _links(self) -> Ints:
        """The undirected link of each sorted term; E for a self term."""
        count = len(self._edges)
        link = np.arange(count)
        return np.concatenate([link, link, np.full(self.agents, count)])[self._pattern.order]

    @cached_property
    def _fixed(self) -> Table:
        if not self._complete:
            return self._pattern.table(self._values, (1, 1))
        n, off = self.agents, float(self._weight[0])
        none = torch.empty(1, 1, 0, _BLOCK, dtype=torch.float64)
        index, weight = torch.arange(n).reshape(1, 1, n, 1), torch.from_numpy(self._own - off).reshape(1, 1, n, 1)
        rows = torch.empty(1, 1, 0, dtype=torch.int64)
        return Table(index, weight, rows, none.to(torch.int64), none, torch.full((1, 1, 1, 1), off, dtype=torch.float64))

    def tables(self, t: Tensor) -> Table:
        """The weights of rounds t, int64 [K, 1, 1, 1]. A constant W gives K = 1 and R = 1 whatever is asked."""
        if self.constant:
            return self._fixed
        rounds = t.reshape(-1)
        trials = self._key.trials
        if isinstance(self._topology, Graph):
            p, count = self._pattern, len(self._edges)
            failed = np.zeros((len(rounds), len(trials), count + 1), dtype=bool)
            failed[..., :count] = self._failed_fixed(rounds)
            lost = self._values * failed[..., self._links]
            values = self._give_back(p, self._values - lost, lost)
            return p.table(values, (len(rounds), len(trials)))
        return self._switching_table(self._topology.arcs(t, self._key), rounds)

    @staticmethod
    def _give_back(p: _Pattern, values: Floats, lost: Floats) -> Floats:
        """Add what each row [..., terms] lost to its self term."""
        own = np.empty(len(p.order), np.int64)
        own[p.order] = np.arange(len(p.order))
        values[..., own[len(p.order) - len(p.first) :]] += np.add.reduceat(lost, p.first, axis=-1)
        return values

    def _failed_fixed(self, rounds: Tensor) -> NDArray[np.bool_]:
        """Which links of the fixed graph fail, [K, R, E]: link e of round t is word t E + e."""
        asked, trials, count = rounds.tolist(), self._key.trials.tolist(), len(self._edges)
        out = np.empty((len(asked), len(trials), count), dtype=bool)
        in_a_row = bool((rounds.diff() == 1).all())
        for r, trial in enumerate(trials):
            if in_a_row and asked:
                drawn = words(self._key.seed, "links", trial, asked[0] * count, len(asked) * count)
                out[:, r] = drawn.reshape(len(asked), count) < self.drop_links
                continue
            for k, round_ in enumerate(asked):
                out[k, r] = words(self._key.seed, "links", trial, round_ * count, count) < self.drop_links
        return out

    def _failed_switching(self, per_block: Ints, rounds: Tensor) -> NDArray[np.bool_]:
        """Which links fail, flat: the e-th link of round t is word t N (N - 1) / 2 + e, in the order of (i, j), i < j."""
        trials, most = self._key.trials.tolist(), self.agents * (self.agents - 1) // 2
        out = np.empty(int(per_block.sum()), dtype=bool)
        end = 0
        for b, count in enumerate(per_block.tolist()):
            round_, trial = int(rounds[b // len(trials)]), trials[b % len(trials)]
            out[end : end + count] = words(self._key.seed, "links", trial, round_ * most, count) < self.drop_links
            end += count
        return out

    def _switching_table(self, arcs: Arcs, rounds: Tensor) -> Table:
        n, trials = self.agents, len(self._key.trials)
        blocks = len(rounds) * trials
        block, receiver, sender = arcs.round * trials + arcs.trial, arcs.receiver, arcs.sender
        if len(receiver) and (min(receiver.min(), sender.min()) < 0 or max(receiver.max(), sender.max()) >= n):
            raise InputError(f"{type(self._topology).__name__} lists an agent outside 0 .. {n - 1}")
        row, column = block * n + receiver, block * n + sender
        if arcs.weight is None:
            if _unordered(row * n + sender) != _unordered(column * n + receiver):
                raise InputError(
                    f"{type(self._topology).__name__} lists links in one direction only, for which weight rule {self.rule} "
                    "is not defined; list both directions, or give Arcs.weight"
                )
            degree = np.bincount(row, minlength=blocks * n)
            top = degree.reshape(blocks, n).max(1)[block]
            weight = _by_degree(self.rule, degree[row], degree[column], top)
        else:
            weight = arcs.weight
            if not np.isfinite(weight).all():
                raise InputError(f"{type(self._topology).__name__} gives a weight that is not finite")
        own: Floats = 1.0 - np.bincount(row, weight, blocks * n).astype(np.float64)
        if self._asked is not None and arcs.weight is not None:
            kind, who = self._asked
            flaw = _flaw(kind, row, column, weight, own)
            if flaw is not None:
                raise InputError(self._refusal(kind, who, f"{flaw} (rows and columns count {n} per round and trial)"))
        p = _Pattern(n, blocks, row, sender)
        values = np.concatenate([weight, own])[p.order]
        if self.drop_links:
            upper, lower = np.flatnonzero(receiver < sender), np.flatnonzero(receiver > sender)
            upper = upper[np.argsort(row[upper] * n + sender[upper])]
            lower = lower[np.argsort(column[lower] * n + receiver[lower])]
            failed = np.zeros(len(values), dtype=bool)
            failed[upper] = self._failed_switching(np.bincount(block[upper], minlength=blocks), rounds)
            failed[lower] = failed[upper]
            lost = values * failed[p.order]
            values = self._give_back(p, values - lost, lost)
        return p.table(values, (len(rounds), trials))

    @cached_property
    def bytes_per_round(self) -> int:
        """About how much memory one round more in a chunk costs while its table is made; 0 for a constant W."""
        if self.constant:
            return 0
        trials = len(self._key.trials)
        if isinstance(self._topology, Graph):
            return trials * (8 * self._pattern.slots + 25 * len(self._pattern.order) + 10 * len(self._edges))
        table = self.tables(torch.zeros(1, 1, 1, 1, dtype=torch.int64))
        return 3 * sum(leaf.numel() * leaf.element_size() for leaf in table)

    def require(self, kind: Kind, who: str) -> None:
        """Raise InputError unless W is row-stochastic, doubly stochastic, or symmetric and doubly stochastic.

        ``who`` names what needs it. Weights that a switching topology gives are checked for rounds 0 .. 7 now, and for every
        further round when its table is made.
        """
        if isinstance(self._topology, Graph):
            if self._topology.matrix is None:
                return  # every rule makes one weight per undirected link, and the self weight is what is left
            flaw = _flaw(kind, self._receiver, self._sender, self._weight, self._own)
            if flaw is not None:
                raise InputError(self._refusal(kind, who, flaw))
            return
        order: list[Kind] = ["row", "doubly", "symmetric"]
        if self._asked is None or order.index(kind) > order.index(self._asked[0]):
            self._asked = (kind, who)
        self.tables(torch.arange(8).reshape(8, 1, 1, 1))

    @staticmethod
    def _refusal(kind: Kind, who: str, flaw: str) -> str:
        name, advice = _ASKED[kind]
        return f"{who} needs {name} weights, but {flaw}; {advice}"

    def dense(self, t: Tensor) -> Tensor:
        """W_t as arrays, float64 [K|1, R|1, N, N]: for tests and small spectra."""
        table, n = self.tables(t), self.agents
        K, R = table.weight.shape[:2]
        out = torch.zeros(K, R, n, n, dtype=torch.float64)
        out.scatter_add_(-1, table.index.expand(K, R, -1, -1), table.weight)
        if table.hub_rows.numel():
            hubs = torch.zeros(K, R, table.hub_rows.shape[-1], n, dtype=torch.float64)
            hubs.scatter_add_(-1, table.hub_index.expand(K, R, -1, -1), table.hub_weight)
            out[:, :, table.hub_rows[0, 0]] = hubs
        return out + table.everyone if table.everyone.shape[-1] else out

    def spectral_gap(self) -> float:
        """1 - the second largest |eigenvalue| of a constant W: what disagreement loses per round of mixing.

        Sparse eigenvalue solvers above 1500 agents. Raises InputError where W changes every round.
        """
        if not self.constant:
            raise InputError("W changes every round, so it has no spectral gap; ask for a fixed graph without drop_links")
        n = self.agents
        if self._complete and (self._own == self._own[0]).all():
            return 1.0 - abs(float(self._own[0] - self._weight[0]))
        symmetric = _flaw("symmetric", self._receiver, self._sender, self._weight, self._own) is None
        if n <= _DENSE:
            W = self.dense(torch.zeros(1, 1, 1, 1, dtype=torch.int64))[0, 0].numpy()
            rest = W - 1.0 / n  # moves the eigenvalue 1 of the vector of ones to 0 and no other
            values = np.linalg.eigvalsh((rest + rest.T) / 2) if symmetric else np.linalg.eigvals(rest)
            return 1.0 - float(np.abs(values).max())
        from scipy.sparse import coo_array, diags_array
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator

        W = coo_array((self._weight, (self._receiver, self._sender)), shape=(n, n)).tocsr() + diags_array(self._own)
        rest = LinearOperator((n, n), matvec=lambda x: W @ x.ravel() - x.mean(), dtype=np.float64)
        try:
            return 1.0 - _extreme(rest, symmetric)
        except ArpackNoConvergence:
            if not symmetric:
                raise InputError(f"the spectrum of this {n} x {n} matrix did not converge; ask a smaller network") from None
            return 1.0 - max(float(_nearest(W, 1.0 + 1e-3 / n)[0]), -float(_nearest(W, -1.0 - 1e-3 / n)[0]))
