"""The mixing matrix W as an operator; it is never stored as an N x N array.

It makes the tables of weights of a chunk of rounds (see ``distopt.network.rows``). This module has the constant form;
``distopt.network.changing`` has the others.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.network.graphs import TOLERANCE, Floats, Graph
from distopt.network.links import places, slots
from distopt.network.properties import Properties, Terms, check_weights, properties
from distopt.network.rows import BLOCK, Pattern, Table
from distopt.network.weights import check_settles, link_weights, reweighted, second_size


class Mixing(ABC):
    """The mixing matrix W_t of a network: row i holds the weights of agent i for its neighbours and itself.

    The weights are made by a rule of ``distopt.network.weights``: symmetric ones, hence doubly stochastic, for undirected graphs. A weight
    matrix in ``Graph.matrix``, and weights in ``Arcs``, are used as given.
    """

    agents: int
    constant = False
    """Whether W is the same in all rounds and trials."""
    changes = "links come and go; use a fixed topology without drop_links"
    """Why W is not the same in all rounds, and what to do, for messages."""
    notes: tuple[str, ...] = ()
    """How the network was read, for the user: one line each."""
    positions: Floats | None = None
    """Positions [N, 2] for drawing, if the topology has them."""
    slots = 0
    """How many slots for links, or places for senders, an agent has; 0 unless the network was made by ``with_link_slots`` or ``with_senders``."""

    @abstractmethod
    def rows(self, t: Tensor) -> Table:
        """The weights of rounds t, int64 [K, 1, 1, 1]. A constant W gives K = 1 and R = 1 for any rounds and trials."""

    @abstractmethod
    def require(self, needs: str | Collection[str], who: str) -> Mixing:
        """This network where its weights have these properties, which ``who`` needs (see ``distopt.network.properties``).

        Of a constant star it is the network of workers around their average where "average" is needed: W is 1/N. The
        hub is a worker, too. It adds up all messages, including its own, and answers in the same round. A server
        averages with any weight rule, and any agent may be the server: the bits are those of the complete graph.

        A matrix that was given must settle, too (``weights.check_settles``). Weights that a switching topology gives are checked for
        the first rounds now, and for every further round when its table is made.

        Raises:
            InputError: the weights do not have the properties.

        >>> from distopt.network.graphs import graph_from_edges
        >>> W = ConstantMixing(graph_from_edges(3, [[0, 1], [0, 2]]), "metropolis")
        >>> [round(w, 6) for w in W.require("average", "demo").dense(torch.zeros(1, 1, 1, 1, dtype=torch.int64))[0, 0, 1].tolist()]
        [0.333333, 0.333333, 0.333333]
        """

    def by_column(self, needs: Properties) -> bool:
        """Whether columns that sum to 1 make of this network another W than rows that do."""
        return False

    def objective(self) -> str | None:
        """The objective of a method whose weights only have rows that sum to 1, and advice; None if it is the mean of the costs."""
        return None

    @property
    def bytes_per_round(self) -> int:
        """About how much memory one round more in a chunk costs while its table is made; 0 for a constant W."""
        return 0

    def repeated(self, times: int) -> Mixing:
        """The same network for ``times`` copies of the trials, one after the other."""
        return self

    def paced(self, pace: float) -> Mixing:
        """The same network with rounds of ``pace`` seconds, on which delays by the lengths of links depend."""
        return self

    def with_link_slots(self, who: str, patient: bool = False) -> Mixing:
        """The same network with a slot for each link in its tables, which ``who`` needs; with ``patient``, messages may be missing.

        Raises:
            InputError: W is not constant, or not symmetric.
        """
        raise InputError(
            f"{who} keeps vectors for each link, but links fail or change; use a fixed topology without drop_links"
        )

    def with_senders(self, who: str) -> Mixing:
        """The same network with a place for each sender in its tables, which ``who`` needs.

        Raises:
            InputError: the graph is not fixed.
        """
        raise InputError(
            f"{who} keeps a memory of each sender, but links fail or change; use a fixed topology without drop_links"
        )

    def sent(self, t: Tensor, made: Table | None = None) -> Table:
        """The weights of rounds t, those of messages that are sent and do not arrive among them. ``made`` is what ``rows`` has made of them."""
        return self.rows(t) if made is None else made

    def dense(self, t: Tensor) -> Tensor:
        """W_t as arrays, float64 [K|1, R|1, N, N]: for tests and small spectra."""
        table, n = self.rows(t), self.agents
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
        raise InputError("W changes every round, so it has no spectral gap; ask for a fixed graph without drop_links")


class ConstantMixing(Mixing):
    """A constant W: of a fixed graph, by a rule's full name or with the user's weights."""

    constant = True
    _made: Callable[[], Terms]

    def __init__(self, graph: Graph, rule: str) -> None:
        self.agents, self.notes, self.positions, self.graph = graph.agents, graph.notes, graph.positions, graph
        self._settles = False  # whether the powers of a matrix that was given have been looked at
        if graph.matrix is not None:
            self._made = partial(given, graph)
            weight = self.terms.weight
            self._even = even(self.agents, len(weight), weight)
            return
        weight = link_weights(graph, rule)
        self._even = even(self.agents, 2 * len(weight), weight)
        # a complete graph needs no list of its N (N - 1) arcs
        self._made = partial(_everyone if self._even else both_ways, graph, weight)

    @property
    def terms(self) -> Terms:
        """The weights as a list: made when asked for, since it is larger than the table, and the rounds do without it."""
        return self._made()

    @cached_property
    def _table(self) -> Table:
        n, (receiver, sender, weight, own) = self.agents, self.terms
        if not self._even:
            pattern = Pattern(n, 1, receiver, sender)  # as large as the table, and of no further use
            return pattern.table(np.concatenate([weight, own])[pattern.order], (1, 1))
        off = float(weight[0])
        none = torch.empty(1, 1, 0, BLOCK, dtype=torch.float64)
        index, rest = torch.arange(n).reshape(1, 1, n, 1), torch.from_numpy(own - off).reshape(1, 1, n, 1)
        rows = torch.empty(1, 1, 0, dtype=torch.int64)
        return Table(index, rest, rows, none.to(torch.int64), none, torch.full((1, 1, 1, 1), off, dtype=torch.float64))

    def rows(self, t: Tensor) -> Table:
        """See ``Mixing``."""
        return self._table

    def require(self, needs: str | Collection[str], who: str) -> ConstantMixing:
        """See ``Mixing``."""
        needs = properties(needs)
        if "average" in needs:
            mean = self._averaged()
            terms = mean.terms
            if not (mean._even and np.abs(np.append(terms.own, terms.weight[0]) - 1 / self.agents).max() <= TOLERANCE):
                check_weights(needs, who, *terms)  # a complete graph keeps no list of its links
            self._check_settles(who)
            return mean
        if (
            self.graph.matrix is not None
        ):  # a rule makes one weight per undirected link, and the self weight is the rest
            check_weights(needs, who, *self.terms)
            self._check_settles(who)
        return self

    def _check_settles(self, who: str) -> None:
        if self.graph.matrix is not None and not self._settles:
            check_settles(who, *self.terms)
            self._settles = True

    def _averaged(self) -> ConstantMixing:
        """Of a star, the network with W = 1/N; any other stays as it is."""
        n, edges = self.agents, self.graph.edges
        if self._even or self.graph.matrix is not None or n <= 2 or len(edges) != n - 1:
            return self
        if np.bincount(edges.ravel()).max() < n - 1:
            return self
        twin = copy.copy(self)
        twin.__dict__.pop("_table", None)
        twin._even, twin._made = True, partial(_everyone, self.graph, np.full(1, 1.0 / n))
        return twin

    def objective(self) -> str | None:
        """See ``Mixing``."""
        found = None if self.graph.matrix is None else reweighted(*self.terms)
        return None if found is None else f"{found}; give weights whose columns also sum to 1, and they count alike"

    def with_link_slots(self, who: str, patient: bool = False) -> ConstantMixing:
        """See ``Mixing``."""
        self.require("symmetric", who)
        receiver, sender, weight, _ = self.terms
        if self._even:
            receiver, sender = np.triu_indices(self.agents, 1)
            weight = np.full(len(receiver), weight[0])
        # given weights may differ by rounding; one serves both ends
        once = (receiver < sender) & (np.abs(weight) > TOLERANCE)
        twin = copy.copy(self)
        index, weights, side = slots(self.agents, receiver[once], sender[once], weight[once])
        twin._table = self._table._replace(slot_index=index, slot_weight=weights, slot_side=side)
        twin.slots = index.shape[-1]
        return twin

    def with_senders(self, who: str) -> ConstantMixing:
        """See ``Mixing``."""
        twin = self.listed()
        receiver, sender, weight, own = twin.terms
        heard = np.abs(weight) > 0
        index, weights = places(self.agents, receiver[heard], sender[heard], weight[heard])
        self_weight = torch.from_numpy(own).reshape(1, 1, -1, 1)
        table = twin._table._replace(sender_index=index, sender_weight=weights, sender_own=self_weight)
        twin = copy.copy(twin)
        twin._table = table
        twin.slots = index.shape[-1]
        return twin

    def listed(self) -> ConstantMixing:
        """The same weights in a table of all links, where a complete graph needs none: for links that may fail one by one."""
        if not self._even:
            return self
        twin = copy.copy(self)
        twin.__dict__.pop("_table", None)
        twin._even = False
        weight = self.terms.weight
        if len(weight) < self.agents * (self.agents - 1):  # not every arc is listed
            twin._made = partial(both_ways, self.graph, np.full(len(self.graph.edges), weight[0]))
        return twin

    def spectral_gap(self) -> float:
        """See ``Mixing``."""
        terms = self.terms
        own = terms.own
        if self._even and (own == own[0]).all():
            return 1.0 - abs(float(own[0] - terms.weight[0]))
        return 1.0 - second_size(*terms)


def given(graph: Graph) -> Terms:
    """The weight matrix of a graph that has one, its terms in the order in which they were given."""
    assert graph.matrix is not None
    rows, columns, values = graph.matrix
    own = np.bincount(rows[rows == columns], values[rows == columns], graph.agents).astype(np.float64)
    off = rows != columns
    return Terms(rows[off], columns[off], values[off], own)


def both_ways(graph: Graph, weight: Floats) -> Terms:
    """One weight for each undirected link, first from j to i and then from i to j; the self weight is the rest."""
    (i, j), n = graph.edges.T, graph.agents
    own = 1.0 - (np.bincount(i, weight, n) + np.bincount(j, weight, n)).astype(np.float64)
    return Terms(np.concatenate([i, j]), np.concatenate([j, i]), np.concatenate([weight, weight]), own)


def even(agents: int, arcs: int, weight: Floats) -> bool:
    """Whether a graph is complete with one weight off the diagonal, so that a sum over everyone does."""
    return agents > 2 and arcs == agents * (agents - 1) and bool((weight == weight[0]).all())


def _everyone(graph: Graph, weight: Floats) -> Terms:
    """The complete graph where all weights off the diagonal are weight[0]; only some links are listed."""
    i, j = graph.edges.T
    return Terms(i, j, weight, np.full(graph.agents, 1.0 - (graph.agents - 1) * weight[0]))
