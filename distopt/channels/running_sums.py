"""Running sums: messages carry the sum of all values, from which a receiver computes what it missed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.numerics.sums import tree_sum
from distopt.optional import ChannelDefaults
from distopt.protocols import Wire
from distopt.ranges import whole


def running_sums() -> SumsBySender:
    """Send the sum of all values so far, so that no value is lost for ever: the running sums of robust push-sum [hadjicostis2016].

        S_{j,t} = S_{j,t-1} + z_{j,t}                                        sent, S_{j,-1} = 0
        result: w_ii z_{i,t} + sum_j w_ij (S_{j,t} - rho_{ij,t})             over those j whose message arrives
        rho_{ij,t+1} = S_{j,t} where it arrives, else rho_{ij,t}             rho_{ij,0} = 0

    z_t, S_t [R, n, d]; rho_t holds a row for each sender j of i, so the memory grows with the largest number of senders, D. A lost value
    arrives with the next message that is not lost. The result plus what is still to arrive has the column sums of W z. If columns sum to 1,
    the sum over the agents is kept even if messages are lost in one direction. Without losses the result is W z, to rounding. Use it
    for values whose sums matter, with column weights (push-sum and trackers). Do not use it for points that row weights average: values
    of earlier rounds would be added to them.

    W must be that of a fixed graph; messages may be lost. Sums over T rounds are rounded to about T eps.

    >>> import torch
    >>> from distopt.channels.running_sums import running_sums
    >>> from distopt.protocols import Arrived
    >>> class One:  # agent 0 sends a half to agent 1, whose message is lost in the first of three rounds
    ...     there = 0.0
    ...     def arrived(self, payload):
    ...         rows, weight = payload[:, [[0], [0]]], torch.tensor([[[0.0], [0.5 * self.there]]])
    ...         return Arrived(rows, weight, torch.tensor([[[0.5], [1.0]]]))
    >>> channel, z, wire = running_sums().for_senders(1), torch.tensor([[[8.0], [0.0]]]), One()
    >>> memory = channel.init(z)
    >>> for wire.there in (0.0, 1.0, 1.0):
    ...     out, memory = channel(z, channel.encode(z, memory, None), memory, wire)
    ...     print(out.flatten().tolist())
    [4.0, 0.0]
    [4.0, 8.0]
    [4.0, 4.0]
    """
    return SumsBySender()


class RunningMemory(NamedTuple):
    """The memory of an agent.

    Attributes:
        said: the sum of all its values so far [R, n, d].
        seen: the newest sum of each sender that has arrived, one after the other [R, n, D d].
    """

    said: Tensor
    seen: Tensor


@dataclass(frozen=True)
class SumsBySender(ChannelDefaults):
    """See ``running_sums``; ``places`` is D, the largest number of senders of an agent."""

    places: int = 1

    def __post_init__(self) -> None:
        whole("running_sums", 1, places=self.places)

    def for_senders(self, places: int) -> SumsBySender:
        """The channel for a network whose agents have at most ``places`` senders."""
        return replace(self, places=places)

    def init(self, like: Tensor) -> RunningMemory:
        zero = torch.zeros_like(like)
        return RunningMemory(zero, torch.cat([zero] * self.places, -1))

    def encode(self, z: Tensor, memory: RunningMemory, u: Tensor | None) -> Tensor:
        return memory.said + z

    def __call__(
        self, z: Tensor, payload: Tensor, memory: RunningMemory, wire: Wire, u: Tensor | None = None
    ) -> tuple[Tensor, RunningMemory]:
        newest, weight, own = wire.arrived(payload)
        weight = weight.to(z.dtype).unsqueeze(-1)
        seen = memory.seen.reshape(newest.shape)
        arrived = tree_sum(weight * (newest - seen)).squeeze(-2)
        seen = torch.where(weight != 0, newest, seen)
        return own.to(z.dtype) * z + arrived, RunningMemory(payload, seen.reshape(memory.seen.shape))

    def bits(self, d: int, itemsize: int) -> int:
        return 8 * itemsize * d
