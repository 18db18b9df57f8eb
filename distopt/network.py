"""What an algorithm sees of the network in one round: ``mix(name, z)``, through a channel with memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from distopt.errors import InputError
from distopt.protocols import Channel

Memory = dict[str, Any]


@dataclass(frozen=True)
class _Wire:
    mix: Callable[[Tensor], Tensor]


class Net:
    """One round of the network: applies W_t through the channels and keeps their new memories.

    Args:
        channels: the channel of each name the algorithm sends.
        weigh: z [R, n, d] -> W_t z [R, n, d].
            ``self.before`` those it started from, where this round was the first;
            ``self.bits`` counts the bits one agent broadcasts in this round.
        memory: the channels' memories after the previous round; ``self.memory`` holds those after this one.
    """

    def __init__(self, channels: Mapping[str, Channel[Any]], weigh: Callable[[Tensor], Tensor], memory: Memory) -> None:
        self.channels, self.wire, self.memory = channels, _Wire(weigh), dict(memory)
        self.sent: set[str] = set()
        self.before = dict(memory)
        self.bits = 0

    def mix(self, name: str, z: Tensor) -> Tensor:
        """W_t z through the channel called ``name``."""
        if name not in self.channels:
            raise InputError(f"the algorithm sends {name!r}, which its channels ({', '.join(self.channels)}) do not name")
        if name in self.sent:
            raise InputError(f"the algorithm sends {name!r} twice in one round; give the second value a channel of its own")
        self.sent.add(name)
        if name not in self.memory:
            self.before[name] = self.memory[name] = self.channels[name].init(z)
        self.bits += self.channels[name].bits(z.shape[-1], z.element_size()) if z.shape[-2] > 1 else 0  # alone: nobody listens
        out, self.memory[name] = self.channels[name](z, self.memory[name], self.wire)
        return out
