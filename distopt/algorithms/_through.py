"""An algorithm and the channel that it sends through, as one algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from distopt.algorithms._around import Around
from distopt.protocols import Channel, Mix


@dataclass(frozen=True)
class Through(Around):
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
    def tracks(self) -> str | None:
        """The algorithm's tracker."""
        found: str | None = self.algorithm.tracks
        return found

    @property
    def output(self) -> Any:
        """The algorithm's, or None."""
        return self.algorithm.output

    def init(self, x: Tensor) -> Any:
        return self.algorithm.init(x)

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Mix) -> tuple[Tensor, Any]:
        after: tuple[Tensor, Any] = self.algorithm.update(g, state, x, mix)
        return after
