"""How many of the samples that are new are classified correctly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distopt.metrics import Metric, View


class Accuracy(Metric):
    """The fraction of the samples of round t, which x̄_t has not seen, that x̄_t classifies correctly.

    It is taken for each agent, and then the mean over those that received a sample in this round (nan where none did).
    """

    title = "Accuracy"
    unit = "fraction"
    rises = True
    smoothed = True
    baselines = ("accuracy_best_fixed", "accuracy_last_label")
    head = ("", "accuracy")
    column = 7
    take = "mean"

    def applies(self, scenario: Any, algorithm: Any) -> bool:
        """Only a classification has accuracies."""
        return scenario.accuracy is not None

    def absence(self, agents: int, dim: int) -> str:
        """It is none."""
        return "the scenario is no classification"

    def term(self, view: View) -> Tensor:
        """Each agent's accuracy at xbar (0 where it received no sample), and whether it received any: [R, n, 2]."""
        accuracy = view.scenario.accuracy(view.mean.expand_as(view.x), view.data)
        return torch.stack([accuracy.nan_to_num(nan=0.0), (~accuracy.isnan()).to(view.x.dtype)], -1)

    def columns(self, dim: int) -> int:
        """Two."""
        return 2

    def finish(self, sums: Tensor, agents: int) -> Tensor:
        """The mean over the agents that received a sample; 0 / 0 = nan if none did."""
        return sums[..., 0] / sums[..., 1]
