"""Where a hyper-parameter may lie: of a number, or of a tensor with one value per trial, compared in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def positive(value: float | Tensor) -> bool:
    """Whether every value is above 0. In float32, torch's choice for a Python number, 1e-50 would be 0.

    >>> positive(1e-50), positive(0.0), positive(float("nan"))
    (True, False, False)
    """
    return bool((torch.as_tensor(value, dtype=torch.float64) > 0).all())


def fraction(value: float | Tensor) -> bool:
    """Whether every value lies in [0, 1). In float32, 0.99999999 would be 1.

    >>> fraction(0.99999999), fraction(1.0)
    (True, False)
    """
    b = torch.as_tensor(value, dtype=torch.float64)
    return bool(((b >= 0) & (b < 1)).all())
