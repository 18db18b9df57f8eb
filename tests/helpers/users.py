"""Algorithms as users write them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor


class InPlace:
    """Gradient tracking by operations that write over their tensors."""

    channels: ClassVar[tuple[str, ...]] = ("x", "s")

    def init(self, x: Tensor) -> dict[str, Tensor]:
        return {"s": torch.zeros_like(x), "g": torch.zeros_like(x)}

    def update(self, g: Tensor, state: dict[str, Tensor], x: Tensor, mix: Any) -> tuple[Tensor, dict[str, Tensor]]:
        s = mix("s", state["s"]).add_(g).sub_(state["g"])
        after = mix("x", x).add_(s, alpha=-0.0625)
        state["g"].copy_(g)
        state["s"].copy_(s)
        return after, state
