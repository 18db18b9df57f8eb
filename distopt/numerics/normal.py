"""Standard normal numbers from uniform ones."""

from __future__ import annotations

import torch
from torch import Tensor


def normal(u: Tensor) -> Tensor:
    """Standard normals, one for each uniform number u in [0, 1), by the inverse of the distribution function.

    u is moved up by 2^-54 first, so that 0 gives a finite number, too. There is no rejection: a number depends on its u alone.

    >>> import torch
    >>> from distopt.numerics.normal import normal
    >>> round(normal(torch.tensor(0.975, dtype=torch.float64)).item(), 4)
    1.96
    """
    z: Tensor = torch.special.ndtri((u + 2.0**-54).clamp(max=1 - torch.finfo(u.dtype).eps / 2))
    return z
