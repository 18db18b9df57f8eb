"""What a scenario that goes around another one hands on of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distopt.numerics.random import Key


class Around:
    """A frozen dataclass with the field ``scenario``, whose data, and attributes of these names, are its own, too.

    See ``distopt.optional.ScenarioDefaults``.
    """

    scenario: Any

    @property
    def _inner(self) -> Any:
        return self.scenario

    @property
    def dim(self) -> int:
        """That of the scenario."""
        return int(self._inner.dim)

    def batch(self, t: Tensor, key: Key) -> Any:
        return self._inner.batch(t, key)

    def length(self, agents: int) -> int | None:
        """As long as the scenario's data."""
        rounds: int | None = self._inner.length(agents)
        return rounds

    def terms(self, agents: int) -> int | None:
        """The scenario's rows."""
        rows: int | None = self._inner.terms(agents)
        return rows

    @property
    def row_weights(self) -> Any:
        """The leaf of their weights."""
        return self._inner.row_weights

    @property
    def rounds(self) -> Any:
        """How many rounds the data last."""
        return self._inner.rounds

    @property
    def persistence(self) -> Any:
        """That of the last label."""
        return self._inner.persistence

    @property
    def eager(self) -> Any:
        """Why its costs cannot be compiled, if they cannot."""
        return self._inner.eager
