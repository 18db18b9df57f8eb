"""A step size that falls by a factor from time to time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distopt.ranges import positive, whole


@dataclass(frozen=True)
class Step:
    """lr_t = lr factor^k, where k = floor(t / every) counts the falls so far.

    t = 0, 1, 2, ... is the round.

    Raises:
        InputError: ``lr`` or ``factor`` not positive, or ``every`` below 1.

    >>> import torch
    >>> from distopt.schedules.step import Step
    >>> [Step(0.1, every=500, factor=0.5)(torch.tensor(t)).item() for t in (0, 499, 500)]
    [0.1, 0.1, 0.05]
    """

    lr: float
    every: int = 1000
    factor: float = 0.1

    def __post_init__(self) -> None:
        positive("step", lr=self.lr, factor=self.factor)
        whole("step", 1, every=self.every)

    def __call__(self, t: Tensor) -> Tensor:
        falls = torch.div(t, self.every, rounding_mode="floor").to(torch.float64)
        return self.lr * torch.pow(self.factor, falls)
