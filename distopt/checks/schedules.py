"""Schedules: pure functions of the round that give a step size."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from distopt.checks._common import require

ROUNDS = (0, 1, 2, 7, 100, 10**5)


def check_schedule(schedule: Any) -> None:
    """Check a schedule against ``distopt.protocols.Schedule``.

    Promises: it returns a number, or float64 without axes, above 0 and finite in every round. It is pure and does not change t.
    No tensor is converted to a number, so that rounds with it can be compiled.

    Raises:
        AssertionError: naming the first promise that is broken.

    >>> from distopt.schedules.inverse_sqrt import InverseSqrt
    >>> print(check_schedule(InverseSqrt(0.1)))
    None
    """
    who = type(schedule).__name__
    found = []
    for t in ROUNDS:
        given = torch.tensor(t)
        lr = schedule(given)
        require(int(given) == t, f"{who}: changes t in place")
        if isinstance(lr, Tensor):
            fits = lr.dim() == 0 and lr.dtype == torch.float64
            require(fits, f"{who}: returns {list(lr.shape)} and {lr.dtype} in round {t}, not one number in float64")
        else:
            require(isinstance(lr, float), f"{who}: returns {type(lr).__name__} in round {t}, not a number or a tensor")
        value = float(lr)
        require(
            math.isfinite(value) and value > 0, f"{who}: gives {value} in round {t}; a step size is above 0 and finite"
        )
        found.append(value)
    again = [float(schedule(torch.tensor(t))) for t in reversed(ROUNDS)]
    require(found == again[::-1], f"{who}: not pure: the same round gives another step size when it is asked again")
    try:
        schedule(torch.empty((), dtype=torch.int64, device="meta"))
    except Exception as error:  # any error that a tensor without a value causes
        raise AssertionError(
            f"{who}: asks the round for its value, so it cannot be compiled; use operations of torch ({type(error).__name__})"
        ) from None
