"""The agents of one block: what they hold, and their rounds with the agents of the other blocks.

Costs are the caller's: a round is given the agents' gradients. The simulator's ``Worker`` takes them from a scenario; a training
script takes them from its own model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distopt.engines.workers.exchange import CPU, BlockLink, HaloExchange, Transport
from distopt.engines.workers.halo import Halo, halo
from distopt.engines.workers.partition import Partition
from distopt.errors import InputError
from distopt.network.drawn import OWN, Uniforms, uniforms
from distopt.network.net import Costs, Net
from distopt.network.network import Network
from distopt.numerics.random import Key
from distopt.numerics.trees import moved, rounds_of, tree_map
from distopt.simulation.method import Method
from distopt.simulation.round import AgentState, Gradient, begin_at, numbered, opened, updated

CHUNK = 64
"""Rounds whose weights and uniform numbers are made at once, unless ``load`` says how many. No bit depends on it."""

WORDS = 2**22
"""The most uniform numbers of a block's agents that are made at once, unless one round needs more."""


class Agents:
    """The agents of one block, which hold x [R, n, d], the algorithm's state and the channels' memories, and go round by round.

    All blocks must do the same in the same order: their agents wait for each other's values.

    Args:
        method: the algorithm and its channels.
        network: of all agents; its weights are asked for.
        partition: who holds which agents.
        me: which block of it this is.
        key: addresses the uniform numbers of the block's agents.
        transport: carries their messages.
        device: where the agents live.
        prefix: in front of the names of their messages, where several share a transport.
        project: takes points to the nearest ones that are allowed, after each round.
        exchange: how their rows travel, if not by a ``HaloExchange``.

    Two agents alone, whose costs are x^2 / 2:

    >>> from distopt.algorithms.dgd import DGD
    >>> from distopt.engines.threads import InMemoryTransport, Mailbox
    >>> from distopt.network.graphs import graph_from_edges
    >>> x, key = torch.tensor([[[1.0], [3.0]]]), Key(0, range(2), range(1), 2)
    >>> network = Network.of(graph_from_edges(2, [[0, 1]]), "metropolis", DGD(0.5), "exact", key)
    >>> method = Method.of(DGD(0.5), network.channels, 2, x)
    >>> agents = Agents(method, network, Partition.even(2, 1), 0, key, InMemoryTransport(Mailbox(), 0))
    >>> agents.place(x)
    >>> agents.step(agents.x).flatten().tolist()
    [1.5, 0.5]
    """

    def __init__(
        self,
        method: Method,
        network: Network,
        partition: Partition,
        me: int,
        key: Key,
        transport: Transport,
        device: torch.device = CPU,
        prefix: str = "",
        project: Callable[[Tensor], Tensor] | None = None,
        exchange: HaloExchange | None = None,
    ) -> None:
        self.method, self.network, self.partition, self.me, self.key = method, network, partition, me, key
        self.device, self.project = device, project
        self.exchange = HaloExchange(transport, device, prefix) if exchange is None else exchange
        self.t, self.bits = 0, 0
        self._held: AgentState | None = None
        self._net: Net | None = None
        self._loaded, self._due = range(0), range(0)

    @property
    def held(self) -> AgentState:
        """What the agents hold before round t, their next.

        Raises:
            InputError: they have not been placed.
        """
        if self._held is None:
            raise InputError("the agents have no points yet; begin with place(x)")
        return self._held

    @held.setter
    def held(self, held: AgentState) -> None:
        self._held = held

    @property
    def x(self) -> Tensor:
        """The agents' points x_t [R, n, d]."""
        return self.held.x

    def place(self, held: AgentState | Tensor, t: int = 0) -> None:
        """The agents hold this before round t, their next; points alone [R, n, d] are where they begin. All blocks do it at once.

        Raises:
            InputError: the points are not [R, n, d], or a leaf of the algorithm's state or of a channel's memory is not [R, n, *].
        """
        x: Tensor = held if isinstance(held, Tensor) else held.x
        n, d = len(self.partition.blocks[self.me]), self.method.plan.begun[0].shape[-1]
        if x.shape[1:] != (n, d):
            raise InputError(f"x has shape {list(x.shape)}; the points of this block's agents are [trials, {n}, {d}]")
        held = begin_at(self.method, held) if isinstance(held, Tensor) else held
        own: AgentState = tree_map(lambda leaf: checked(leaf, n), held)
        self.end()
        self.held = own if self.device.type == "cpu" else moved(own, self.device)
        self.t = t

    def load(self, start: int, count: int) -> None:
        """Make the weights and the uniform numbers of ``count`` rounds from ``start``. Rounds that were begun end."""
        self.end()
        t = torch.arange(start, start + count).reshape(-1, 1, 1, 1)
        self.halo: Halo = halo(self.network.rows(t), self.partition, self.me).on(self.device)
        drawn = uniforms(self.method.channels, self.key, self.method.plan.widths, t)
        self.uniforms: Uniforms = drawn if self.device.type == "cpu" else moved(drawn, self.device)
        self._weights, self._drawn = rounds_of((self.halo.tables, self.halo.own)), rounds_of(self.uniforms)
        self._loaded = range(start, start + count)

    def begin(self, rounds: range) -> None:
        """Their next rounds are ``rounds``, counted from the first of those loaded. Messages of others are expected.

        Other rounds that were begun end.
        """
        self.end()
        self.exchange.begin(self.halo, self._loaded.start, rounds)
        self._due = range(self._loaded.start + rounds.start, self._loaded.start + rounds.stop)
        self._ts = numbered(self.held.x, self._due.start, len(self._due))
        self.t = self._due.start

    def end(self) -> None:
        """No further rounds of those begun: nothing is left under way.
        All blocks end after the same round, and can continue from there.

        Where messages of one more round are expected, each block sends padding in their place. Messages of ``send`` are sent again
        by the next ``step``.
        """
        if self._due:
            self.exchange.end()
        self._due, self._net = range(0), None

    def send(self) -> None:
        """Send the values that the algorithm sends unchanged from its state; the next ``step`` waits for the neighbours' values.

        Whoever computes gradients between the two hides the messages behind them. Results are bitwise the same.
        """
        if self._net is None:
            k = self._turn()
            self.exchange.go(k)
            link = BlockLink(self.exchange, self.network.which, *self._weights(k))
            self._net = opened(self.method, self.held, link, self._drawn(k), self.method.plan.early)

    def step(self, g: Tensor, grad: Gradient | Costs | None = None) -> Tensor:
        """One round, given the gradients g [R, n, d] at x_t. Returns x_{t+1}, the agents' new points.

        Args:
            g: of the block's agents.
            grad: a function for their gradients at other points [R, n, d], for algorithms that use ``mix.grad``; or all
                functions of the costs.

        Raises:
            InputError: g has another shape or precision than x, the algorithm asks for another gradient and there is no ``grad``, or it
                sends another form than before.
        """
        x = self.held.x
        if g.shape != x.shape or g.dtype != x.dtype:
            raise InputError(
                f"step was given gradients of shape {list(g.shape)} and {g.dtype}, not {list(x.shape)} and {x.dtype} as x"
            )
        self.send()
        net, self._net = self._net, None
        assert net is not None
        t = self._ts[self.t - self._due.start]
        costs = grad if isinstance(grad, Costs) else Costs(grad or _no_gradient)
        self.held = updated(self.method, self.held, net, t, g, costs, self.project)
        self.t, self.bits = self.t + 1, net.bits
        return self.held.x

    @property
    def sent(self) -> bool:
        """Whether ``send`` has sent what the next round begins with."""
        return self._net is not None

    def _turn(self) -> int:
        """The place of the next round among those loaded. Rounds that were not loaded are taken chunk by chunk."""
        if self.t not in self._due:
            if self.t not in self._loaded:
                self.load(self.t, self._chunk())
            self.begin(range(self.t - self._loaded.start, len(self._loaded)))
        return self.t - self._loaded.start

    def _chunk(self) -> int:
        """How many rounds are loaded at once."""
        widths, channels = self.method.plan.widths, dict[str, Any](self.method.channels)
        words = [int(each.words(widths[name])) for name, each in channels.items() if name in widths]
        drawn = (sum(words) + widths.get(OWN, 0)) * len(self.partition.blocks[self.me])
        return max(1, min(CHUNK, WORDS // max(1, drawn)))


def checked(leaf: Tensor, agents: int) -> Tensor:
    """A leaf of what so many agents hold; InputError where it is not [R, agents, *]."""
    if leaf.dim() < 3 or leaf.shape[-2] != agents:
        raise InputError(
            f"a leaf of the algorithm's state or a channel's memory has shape {list(leaf.shape)} for {agents} agents; to be shared "
            "among workers it must be [trials, agents, *]"
        )
    return leaf


def _no_gradient(y: Tensor, rows: Tensor | None = None) -> Tensor:
    raise InputError(
        "the algorithm takes a gradient at another point (mix.grad); give step a function for it, as in step(g, grad)"
    )
