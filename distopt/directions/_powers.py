"""Powers whose exponents are no whole numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def power(a: Tensor, exponent: Any) -> Tensor:
    """a^exponent of numbers a >= 0, as exp(exponent log a); 0 stays 0 and NaN stays NaN. The exponent is positive.

    ``a ** exponent`` gives other bits if rows are split among processes, and does not work with a grid's numbers.

    >>> import torch
    >>> from distopt.directions._powers import power
    >>> [round(each, 6) for each in power(torch.tensor([16.0, 0.0]), 0.25).tolist()]
    [2.0, 0.0]
    """
    zero = a == 0
    return torch.where(zero, a, torch.exp(exponent * torch.log(torch.where(zero, torch.ones_like(a), a))))
