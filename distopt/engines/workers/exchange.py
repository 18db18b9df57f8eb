"""A block's exchanges: how the rows of its agents reach the blocks that weigh them, and theirs reach it.

Bytes are carried by a ``Transport``, the only thing an engine has to bring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.engines.workers.halo import Halo, size, unpack
from distopt.errors import InputError
from distopt.network.net import Senders, senders, slots
from distopt.network.rows import Tables, apply
from distopt.protocols import Payload, Slots

E = TypeVar("E")

CPU = torch.device("cpu")

Form = tuple[torch.Size, torch.dtype]
"""Shape and precision of a tensor."""

Tag = tuple[int, str]
"""(round, what it is): names a message between two workers. Messages are taken by tag, never by order of arrival."""


class Arriving(Protocol):
    """Messages under way."""

    def wait(self) -> None:
        """Return when all are here, as they were sent, where they were expected."""


class Transport(Protocol):
    """How a worker's messages travel. Both methods return at once, and do not wait until a message is taken.

    The first ``halo.FRONT`` bytes of a message are the transport's to write; the rest stays as it is.
    """

    def expect(self, tag: Tag, into: dict[int, Tensor]) -> Arriving:
        """Expect messages of this tag, to fill uint8 [bytes] by sending worker. Announced early, they cost the carrier less."""

    def send(self, tag: Tag, outgoing: dict[int, Tensor]) -> None:
        """Send uint8 [bytes] by worker. What was sent before has been taken; a message may be written over after the next one but one is sent."""


class Rows(Transport, Protocol):
    """Carries rows between the workers' devices; waiting for them holds up ``device`` alone. All send the same tags in the same order,
    each after it was expected, and wait for it once."""

    @property
    def device(self) -> torch.device:
        """Where this worker's agents live."""

    def confirm(self) -> None:
        """Return when all rows have arrived with the expected headers. Results made of them may be reported only then."""


class Buffer(NamedTuple):
    """A message of ``rows`` rows, and views of its parts."""

    rows: int
    message: Tensor
    parts: list[Tensor]


class Side(NamedTuple):
    """What goes one way in a round: the messages by block, and the rows in them, block after block."""

    messages: dict[int, Tensor]
    rows: list[list[Tensor]]


@dataclass
class Pending:
    """What is to arrive of a stage in round k: the messages, what will be in them, block after block, and whether it is ``here``."""

    k: int
    messages: Arriving
    pieces: list[list[Tensor]]
    here: bool = False

    def wait(self) -> None:
        """Return when it is here."""
        if not self.here:
            self.messages.wait()
            self.here = True


class HaloExchange:
    """A worker's exchanges, in round ``start + k`` entry ``k`` of its halo.

    Receives for a round are posted before waiting for the messages of the round before, or when that round is left. Later, a message
    might come unexpected, and keep gloo's thread spinning on a lock that this thread needs. Earlier, the receiver's word that it is
    ready would wake the other worker's gloo while that one computes: rounds of small messages between two ranks took a third longer.

    All rounds have the same stages. If an algorithm leaves one out, all workers leave it out, and send padding messages to the workers
    that expect one.

    No two messages have the same tag: where rounds are begun again, the names say how often that has happened. All workers begin the
    same rounds in the same order, so they count alike.

    Several exchanges may share a transport, where each has its own ``prefix`` in front of the names of its messages.
    """

    def __init__(self, transport: Transport, device: torch.device = CPU, prefix: str = "") -> None:
        self.transport, self.device, self.prefix, self.k = transport, device, prefix, 0
        self._rounds, self._next, self._again = range(0), 0, 0  # no tag is used from round ``_next`` on
        self._name = prefix  # in front of the stage, in a tag
        self._forms: dict[str, list[Form]] = {}  # shapes and precisions of the own rows, by stage
        self._buffers: dict[tuple[str, int, int, bool], Buffer] = {}  # (stage, block, turn, whether it comes)
        self._sides: dict[
            tuple[str, int, bool], Side
        ] = {}  # (stage, turn, whether it comes), where all rounds have the same
        self._first, self._used = 0, 1  # the round from which turns are counted; the turn of the last message
        self._ahead: dict[str, Pending] = {}
        self._sent: dict[str, Pending] = {}

    @property
    def round(self) -> int:
        """The round it is in."""
        return self._start + self.k

    def turn(self, k: int) -> int:
        """Which of the two buffers of each message is used in round k of the halo."""
        return (self._start + k - self._first) % 2

    def begin(self, halo: Halo, start: int, rounds: range) -> None:
        """Go through ``rounds`` of a halo. Nothing may be under way."""
        if start + rounds.start < self._next:
            self._again += 1
            self._name = f"{self.prefix}again {self._again}: "
        self._next = start + rounds.stop
        self._sides.clear()
        self._first = start + rounds.start - (1 - self._used)  # the buffers that served last rest
        self.halo, self._start, self._rounds, self.k = halo, start, rounds, rounds.start
        self._ahead = {stage: self._expect(rounds.start, stage) for stage in self._forms} if rounds else {}

    def end(self) -> None:
        """No further rounds of those begun: nothing is left under way."""
        self.go(self._rounds.stop)

    def go(self, k: int) -> None:
        """Go to round k, or past the last one: nothing is left under way of the rounds before."""
        if k == self.k:
            return
        for stage, due in self._sent.items():
            if due.k == self.k:
                self._look_ahead(stage)  # whoever hears from here has it already, and waits for it if rounds end
            due.wait()
        for stage, due in [item for item in self._ahead.items() if item[1].k < k]:  # left out
            self.transport.send(self._tag(due.k, stage), self.side(stage, due.k, False).messages)
            due.wait()
            del self._ahead[stage]
        self.k = k

    def send(self, stage: str, rows: Sequence[Tensor]) -> None:
        """Send the own agents' rows [R, n, *] of a stage to every block that needs any of them."""
        self.declare(stage, [(row.shape, row.dtype) for row in rows])
        messages = self.side(stage, self.k, False).rows
        for places, parts in zip(self._entry(self.halo.send, self.k).values(), messages, strict=True):
            for row, into in zip(rows, parts, strict=True):
                torch.index_select(row, 1, places, out=into)
        self.post(stage)

    def declare(self, stage: str, forms: list[Form]) -> None:
        """Say what the own agents' rows of a stage are like."""
        if self._forms.setdefault(stage, forms) != forms:
            raise InputError(
                f"the payload of {stage} has the form {forms} in round {self.round}, but had {self._forms[stage]} before"
            )

    def side(self, stage: str, k: int, comes: bool) -> Side:
        """The messages of a stage that was declared, in round k: those that come, to be read after ``wait``, or go, to be filled for ``post``.

        Blocks that messages go to are in the order of the halo, those that they come from in ascending order.
        """
        turn, halo = self.turn(k), self.halo
        found = self._sides.get((stage, turn, comes))
        if found is None:
            if comes:
                counts = dict(sorted(self._entry(halo.receive, k).items()))
            else:
                counts = {block: len(places) for block, places in self._entry(halo.send, k).items()}
            buffers = {block: self._buffer(stage, block, count, comes, turn) for block, count in counts.items()}
            found = Side(
                {block: each.message for block, each in buffers.items()}, [each.parts for each in buffers.values()]
            )
            if len(halo.send) == 1:
                self._sides[stage, turn, comes] = found
        return found

    def post(self, stage: str) -> None:
        """Send what lies in the messages of a stage."""
        k = self.k
        due = self._ahead.pop(stage, None)
        self._sent[stage] = self._expect(k, stage) if due is None else due
        self.transport.send(self._tag(k, stage), self.side(stage, k, False).messages)

    def wait(self, stage: str) -> list[list[Tensor]]:
        """Wait for the others' rows of a stage that was sent: those of each leaf [R, *, *] by block, in ascending order."""
        due = self._sent[stage]
        self._look_ahead(stage)
        due.wait()
        return due.pieces

    def heard(self, stage: str, rows: Sequence[Tensor]) -> list[Tensor]:
        """The heard agents' rows [R, h, *] of a stage that was sent."""
        pieces, order = self.wait(stage), self._entry(self.halo.order, self.k)
        wholes = [torch.cat([row, *(piece[leaf] for piece in pieces)], 1) for leaf, row in enumerate(rows)]
        return wholes if order is None else [whole.index_select(1, order) for whole in wholes]

    def _look_ahead(self, stage: str) -> None:
        """Expect what comes of a stage in the next round."""
        if self.k + 1 in self._rounds and stage not in self._ahead:
            self._ahead[stage] = self._expect(self.k + 1, stage)

    def _expect(self, k: int, stage: str) -> Pending:
        self._used = self.turn(k)
        messages, rows = self.side(stage, k, True)
        return Pending(k, self.transport.expect(self._tag(k, stage), messages), rows)

    def _tag(self, k: int, stage: str) -> Tag:
        return self._start + k, self._name + stage

    def _buffer(self, stage: str, block: int, count: int, comes: bool, turn: int) -> Buffer:
        """A buffer with ``count`` rows of a stage: one of two that serve by turns, where they have that size."""
        buffer = self._buffers.get((stage, block, turn, comes))
        if buffer is None or buffer.rows != count:
            forms = [((shape[0], count, *shape[2:]), dtype) for shape, dtype in self._forms[stage]]
            message = torch.empty(size(forms), dtype=torch.uint8, device=self.device)
            buffer = self._buffers[stage, block, turn, comes] = Buffer(count, message, unpack(message, forms))
        return buffer

    @staticmethod
    def _entry(entries: tuple[E, ...], k: int) -> E:
        return entries[k if len(entries) > 1 else 0]


class Exchange(Protocol):
    """What a link needs of a ``HaloExchange``."""

    def send(self, stage: str, rows: Sequence[Tensor]) -> None:
        """See ``HaloExchange``."""

    def heard(self, stage: str, rows: Sequence[Tensor]) -> list[Tensor]:
        """See ``HaloExchange``."""


class BlockLink:
    """The link of a worker's round (see ``distopt.network.net.Link``)."""

    def __init__(self, exchange: Exchange, which: Mapping[str, int], tables: Tables, own: Tensor) -> None:
        self.exchange, self.which, self.tables, self.own = exchange, which, tables, own
        self._early: dict[str, Payload] = {}
        self._heard: dict[str, Payload] = {}

    def send(self, payloads: dict[str, Payload]) -> None:
        """All of them in one message per neighbouring block."""
        self._early = payloads
        self.exchange.send("+".join(payloads), pytree.tree_leaves(payloads))

    def heard(self, name: str, payload: Payload) -> Payload:
        """Rows of one early message serve several channels."""
        if name not in self._early:
            leaves, form = pytree.tree_flatten(payload)
            self.exchange.send(name, leaves)
            return pytree.tree_unflatten(self.exchange.heard(name, leaves), form)
        if not self._heard:
            leaves, form = pytree.tree_flatten(self._early)
            self._heard = pytree.tree_unflatten(self.exchange.heard("+".join(self._early), leaves), form)
        return self._heard[name]

    def weigh(self, name: str, rows: Tensor) -> Tensor:
        """The own agents' rows of W_t times the heard rows."""
        return apply(self.tables[self.which[name]], rows)

    def slots(self, name: str) -> Slots:
        """See ``distopt.network.net.Link``."""
        return slots(self.tables[self.which[name]])

    def senders(self, name: str) -> Senders:
        """See ``distopt.network.net.Link``."""
        return senders(self.tables[self.which[name]])
