"""A baseline of the accuracy: the best point that never moves."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distopt.metrics import Metric, Seen
from distopt.metrics._reasons import NO_FIXED_POINT


class AccuracyBestFixed(Metric):
    """The accuracy of the best fixed point, known only in hindsight."""

    title = "Accuracy of the best fixed point"
    unit = "fraction"
    rises = True
    compares = True
    smoothed = True
    label = "best fixed point"
    take = "mean"

    def applies(self, scenario: Any, algorithm: Any) -> bool:
        """Only a classification has accuracies."""
        return scenario.accuracy is not None

    def value(self, seen: Seen) -> Tensor:
        """Round by round."""
        return seen.fixed_accuracy

    def absence(self, agents: int, dim: int) -> str:
        """There is no best fixed point, or nothing to classify."""
        return f"the scenario is no classification, or {NO_FIXED_POINT}"
