"""A variable for each end of each link, which waits where messages are lost: what LT-ADMM keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from distopt.numerics.sums import tree_sum
from distopt.optional import ChannelDefaults
from distopt.protocols import Wire


@dataclass(frozen=True)
class LinkVariables(ChannelDefaults):
    """Each end of each link keeps a variable, and the average takes it in the place of the neighbour's value [ren2025].

        i tells j: z_ij - 2 x_i,    z_ij <- (z_ij - (z_ji - 2 x_j)) / 2 where j's message arrives,    else it waits,    z_ij = 0 at first
        result: w_ii x_i + sum_j w_ij z_ij, by the new z_ij

    x [R, n, d] are the values that are sent; the memory has z_ij of an agent's links one after the other, [R, n, E d]. W must be constant
    and symmetric. ``slots`` is E, the largest degree, and ``bits`` counts d numbers for each of them, as the row of an agent has room for so many.

    >>> LinkVariables().for_degree(3).bits(d=10, itemsize=8)
    1920
    """

    slots: int = 1
    patient: ClassVar[bool] = True

    def for_degree(self, slots: int) -> LinkVariables:
        """The channel of a network in which no agent has more neighbours than ``slots``."""
        return replace(self, slots=slots)

    def init(self, like: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(like)] * self.slots, -1)

    def encode(self, z: Tensor, memory: Tensor, u: Tensor | None) -> Tensor:
        """z_ij - 2 x_i for each link, [R, n, E, d]."""
        return self._links(memory, z) - 2 * z.unsqueeze(-2)

    def __call__(
        self, z: Tensor, payload: Tensor, memory: Tensor, wire: Wire, u: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        slots, held = wire.slots, self._links(memory, z)
        told = wire.heard(payload).flatten(1, 2)[:, slots.index]
        held = torch.where(slots.side.unsqueeze(-1) != 0, 0.5 * held - 0.5 * told, held)
        weight = slots.weight.to(z.dtype).unsqueeze(-1)
        near = z - tree_sum(weight * (z.unsqueeze(-2) - held)).squeeze(-2)
        return near, held.flatten(-2)

    def bits(self, d: int, itemsize: int) -> int:
        return 8 * itemsize * self.slots * d

    def _links(self, memory: Tensor, z: Tensor) -> Tensor:
        """The memory link by link, [R, n, E, d]."""
        return memory.reshape(*z.shape[:-1], self.slots, z.shape[-1])
