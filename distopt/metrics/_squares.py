"""Root mean squares over agents: what the errors share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distopt.numerics.sums import tree_sum

NARROW = 64
"""Rows of at most this many coordinates are summed over agents first, in one vectorised pass: sums of short rows are slow. Either code
rounds alike. Longer rows are summed over coordinates first, so that workers send one number for each."""


def columns(dim: int) -> int:
    """How many numbers ``squares`` leaves of a row of ``dim``."""
    return dim if dim <= NARROW else 1


def squares(z: Tensor) -> Tensor:
    """The squares of rows [..., d], by coordinate where d is small and else their sum [..., 1]."""
    return z.square() if z.shape[-1] <= NARROW else z.square().sum(-1, keepdim=True)


def root_mean(sums: Tensor, agents: int) -> Tensor:
    """The root [K, R] of the mean over the agents, from the sums over them [K, R, columns].

    The root is NumPy's, which is correctly rounded; torch's own is not, unless compiled.
    """
    return torch.from_numpy(np.sqrt((tree_sum(sums.unsqueeze(-1))[..., 0, 0] / agents).cpu().numpy()))
