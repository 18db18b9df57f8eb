"""An algorithm and the channel that it sends through, as one algorithm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from distopt.protocols import Channel, Mix


@dataclass(frozen=True)
class Through:
    """``algorithm`` whose messages all go through ``channel``; ``weights`` says what W must then be.

    >>> from distopt.algorithms.gt import GT
    >>> from distopt.channels.choco import Choco
    >>> from distopt.compressors.sign import Sign
    >>> Through(GT(lr=0.1), Choco(Sign(), gamma=0.3)).channels
    ('x', 's')
    """

    algorithm: Any
    channel: Channel[Any]
    weights: str = "doubly"

    @property
    def channels(self) -> tuple[str, ...]:
        """Those of the algorithm."""
        found: tuple[str, ...] = self.algorithm.channels
        return found

    @property
    def tracks(self) -> str | None:
        """The algorithm's tracker."""
        found: str | None = self.algorithm.tracks
        return found

    @property
    def output(self) -> Any:
        """The algorithm's, or None."""
        return self.algorithm.output

    @property
    def coin(self) -> Any:
        """The algorithm's."""
        return self.algorithm.coin

    @property
    def full(self) -> Any:
        """The algorithm's."""
        return self.algorithm.full

    @property
    def for_rows(self) -> Any:
        """The algorithm's, or None."""
        known = self.algorithm.for_rows
        return None if known is None else lambda rows: replace(self, algorithm=known(rows))

    @property
    def gradient_free(self) -> bool:
        """Whether the algorithm uses no gradients."""
        return bool(self.algorithm.gradient_free)

    def init(self, x: Tensor) -> Any:
        return self.algorithm.init(x)

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Mix) -> tuple[Tensor, Any]:
        after: tuple[Tensor, Any] = self.algorithm.update(g, state, x, mix)
        return after
