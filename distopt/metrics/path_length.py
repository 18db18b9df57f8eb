"""How far the minimiser moves."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Metric, Seen


class PathLength(Metric):
    """Σ_{1≤τ≤t} ‖x*_τ − x*_{τ−1}‖."""

    title = "Path length of the minimiser"
    compares = True
    cumulative = True

    def value(self, seen: Seen) -> Tensor:
        """What each round adds."""
        added: Tensor = seen.reference.path
        return added
