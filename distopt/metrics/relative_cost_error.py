"""The cost above the minimum, relative to the minimum."""

from __future__ import annotations

import torch
from torch import Tensor

from distopt.metrics import Metric, Seen


class RelativeCostError(Metric):
    """(F_t(x̄_t) − F_t(x*_t)) / F_t(x*_t), as in the GTAdam paper [carnevale2023]: of round t alone. It is nan where F_t(x*_t) ≤ 0."""

    title = "Relative cost error"
    compares = True

    def value(self, seen: Seen) -> Tensor:
        """What it is in each round."""
        best: Tensor = seen.reference.cost
        return torch.where(best > 0, (seen["cost"] - best) / best, torch.nan)

    def absence(self, agents: int, dim: int) -> str:
        """It began with an earlier version."""
        return "the run was begun by a version that did not measure it"
