"""How the row of one agent reaches its neighbours, and theirs reach it, with as little memory as that takes.

The simulator's ``HaloExchange`` keeps two buffers for each message in each direction. A model may have a billion parameters, so here all
neighbours are sent the same buffer, and each neighbour's message comes into one buffer, which serves round after round.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import Tensor

from distopt.engines.transports.gloo import Arriving, GlooTransport, Group
from distopt.engines.workers.exchange import CPU, Form, HaloExchange
from distopt.engines.workers.halo import Halo, size, unpack


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
        self._out: dict[str, tuple[Tensor, list[Tensor]]] = {}
        self._free: dict[str, list[tuple[Tensor, list[Tensor]]]] = {}
        self._coming: dict[str, tuple[Arriving, list[tuple[Tensor, list[Tensor]]]]] = {}
        self.bytes_sent, self.seconds_waiting = 0, 0.0

    @property
    def bytes_held(self) -> int:
        """The memory of all buffers."""
        coming = [buffer for _, buffers in self._coming.values() for buffer in buffers]
        free = [buffer for buffers in self._free.values() for buffer in buffers]
        return sum(message.numel() for message, _ in [*self._out.values(), *coming, *free])

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
            for stage in list(self._coming):
                self._taken(stage)
            self.k = k

    def send(self, stage: str, rows: Sequence[Tensor]) -> None:
        """Send the agent's rows [1, 1, *] of a stage to all neighbours who weigh them, and expect theirs."""
        self.declare(stage, [(row.shape, row.dtype) for row in rows])
        sends, receives = self._entry(self.halo.send, self.k), sorted(self._entry(self.halo.receive, self.k))
        if not sends and not receives:
            return
        began = time.perf_counter()
        self.transport.settle()  # what was sent before has left the buffer
        self.seconds_waiting += time.perf_counter() - began
        tag = self._start + self.k, self._name + stage
        free = self._free.setdefault(stage, [])
        buffers = [free.pop() if free else self._made(stage) for _ in receives]
        into = {sender: message for sender, (message, _) in zip(receives, buffers, strict=True)}
        self._coming[stage] = self.transport.expect(tag, into), buffers
        if sends:
            if stage not in self._out:
                self._out[stage] = self._made(stage)
            message, parts = self._out[stage]
            for row, part in zip(rows, parts, strict=True):
                part.copy_(row)
            self.bytes_sent += len(sends) * sum(row.numel() * row.element_size() for row in rows)
            self.transport.send(tag, dict.fromkeys(sends, message))

    def heard(self, stage: str, rows: Sequence[Tensor]) -> list[Tensor]:
        """The heard agents' rows [1, h, *] of a stage that was sent, copies of what arrived."""
        buffers = self._taken(stage)
        order = self._entry(self.halo.order, self.k)
        wholes = [
            torch.cat([row, *(parts[leaf].to(row.device) for _, parts in buffers)], 1) if buffers else row
            for leaf, row in enumerate(rows)
        ]
        return wholes if order is None else [whole.index_select(1, order) for whole in wholes]

    def settle(self, seconds: float) -> None:
        """Wait until what is under way has arrived, here and at the neighbours.

        Raises:
            RunError: a neighbour is gone, or does not take it in time.
        """
        patience = timedelta(seconds=seconds)
        for arriving, _ in self._coming.values():
            arriving.wait(patience)
        if self.transport is not None:
            self.transport.settle(patience)

    def drop(self) -> None:
        """Drop the connections and what is under way."""
        self._coming.clear()
        if self.transport is not None:
            self.transport.leave()

    def _taken(self, stage: str) -> list[tuple[Tensor, list[Tensor]]]:
        """Wait for a stage of this round; its buffers, which serve the next one."""
        if stage not in self._coming:
            return []
        arriving, buffers = self._coming[stage]
        began = time.perf_counter()
        arriving.wait()
        self.seconds_waiting += time.perf_counter() - began
        del self._coming[stage]
        self._free[stage] = [*self._free[stage], *buffers]
        return buffers

    def _made(self, stage: str) -> tuple[Tensor, list[Tensor]]:
        """Memory for a message of a stage, and its parts."""
        forms: list[Form] = self._forms[stage]
        message = torch.empty(size(forms), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        return message, unpack(message, forms)
