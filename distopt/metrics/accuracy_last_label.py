"""A baseline of the accuracy: predicting the previous label."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distopt.metrics import Metric, Seen


class AccuracyLastLabel(Metric):
    """The accuracy of predicting that each agent's next label equals its previous one."""

    title = "Accuracy of repeating the last label"
    unit = "fraction"
    rises = True
    smoothed = True
    label = "last label"
    take = "mean"

    def applies(self, scenario: Any, algorithm: Any) -> bool:
        """Labels must come one after the other."""
        return scenario.persistence is not None

    def value(self, seen: Seen) -> Tensor:
        """Round by round."""
        found: Tensor = seen.reference.persistence
        return found

    def absence(self, agents: int, dim: int) -> str:
        """The scenario has no ``persistence``."""
        return "the scenario has no labels that come one after the other"
