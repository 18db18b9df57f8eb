"""Push-Pull, or AB: gradient tracking on directed networks, where each channel has weights of its own."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch


class State(NamedTuple):
    s: torch.Tensor
    g: torch.Tensor


@dataclass(frozen=True)
class PushPull:
    """x_{t+1} = R x_t - lr s_t, s_t = C s_{t-1} + g_t - g_{t-1}: rows of R sum to 1, and columns of C."""

    lr: float = 0.05
    channels = ("x", "s")
    weights: ClassVar = {"x": "row", "s": "column"}
    tracks = "s"

    def init(self, x):
        return State(torch.zeros_like(x), torch.zeros_like(x))

    def update(self, g, state, x, mix):
        s = mix("s", state.s) + g - state.g
        return mix("x", x) - self.lr * s, State(s, g)
