"""A virtual clock: how many seconds the rounds of a run would last on a real network. It changes nothing of the run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from distopt.catalog.spec import Spec, real, shown
from distopt.errors import InputError
from distopt.network.graphs import Floats, Graph, Ints, Switching
from distopt.network.lengths import SPEED
from distopt.network.rows import longest
from distopt.network.topology import EVERY

if TYPE_CHECKING:
    from distopt.network.faults import Faults
    from distopt.network.network import Network

LENGTH = "length"
"""The latency of a link by its length."""


@dataclass(frozen=True)
class Clock:
    """What computing and sending cost.

    Attributes:
        compute: seconds that an agent takes for a gradient.
        latency: seconds until a message's first bit arrives; None for the length of the link at ``SPEED``.
        bandwidth: bits per second of a link; infinite by default.

    >>> Clock.of("bandwidth=1e9, compute=1e-3"), str(Clock.of("bandwidth=1e9,compute=0.0010,latency=length"))
    (Clock(compute=0.001, latency=0.0, bandwidth=1000000000.0), 'compute=0.001,latency=length,bandwidth=1e+09')
    """

    compute: float = 0.0
    latency: float | None = 0.0
    bandwidth: float = math.inf

    @classmethod
    def of(cls, text: Any) -> Clock:
        """The clock that a text is.

        Raises:
            InputError: another key, a key that is there twice, or a value that is no time, or no speed.
        """
        names = [each.name for each in dataclasses.fields(cls)]
        how = (
            f"write it as compute=1e-3,latency=1e-3,bandwidth=1e9 (seconds, bits per second), or with latency={LENGTH}"
        )
        if not isinstance(text, str):
            raise InputError(f"clock={shown(text)}: must be a text; {how}")
        spec = Spec.parse(f"clock:{text}")
        keys = [key for key, _ in spec.kwargs]
        if spec.args or not set(keys) <= set(names):
            raise InputError(f"clock={shown(text)}: its keys are {', '.join(names)}; {how}")
        values: dict[str, float | None] = {}
        for key, value in spec.kwargs:
            if key == "latency" and value == LENGTH:
                values[key] = None
                continue
            try:
                values[key] = real(value)
            except ValueError as error:
                raise InputError(f"clock: {key}={shown(value)} {error}; {how}") from None
        return cls(**values)  # type: ignore[arg-type]  # None is a latency alone

    def __post_init__(self) -> None:
        if not (self.compute >= 0 and (self.latency is None or self.latency >= 0) and self.bandwidth > 0):
            raise InputError(
                f"clock={self}: compute and latency are seconds, 0 or more, and bandwidth is bits per second, above 0"
            )

    def __str__(self) -> str:
        latency = LENGTH if self.latency is None else _number(self.latency)
        said = {"compute": _number(self.compute), "latency": latency, "bandwidth": _number(self.bandwidth)}
        fields = dataclasses.fields(self)
        return ",".join(f"{f.name}={said[f.name]}" for f in fields if getattr(self, f.name) != f.default)


def ticking(text: Any) -> str:
    """A clock as an experiment notes it; "" for none.

    >>> ticking("compute=1e-3,latency=2.0"), ticking("")
    ('compute=0.001,latency=2', '')

    Raises:
        InputError: see ``Clock.of``, or all times are 0.
    """
    if isinstance(text, str) and not text:
        return ""
    found = str(Clock.of(text))
    if not found:
        raise InputError(
            f"clock={shown(text)}: nothing costs any time; leave clock out, or give one of compute, latency, bandwidth"
        )
    return found


def _number(value: float) -> str:
    return f"{value:g}" if float(f"{value:g}") == value else repr(value).removesuffix(".0")


@dataclass(frozen=True)
class Timing:
    """A clock on a network.

    A round is synchronous: it lasts as long as its gradients and then the slowest of its messages, ``latency + bits / bandwidth``. Everything
    that an agent sends a neighbour in a round is one message. Messages on different links travel side by side, and one that is lost takes its
    time, too.

    Attributes:
        clock: the times.
        lengths: the numbers i N + j of all links, i < j, and their kilometres, by channel (``topology.EVERY`` for all); empty
            where lengths do not matter.
    """

    clock: Clock
    lengths: Mapping[str, tuple[Ints, Floats]]

    @classmethod
    def of(cls, clock: Clock, topologies: Mapping[str, Graph | Switching]) -> Timing:
        """The clock on these topologies (see ``distopt.network.topology.build_topologies``).

        Raises:
            InputError: the latency is by length, and a topology does not know the lengths of its links.
        """
        if clock.latency is not None:
            return cls(clock, {})
        found: dict[str, tuple[Ints, Floats]] = {}
        for name, graph in topologies.items():
            if not isinstance(graph, Graph) or graph.lengths is None:
                raise InputError(
                    f"clock: latency={LENGTH}, but the topology does not know the lengths of its links; use topohub, or a .graphml or .gml file "
                    "whose edges have a length (kilometres), or give latency in seconds"
                )
            found[name] = (graph.edges @ np.array([graph.agents, 1]), graph.lengths)
        return cls(clock, found)

    def check(self, network: Network, who: str, faults: Faults) -> None:
        """Refuse networks whose messages the clock cannot time.

        Raises:
            InputError: the workers average on a server, whose answers are not counted; messages are delayed by rounds;
                or some channels send one message to all neighbours, and others one to each.
        """
        if network.averaged:
            raise InputError(f"clock: {who} averages on a server, whose answers are not counted; leave clock out")
        if faults.late:
            raise InputError(
                "clock and delay do not go together: both say how long messages take; give one of them, or delay length, which takes clock compute "
                "for the length of a round"
            )
        if network.linked and (len(network.linked) < len(network.channels) or len(self._slots(network)) > 1):
            raise InputError(
                f"clock: {who} sends some messages to one neighbour and some to all, which cannot be timed; leave clock out"
            )

    def lasts(self, network: Network, t: Tensor, bits: int, gradients: float, messages: Tensor) -> Tensor:
        """How many seconds rounds t [K, 1, 1, 1] last, float64 [K, R].

        Args:
            network: whose messages are sent.
            t: the rounds.
            bits: that each agent sends in a round with an exchange, to all neighbours or, of channels with slots for links, to each slot.
            gradients: that each agent evaluates in a round.
            messages: that agents send in each of the rounds [K, R]; 0 in rounds without an exchange.
        """
        waits = bits / max((1, *self._slots(network))) / self.clock.bandwidth + self._latency(network, t)
        return self.clock.compute * gradients + torch.where(messages > 0, waits, 0.0)

    def _latency(self, network: Network, t: Tensor) -> Tensor:
        """That of the slowest message of each round [K|1, R|1]."""
        found = torch.zeros(1, 1, dtype=torch.float64)
        if self.clock.latency is not None:
            return found + self.clock.latency
        for name in network.channels:
            codes, kilometres = self.lengths[EVERY if EVERY in self.lengths else name]
            table = network.mixings[network.which[name]].sent(t)
            found = torch.maximum(found, longest(table, codes, kilometres, network.agents) / SPEED)
        return found

    def _slots(self, network: Network) -> set[int]:
        """How many messages the bits of a round are, where each neighbour is sent something of its own."""
        return {network.mixings[network.which[name]].slots for name in network.linked}
