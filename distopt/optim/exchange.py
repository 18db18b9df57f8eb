"""How the row of one agent reaches its neighbours, and theirs reach it, with as little memory as that takes.

The simulator's ``HaloExchange`` keeps two buffers for each message in each direction. A model may have a billion parameters, so here all
neighbours are sent the same buffer, and each neighbour's message comes into one buffer, which serves round after round.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.engines.transports.gloo import Arriving, GlooTransport, Group
from distopt.engines.workers.exchange import CPU, Form, HaloExchange
from distopt.engines.workers.halo import Halo, size, unpack


class Message(NamedTuple):
    """Memory for a message, and views of its parts."""

    bytes: Tensor
    parts: list[Tensor]


class RowExchange(HaloExchange):
    """The exchanges of one agent. ``group`` connects it to the others; None: it is alone.

    The buffers lie in the host's memory, pinned where the rows are on a GPU.

    Attributes:
        bytes_sent: of all messages so far, once for each neighbour; without their headers.
        seconds_waiting: how long ``heard`` and ``send`` have waited for others.
    """

    def __init__(self, group: Group | None, device: torch.device = CPU, prefix: str = "") -> None:
        self.transport: GlooTransport
        super().__init__(GlooTransport(group) if group else None, device, prefix)  # type: ignore[arg-type]  # alone, it is not used
        self._out: dict[str, Message] = {}
        self._in: dict[str, list[Message]] = {}
        self._due: dict[str, Arriving] = {}
        self.bytes_sent, self.seconds_waiting = 0, 0.0

    @property
    def bytes_held(self) -> int:
        """The memory of all messages."""
        buffers = [*self._out.values(), *(each for some in self._in.values() for each in some)]
        return sum(each.bytes.numel() for each in buffers)

    @property
    def receives(self) -> list[int]:
        """Whose messages come in this round, in ascending order; none if the agent is alone."""
        return sorted(self._entry(self.halo.receive, self.k))

    @property
    def sends(self) -> list[int]:
        """Who is sent messages in this round."""
        return list(self._entry(self.halo.send, self.k))

    def begin(self, halo: Halo, start: int, rounds: range) -> None:
        """See ``HaloExchange``. Nothing is expected before this agent sends."""
        if start + rounds.start < self._next:
            self._again += 1
            self._name = f"{self.prefix}again {self._again}: "
        self._next = start + rounds.stop
        self.halo, self._start, self._rounds, self.k = halo, start, rounds, rounds.start

    def go(self, k: int) -> None:
        """Go to round k: nothing is left under way of the rounds before."""
        if k != self.k:
            for stage in list(self._due):
                self.take(stage)
            self.k = k

    def send(self, stage: str, rows: Sequence[Tensor]) -> None:
        """Send the agent's rows [1, 1, *] of a stage to all its receivers, and post receives for its senders' rows."""
        self.declare(stage, [(row.shape, row.dtype) for row in rows])
        if self.sends or self.receives:
            self.ready()
            for row, part in zip(rows, self.outgoing(stage), strict=True):
                part.copy_(row)
            self.post(stage)

    def heard(self, stage: str, rows: Sequence[Tensor]) -> list[Tensor]:
        """The heard agents' rows [1, h, *] of a stage that was sent, copies of what arrived."""
        self.take(stage)
        order, slots = self._entry(self.halo.order, self.k), range(len(self.receives))
        wholes = [
            torch.cat([row, *(self.incoming(stage, slot)[leaf].to(row.device) for slot in slots)], 1) if slots else row
            for leaf, row in enumerate(rows)
        ]
        return wholes if order is None else [whole.index_select(1, order) for whole in wholes]

    def outgoing(self, stage: str) -> list[Tensor]:
        """The parts of the own message of a stage that was declared; to be written once ``ready`` has returned."""
        if stage not in self._out:
            self._out[stage] = self._message(stage)
        return self._out[stage].parts

    def incoming(self, stage: str, slot: int) -> list[Tensor]:
        """The parts of the message of the ``slot``-th neighbour that comes in a round; to be read once ``take`` has returned."""
        buffers = self._in.setdefault(stage, [])
        while len(buffers) <= slot:
            buffers.append(self._message(stage))
        return buffers[slot].parts

    def ready(self) -> None:
        """Wait until what was sent before has left its memory."""
        began = time.perf_counter()
        self.transport.settle()
        self.seconds_waiting += time.perf_counter() - began

    def post(self, stage: str) -> None:
        """Send what lies in the own message of a stage, and expect the others'. What came before has been read."""
        tag, sends, receives = (self._start + self.k, self._name + stage), self.sends, self.receives
        for slot in range(len(receives)):
            self.incoming(stage, slot)
        into = {sender: each.bytes for sender, each in zip(receives, self._in.get(stage, ()), strict=False)}
        self._due[stage] = self.transport.expect(tag, into)
        if sends:
            self.outgoing(stage)
            self.bytes_sent += len(sends) * sum(part.numel() * part.element_size() for part in self._out[stage].parts)
            self.transport.send(tag, dict.fromkeys(sends, self._out[stage].bytes))

    def take(self, stage: str) -> None:
        """Wait for the others' messages of a stage that was sent."""
        due = self._due.pop(stage, None)
        if due is not None:
            began = time.perf_counter()
            due.wait()
            self.seconds_waiting += time.perf_counter() - began

    def settle(self, seconds: float) -> None:
        """Wait until what is under way has arrived, here and at the neighbours.

        Raises:
            RunError: a neighbour is lost, or does not take it in time.
        """
        patience = timedelta(seconds=seconds)
        for due in self._due.values():
            due.wait(patience)
        if self.transport is not None:
            self.transport.settle(patience)

    def drop(self) -> None:
        """Drop the connections and what is under way."""
        self._due.clear()
        if self.transport is not None:
            self.transport.leave()

    def _message(self, stage: str) -> Message:
        """Memory for a message of a stage."""
        forms: list[Form] = self._forms[stage]
        there = torch.empty(size(forms), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        return Message(there, unpack(there, forms))
