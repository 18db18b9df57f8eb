"""A step size that falls like 1 / t."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distopt.ranges import positive


@dataclass(frozen=True)
class Inverse:
    """lr_t = lr / (t + shift), the step for strongly convex costs [robbins1951].

    t = 0, 1, 2, ... is the round, so the first step is lr / shift.

    Raises:
        InputError: ``lr`` or ``shift`` not positive.

    >>> import torch
    >>> from distopt.schedules.inverse import Inverse
    >>> Inverse(1.0, shift=10)(torch.tensor(10)).item()
    0.05
    """

    lr: float
    shift: float = 1.0

    def __post_init__(self) -> None:
        positive("inverse", lr=self.lr, shift=self.shift)

    def __call__(self, t: Tensor) -> Tensor:
        return self.lr / (t.to(torch.float64) + self.shift)
