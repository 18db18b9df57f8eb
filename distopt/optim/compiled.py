"""The rounds of a rank, compiled in pieces between its messages (see ``distopt.codegen.segments``): each number is read and written once."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distopt.codegen import objects
from distopt.codegen.folder import CompileWarning
from distopt.codegen.leaves import Leaves
from distopt.codegen.record import arrive
from distopt.codegen.recording import LEAVE, Unsupported
from distopt.codegen.segments import Bound, Segments, segments
from distopt.codegen.unchanged import changed
from distopt.codegen.unchanged import held as held_by
from distopt.engines.workers.agents import Agents
from distopt.engines.workers.compiled import Noted
from distopt.engines.workers.exchange import BlockLink, Form
from distopt.engines.workers.partition import Partition
from distopt.network.net import Costs, Link, Whole
from distopt.network.network import Network
from distopt.numerics import room
from distopt.numerics.random import Key
from distopt.numerics.trees import default_dtype
from distopt.optim.constants import constants, with_tensor
from distopt.optim.exchange import RowExchange
from distopt.simulation.method import Method
from distopt.simulation.round import AgentState, Gradient, opened, updated

KINDS = 8
"""So many forms of the rounds are kept. Each setting of an algorithm's constants has one, but for the step size, which may change in each round."""


class Letters(Noted):
    """Messages while a round is recorded. The own rows are read from the own message, so that the next ones may be written over them."""

    def heard(self, stage: str, rows: Sequence[Tensor]) -> list[Tensor]:
        """See ``HaloExchange``."""
        if not self.counts:
            return list(rows)
        forms = [(row.shape, row.dtype) for _ in range(len(self.counts) + 1) for row in rows]
        arrived = arrive(stage, forms)
        wholes = [torch.cat(arrived[leaf :: len(rows)], 1) for leaf in range(len(rows))]
        return wholes if self.order is None else [whole.index_select(1, self.order) for whole in wholes]


@dataclass
class Made:
    """Compiled rounds of one shape.

    Attributes:
        segments: the pieces.
        forms: of what is sent, by stage.
        data: the memory that their data lie in, but for the gradients'.
        bound: the pieces on their memory.
        turn: which of the two memories the agent's leaves lie in.
    """

    segments: Segments
    forms: dict[str, list[Form]]
    data: list[Tensor]
    bound: Bound | None = None
    turn: int = 0

    @property
    def pieces(self) -> Sequence[Callable[[int], None] | None]:
        """What is done in the next round, one after the other."""
        assert self.bound is not None
        return self.bound.pieces[self.turn]


class CompiledAgents(Agents):
    """One agent whose rounds are compiled at the first.
    If they cannot be compiled, a warning says why, and they run eagerly.

    Args:
        method, network, partition, me, key: see ``Agents``.
        exchange: carries its rows.
        gradient: the memory in which its gradients always lie [1, 1, d].
    """

    exchange: RowExchange

    def __init__(
        self,
        method: Method,
        network: Network,
        partition: Partition,
        me: int,
        key: Key,
        exchange: RowExchange,
        gradient: Tensor,
    ) -> None:
        super().__init__(method, network, partition, me, key, exchange.transport, exchange.device, exchange=exchange)
        self._gradient, self._made = gradient, dict[Any, Made]()
        self._eager = self.device.type != "cpu" or self.method.plan.gradients > 1 or objects.fault() is not None
        self._now: Made | None = None  # the rounds that the agent is in, and at which point of them
        self._point = 0

    @property
    def sent(self) -> bool:
        """See ``Agents``."""
        return self._now is not None or super().sent

    @property
    def beside(self) -> list[Tensor]:
        """The memory of compiled rounds beside what the agent holds and the messages."""
        return [each for made in self._made.values() if made.bound is not None for each in made.bound.beside]

    def end(self) -> None:
        """See ``Agents``."""
        super().end()
        self._now = None

    def send(self) -> None:
        """See ``Agents``."""
        if self._now is None:
            made = None if self._eager else self._prepared()
            if made is None:
                super().send()
                return
            self._now, self._point = made, 0
            if self.method.plan.early and made.segments.points:
                self._go_on(made, 1)

    def step(self, g: Tensor, grad: Gradient | Costs | None = None) -> Tensor:
        """See ``Agents``. ``g`` lies where ``gradient`` does."""
        self.send()
        if self._now is None:
            return super().step(g, grad)
        made = self._prepared()  # the step size may have changed since the messages were sent, or other numbers
        assert made is not None
        if made is not self._now:
            for piece in made.pieces[: self._point]:
                if piece is not None:
                    piece(0)
        self._now = None
        self._go_on(made, len(made.segments.points) + 1)
        made.turn = 1 - made.turn
        assert made.bound is not None
        self.held = self._form.tree(made.bound.after(made.turn))
        self.t += 1
        return self.held.x

    def _go_on(self, made: Made, until: int) -> None:
        """The pieces and messages of the round up to the point of this number."""
        pieces, points = made.pieces, made.segments.points
        for at in range(self._point, until):
            if at < len(points) and points[at][0] == LEAVE:
                self.exchange.ready()
            piece = pieces[at]
            if piece is not None:
                piece(0)
            if at < len(points):
                kind, stage, _ = points[at]
                (self.exchange.post if kind == LEAVE else self.exchange.take)(stage)
        self._point = until

    def _prepared(self) -> Made | None:
        """The compiled rounds for the next one, with its data in their memory; None where there are none."""
        k = self._turn()
        self.exchange.go(k)
        count, order = len(self.exchange.receives), self.halo.order[k if len(self.halo.order) > 1 else 0]
        numbers = constants(self.method.algorithm)
        rate = numbers.pop("lr", None)
        lr = () if rate is None else torch.full((1, 1, 1), rate, dtype=self.x.dtype)
        tree = (lr, *self._weights(k), self._drawn(k), torch.tensor(self.t), order)
        leaves = Leaves(tree)
        shape = leaves.shape, count, tuple(numbers.items())
        if shape not in self._made:
            made = self._compiled(leaves, count)
            if made is None:
                return None
            self._made[shape] = made
            self._adopt(made)
            room.trim()
        made = self._made[shape]
        for into, each in zip(made.data, leaves.tensors, strict=True):
            into[0].copy_(each)
        self._adopt(made)
        return made

    def _compiled(self, leaves: Leaves, count: int) -> Made | None:
        try:
            if len(self._made) >= KINDS:
                self._made.pop(next(iter(self._made)))
            return self._recorded(leaves, count)
        except Unsupported as error:
            self._eager = True
            warnings.warn(f"the rounds of the optimiser are not compiled: {error}", CompileWarning, stacklevel=8)
            return None

    def _recorded(self, leaves: Leaves, count: int) -> Made:
        """The rounds of one shape: ``count`` messages come in each."""
        forms: dict[str, list[Form]] = {}
        method, which, held = self.method, self.network.which, Leaves(self.held)
        form = leaves.form()

        def one(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            now: AgentState = held.tree(carry)
            g, *others = data
            lr, tables, own, uniforms, t, order = form.tree(others)
            noted = Letters(None, [1] * count, order, forms)
            link: Link = BlockLink(noted, which, tables, own) if method.agents > 1 else Whole(tables, which)
            here = _with(method, lr)
            before = held_by(algorithm=here.algorithm)
            net = opened(here, now, link, uniforms, method.plan.early if method.agents > 1 else None)
            after = updated(here, now, net, t, g, Costs(_none, _none, _none))
            if (path := changed(before, held_by(algorithm=here.algorithm))) is not None:
                raise Unsupported(f"each round changes {path}, an attribute in Python; mix.t counts the rounds")
            return held.of(after), []

        data = [torch.empty(1, *each.shape, dtype=each.dtype) for each in leaves.tensors]
        for into, each in zip(data, leaves.tensors, strict=True):
            into[0].copy_(each)
        with default_dtype(self.x.dtype):
            made = segments(one, held.tensors, [self._gradient.unsqueeze(0), *data])
        return Made(made, forms, data)

    def _adopt(self, made: Made) -> None:
        """Have the leaves that the agent holds in the memory of the compiled rounds."""
        leaves = Leaves(self.held)
        if made.bound is None:
            own = [each.clone(memory_format=torch.contiguous_format) for each in leaves.tensors]
            made.bound = made.segments.bound(
                own, [self._gradient.unsqueeze(0), *made.data], [], 0, [self._messages(made)] * 2
            )
            self._form = leaves.form()
        for mine, each in zip(made.bound.after(made.turn), leaves.tensors, strict=True):
            if mine is not each:
                mine.copy_(each)
        self.held = self._form.tree(made.bound.after(made.turn))

    def _messages(self, made: Made) -> list[list[Tensor]]:
        """The memory of what leaves and arrives, point by point."""
        found = []
        for kind, stage, forms in made.segments.points:
            own = made.forms[stage]
            self.exchange.declare(stage, own)
            if kind == LEAVE:
                found.append(self.exchange.outgoing(stage))
            else:
                slots: Sequence[int] = range(len(forms) // len(own) - 1)
                parts = [part for slot in slots for part in self.exchange.incoming(stage, slot)]
                found.append([*self.exchange.outgoing(stage), *parts])
        return found


def _with(method: Method, lr: Tensor | tuple[()]) -> Method:
    """The method with a new step size in each round."""
    algorithm = copy.copy(method.algorithm)
    return dataclasses.replace(
        method, algorithm=with_tensor(algorithm, "lr", lr) if isinstance(lr, Tensor) else algorithm
    )


def _none(y: Tensor, rows: Tensor | None = None) -> Tensor:
    raise Unsupported("the algorithm takes a second gradient in a round")
