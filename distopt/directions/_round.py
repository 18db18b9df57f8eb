"""The round as inner parts of an algorithm see it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distopt.protocols import Mix


class RoundWithin:
    """The round as a part of an algorithm sees it (see ``distopt.protocols.Mix``): by default the algorithm's own round, which subclasses change."""

    def __init__(self, mix: Mix) -> None:
        self._mix = mix

    @property
    def t(self) -> Tensor:
        """See ``distopt.protocols.Mix``, here and below."""
        return self._mix.t

    @property
    def x(self) -> Tensor:
        return self._mix.x

    @property
    def coin(self) -> Tensor:
        return self._mix.coin

    def __call__(self, name: str, z: Tensor) -> Tensor:
        return self._mix(name, z)

    def grad(self, y: Tensor, rows: Tensor | None = None, *, ago: int = 0) -> Tensor:
        return self._mix.grad(y, rows, ago=ago)

    def loss(self, y: Tensor) -> Tensor:
        return self._mix.loss(y)

    def project(self, y: Tensor) -> Tensor:
        return self._mix.project(y)

    def lmo(self, s: Tensor, radius: Any = None) -> Tensor:
        return self._mix.lmo(s, radius)

    def prox(self, y: Tensor, lr: Any) -> Tensor:
        return self._mix.prox(y, lr)

    def uniform(self, words: int) -> Tensor:
        return self._mix.uniform(words)


class DirectedRound(RoundWithin):
    """The third argument of a direction rule (see ``distopt.protocols.DirectionRound``)."""

    def __init__(self, mix: Mix, lr: Any, x: Tensor | None) -> None:
        super().__init__(mix)
        self.lr, self._x = lr, x

    @property
    def x(self) -> Tensor:
        """Where the algorithm moves from."""
        return self._mix.x if self._x is None else self._x
