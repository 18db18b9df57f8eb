"""How much the gradients change from round to round."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Metric, Seen


class GradientVariation(Metric):
    """Σ_{1≤τ≤t} max_i ‖∇f_{i,τ}(x*_τ) − ∇f_{i,τ−1}(x*_τ)‖."""

    title = "Gradient variation"
    compares = True
    cumulative = True

    def value(self, seen: Seen) -> Tensor:
        """What each round adds."""
        added: Tensor = seen.reference.gradient_variation
        return added
