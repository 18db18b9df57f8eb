"""Ranks whose data end before those of others: ``torch.distributed.algorithms.Join``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.distributed.algorithms.join import Join, Joinable, JoinHook

__all__ = ["JoinHook", "Joinable", "Joined", "announce"]


class Joined(JoinHook):
    """What a rank without data does while others have some: a round for each of theirs."""

    def __init__(self, round: Callable[[], None]) -> None:
        self._round = round

    def main_hook(self) -> None:
        """A round."""
        self._round()


def announce(joinable: Any) -> None:
    """Within ``Join``, say that this rank still has data; elsewhere nothing."""
    Join.notify_join_context(joinable)
