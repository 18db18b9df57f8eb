"""A step size that falls like 1 / sqrt(t)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distopt.ranges import positive


@dataclass(frozen=True)
class InverseSqrt:
    """lr_t = lr / sqrt(t + shift), the step of online gradient descent for convex costs [zinkevich2003].

    t = 0, 1, 2, ... is the round. With ``shift`` 1 the first step is ``lr``; a larger one lets it fall later.

    Raises:
        InputError: ``lr`` or ``shift`` not positive.

    >>> import torch
    >>> from distopt.schedules.inverse_sqrt import InverseSqrt
    >>> InverseSqrt(0.1)(torch.tensor(3)).item()
    0.05
    """

    lr: float
    shift: float = 1.0

    def __post_init__(self) -> None:
        positive("inverse_sqrt", lr=self.lr, shift=self.shift)

    def __call__(self, t: Tensor) -> Tensor:
        return self.lr / torch.sqrt(t.to(torch.float64) + self.shift)
