"""Step sizes that change with the round, one file each, found by file name."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distopt.protocols import Mix, Schedule


def rate(lr: float | Schedule, mix: Mix) -> Any:
    """The step size of a round: ``lr`` itself, or what a schedule gives for the round, in the precision of x.

    A number is returned unchanged, without a use of ``mix``.

    >>> from distopt.schedules import rate
    >>> rate(0.1, lambda name, z: z)
    0.1
    """
    if not callable(lr):
        return lr
    found = lr(mix.t)
    return found.to(mix.x.dtype) if isinstance(found, Tensor) else found
