"""The same step size in every round."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from distopt.ranges import positive


@dataclass(frozen=True)
class Constant:
    """lr_t = lr. It has the bits of the plain number.

    Raises:
        InputError: ``lr`` not positive.

    >>> import torch
    >>> from distopt.schedules.constant import Constant
    >>> Constant(0.1)(torch.tensor(7))
    0.1
    """

    lr: float

    def __post_init__(self) -> None:
        positive("constant", lr=self.lr)

    def __call__(self, t: Tensor) -> float:
        return self.lr
