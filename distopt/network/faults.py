"""W where messages are lost or late and agents sleep: what arrives of a round's weights, and what becomes of what does not."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt.errors import InputError
from distopt.network.clock import LENGTH, Clock
from distopt.network.graphs import Floats, Graph, Ints, Switching
from distopt.network.lengths import Travel
from distopt.network.mixing import ConstantMixing, Mixing
from distopt.network.properties import Properties, properties
from distopt.network.rows import Table
from distopt.numerics.random import Key, scattered

SLEEP = "sleep"
"""The entry of ``Uniforms``, and of ``widths``, for whether agents sleep; also the stream of these numbers."""


LATEST = 64
"""The most rounds that a message may be late: all values of these rounds are kept."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong in a network.

    Attributes:
        drop_messages: probability that a message is lost.
        sleep: probability that an agent sleeps in a round.
        delay: how many rounds late messages are: the least and the most.
        pace: seconds that a round lasts, where a message is as late as the length of its link makes it; else 0.
        travel: the links, where their lengths decide and the graph is known.

    >>> Faults.of(0.0, 0.0, "0..3").delay, Faults.of(0.0, 0.0, "2").delay, bool(Faults.of(0.0, 0.0, ""))
    ((0, 3), (2, 2), False)
    >>> Faults.of(0.0, 0.0, "length", "compute=0.001").pace
    0.001
    """

    drop_messages: float = 0.0
    sleep: float = 0.0
    delay: tuple[int, int] = (0, 0)
    pace: float = 0.0
    travel: Travel | None = None

    @classmethod
    def of(cls, drop_messages: float, sleep: float, delay: str, clock: str = "") -> Faults:
        """From the settings of an experiment, which has checked them one by one; ``delay`` is "", "2", "0..2" or "length".

        Raises:
            InputError: ``delay`` is "length", and the clock says something else than how long computing takes.
        """
        if delay != LENGTH:
            least, _, most = delay.partition("..")
            return cls(drop_messages, sleep, (int(least or 0), int(most or least or 0)))
        given = Clock.of(clock)
        if not given.compute:
            raise InputError(
                "delay=length counts in rounds how long messages are under way, so the clock must say how long a round lasts; add clock "
                "compute=1e-3 (seconds for a gradient)"
            )
        if given != Clock(given.compute):
            raise InputError(
                f"delay=length takes latencies from the lengths of links, and no message waits for its bits; give clock compute={given.compute:g} "
                "alone"
            )
        return cls(drop_messages, sleep, pace=given.compute)

    def on(self, topology: Graph | Switching) -> Faults:
        """The same with the delays of a topology's links, where their lengths decide.

        Raises:
            InputError: the topology does not know the lengths of its links, or one of them takes more than ``LATEST`` rounds.
        """
        if not self.pace:
            return self
        if not isinstance(topology, Graph) or topology.lengths is None:
            raise InputError(
                "delay=length, but the topology does not know the lengths of its links; use topohub, or a .graphml or .gml file whose edges have a "
                "length (kilometres), or give the delay in rounds"
            )
        return replace(self, travel=Travel.of(topology)).paced(self.pace)

    def paced(self, pace: float) -> Faults:
        """The same where a round lasts so many seconds; no other than it is where lengths do not decide."""
        if self.travel is None:
            return replace(self, pace=pace) if self.pace else self
        rounds = self.travel.rounds(pace)
        least, most = (int(rounds.min()), int(rounds.max())) if len(rounds) else (0, 0)
        if most > LATEST:
            raise InputError(
                f"delay=length: a round lasts {pace:g} s, and a message on the longest link ({self.travel.lengths.max():g} km) takes {most} of "
                f"them; {LATEST} are the most, so let the clock's compute be longer"
            )
        return replace(self, delay=(least, most), pace=pace)

    def __post_init__(self) -> None:
        if not (0.0 <= self.drop_messages < 1.0 and 0.0 <= self.sleep < 1.0):
            raise InputError(
                "drop_messages and sleep are the probabilities that a message is lost and that an agent sleeps in a round: from 0 to below 1, not "
                f"{self.drop_messages} and {self.sleep}"
            )
        if self.sleep and self.delayed:
            raise InputError(
                "sleep and delay do not go together: a sleeping agent does not resend earlier messages; give one of them"
            )

    def __bool__(self) -> bool:
        return bool(self.drop_messages or self.sleep or self.late)

    @property
    def late(self) -> int:
        """How many rounds late a message is at most."""
        return self.delay[1]

    @property
    def delayed(self) -> bool:
        """Whether messages are late, or may be on links that are not known yet."""
        return bool(self.late or self.pace)

    @property
    def named(self) -> str:
        """The settings that are not left out, for messages."""
        given = {"drop_messages": self.drop_messages, "sleep": self.sleep, "delay": self.delayed}
        return " and ".join(name for name, value in given.items() if value)


class FaultyMixing(Mixing):
    """W_t of a network some of whose messages do not arrive, or arrive late.

    In each round and trial every message is lost with probability p, independently: the message from j to i may be lost
    while that from i to j arrives. All channels' values travel in one message, so they are lost together, even if the
    channels have different weights. An agent sleeps with probability q, and neither sends nor receives then. A message
    takes between a and b rounds, drawn uniformly for each message. A receiver uses the newest message that has arrived;
    there is none if all of the last b - a + 1 are lost. If the
    length of a link decides, each of its messages takes the same number of rounds.

    If the rows of W must sum to 1, the receiver uses its own value in place of the missing one: the lost weight is
    added to its self weight. Rows then still sum to 1, and columns do not. If only columns must sum to 1, the sender
    cannot know of the loss,
    and what it sent is lost: then neither rows nor columns sum to 1. So sums over the agents, on which trackers and
    push-sum live, are not kept, unless a channel keeps running sums. Sleep alone keeps them where W is symmetric: then
    both ends of a link miss each other.

    ``age`` chooses the weights of messages of that many rounds ago; the self weight is among those of age 0.
    """

    def __init__(self, base: Mixing, key: Key, faults: Faults, back: bool = True, age: int = 0) -> None:
        self.agents, self.notes, self.positions, self.slots = base.agents, base.notes, base.positions, base.slots
        self.base, self.faults, self.age = base.listed() if isinstance(base, ConstantMixing) else base, faults, age
        self._back = back  # whether a lost weight goes to the receiver's self weight
        self._key = Key(key.seed, range(base.agents), key.trials.tolist(), base.agents)
        self.changes = f"messages do not all arrive in their round; leave {faults.named} out"

    def _of(self, base: Mixing, back: bool) -> FaultyMixing:
        return FaultyMixing(base, self._key, self.faults, back)

    def paced(self, pace: float) -> FaultyMixing:
        """See ``Mixing``."""
        return FaultyMixing(self.base, self._key, self.faults.paced(pace), self._back)

    def aged(self, age: int) -> FaultyMixing:
        """The weights of messages of that age."""
        return FaultyMixing(self.base, self._key, self.faults, self._back, age)

    def keeps_sums(self) -> bool:
        """Whether columns sum to 1 where those of W do, what is under way included: then each message must serve once."""
        least, most = self.faults.delay
        if self.faults.late and not self.faults.drop_messages and not self._back:
            return least == most or self.faults.travel is not None
        if self.faults.drop_messages or self.faults.late or not self._back:
            return False
        try:
            self.base.require("symmetric", SLEEP)
        except InputError:
            return False
        return True

    def require(self, needs: str | Collection[str], who: str) -> FaultyMixing:
        """See ``Mixing``. The needed properties must hold for the weights of a round in which all messages arrive."""
        needs = properties(needs)
        if "average" in needs:
            raise InputError(
                f"{who} needs the average of all workers in every round; use it without {self.faults.named}"
            )
        base = self.base.require(needs, who)
        if self.faults.late and not base.constant:
            raise InputError("delay needs the same links in every round; use a fixed topology without drop_links")
        back = not self.by_column(needs)
        return self if base is self.base and back == self._back else self._of(base, back)

    def by_column(self, needs: Properties) -> bool:
        """See ``Mixing``: what becomes of a lost weight differs."""
        return "column" in needs and "row" not in needs

    def objective(self) -> str | None:
        """See ``Mixing``. The mean of W_t, (1 - p) W + p I, has the same left Perron vector as W."""
        return self.base.objective()

    def repeated(self, times: int) -> FaultyMixing:
        """See ``Mixing``."""
        twin, trials = copy.copy(self), self._key.trials.tolist()
        twin._key = Key(self._key.seed, range(self.agents), trials * times, self.agents)
        twin.base = self.base.repeated(times)
        return twin

    def with_link_slots(self, who: str, patient: bool = False) -> FaultyMixing:
        """See ``Mixing``. Slots of links whose messages do not arrive have the side 0."""
        if patient and self.faults.late:
            raise InputError(
                f"{who} has a variable for each link, which a message of its own round moves or none; use it without delay"
            )
        if patient:
            return self._of(self.base.with_link_slots(who), self._back)
        raise InputError(
            f"{who} keeps a vector at both ends of each link, and a lost message would make them differ; use it without {self.faults.named}"
        )

    def with_senders(self, who: str) -> FaultyMixing:
        """See ``Mixing``."""
        return self._of(self.base.with_senders(who), self._back)

    def rows(self, t: Tensor) -> Table:
        """See ``Mixing``."""
        table, everyone = self.base.rows(t), np.arange(self.agents)
        weight = self._arrived(t, everyone, table.index.numpy(), table.weight.numpy())
        hubs = table.hub_rows[0, 0].numpy()
        hub_weight = self._arrived(t, hubs, table.hub_index.numpy(), table.hub_weight.numpy())
        found = table._replace(weight=torch.from_numpy(weight), hub_weight=torch.from_numpy(hub_weight))
        if table.slot_index.shape[-1]:
            sender = table.slot_index.numpy() // table.slot_index.shape[-1]
            arrives = self._ages(t, everyone, sender) == 0
            found = found._replace(slot_side=torch.from_numpy(np.where(arrives, table.slot_side.numpy(), 0.0)))
        if not table.sender_index.shape[-1]:
            return found
        there = self._ages(t, everyone, table.sender_index.numpy()) == self.age
        return found._replace(sender_weight=torch.from_numpy(np.where(there, table.sender_weight.numpy(), 0.0)))

    def sent(self, t: Tensor, made: Table | None = None) -> Table:
        """See ``Mixing``. A sleeper sends nothing."""
        table = self.base.sent(t)
        if not self.faults.sleep:
            return table
        asleep = self._asleep(t)
        index, hub_index = table.index.numpy(), table.hub_index.numpy()
        return table._replace(
            weight=torch.from_numpy(np.where(_of_agents(asleep, index), 0.0, table.weight.numpy())),
            hub_weight=torch.from_numpy(np.where(_of_agents(asleep, hub_index), 0.0, table.hub_weight.numpy())),
        )

    def _arrived(self, t: Tensor, receivers: Ints, index: Ints, weight: Floats) -> Floats:
        """The weights [K, R, n, D] of the terms ``index`` of the rows ``receivers``; 0 where a message of this age is not what a row takes."""
        if not index.size:
            return weight
        own = index == receivers.reshape(1, 1, -1, 1)
        ages = np.where(own, 0, self._ages(t, receivers, index))
        shape = np.broadcast_shapes(ages.shape, weight.shape)
        left: Floats = np.where(ages == self.age, weight, 0.0)
        if self._back and self.age == 0:
            # summed one after the other: their order, and so the bits, do not depend on how a row is padded
            given = np.cumsum(np.where(ages < 0, weight, 0.0), -1)[..., -1:]
            place = np.broadcast_to(own.argmax(-1)[..., None], (*shape[:-1], 1))
            np.put_along_axis(left, place, np.take_along_axis(left, place, -1) + given, -1)
        return left

    def _ages(self, t: Tensor, receivers: Ints, index: Ints) -> Ints:
        """How old the newest message is that has reached ``receivers`` in rounds t from the agents ``index``, [K, R, n, D]; -1 where none has."""
        rounds, trials = t.numpy().reshape(-1, 1, 1, 1), self._key.trials.numpy().reshape(1, -1, 1, 1)
        address = index, receivers.reshape(1, 1, -1, 1)
        least, most = self.faults.delay
        found = np.full(np.broadcast_shapes(rounds.shape, trials.shape, index.shape), -1)
        if self.faults.travel is not None:
            late = self.faults.travel.late(self.faults.pace, *address)
            there = rounds >= late
            if self.faults.drop_messages:
                drawn = scattered(self._key.seed, "messages", trials, np.maximum(rounds - late, 0), *address)
                there = there & (drawn >= self.faults.drop_messages)
            return np.where(there, late, found)
        for age in range(most, least - 1, -1):
            sent = np.maximum(rounds - age, 0)
            there = rounds >= age
            if self.faults.drop_messages:
                there = there & (
                    scattered(self._key.seed, "messages", trials, sent, *address) >= self.faults.drop_messages
                )
            if most > least:
                drawn = scattered(self._key.seed, "delays", trials, sent, *address)
                there = there & (least + np.floor(drawn * (most - least + 1)) <= age)
            found = np.where(there, age, found)
        if self.faults.sleep:
            asleep = self._asleep(t)
            found = np.where(_of_agents(asleep, index) | asleep[..., receivers][..., None], -1, found)
        return found

    def _asleep(self, t: Tensor) -> NDArray[np.bool_]:
        """Who sleeps in rounds t, [K, R, N]."""
        drawn: NDArray[np.bool_] = self._key.uniform(SLEEP, 1, t)[..., 0].numpy() < self.faults.sleep
        return drawn

    @property
    def bytes_per_round(self) -> int:
        """See ``Mixing``."""
        table = self.rows(torch.zeros(1, 1, 1, 1, dtype=torch.int64))
        each = sum(8 * leaf.numel() for leaf in (table.weight, table.hub_weight, table.sender_weight))
        return self.base.bytes_per_round + 6 * each


def _of_agents(values: NDArray[np.bool_], index: Ints) -> NDArray[np.bool_]:
    """The values [K, R, N] of the agents ``index`` [K|1, R|1, n, D], as [K, R, n, D]."""
    lead = values.shape[:2]
    flat = np.broadcast_to(index, (*lead, *index.shape[2:])).reshape(*lead, -1)
    return np.take_along_axis(values, flat, -1).reshape(*lead, *index.shape[2:])
