"""The mixing matrix W_t where it differs from round to round: links that fail, and topologies that change."""

from __future__ import annotations

import copy
from collections.abc import Collection
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt.errors import InputError
from distopt.network.graphs import Arcs, Floats, Graph, Ints, Switching
from distopt.network.mixing import Mixing, both_ways, given
from distopt.network.properties import Properties, Terms, check_weights, properties
from distopt.network.rows import Pattern, Table
from distopt.network.weights import DEGREES, SPECTRAL, arc_weights, check_settles, link_weights
from distopt.numerics.random import Key, words
from distopt.optional import TopologyDefaults, completed

LOOKED_AT = 8
"""Rounds of a switching topology that are looked at before a run begins."""


class _Changing(Mixing):
    """W that changes from round to round."""

    _key: Key
    _p: float

    def _refuse_average(self, needs: Properties, who: str) -> None:
        if "average" in needs:
            advice = "use a star or the complete graph, without drop_links"
            raise InputError(
                f"{who} needs the exact average of all workers in every round, but links fail or change; {advice}"
            )

    def repeated(self, times: int) -> Self:
        """See ``Mixing``."""
        twin, trials = copy.copy(self), self._key.trials.tolist()
        twin._key = _key(self._key, self.agents, trials * times if len(trials) > 1 else trials)
        return twin

    def _given_back(self, p: Pattern, values: Floats, failed: NDArray[np.bool_]) -> Floats:
        """The values of all terms [..., terms], with those of failed links added to the self term of their row."""
        lost = values * failed
        values = values - lost
        own = np.empty(len(p.order), np.int64)
        own[p.order] = np.arange(len(p.order))
        values[..., own[len(p.order) - len(p.first) :]] += np.add.reduceat(lost, p.first, axis=-1)
        return values


class DroppingMixing(_Changing):
    """W of a fixed graph whose links fail with probability p, by a rule's full name or with the symmetric weights that were given."""

    def __init__(self, graph: Graph, rule: str, key: Key, p: float) -> None:
        self.agents, self.notes, self.positions = graph.agents, graph.notes, graph.positions
        self.graph, self._p, self._settles = graph, p, False
        self._key = _key(key, graph.agents, key.trials.tolist())
        if graph.matrix is None:
            self._edges, self.terms = graph.edges, both_ways(graph, link_weights(graph, rule))
            return
        self.terms = given(graph)
        self.require("symmetric", "drop_links")
        receiver, sender, weight, own = self.terms
        half = np.flatnonzero(receiver < sender)
        half = half[np.lexsort((sender[half], receiver[half]))]
        i, j, weight = receiver[half], sender[half], weight[half]
        self._edges = np.stack([i, j], 1)
        self.terms = Terms(np.concatenate([i, j]), np.concatenate([j, i]), np.concatenate([weight, weight]), own)

    @cached_property
    def _pattern(self) -> Pattern:
        return Pattern(self.agents, 1, self.terms.receiver, self.terms.sender)

    @cached_property
    def _values(self) -> Floats:
        values: Floats = np.concatenate([self.terms.weight, self.terms.own])[self._pattern.order]
        return values

    @cached_property
    def _links(self) -> Ints:
        """The undirected link of each sorted term; E for a self term."""
        count = len(self._edges)
        link = np.arange(count)
        return np.concatenate([link, link, np.full(self.agents, count)])[self._pattern.order]

    def rows(self, t: Tensor) -> Table:
        """See ``Mixing``."""
        rounds, trials, p, count = t.reshape(-1), self._key.trials, self._pattern, len(self._edges)
        failed = np.zeros((len(rounds), len(trials), count + 1), dtype=bool)
        failed[..., :count] = self._failed(rounds)
        return p.table(self._given_back(p, self._values, failed[..., self._links]), (len(rounds), len(trials)))

    def _failed(self, rounds: Tensor) -> NDArray[np.bool_]:
        """Which links fail, [K, R, E]: link e of round t is word t E + e."""
        asked, trials, count = rounds.tolist(), self._key.trials.tolist(), len(self._edges)
        out = np.empty((len(asked), len(trials), count), dtype=bool)
        in_a_row = bool((rounds.diff() == 1).all())
        for r, trial in enumerate(trials):
            if in_a_row and asked:
                drawn = words(self._key.seed, "links", trial, asked[0] * count, len(asked) * count)
                out[:, r] = drawn.reshape(len(asked), count) < self._p
                continue
            for k, round_ in enumerate(asked):
                out[k, r] = words(self._key.seed, "links", trial, round_ * count, count) < self._p
        return out

    def require(self, needs: str | Collection[str], who: str) -> DroppingMixing:
        """See ``Mixing``."""
        needs = properties(needs)
        self._refuse_average(needs, who)
        if self.graph.matrix is not None:
            check_weights(needs, who, *self.terms)
            if not self._settles:
                check_settles(who, *self.terms, self._p)
                self._settles = True
        return self

    @property
    def bytes_per_round(self) -> int:
        """See ``Mixing``."""
        p = self._pattern
        return len(self._key.trials) * (8 * p.slots + 25 * len(p.order) + 10 * len(self._edges))


class SwitchingMixing(_Changing):
    """W of a topology that changes from round to round, by a degree rule or with the weights of its arcs.

    The topology gives no self weights. The self weight is 1 minus the other weights of the agent's row. If W need only
    be column-stochastic, it is 1 minus those of its column: what the agent did not send.
    """

    def __init__(self, topology: Switching, rule: str, key: Key, p: float) -> None:
        if rule in (*SPECTRAL, *DEGREES):
            raise InputError(
                f"weight rule {rule} needs one fixed graph, and {type(topology).__name__} changes every round; "
                "use metropolis, lazy_metropolis or max_degree"
            )
        whole = completed(TopologyDefaults, topology)
        self.agents, self.notes, self.positions = whole.agents, tuple(whole.notes), whole.positions
        self.topology, self.rule, self._p = topology, rule, p
        trials = key.trials.tolist()
        self._key = _key(key, self.agents, trials if p or whole.random else trials[:1])
        self._asked: tuple[tuple[Properties, str], ...] = ()
        self._columns = False  # whether the columns are made to sum to 1

    def by_column(self, needs: Properties) -> bool:
        """See ``Mixing``. A rule makes symmetric weights, whose rows and columns sum to 1."""
        first = torch.arange(LOOKED_AT).reshape(-1, 1, 1, 1)
        return "row" not in needs and "column" in needs and self.topology.arcs(first, self._key).weight is not None

    def require(self, needs: str | Collection[str], who: str) -> SwitchingMixing:
        """See ``Mixing``."""
        needs = properties(needs)
        self._refuse_average(needs, who)
        if any(needs <= asked for asked, _ in self._asked):
            return self
        twin = copy.copy(self)
        twin._columns = self._columns or (not self._asked and self.by_column(needs))
        twin._asked = (*self._asked, (needs, who))
        twin.rows(torch.arange(LOOKED_AT).reshape(-1, 1, 1, 1))
        return twin

    def rows(self, t: Tensor) -> Table:
        """See ``Mixing``."""
        arcs, rounds = self.topology.arcs(t, self._key), t.reshape(-1)
        n, trials, name = self.agents, len(self._key.trials), type(self.topology).__name__
        blocks = len(rounds) * trials
        block, receiver, sender = arcs.round * trials + arcs.trial, arcs.receiver, arcs.sender
        if len(receiver) and (min(receiver.min(), sender.min()) < 0 or max(receiver.max(), sender.max()) >= n):
            raise InputError(f"{name} lists an agent outside 0 .. {n - 1}")
        row, column = block * n + receiver, block * n + sender
        weight = self._weights(arcs, block)
        sums = np.bincount(column if self._columns else row, weight, blocks * n)
        own: Floats = 1.0 - sums.astype(np.float64)
        for needs, who in self._asked if arcs.weight is not None else ():
            check_weights(needs, who, row, column, weight, own, f" (rows and columns count {n} per round and trial)")
        p = Pattern(n, blocks, row, sender)
        values: Floats = np.concatenate([weight, own])[p.order]
        if self._p:
            upper, lower = np.flatnonzero(receiver < sender), np.flatnonzero(receiver > sender)
            upper = upper[np.argsort(row[upper] * n + sender[upper])]
            lower = lower[np.argsort(column[lower] * n + receiver[lower])]
            failed = np.zeros(len(values), dtype=bool)
            failed[upper] = self._failed(np.bincount(block[upper], minlength=blocks), rounds)
            failed[lower] = failed[upper]
            values = self._given_back(p, values, failed[p.order])
        return p.table(values, (len(rounds), trials))

    def _weights(self, arcs: Arcs, block: Ints) -> Floats:
        name = type(self.topology).__name__
        if arcs.weight is None:
            return arc_weights(self.rule, self.agents, block, arcs.receiver, arcs.sender, name)
        if not np.isfinite(arcs.weight).all():
            raise InputError(f"{name} gives a weight that is not finite")
        return arcs.weight

    def _failed(self, per_block: Ints, rounds: Tensor) -> NDArray[np.bool_]:
        """Which links fail, flat: the e-th link of round t is word t N (N - 1) / 2 + e, in the order of (i, j), i < j."""
        trials, most = self._key.trials.tolist(), self.agents * (self.agents - 1) // 2
        out = np.empty(int(per_block.sum()), dtype=bool)
        end = 0
        for b, count in enumerate(per_block.tolist()):
            round_, trial = int(rounds[b // len(trials)]), trials[b % len(trials)]
            out[end : end + count] = words(self._key.seed, "links", trial, round_ * most, count) < self._p
            end += count
        return out

    @property
    def bytes_per_round(self) -> int:
        """See ``Mixing``."""
        table = self.rows(torch.zeros(1, 1, 1, 1, dtype=torch.int64))
        return 3 * sum(leaf.numel() * leaf.element_size() for leaf in table)


def _key(key: Key, agents: int, trials: list[int]) -> Key:
    """The key of all agents and these trials."""
    return Key(key.seed, range(agents), trials, agents)
