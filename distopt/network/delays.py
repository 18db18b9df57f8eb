"""A channel whose messages are late: senders keep what they sent, and receivers take of it what has arrived."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.network.net import LinkWire
from distopt.optional import ChannelDefaults
from distopt.protocols import Arrived, Payload


def aged(name: str, age: int) -> str:
    """What the weights of a channel's messages of that age are called.

    >>> aged("x", 0), aged("x", 2)
    ('x', 'x, 2 rounds late')
    """
    return f"{name}, {age} rounds late" if age else name


class DelayedMemory(NamedTuple):
    """The memory of an agent.

    Attributes:
        inner: that of the channel itself.
        history: the payloads that it has sent in the last rounds, the newest first.
    """

    inner: Any
    history: tuple[Payload, ...]


@dataclass(frozen=True)
class Delayed(ChannelDefaults):
    """``channel`` whose messages take up to ``late`` rounds.

    Blocks of agents exchange the ring of the last ``late`` + 1 payloads. The weights, a table for each age, say which
    of them a receiver uses (``distopt.network.faults``). So no engine has to hold a message back, and all have the same
    bits. ``bits`` counts one payload a round.
    """

    channel: Any
    late: int

    def words(self, d: int) -> int:
        """The channel's."""
        return int(self.channel.words(d))

    def init(self, like: Tensor) -> DelayedMemory:
        """Nothing has been sent yet: the ring holds zeros, which have no weight."""
        memory, words = self.channel.init(like), self.words(like.shape[-1])
        u = torch.zeros(*like.shape[:-1], words, dtype=torch.float64, device=like.device) if words else None
        payload = self.channel.encode(torch.zeros_like(like, memory_format=torch.contiguous_format), memory, u)
        return DelayedMemory(memory, tuple(pytree.tree_map(torch.zeros_like, payload) for _ in range(self.late)))

    def encode(self, z: Tensor, memory: DelayedMemory, u: Tensor | None) -> Payload:
        """The payload of this round and those of the rounds before."""
        return self.channel.encode(z, memory.inner, u), *memory.history

    def __call__(
        self, z: Tensor, payload: Payload, memory: DelayedMemory, wire: LinkWire, u: Tensor | None = None
    ) -> tuple[Tensor, DelayedMemory]:
        """What the channel makes of the payloads that have arrived."""
        late = LateWire(wire, wire.heard(payload))
        out, inner = self.channel(z, payload[0], memory.inner, late, None)
        history = pytree.tree_map(torch.clone, payload[:-1])
        return out, DelayedMemory(inner, history)

    def bits(self, d: int, itemsize: int) -> int:
        """The channel's."""
        return int(self.channel.bits(d, itemsize))


class LateWire:
    """The wire that a delayed channel gives to its inner channel: the heard agents' payloads of all ages, age 0 first.

    Args:
        wire: of the round.
        payloads: the heard agents', by age.
    """

    def __init__(self, wire: LinkWire, payloads: tuple[Payload, ...]) -> None:
        self.wire, self.payloads = wire, payloads
        self.count = pytree.tree_leaves(payloads[0])[0].shape[1]

    @property
    def own(self) -> Tensor | slice:
        """See ``distopt.protocols.Wire``."""
        own = self.wire.own
        return own if isinstance(own, Tensor) else slice(0, self.count)

    @property
    def slots(self) -> Any:
        """See ``distopt.protocols.Wire``."""
        return self.wire.slots

    def heard(self, payload: Payload) -> Payload:
        """See ``distopt.protocols.Wire``."""
        return pytree.tree_map(lambda *ages: torch.cat(ages, 1), *self.payloads)

    def weigh(self, rows: Tensor) -> Tensor:
        """See ``distopt.protocols.Wire``."""
        link, name, count = self.wire.link, self.wire.name, self.count
        terms = [
            link.weigh(aged(name, age), rows[:, age * count : (age + 1) * count]) for age in range(len(self.payloads))
        ]
        return sum(terms[1:], start=terms[0])

    def arrived(self, payload: Tensor) -> Arrived:
        """See ``distopt.protocols.Wire``."""
        link, name = self.wire.link, self.wire.name
        index, weight, own = link.senders(name)
        rows = self.payloads[0][:, index]
        for age, each in enumerate(self.payloads[1:], 1):
            there = link.senders(aged(name, age))
            rows = torch.where(there.weight.unsqueeze(-1) != 0, each[:, there.index], rows)
            weight = weight + there.weight
        return Arrived(rows, weight, own)
