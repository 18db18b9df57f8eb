"""W where messages are lost, one way and by themselves: what arrives of a round's weights, and what becomes of those that do not."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt.errors import InputError
from distopt.network.graphs import Floats, Ints
from distopt.network.mixing import ConstantMixing, Mixing
from distopt.network.properties import Properties, properties
from distopt.network.rows import Table
from distopt.numerics.random import Key, scattered


@dataclass(frozen=True)
class Faults:
    """What goes wrong in a network.

    Attributes:
        drop_messages: probability that a message is lost.
    """

    drop_messages: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.drop_messages < 1.0:
            raise InputError(
                f"drop_messages is the probability that a message is lost: 0 <= drop_messages < 1, not {self.drop_messages}"
            )

    def __bool__(self) -> bool:
        return bool(self.drop_messages)


class FaultyMixing(Mixing):
    """W_t of a network some of whose messages do not arrive.

    In each round and trial every message is lost with probability p, by itself: the one from j to i, and not the one from i to j. All channels'
    values travel in one message, so they are lost together, whatever the weights of each.

    Where the rows of W must sum to 1, the receiver puts its own value in the place of the missing one: the lost weight goes to its self
    weight, rows still sum to 1, and columns do not. Where only columns must, the sender cannot know, and what it sent is gone: neither
    sums to 1. So sums over the agents, on which trackers and push-sum live, are not kept, unless a channel keeps running sums.
    """

    changes = "messages are lost; leave drop_messages out"

    def __init__(self, base: Mixing, key: Key, faults: Faults, back: bool = True) -> None:
        self.agents, self.notes, self.positions, self.slots = base.agents, base.notes, base.positions, base.slots
        self.base, self.faults = base.listed() if isinstance(base, ConstantMixing) else base, faults
        self._back = back  # whether a lost weight goes to the receiver's self weight
        self._key = Key(key.seed, range(base.agents), key.trials.tolist(), base.agents)

    def _of(self, base: Mixing, back: bool) -> FaultyMixing:
        return FaultyMixing(base, self._key, self.faults, back)

    def require(self, needs: str | Collection[str], who: str) -> FaultyMixing:
        """See ``Mixing``. What is needed is needed of the weights before any message is lost."""
        needs = properties(needs)
        if "average" in needs:
            raise InputError(
                f"{who} has its workers meet around their average, which misses nobody; use it without drop_messages"
            )
        base = self.base.require(needs, who)
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

    def with_link_slots(self, who: str) -> Mixing:
        """See ``Mixing``."""
        raise InputError(
            f"{who} keeps vectors for each link, of which a lost message would leave the two ends unlike; use it without drop_messages"
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
        if not table.sender_index.shape[-1]:
            return found
        index, heard = table.sender_index.numpy(), table.sender_weight.numpy()
        lost = self._lost(t, everyone, index)
        return found._replace(sender_weight=torch.from_numpy(np.where(lost, 0.0, heard)))

    def sent(self, t: Tensor, made: Table | None = None) -> Table:
        """See ``Mixing``."""
        return self.base.sent(t)

    def _arrived(self, t: Tensor, receivers: Ints, index: Ints, weight: Floats) -> Floats:
        """The weights [K, R, n, D] of the terms ``index`` of the rows ``receivers``, those of lost messages 0 or given back."""
        if not index.size:
            return weight
        own = index == receivers.reshape(1, 1, -1, 1)
        lost = self._lost(t, receivers, index) & ~own
        shape = np.broadcast_shapes(lost.shape, weight.shape)
        left: Floats = np.where(lost, 0.0, weight)
        if self._back:
            # summed one after the other: their order, and so the bits, do not depend on how a row is padded
            given = np.cumsum(np.where(lost, weight, 0.0), -1)[..., -1:]
            place = np.broadcast_to(own.argmax(-1)[..., None], (*shape[:-1], 1))
            np.put_along_axis(left, place, np.take_along_axis(left, place, -1) + given, -1)
        return left

    def _lost(self, t: Tensor, receivers: Ints, index: Ints) -> NDArray[np.bool_]:
        """Which messages of rounds t to ``receivers`` from the agents ``index`` are lost, [K, R, n, D]."""
        drawn = scattered(
            self._key.seed,
            "messages",
            self._key.trials.numpy().reshape(1, -1, 1, 1),
            t.numpy().reshape(-1, 1, 1, 1),
            index,
            receivers.reshape(1, 1, -1, 1),
        )
        lost: NDArray[np.bool_] = drawn < self.faults.drop_messages
        return lost

    @property
    def bytes_per_round(self) -> int:
        """See ``Mixing``."""
        table = self.rows(torch.zeros(1, 1, 1, 1, dtype=torch.int64))
        return self.base.bytes_per_round + 6 * sum(
            8 * each.numel() for each in (table.weight, table.hub_weight, table.sender_weight)
        )
