"""SEA concepts: a stream whose rule changes abruptly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distopt.numerics.random import Key
from distopt.scenarios._ranges import real, room, whole

from ._classified import Arriving
from ._logistic import Window, sliding_window

_THRESHOLDS = (8.0, 9.0, 7.0, 9.5)


@dataclass(frozen=True)
class Sea(Arriving):
    """Classify points by whether two of three features add up to more than a threshold that jumps now and then [street2001].

    Features are uniform in [0, 10], the label is +1 above the threshold. The threshold cycles through 8, 9, 7, 9.5, one step
    every ``period`` rounds; the third feature is irrelevant. With probability ``noise`` a label is flipped. Each agent
    receives ``rows`` new rows per round and f_{i,t} is the mean logistic loss on its rows of the last ``window`` rounds, plus
    l2/2 |x|^2. The model sees features mapped to [-1, 1] and a bias 1 (d = 4).

    Attributes:
        rows: new rows per agent and round.
        window: rounds that a row stays in the cost.
        period: rounds between two changes of the threshold.
        noise: probability of a flipped label.
        l2: the ridge parameter.

    Raises:
        InputError: for rows, window or period < 1, noise outside [0, 1], or l2 outside [0, 1e100].

    >>> s, key = Sea(period=100), Key(0, range(2), range(1), total=2)
    >>> s.threshold(torch.tensor([0, 99, 100, 399, 400])).tolist()
    [8.0, 8.0, 9.0, 9.5, 8.0]
    >>> [tuple(leaf.shape) for leaf in s.batch(torch.tensor([7]).reshape(1, 1, 1, 1), key)[:2]]
    [(1, 1, 2, 50, 4), (1, 1, 2, 50)]
    """

    dim: ClassVar[int] = 4
    rows: int = 5
    window: int = 10
    period: int = 500
    noise: float = 0.1
    l2: float = 0.01

    def __post_init__(self) -> None:
        whole(self, "rows", "window", "period")
        real(self, "noise", high=1)
        real(self, "l2")
        room(self, 4 * self.rows * self.window, "rows", "window")

    def threshold(self, t: Tensor) -> Tensor:
        """The threshold in force in rounds t (int64, any shape), float64."""
        return torch.tensor(_THRESHOLDS, dtype=torch.float64)[t // self.period % len(_THRESHOLDS)]

    def batch(self, t: Tensor, key: Key) -> Window:
        room(self, 4 * self.rows * self.window * len(t) * len(key.trials) * len(key.agents), "rows", "window")

        def rows(tau: Tensor) -> tuple[Tensor, Tensor]:
            u = key.uniform("sea.rows", 4 * self.rows, tau)
            u = u.reshape(*u.shape[:-1], self.rows, 4)
            raw = 10 * u[..., :3]
            y = torch.where(raw[..., 0] + raw[..., 1] > self.threshold(tau), 1.0, -1.0).to(torch.float64)
            y = torch.where(u[..., 3] < self.noise, -y, y)
            return torch.cat([raw / 5 - 1, torch.ones_like(raw[..., :1])], -1), y

        return sliding_window(t, self.window, rows)
