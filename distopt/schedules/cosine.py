"""A step size that falls along half a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.ranges import positive, whole


@dataclass(frozen=True)
class Cosine:
    """lr_t = least + (lr - least) (1 + cos(pi min(t, rounds) / rounds)) / 2, cosine annealing without restarts [loshchilov2017].

    t = 0, 1, 2, ... is the round. From round ``rounds`` on it stays at ``least``, by default 1 % of ``lr``. The paper's value is
    0, but a step size must be above 0.

    Raises:
        InputError: ``lr`` or ``least`` not positive, ``least`` above ``lr``, or ``rounds`` below 1.

    >>> import torch
    >>> from distopt.schedules.cosine import Cosine
    >>> [round(Cosine(0.1, rounds=100, least=0.02)(torch.tensor(t)).item(), 6) for t in (0, 50, 100, 200)]
    [0.1, 0.06, 0.02, 0.02]
    """

    lr: float
    rounds: int = 1000
    least: float | None = None

    def __post_init__(self) -> None:
        positive("cosine", lr=self.lr)
        whole("cosine", 1, rounds=self.rounds)
        if self.least is not None:
            positive("cosine", least=self.least)
            if self.least > self.lr:
                raise InputError(f"cosine: least must be at most lr, got {self.least} and lr={self.lr}")

    def __call__(self, t: Tensor) -> Tensor:
        least = 0.01 * self.lr if self.least is None else self.least
        part = t.clamp(max=self.rounds).to(torch.float64) / self.rounds
        return least + (self.lr - least) * (0.5 + 0.5 * torch.cos(math.pi * part))
