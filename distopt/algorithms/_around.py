"""The attributes that a wrapper, such as ``averaged``, takes over from its inner algorithm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any


class Around:
    """A frozen dataclass with the field ``algorithm``, whose attributes of these names are its own, too (``distopt.optional.AlgorithmDefaults``)."""

    algorithm: Any

    @property
    def coin(self) -> Any:
        """How often agents exchange anything, or None."""
        return self.algorithm.coin

    @property
    def full(self) -> Any:
        """The fraction of rounds in which it uses the gradients that it is given."""
        return self.algorithm.full

    @property
    def for_rows(self) -> Any:
        """What makes the algorithm for so many rows of data, or None."""
        known, around = self.algorithm.for_rows, self
        return None if known is None else lambda rows: replace(around, algorithm=known(rows))  # type: ignore[type-var]  # a dataclass

    @property
    def gradient_free(self) -> bool:
        """Whether it uses no gradients."""
        return bool(self.algorithm.gradient_free)

    @property
    def channels(self) -> tuple[str, ...]:
        """What it sends."""
        found: tuple[str, ...] = self.algorithm.channels
        return found


class Over(Around):
    """One that sends what the algorithm sends, as the algorithm does."""

    @property
    def _inner(self) -> Any:
        return self.algorithm

    @property
    def weights(self) -> Any:
        """What the algorithm needs."""
        return self._inner.weights

    @property
    def channel(self) -> Any:
        """The algorithm's own, or None."""
        return self._inner.channel
