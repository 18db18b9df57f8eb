"""A bucket: some parameters of a model as one row of numbers, the point of one agent.

Every algorithm works coordinate by coordinate, or row by row where it compresses. So each bucket is one more instance of the algorithm, with
its own point, state and messages, and no row is longer than a bucket.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.engines.workers.agents import Agents
from distopt.engines.workers.partition import Partition
from distopt.errors import InputError
from distopt.network.net import Rehearsal
from distopt.network.network import Network
from distopt.numerics.random import Key
from distopt.numerics.trees import default_dtype, tensors
from distopt.optim.compiled import CompiledAgents
from distopt.optim.exchange import RowExchange
from distopt.optim.ranks import Ranks
from distopt.simulation.method import Method
from distopt.simulation.round import AgentState, Gradient

MASTERS = (torch.bfloat16, torch.float16)
"""Precisions of parameters whose rows are float32: steps smaller than their last bit would be lost."""


class Bucket:
    """Parameters of one precision and one device, as one agent's row.

    Args:
        number: of the bucket, from 0; it addresses the random numbers of the bucket's channels.
        names, params: the parameters, and what messages call them.
        group: the parameter group that they are of.
        algorithm: what the agent follows.
        network: of all agents.
        ranks: the others.
        seed: the random seed of its channels.
        compiled: whether its rounds are, where they can be.
    """

    def __init__(
        self,
        number: int,
        names: Sequence[str],
        params: Sequence[Tensor],
        group: dict[str, Any],
        algorithm: Any,
        network: Network,
        ranks: Ranks,
        seed: int,
        compiled: bool,
    ) -> None:
        self.names, self.params, self.group = list(names), list(params), group
        first = params[0]
        self.dtype = torch.float32 if first.dtype in MASTERS else first.dtype
        self.device = first.device
        self.sizes = [each.numel() for each in params]
        self.gradient = torch.zeros(1, 1, sum(self.sizes), dtype=self.dtype, device=self.device)
        self._gradients = self.parted(self.gradient)
        self._now: Tensor | None = None
        self._scale: Any = None
        self._decay = 0.0
        self.lent = 0  # how often the parameters are lent to the mean of all agents
        self.exchange = RowExchange(ranks.group, self.device, f"bucket {number}: ")
        channels = {name: _by_tensor(channel, self.sizes) for name, channel in network.channels.items()}
        network = dataclasses.replace(network, channels=channels)
        with default_dtype(self.dtype):
            x = self.point()
            method = Method.of(algorithm, network.channels, ranks.size, x)
        key = Key(seed, [ranks.rank], [number], ranks.size)
        partition = Partition.even(ranks.size, ranks.size)
        own = method, network, partition, ranks.rank, key
        self.agents: Agents = (
            CompiledAgents(*own, self.exchange, self.gradient)
            if compiled
            else Agents(*own, self.exchange.transport, self.device, exchange=self.exchange)
        )
        self.place(x, 0)

    @property
    def held(self) -> AgentState:
        """What the agent holds before its next round."""
        return self.agents.held

    def place(self, held: AgentState | Tensor, t: int) -> None:
        """The agent holds this before round t."""
        self.own()
        with default_dtype(self.dtype):
            self.agents.place(held, t)
        self._xs = self.parted(self.agents.x)

    def parted(self, row: Tensor) -> list[Tensor]:
        """A row [1, 1, d] as views of the parameters' shapes."""
        parts = torch.split(row.view(-1), self.sizes)
        return [part.view(each.shape) for part, each in zip(parts, self.params, strict=True)]

    def point(self) -> Tensor:
        """The parameters as they are now, a row of their own."""
        return torch.cat([each.detach().reshape(-1).to(self.dtype) for each in self.params]).reshape(1, 1, -1)

    def look(self) -> None:
        """Check whether the parameters were changed since ``write``.

        Raises:
            InputError: they are lent to the mean of all agents.
        """
        self.own()
        pairs = zip(self.params, self._xs, strict=True)
        self._now = None if all(torch.equal(each, x.to(each.dtype)) for each, x in pairs) else self._changed()

    def own(self) -> None:
        """Refuse a step while the parameters are the mean of all agents, since they will be overwritten."""
        if self.lent:
            raise InputError("within averaged(model) the parameters are the mean of all ranks; leave it first")

    def _changed(self) -> Tensor:
        """The present parameters; where they were not changed, the agent's point, which may be more precise."""
        parts = [
            torch.where(each == x.to(each.dtype), x, each.detach().to(self.dtype)).reshape(-1)
            for each, x in zip(self.params, self._xs, strict=True)
        ]
        return torch.cat(parts).reshape(1, 1, -1)

    @property
    def moved(self) -> bool:
        """Whether ``look`` has found changed parameters."""
        return self._now is not None

    def read(self, scale: Tensor | float | None, decay: float) -> None:
        """Take the gradients from the parameters, divided by ``scale``, and add ``decay`` times the point. One that is missing is zero.

        Raises:
            InputError: a gradient that is sparse.
        """
        into, found = [], []
        for name, view, each in zip(self.names, self._gradients, self.params, strict=True):
            if each.grad is None:
                view.zero_()
                continue
            if each.grad.is_sparse:
                raise InputError(f"the gradient of {name} is sparse; use sparse=False for its layer")
            into.append(view)
            found.append(each.grad)
        if into:
            torch._foreach_copy_(into, found)
        self._scale, self._decay = scale, decay
        self._finish(self.gradient, self.agents.x if self._now is None else self._now)

    def _finish(self, gradient: Tensor, x: Tensor) -> None:
        if self._scale is not None:
            gradient.mul_(1.0 / self._scale)
        if self._decay:
            gradient.add_(x, alpha=self._decay)

    def gradient_at(self, y: Tensor, closure: Callable[[], Any]) -> Tensor:
        """The gradients that ``closure`` computes where the parameters are at y. The parameters are afterwards where they were."""
        before, first = self.point(), self.gradient.clone()
        torch._foreach_copy_(self.params, self.parted(y))
        with torch.enable_grad():
            closure()
        self.read(self._scale, 0.0)
        found = self.gradient.clone()
        if self._decay:
            found.add_(y, alpha=self._decay)
        self.gradient.copy_(first)
        torch._foreach_copy_(self.params, self.parted(before))
        return found

    def step(self, algorithm: Any, grad: Gradient | None, shrink: float = 0.0) -> None:
        """One round with the gradients that were read, and the new point to the parameters.

        If the parameters were changed after the agent's point was sent, the round mixes the sent point and adds the change afterwards. So
        the mean of the agents still moves by the change.

        Args:
            algorithm: with the constants of this round.
            grad: gradients at other points (``mix.grad``).
            shrink: this times the point before the round is taken off the new one.
        """
        agents, later = self.agents, None
        if self._now is not None and agents.sent:
            later, self._now = self._now - agents.x, None
        x = self._place()
        if shrink:
            later = -shrink * x if later is None else later - shrink * (x + later)
        agents.method = dataclasses.replace(agents.method, algorithm=algorithm)
        with default_dtype(self.dtype):
            agents.step(self.gradient, grad)
        if later is not None:
            agents.held = agents.held._replace(x=agents.x + later)
        self.write()

    def local(self, algorithm: Any, t: int, shrink: float = 0.0) -> None:
        """A step without an exchange, of an algorithm that has such (``distopt.optim.local``). ``t`` counts all steps; see ``step``."""
        agents, x = self.agents, self._place()
        with default_dtype(self.dtype):
            new, state = algorithm.local(self.gradient.clone(), agents.held.state, x, Rehearsal(_alone, x, t))
        agents.held = agents.held._replace(x=new - shrink * x if shrink else new, state=state)
        self.write()

    def _place(self) -> Tensor:
        """The agent's point, which is where the parameters are."""
        if self._now is not None:
            self.agents.held, self._now = self.agents.held._replace(x=self._now), None
        return self.agents.x

    @torch.no_grad()
    def write(self) -> None:
        """Put the agent's point into the parameters."""
        self._xs = self.parted(self.agents.x)
        torch._foreach_copy_(self.params, self._xs)

    def send(self) -> None:
        """Send the first messages of the next round now, if the algorithm already has them."""
        if self.agents.method.plan.early:
            with default_dtype(self.dtype):
                self.agents.send()

    def answer(self) -> Tensor:
        """Where the agent's answer is: its parameters as they are now, or what its algorithm makes of them."""
        output = self.agents.method.algorithm.output
        if output is None:
            return self._changed()
        answer: Tensor = output(self.agents.x, self.agents.held.state)
        return answer

    def leaves(self) -> dict[str, Tensor]:
        """The agent's values by name: "x", the leaves of the state and, as "memory.CHANNEL...", those of the channels' memories."""
        held = self.agents.held
        return {"x": held.x, **named(held.state, ""), **named(held.memory, "memory")}

    def replaced(self, leaves: Sequence[Tensor]) -> AgentState:
        """What the agent holds, with other leaves in the order of ``leaves``."""
        held: AgentState = self.agents.held
        _, form = pytree.tree_flatten(held)
        other: AgentState = pytree.tree_unflatten(list(leaves), form)
        return other

    def bytes(self) -> dict[str, int]:
        """The memory that it takes."""
        held = self.agents.held
        return {
            "x": _bytes([held.x]),
            "state": _bytes(tensors(held.state)),
            "memory of compression": _bytes(tensors(held.memory)),
            "gradient": _bytes([self.gradient]),
            "compiled rounds": _bytes(self.agents.beside) if isinstance(self.agents, CompiledAgents) else 0,
            "messages": self.exchange.bytes_held,
        }


def named(tree: Any, prefix: str) -> dict[str, Tensor]:
    """The tensor leaves of a state by their path: "s", "direction.m".

    >>> from distopt.algorithms.gtadam import gtadam
    >>> list(named(gtadam().init(torch.zeros(1, 1, 2)), ""))
    ['s', 'g', 'direction.m', 'direction.v']
    """
    found = {}
    for path, leaf in pytree.tree_flatten_with_path(tree)[0]:
        steps = [str(getattr(each, "name", getattr(each, "key", getattr(each, "idx", "")))) for each in path]
        found[".".join([*([prefix] if prefix else []), *steps]) or "state"] = leaf
    return found


def _alone(name: str, z: Tensor) -> Tensor:
    raise InputError(f"a local step sends nothing, but the direction mixes {name!r}")


def _by_tensor(channel: Any, sizes: Sequence[int]) -> Any:
    """The channel with the sizes of the tensors where its compressor has a scale for each of them."""
    compressor: Any = getattr(channel, "compressor", None)
    if getattr(compressor, "segments", None) != "tensors":
        return channel
    return dataclasses.replace(
        channel, compressor=dataclasses.replace(compressor, segments="+".join(str(each) for each in sizes if each))
    )


def divided(params: Sequence[Tensor], megabytes: float) -> list[list[int]]:
    """The places of parameters in buckets of at most so many megabytes, each of one precision and one device, in order.

    A parameter that is larger has a bucket of its own.

    >>> divided([torch.zeros(2), torch.zeros(3), torch.zeros(1)], 20e-6)
    [[0, 1], [2]]
    """
    buckets: list[list[int]] = []
    open_: dict[tuple[torch.device, torch.dtype], tuple[int, float]] = {}
    for k, each in enumerate(params):
        kind = each.device, each.dtype
        size = each.numel() * max(4, each.element_size()) / 1e6
        at, filled = open_.get(kind, (-1, math.inf))
        if filled + size > megabytes:
            at, filled = len(buckets), 0.0
            buckets.append([])
        buckets[at].append(k)
        open_[kind] = at, filled + size
    return buckets


def _bytes(leaves: Sequence[Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in leaves)
