"""Local steps: the script's own steps between two exchanges (``every=K``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distopt.algorithms.dgd import DGD
from distopt.algorithms.gt import GT
from distopt.algorithms.k_gt import KGT
from distopt.errors import InputError
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Mix


class LocalState(NamedTuple):
    """What an agent holds between two steps.

    Attributes:
        start: where it stood after the last exchange [..., n, d].
        total: the sum of the corrected gradients since [..., n, d].
        c, direction: see ``distopt.algorithms.k_gt.KGTState``.
    """

    start: Tensor
    total: Tensor
    c: Tensor | tuple[()]
    direction: Any


@dataclass(frozen=True)
class LocalSteps(AlgorithmDefaults):
    """K-GT whose K gradients come one by one: K - 1 calls of ``local``, and then ``update``, which exchanges.

    >>> local_steps("k_gt", KGT(lr=0.1), 4).algorithm.local
    4
    """

    algorithm: KGT

    @property
    def channels(self) -> tuple[str, ...]:
        """Those of K-GT."""
        return self.algorithm.channels

    def init(self, x: Tensor) -> LocalState:
        """See ``distopt.protocols.Algorithm``."""
        return LocalState(x.clone(), torch.zeros_like(x), *self.algorithm.init(x))

    def local(self, g: Tensor, state: LocalState, x: Tensor, mix: Mix) -> tuple[Tensor, LocalState]:
        """A step without an exchange."""
        y, p, direction = self.algorithm.inner(g, state.c, x, state.direction, mix)
        return y, LocalState(state.start, state.total + p, state.c, direction)

    def update(self, g: Tensor, state: LocalState, x: Tensor, mix: Mix) -> tuple[Tensor, LocalState]:
        """A step and an exchange."""
        y, after = self.local(g, state, x, mix)
        y, c = self.algorithm.outer(after.start, y, after.total, after.c, mix)
        return y, LocalState(y.clone(), torch.zeros_like(y), c, after.direction)


def local_steps(name: str, algorithm: Any, every: int) -> LocalSteps:
    """The algorithm with ``every`` local steps for each exchange.
    gt becomes K-GT with K = ``every``, gtadam becomes K-GT with Adam's direction, and dgd and dadam become local
    descent and averaging. ``name`` is what the user calls it.

    Raises:
        InputError: another algorithm.
    """
    if isinstance(algorithm, KGT):
        return LocalSteps(KGT(algorithm.lr, every, algorithm.server, algorithm.direction, algorithm.correction))
    if isinstance(algorithm, GT | DGD):
        return LocalSteps(KGT(algorithm.lr, every, 1.0, algorithm.direction, correction=isinstance(algorithm, GT)))
    raise InputError(
        f"every={every}: {name} has no version with local steps; use gt, gtadam, k_gt, dgd or dadam, or every=1"
    )
