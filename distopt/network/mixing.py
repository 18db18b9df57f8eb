"""The mixing matrix W as an operator; it is never stored as an N x N array.

It makes the tables of weights of a chunk of rounds (see ``distopt.network.rows``).
"""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt.errors import InputError
from distopt.network.graphs import TOLERANCE, Arcs, Floats, Graph, Ints, Switching
from distopt.network.links import slots
from distopt.network.rows import BLOCK, Pattern, Table
from distopt.network.weights import (
    SPECTRAL,
    Kind,
    arc_weights,
    check_settles,
    check_weights,
    link_weights,
    rule_name,
    second_size,
)
from distopt.numerics.random import Key, words
from distopt.optional import TopologyDefaults, completed


class Mixing:
    """The mixing matrix W_t of a network: row i says how agent i weighs its neighbours and itself.

    The weights are made by a rule of ``distopt.network.weights``, all of which are symmetric, hence doubly stochastic. A weight matrix
    in ``Graph.matrix``, and weights in ``Arcs``, are used as given.

    With ``drop_links`` = p each undirected link fails with probability p, anew in every round and trial, in both directions;
    both ends add its weight to their self weights, so that W_t stays symmetric and doubly stochastic.

    Args:
        topology: a fixed or a switching graph.
        rule: name of the weight rule, one of ``distopt.network.weights.RULES``, or ``lazy``.
        key: seed and trials (its agents are not used: W is that of the whole network).
        drop_links: p in [0, 1).

    >>> from distopt.network.graphs import graph_from_edges
    >>> ring = graph_from_edges(4, [[0, 1], [1, 2], [2, 3], [0, 3]])
    >>> round(Mixing(ring, "metropolis", Key(0, range(4), range(1), 4)).spectral_gap(), 6)
    0.666667
    """

    def __init__(self, topology: Graph | Switching, rule: str, key: Key, drop_links: float = 0.0) -> None:
        self.agents, self.rule, self.drop_links = topology.agents, rule_name(rule), float(drop_links)
        if self.agents < 1:
            raise InputError(f"a network needs at least 1 agent, not {self.agents}")
        if not 0.0 <= self.drop_links < 1.0:
            raise InputError(
                f"drop_links is the probability that a link fails in a round: 0 <= drop_links < 1, not {drop_links}"
            )
        self.constant = isinstance(topology, Graph) and not self.drop_links
        self._topology: Any = completed(TopologyDefaults, topology)
        self._network: Mixing | None = None
        self._asked: tuple[Kind, str] | None = None
        self._settles = False  # whether the powers of a matrix that was given have been looked at
        same = self.constant or not (self.drop_links or self._topology.random)
        trials = key.trials.tolist()
        self._key = Key(key.seed, range(self.agents), trials[:1] if same else trials, self.agents)
        if isinstance(topology, Graph):
            self._start_graph(topology)
        elif self.rule in SPECTRAL:
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
        self._use_edges(link_weights(graph, self.rule), None)

    def _use_edges(self, weight: Floats, own: Floats | None) -> None:
        (i, j), n = self._edges.T, self.agents
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
        return isinstance(graph, Graph) and self._even(
            len(self._weight) if graph.matrix is not None else 2 * len(self._edges), self._weight
        )

    @cached_property
    def _pattern(self) -> Pattern:
        return Pattern(self.agents, 1, self._receiver, self._sender)

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
            pattern = Pattern(
                self.agents, 1, self._receiver, self._sender
            )  # as large as the table, and of no further use
            return pattern.table(np.concatenate([self._weight, self._own])[pattern.order], (1, 1))
        n, off = self.agents, float(self._weight[0])
        none = torch.empty(1, 1, 0, BLOCK, dtype=torch.float64)
        index, weight = torch.arange(n).reshape(1, 1, n, 1), torch.from_numpy(self._own - off).reshape(1, 1, n, 1)
        rows = torch.empty(1, 1, 0, dtype=torch.int64)
        return Table(
            index, weight, rows, none.to(torch.int64), none, torch.full((1, 1, 1, 1), off, dtype=torch.float64)
        )

    def tables(self, t: Tensor) -> Table:
        """The weights of rounds t, int64 [K, 1, 1, 1]. A constant W gives K = 1 and R = 1 whatever is asked."""
        if self.constant:
            return self._fixed
        rounds, trials = t.reshape(-1), self._key.trials
        if isinstance(self._topology, Graph):
            p, count = self._pattern, len(self._edges)
            failed = np.zeros((len(rounds), len(trials), count + 1), dtype=bool)
            failed[..., :count] = self._failed_fixed(rounds)
            lost = self._values * failed[..., self._links]
            values = self._give_back(p, self._values - lost, lost)
            return p.table(values, (len(rounds), len(trials)))
        return self._switching_table(self._topology.arcs(t, self._key), rounds)

    @staticmethod
    def _give_back(p: Pattern, values: Floats, lost: Floats) -> Floats:
        """Add the weight that each row [..., terms] lost to its self term."""
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
            weight = arc_weights(self.rule, n, block, receiver, sender, type(self._topology).__name__)
        else:
            weight = arcs.weight
            if not np.isfinite(weight).all():
                raise InputError(f"{type(self._topology).__name__} gives a weight that is not finite")
        own: Floats = 1.0 - np.bincount(row, weight, blocks * n).astype(np.float64)
        if self._asked is not None and arcs.weight is not None:
            check_weights(*self._asked, row, column, weight, own, f" (rows and columns count {n} per round and trial)")
        p = Pattern(n, blocks, row, sender)
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

    def repeated(self, times: int) -> Mixing:
        """The same network for ``times`` copies of the trials, one after the other."""
        twin, trials = copy.copy(self), self._key.trials.tolist()
        twin.__dict__.pop("bytes_per_round", None)
        twin._key = Key(self._key.seed, range(self.agents), trials * times if len(trials) > 1 else trials, self.agents)
        return twin

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on how the network was read, one line each."""
        return tuple(self._topology.notes)

    @property
    def positions(self) -> Floats | None:
        """Where the topology draws its agents [N, 2], or None."""
        found: Floats | None = self._topology.positions
        return found

    @property
    def network(self) -> Mixing:
        """The network that this was made from by ``averaged`` or ``linked``."""
        return self._network or self

    def averaged(self) -> Mixing:
        """The network of workers around an average: of a star, whose hub is their server, W is 1/N; any other stays as it is.

        The hub, a worker too, adds up all messages, its own among them, and its answer is there in the same round. A server averages
        whatever the weight rule, and whoever it is: the numbers, bit for bit, are those of the complete graph.

        >>> from distopt.network.graphs import graph_from_edges
        >>> W = Mixing(graph_from_edges(3, [[0, 1], [0, 2]]), "metropolis", Key(0, range(3), range(1), 3)).averaged()
        >>> [round(each, 6) for each in W.dense(torch.zeros(1, 1, 1, 1, dtype=torch.int64))[0, 0, 1].tolist()]
        [0.333333, 0.333333, 0.333333]
        """
        n, graph = self.agents, self._topology
        if not (
            self.constant and isinstance(graph, Graph) and graph.matrix is None and n > 2 and len(graph.edges) == n - 1
        ):
            return self
        if np.bincount(graph.edges.ravel()).max() < n - 1:
            return self
        twin = copy.copy(self)
        twin.__dict__.pop("_fixed", None)
        twin._network, twin._complete, twin._weight = self, True, np.full(1, 1.0 / n)
        twin._own = np.full(n, 1.0 - (n - 1) * twin._weight[0])
        return twin

    def with_link_slots(self, who: str) -> Mixing:
        """The same network with a slot for each link in its tables, which ``who`` asks for. Raises InputError unless W is constant and symmetric."""
        if not self.constant:
            raise InputError(
                f"{who} keeps vectors for each link, but here links come and go; use a fixed topology without drop_links"
            )
        self.require("symmetric", who)
        once = (self._receiver < self._sender) & (
            np.abs(self._weight) > TOLERANCE
        )  # given weights may differ by rounding; one serves both ends
        twin = copy.copy(self)
        index, weight, side = slots(self.agents, self._receiver[once], self._sender[once], self._weight[once])
        twin._network, twin._fixed = (
            self.network,
            self._fixed._replace(slot_index=index, slot_weight=weight, slot_side=side),
        )
        return twin

    @property
    def slots(self) -> int:
        """How many slots for links an agent has; 0 unless the network is ``linked``."""
        return self._fixed.slot_index.shape[-1] if self.constant else 0

    def require(self, kind: Kind, who: str) -> None:
        """Raise InputError unless W is row-stochastic, doubly stochastic, symmetric and doubly stochastic, or 1/N everywhere.

        A matrix that was given must settle, too (``weights.check_settles``). ``who`` names what needs it. Weights that a switching
        topology gives are checked for rounds 0 .. 7 now, and for every further round when its table is made.
        """
        if kind == "average" and not self.constant:
            advice = "use a star or the complete graph, without drop_links"
            raise InputError(f"{who} has its workers meet around their average, but links come and go; {advice}")
        if (
            kind == "average"
            and self._complete
            and np.abs(np.concatenate([self._own, self._weight[:1]]) - 1 / self.agents).max() <= TOLERANCE
        ):
            return  # the complete graph keeps no list of its links
        if isinstance(self._topology, Graph):
            if (
                self._topology.matrix is not None or kind == "average"
            ):  # a rule makes one weight per undirected link, and the self weight is the rest
                check_weights(kind, who, self._receiver, self._sender, self._weight, self._own)
            if self._topology.matrix is not None and not self._settles:
                check_settles(who, self._receiver, self._sender, self._weight, self._own, self.drop_links)
                self._settles = True
            return
        order: list[Kind] = ["row", "doubly", "symmetric"]
        if self._asked is None or order.index(kind) > order.index(self._asked[0]):
            self._asked = (kind, who)
        self.tables(torch.arange(8).reshape(8, 1, 1, 1))

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
            raise InputError(
                "W changes every round, so it has no spectral gap; ask for a fixed graph without drop_links"
            )
        if self._complete and (self._own == self._own[0]).all():
            return 1.0 - abs(float(self._own[0] - self._weight[0]))
        return 1.0 - second_size(self._receiver, self._sender, self._weight, self._own)
