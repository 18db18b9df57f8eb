"""The network of an algorithm: the weights and the channel of each name that it sends. It does not depend on the scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from distopt.catalog.parts import label, part
from distopt.errors import InputError
from distopt.network.changing import DroppingMixing, SwitchingMixing
from distopt.network.churn import JOIN, Churn, Handover, JoinMixing, present_mixing
from distopt.network.delays import Delayed, aged
from distopt.network.digraphs import Digraph
from distopt.network.directed import DirectedMixing
from distopt.network.faults import Faults, FaultyMixing
from distopt.network.graphs import Graph, Switching
from distopt.network.mixing import ConstantMixing, Mixing
from distopt.network.properties import by_channel, shown
from distopt.network.rows import Tables, arcs
from distopt.network.topology import EVERY
from distopt.network.weights import DEGREES, rule_name
from distopt.numerics.random import Key
from distopt.numerics.trees import tensors
from distopt.optional import AlgorithmDefaults, ChannelDefaults, completed

NO_FAULTS = Faults()


@dataclass(frozen=True)
class Network:
    """What an algorithm's messages meet, channel by channel.

    Attributes:
        given: the topology by channel, before the algorithm's needs are known; ``topology.EVERY`` names one for all
            channels.
        mixings: the different weight matrices. Where one serves all channels, it is the only one.
        which: by channel the place of its weights in ``mixings``.
        channels: by name, how each value crosses the network.
        averaged: the channels whose values are averaged exactly, as on a server.
        doubts: warnings about the algorithm on this network, a line each.
        linked: the channels that send each neighbour a different message.
        joins: where joining agents begin; None without churn.
    """

    given: Mapping[str, Mixing]
    mixings: tuple[Mixing, ...]
    which: Mapping[str, int]
    channels: dict[str, Any]
    averaged: frozenset[str] = frozenset()
    doubts: tuple[str, ...] = ()
    linked: frozenset[str] = frozenset()
    joins: JoinMixing | None = None

    @classmethod
    def of(
        cls,
        topology: Graph | Switching | Mapping[str, Graph | Switching],
        weights: str,
        algorithm: Any,
        channel: Any,
        key: Key,
        drop_links: float = 0.0,
        who: str | None = None,
        faults: Faults = NO_FAULTS,
        churn: Churn | None = None,
    ) -> Network:
        """The network on which an algorithm runs.

        Args:
            topology: the graph, or one for each channel (see ``distopt.network.topology``).
            weights: the rule that makes the weights.
            algorithm: says what it sends, in ``channels``, and what W must be, in ``weights``.
            channel: a spec or an object, unless the algorithm brings its own.
            key: seed and trials.
            drop_links: see ``mixing_of``.
            who: what messages call the algorithm.
            faults: what goes wrong in it.
            churn: how agents leave and join; None: they stay.

        Raises:
            InputError: the weights are not what the algorithm needs, or a channel does not fit the network.

        >>> from distopt.algorithms.gt import GT
        >>> from distopt.network.graphs import graph_from_edges
        >>> network = Network.of(graph_from_edges(3, [[0, 1], [1, 2]]), "metropolis", GT(), "exact", Key(0, range(3), range(1), 3))
        >>> len(network.mixings), network.which
        (1, {'x': 0, 's': 0})
        """
        each = topology if isinstance(topology, Mapping) else {EVERY: topology}
        given = {name: mixing_of(one, weights, key, drop_links, faults, churn) for name, one in each.items()}
        joins = None
        if churn is not None:
            graph = each.get(EVERY)
            if not isinstance(graph, Graph):
                raise InputError("churn needs one topology for all channels; give a topology, not a dict")
            joins = JoinMixing(graph, key, churn)
        return cls(given, (), {}, {}, joins=joins).serving(algorithm, channel, who)

    def serving(self, algorithm: Any, channel: Any, who: str | None = None) -> Network:
        """The same network for another algorithm (see ``of``)."""
        who = who or type(algorithm).__name__.lower()
        algorithm = completed(AlgorithmDefaults, algorithm)
        served, needs = self._served(algorithm, who), by_channel(algorithm.weights, algorithm.channels)
        channels = channels_of(algorithm, channel, who)
        slotted = [name for name, each in channels.items() if each.for_degree is not None]
        asks = who if channel == "exact" else f"channel {label(channel)}"
        patient = [name for name in slotted if channels[name].patient]
        linked = {id(served[name]): served[name].with_link_slots(asks, patient == slotted) for name in slotted}
        served = {name: linked.get(id(mixing), mixing) for name, mixing in served.items()}
        channels |= {
            name: completed(ChannelDefaults, channels[name].for_degree(served[name].slots)) for name in slotted
        }
        heedful = [name for name, each in channels.items() if each.for_senders is not None]
        asks = who if channel == "exact" else f"channel {label(channel)}"
        placed = {id(served[name]): served[name].with_senders(asks) for name in heedful}
        served = {
            name: placed.get(id(mixing), mixing) if name in heedful else mixing for name, mixing in served.items()
        }
        channels |= {
            name: completed(ChannelDefaults, channels[name].for_senders(served[name].slots)) for name in heedful
        }
        for name, each in channels.items():
            if each.constant and not served[name].constant:
                raise InputError(
                    f"channel {type(each).__name__.lower()} keeps sums of what neighbours sent, which only hold while W does not change, "
                    f"but here {served[name].changes}, or another channel"
                )
            if name in heedful and isinstance(served[name], FaultyMixing) and "row" in needs[name]:
                raise InputError(
                    f"channel {label(channel)} cannot carry {name!r} of {who} where messages are lost: a late value would come on top of the "
                    "average; use robust_push_diging, or another channel"
                )
        channels, served = _late(channels, served, algorithm.channels)
        if self.joins is not None:
            _refuse_memory(channels)
            channels[JOIN], served[JOIN] = completed(ChannelDefaults, Handover(self.joins.churn)), self.joins
        mixings = tuple({id(mixing): mixing for mixing in served.values()}.values())
        places = {id(mixing): k for k, mixing in enumerate(mixings)}
        which = {name: places[id(mixing)] for name, mixing in served.items()}
        averaged = frozenset(name for name, each in needs.items() if "average" in each)
        summed = any("column" in each for each in needs.values())
        losing = [served[name] for name, each in needs.items() if "column" in each and name not in (*heedful, *patient)]
        doubts = _losses(who, losing, algorithm.tracks) if summed else _doubts(who, mixings)
        return Network(self.given, mixings, which, channels, averaged, doubts, frozenset(slotted), self.joins)

    def paced(self, pace: float) -> Network:
        """The same network, to serve an algorithm whose rounds last so many seconds (see ``distopt.network.faults``)."""
        return replace(self, given={name: mixing.paced(pace) for name, mixing in self.given.items()})

    def _served(self, algorithm: Any, who: str) -> dict[str, Mixing]:
        """The weights of each channel, which have the properties that the algorithm asks of it."""
        weights = algorithm.weights
        needs = by_channel(weights, algorithm.channels)
        single = EVERY in self.given
        if not single and set(self.given) != set(needs):
            raise InputError(f"the topology is given for {shown(self.given)}, but {who} sends {shown(needs)}")
        found: dict[tuple[int, bool], Mixing] = {}
        at = {}
        for name, each in needs.items():
            base = self.given[EVERY if single else name]
            at[name] = id(base), base.by_column(each)
            whose = f"{who} (channel {name!r})" if not single or isinstance(weights, Mapping) else who
            try:
                found[at[name]] = found.get(at[name], base).require(each, whose)
            except InputError as error:
                if single and len(set(needs.values())) > 1:
                    raise InputError(
                        f"{error}; or give each channel its own, as in topology={{'x': R, 's': C}}"
                    ) from error
                raise
        return {name: found[place] for name, place in at.items()}

    @property
    def agents(self) -> int:
        """N."""
        return self.mixings[0].agents

    @property
    def constant(self) -> bool:
        """Whether the weights of all channels are the same in every round."""
        return all(mixing.constant for mixing in self.mixings)

    @property
    def notes(self) -> tuple[str, ...]:
        """How the network was read, for the user: one line each."""
        return tuple(dict.fromkeys(note for mixing in self.mixings for note in mixing.notes))

    @property
    def bytes_per_round(self) -> int:
        """See ``Mixing``."""
        return sum(mixing.bytes_per_round for mixing in self.mixings)

    def rows(self, t: Tensor) -> Tables:
        """The weights of rounds t, int64 [K, 1, 1, 1]: a table for each of ``mixings``."""
        return tuple(mixing.rows(t) for mixing in self.mixings)

    def messages(self, t: Tensor, tables: Tables | None = None) -> Tensor:
        """How many messages an agent sends in each of the rounds t, the mean over the agents, float64 [K|1, R|1].

        An agent sends one message to each present neighbour, whatever its channels, whether or not it arrives. If a
        server averages, it sends one message to the server. ``tables`` are the weights of these rounds, where they have
        been made.
        """
        if self.agents == 1:
            return torch.zeros(1, 1, dtype=torch.float64)
        linked = sorted({self.which[name] for name in self.channels if name not in self.averaged})
        sent = torch.zeros(1, 1).double()
        if linked:
            made = {k: tables[k] for k in linked} if tables is not None else {}
            sent = arcs([self.mixings[k].sent(t, made.get(k)) for k in linked], self.agents) / self.agents
        return sent + 1 if self.averaged else sent

    def repeated(self, times: int) -> Network:
        """The same network for ``times`` copies of the trials, one after the other."""
        return replace(self, mixings=tuple(mixing.repeated(times) for mixing in self.mixings))


def _doubts(who: str, mixings: Sequence[Mixing]) -> tuple[str, ...]:
    """A warning about the objective if columns need not sum to 1."""
    found = dict.fromkeys(objective for mixing in mixings if (objective := mixing.objective()) is not None)
    return tuple(f"{who} approaches the minimiser of {objective}" for objective in found)


def _losses(who: str, mixings: Sequence[Mixing], tracks: str | None) -> tuple[str, ...]:
    """A warning about sums over the agents if lost messages carry parts of them."""
    drifting = [each for each in mixings if isinstance(each, FaultyMixing) and not each.keeps_sums()]
    if not drifting:
        return ()
    shows = "; the metric tracker_invariant shows how far" if tracks is not None else ""
    return (
        f"{who} does not end at the optimum with {drifting[0].faults.named}: parts of the sums over agents are lost, since columns of "
        f"W no longer sum to 1{shows}; use robust_push_diging, which corrects for losses",
    )


def _refuse_memory(channels: Mapping[str, Any]) -> None:
    """Refuse channels with a memory: it may be about agents that have left."""
    for each in channels.values():
        if tensors(each.init(torch.zeros(1, 1, 2))):
            raise InputError(
                f"channel {label(each)} remembers what was sent, which agents that leave and join do not share; use it without churn"
            )


def _late(
    channels: dict[str, Any], served: dict[str, Mixing], names: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Mixing]]:
    """The channels and the weights where messages may be late: each channel then has weights for each age."""
    channels, served = dict(channels), dict(served)
    made: dict[tuple[int, int], Mixing] = {}
    for name in names:
        mixing, each = served[name], channels[name]
        if not isinstance(mixing, FaultyMixing) or not mixing.faults.late:
            continue
        if each.shared:
            raise InputError(
                f"channel {label(each)} encodes messages with numbers of the round, so that a late message cannot be decoded; use it "
                "without delay"
            )
        channels[name] = completed(ChannelDefaults, Delayed(each, mixing.faults.late))
        for age in range(1, mixing.faults.late + 1):
            served[aged(name, age)] = made.setdefault((id(mixing), age), mixing.aged(age))
    return channels, served


def mixing_of(
    topology: Graph | Switching,
    rule: str,
    key: Key,
    drop_links: float = 0.0,
    faults: Faults = NO_FAULTS,
    churn: Churn | None = None,
) -> Mixing:
    """The mixing matrix of a topology, in the form that it has.

    With ``drop_links`` = p each undirected link fails with probability p in both directions, independently in every
    round and trial. Both ends add its weight to their self weights, so W_t stays symmetric and doubly stochastic.

    Args:
        topology: a fixed or a switching graph.
        rule: name of the weight rule, one of ``distopt.network.weights.RULES`` and ``DEGREES``, or ``lazy``.
        key: seed and trials (its agents are not used: W is that of the whole network).
        drop_links: p in [0, 1).
        faults: what goes wrong with the messages of links that are there (see ``distopt.network.faults``).
        churn: how agents leave and join; None: they stay.

    Raises:
        InputError: an unknown rule or one that this topology cannot have; links that fail although W is not symmetric, or the graph directed.

    >>> from distopt.network.graphs import graph_from_edges
    >>> ring = graph_from_edges(4, [[0, 1], [1, 2], [2, 3], [0, 3]])
    >>> round(mixing_of(ring, "metropolis", Key(0, range(4), range(1), 4)).spectral_gap(), 6)
    0.666667
    """
    if churn is not None and (faults.sleep or faults.delayed):
        raise InputError(f"churn and {'sleep' if faults.sleep else 'delay'} do not go together; give one of them")
    mixing = _whole(topology, rule_name(rule), key, float(drop_links), churn)
    faults = faults.on(topology)
    return FaultyMixing(mixing, key, faults) if faults else mixing


def _whole(topology: Graph | Switching, rule: str, key: Key, p: float, churn: Churn | None = None) -> Mixing:
    """The mixing matrix of a topology all of whose messages arrive; p is ``drop_links``."""
    if topology.agents < 1:
        raise InputError(f"a network needs at least 1 agent, not {topology.agents}")
    if not 0.0 <= p < 1.0:
        raise InputError(f"drop_links is the probability that a link fails in a round: 0 <= drop_links < 1, not {p}")
    if churn is not None:
        return present_mixing(topology, rule, key, p, churn)
    if isinstance(topology, Digraph) or (rule in DEGREES and isinstance(topology, Graph) and topology.matrix is None):
        if p:
            raise InputError(
                "drop_links makes links fail in both directions and returns their weights, which needs symmetric weights; use it with an "
                f"undirected topology, and without weight rule {' or '.join(DEGREES)}"
            )
        return DirectedMixing(topology, rule)
    if isinstance(topology, Graph):
        return DroppingMixing(topology, rule, key, p) if p else ConstantMixing(topology, rule)
    mixing = SwitchingMixing(topology, rule, key, p)
    return mixing.require("symmetric", "drop_links") if p else mixing


def channels_of(algorithm: Any, channel: Any, who: str) -> dict[str, Any]:
    """The channel of each name that an algorithm sends: its own, where it brings any, or ``channel``, a spec or an object.

    Raises:
        InputError: both bring one, or the algorithm leaves one out.
    """
    needs = ("init", "encode", "bits")
    brought = algorithm.channel
    if brought is None:
        return dict.fromkeys(algorithm.channels, part("channels", channel, needs, {}))
    if channel != "exact":
        raise InputError(
            f"algorithm {who} brings its own channel; leave channel={label(channel)} out, or use another algorithm, such as gt"
        )
    own = brought if isinstance(brought, Mapping) else dict.fromkeys(algorithm.channels, brought)
    if missing := [name for name in algorithm.channels if name not in own]:
        raise InputError(f"algorithm {who} sends {missing[0]!r}, but brings no channel for it")
    return {name: part("channels", own[name], needs, {}) for name in algorithm.channels}
