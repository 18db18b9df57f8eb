"""Gradient tracking with a heavy-ball term: an algorithm of one's own."""

from dataclasses import dataclass
from typing import NamedTuple

import torch


class State(NamedTuple):
    s: torch.Tensor  # tracker
    g: torch.Tensor  # last gradient
    before: torch.Tensor  # x_{t-1}


@dataclass(frozen=True)
class HeavyBall:
    """Gradient tracking with a heavy-ball term."""

    lr: float = 0.05
    beta: float = 0.5
    channels = ("x", "s")
    tracks = "s"  # mean s = mean g: checked in every round

    def init(self, x):
        return State(torch.zeros_like(x), torch.zeros_like(x), x.clone())

    def update(self, g, state, x, mix):
        s = mix("s", state.s) + g - state.g
        return mix("x", x) - self.lr * s + self.beta * (x - state.before), State(s, g, x)
