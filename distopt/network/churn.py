"""Agents that leave and join: which agents are present in a round, W among them, and where joining agents begin."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt.errors import InputError
from distopt.network.changing import DroppingMixing
from distopt.network.components import lowest_members
from distopt.network.digraphs import Digraph
from distopt.network.graphs import Floats, Graph, Ints, Switching
from distopt.network.mixing import Mixing
from distopt.network.properties import Properties, properties
from distopt.network.rows import Pattern, Table
from distopt.network.weights import DEGREES, SPECTRAL, by_degree
from distopt.numerics.random import Key
from distopt.optional import ChannelDefaults
from distopt.protocols import Wire

JOIN = "network.join"
"""The channel that sends joining agents the points of their neighbours, and the entry of ``Uniforms`` that says which agents are present."""


WINDOW = 1024
"""Rounds among which the last event before some round is looked for at once."""

LINKS = 2_000_000
"""About how many agents and links, counted once for each round and trial, are looked at together."""


@dataclass(frozen=True)
class Churn:
    """How agents leave and join: an independent Markov chain for each agent.
    All are present in round 0, and agent 0 never leaves.

    Attributes:
        leave: probability that a present agent leaves in a round.
        join: probability that an absent agent joins in a round; ``leave`` and ``join`` sum to at most 1.
        until: from this round on no agent leaves or joins; None: no such round.

    >>> churn, key = Churn(0.2, 0.4), Key(0, range(4), range(1), total=4)
    >>> churn.present(torch.arange(4, 8).reshape(-1, 1, 1, 1), key)[:, 0, :, 0].int().tolist()
    [[1, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    """

    leave: float
    join: float
    until: int | None = None

    @classmethod
    def of(cls, text: str) -> Churn | None:
        """From the setting of an experiment, which has checked it: "leave=0.01,join=0.1" or "" for none.

        >>> Churn.of("leave=0.01,join=0.1,until=50"), Churn.of("")
        (Churn(leave=0.01, join=0.1, until=50), None)
        """
        given = dict(each.split("=") for each in text.split(",")) if text else {}
        until = given.get("until")
        return (
            cls(float(given["leave"]), float(given["join"]), None if until is None else int(until)) if given else None
        )

    def present(self, t: Tensor, key: Key) -> Tensor:
        """Whether each agent is present in rounds t [K, 1, 1, 1], for ALL agents in the trials of ``key``: bool [K, R, N, 1].

        One uniform number u decides for each agent and round. The agent is absent from then on if u < ``leave``, and
        present if u >= 1 - ``join``; otherwise nothing changes. So the last of these two events decides. It is searched
        backwards, since random numbers are addressed by round.
        """
        everyone = Key(key.seed, range(key.total), key.trials.tolist(), key.total)
        stays = torch.arange(key.total).reshape(-1, 1) == 0

        def events(start: int, stop: int) -> Tensor:
            """Of rounds start .. stop - 1, 2 tau where an agent goes in round tau, 2 tau + 1 where it comes, and 0 where neither."""
            tau = torch.arange(start, stop).reshape(-1, 1, 1, 1)
            u = everyone.uniform("churn", 1, tau)
            event = torch.where(u < self.leave, 2 * tau, torch.where(u >= 1 - self.join, 2 * tau + 1, 0))
            over = stays | (tau == 0) if self.until is None else stays | (tau == 0) | (tau >= self.until)
            return torch.where(over, 0, event)

        first = int(t.min())
        code = events(first, int(t.max()) + 1).cummax(0).values
        last, stop = torch.zeros_like(code[:1]), first if self.until is None else min(first, self.until)
        while stop > 1 and bool(((last == 0) & ~stays).any()):
            start = max(1, stop - WINDOW)
            last, stop = torch.maximum(last, events(start, stop).amax(0, keepdim=True)), start
        code = torch.maximum(code, last)[t.reshape(-1) - first]
        return (code == 0) | (code % 2 == 1)

    def told(self, t: Tensor, key: Key) -> Tensor:
        """Flags 1.0 or 0.0 [K, R, n, 2] in rounds t: whether the agent is present, and whether the set of present agents has just changed."""
        now, before = self.present(t, key), self.present((t - 1).clamp(min=0), key)
        changed = (now != before).any(-2, keepdim=True).expand_as(now)
        return torch.cat([now, changed], -1)[:, :, key.agents].double()


class PresentMixing(DroppingMixing):
    """W_t among the present agents, by a rule of degrees. An agent's degree counts its present neighbours.

    Its rows and columns sum to 1. Absent agents have w_ii = 1. Links may fail besides, each with probability p.
    """

    changes = "agents come and go; leave churn out"

    def __init__(self, graph: Graph, rule: str, key: Key, p: float, churn: Churn) -> None:
        super().__init__(graph, rule, key, p)
        self.rule, self.churn = rule, churn

    def rows(self, t: Tensor) -> Table:
        """See ``Mixing``."""
        there = self.churn.present(t, self._key)[..., 0].numpy()
        (rounds, trials, n), (i, j), p = there.shape, self._edges.T, self._pattern
        linked = (there[..., i] & there[..., j]).reshape(-1, len(i))
        block = np.arange(len(linked))[:, None] * n
        degree = (_sums(linked, block + i, n) + _sums(linked, block + j, n)).astype(np.int64)
        top = np.broadcast_to(degree.max(1, keepdims=True), linked.shape)
        weight = linked * by_degree(self.rule, degree[:, i], degree[:, j], top)
        own = 1.0 - (_sums(weight, block + i, n) + _sums(weight, block + j, n))
        values = np.concatenate([weight, weight, own], 1)[:, p.order].reshape(rounds, trials, -1)
        if self._p:
            failed = np.zeros((rounds, trials, len(i) + 1), dtype=bool)
            failed[..., : len(i)] = self._failed(t.reshape(-1))
            values = self._given_back(p, values, failed[..., self._links])
        return p.table(values, (rounds, trials))

    def _refuse_average(self, needs: Properties, who: str) -> None:
        if "average" in needs:
            raise InputError(f"{who} needs the average of all workers, but with churn some are away; leave churn out")

    def with_link_slots(self, who: str, patient: bool = False) -> Mixing:
        """See ``Mixing``."""
        raise InputError(f"{who} keeps vectors for each link, but with churn agents leave and join; leave churn out")

    def with_senders(self, who: str) -> Mixing:
        """See ``Mixing``."""
        raise InputError(f"{who} keeps a memory of each sender, but with churn agents leave and join; leave churn out")


class JoinMixing(Mixing):
    """Where joining agents begin: the table of round t averages, for an agent that joins in round t + 1, its neighbours present in both rounds.

    All other rows are those of the identity, and so is the row of a joining agent without such a neighbour.
    """

    changes = PresentMixing.changes

    def __init__(self, graph: Graph, key: Key, churn: Churn) -> None:
        self.agents, self.churn, self._edges = graph.agents, churn, graph.edges
        self._key = Key(key.seed, range(graph.agents), key.trials.tolist(), graph.agents)

    @cached_property
    def _arcs(self) -> tuple[Ints, Ints]:
        """Receivers and senders of all links, both ways."""
        i, j = self._edges.T
        return np.concatenate([i, j]), np.concatenate([j, i])

    @cached_property
    def _pattern(self) -> Pattern:
        return Pattern(self.agents, 1, *self._arcs)

    def rows(self, t: Tensor) -> Table:
        """See ``Mixing``."""
        now, then = (self.churn.present(each, self._key)[..., 0].numpy() for each in (t, t + 1))
        (rounds, trials, n), (receiver, sender), p = now.shape, self._arcs, self._pattern
        told = ((then & ~now)[..., receiver] & (then & now)[..., sender]).reshape(-1, len(receiver))
        block = np.arange(len(told))[:, None] * n
        count = _sums(told, block + receiver, n)
        weight = told / np.maximum(count[:, receiver], 1.0)
        values = np.concatenate([weight, (count == 0).astype(np.float64)], 1)[:, p.order]
        return p.table(values.reshape(rounds, trials, -1), (rounds, trials))

    def torn(self, rounds: int) -> str | None:
        """A line on the first ``rounds`` rounds in some of which those who are there are not connected; None where they always are.

        >>> from distopt.network.graphs import graph_from_edges
        >>> ring = graph_from_edges(4, [[0, 1], [1, 2], [2, 3], [0, 3]])
        >>> JoinMixing(ring, Key(0, range(4), range(1), 4), Churn(0.3, 0.4)).torn(50)[:93]
        'with churn those who are there are not connected in 6 of 50 rounds, first in round 15: each p'
        """
        trials, found, first = len(self._key.trials), 0, (rounds, 0)
        size = max(1, LINKS // (trials * (self.agents + len(self._edges))))
        for start in range(0, rounds, size):
            t = torch.arange(start, min(start + size, rounds)).reshape(-1, 1, 1, 1)
            apart = _pieces(self.churn.present(t, self._key)[..., 0].numpy(), self._edges) > 1
            found += int(apart.sum())
            first = min([first, *((start + int(k), int(r)) for k, r in np.argwhere(apart)[:1])])
        if not found:
            return None
        what, where = (f" of {trials} trials", f" of trial {first[1]}") if trials > 1 else ("", "")
        return (
            f"with churn those who are there are not connected in {found:,} of {rounds * trials:,} rounds{what}, first in round {first[0]}{where}: "
            "each piece then goes its own way; take a graph with more links, or less churn"
        )

    def require(self, needs: str | Collection[str], who: str) -> JoinMixing:
        """See ``Mixing``. Nobody asks anything of it."""
        properties(needs)
        return self

    def repeated(self, times: int) -> JoinMixing:
        """See ``Mixing``."""
        twin, trials = copy.copy(self), self._key.trials.tolist()
        twin._key = Key(self._key.seed, range(self.agents), trials * times, self.agents)
        return twin

    @property
    def bytes_per_round(self) -> int:
        """See ``Mixing``."""
        return len(self._key.trials) * (8 * self._pattern.slots + 25 * len(self._pattern.order))


@dataclass(frozen=True)
class Handover(ChannelDefaults):
    """The channel that sends a joining agent the points of its neighbours, exactly; ``bits`` does not count them.

    >>> Handover(Churn(0.1, 0.1)).bits(d=10, itemsize=8)
    0
    """

    churn: Churn

    def init(self, like: Tensor) -> tuple[()]:
        """Nothing is remembered."""
        return ()

    def encode(self, z: Tensor, memory: tuple[()], u: Tensor | None) -> Tensor:
        """The points themselves."""
        return z

    def __call__(
        self, z: Tensor, payload: Tensor, memory: tuple[()], wire: Wire, u: Tensor | None = None
    ) -> tuple[Tensor, tuple[()]]:
        """The mean of the neighbours' points for a joining agent, else z."""
        return wire.weigh(wire.heard(payload)), memory

    def bits(self, d: int, itemsize: int) -> int:
        """None are counted."""
        return 0


def present_mixing(topology: Graph | Switching, rule: str, key: Key, p: float, churn: Churn) -> PresentMixing:
    """W_t among the present agents of a fixed undirected graph, by a rule's full name.

    Raises:
        InputError: the weights of that graph are not made by a rule of degrees, or it is directed or changes.
    """
    if not isinstance(topology, Graph) or isinstance(topology, Digraph):
        what = "directed" if isinstance(topology, Digraph) else "another in each round"
        raise InputError(
            f"churn recomputes W for the agents that are present, but this graph is {what}; use a fixed undirected topology"
        )
    if topology.matrix is not None or rule in (*SPECTRAL, *DEGREES):
        what = "weights that were given" if topology.matrix is not None else f"weight rule {rule}"
        raise InputError(
            f"churn recomputes W for the agents that are present, but {what} cannot be recomputed; use a topology without them, and weights "
            "metropolis, lazy_metropolis or max_degree"
        )
    return PresentMixing(topology, rule, key, p, churn)


def _pieces(here: NDArray[np.bool_], edges: Ints) -> Ints:
    """How many connected pieces a graph has among those who are there [K, R, n]: [K, R]."""
    (i, j), n = edges.T, here.shape[-1]
    flat = here.reshape(-1, n)
    block, link = np.nonzero(flat[:, i] & flat[:, j])
    edges = np.stack([block * n + i[link], block * n + j[link]], -1)
    pieces = np.bincount(np.unique(lowest_members(flat.size, edges)) // n, minlength=len(flat))
    left: Ints = (pieces - (~flat).sum(1)).reshape(here.shape[:2])  # one who is away is a piece, too
    return left


def _sums(values: NDArray[np.bool_] | Floats, places: Ints, n: int) -> Floats:
    """Sums of values [B, E] by agent, whose ``places`` [B, E] count on from block to block: float64 [B, n]."""
    return np.bincount(places.ravel(), values.ravel(), len(values) * n).astype(np.float64).reshape(-1, n)
