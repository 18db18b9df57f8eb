"""How much the costs change from round to round."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Metric, Seen


class FunctionVariation(Metric):
    """Σ_{1≤τ≤t} |F_τ(x*_τ) − F_{τ−1}(x*_τ)|."""

    title = "Function variation"
    unit = "cost"
    compares = True
    cumulative = True

    def value(self, seen: Seen) -> Tensor:
        """What each round adds."""
        added: Tensor = seen.reference.function_variation
        return added
