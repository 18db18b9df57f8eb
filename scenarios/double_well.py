"""A double well: costs with two minima, of which the lower one is wanted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.numerics.random import Key
from distopt.numerics.sums import tree_sum
from distopt.optional import ScenarioDefaults
from distopt.scenarios._ranges import LARGEST, real, room, whole

EDGE = 2 / math.sqrt(27)
"""Up to this tilt a well has two minima."""


class Tilts(NamedTuple):
    """c_i, float64 [1, R, n, d]."""

    c: Tensor


@dataclass(frozen=True)
class DoubleWell(ScenarioDefaults):
    """Find the lower of two minima, from the side of the other one: costs that are not convex and do not change.

        f_i(x) = sum_k x_k^4 / 4 - x_k^2 / 2 + c_ik x_k,    c_ik = c + spread (z_ik - mean_j z_jk)

    z_ik are standard normal. The agents' mean cost has c in place of c_ik, for any ``spread``. For 0 < c < 0.385 it has two minima in each
    coordinate. With c = 0.15 they are at 0.914 and, lower, at -1.068, with a maximum at 0.154 between them. Agents begin at ``begin``, on
    the side of the higher one. Gradient descent stays there; a rule with momentum may roll over into the other one.

    The lower minimum is known in closed form: the outermost root of x^3 - x + c, on the side against the sign of c (at c = 0 both minima are as
    low, and x = -1 is taken). So regrets compare with it. Such wells distinguish rules with momentum, such as those of
    [jin2025]; cost and numbers are our set-up.

    Attributes:
        c: the mean tilt.
        spread: standard deviation of the agents' tilts, approximately.
        dim: d.
        begin: where all agents start, in each coordinate, unless x0 is given.

    Raises:
        InputError: for dim < 1, a negative spread, |begin| above 1e6, or |c| or a spread above 1e100.

    >>> s, key = DoubleWell(spread=0.5), Key(0, range(3), range(1), total=3)
    >>> b = s.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), key)
    >>> round(s.optimum(b).item(), 4)
    -1.0679
    """

    c: float = 0.15
    spread: float = 0.0
    dim: int = 1
    begin: float = 1.6

    def __post_init__(self) -> None:
        real(self, "c", low=-LARGEST)
        real(self, "spread")
        whole(self, "dim")
        real(self, "begin", low=-1e6, high=1e6)
        room(self, self.dim, "dim")

    def batch(self, t: Tensor, key: Key) -> Tilts:
        room(self, 2 * self.dim * len(key.trials) * key.total, "dim")
        every = Key(key.seed, range(key.total), key.trials.tolist(), key.total)
        z = every.normal("double_well.tilt", self.dim)
        apart = z - tree_sum(z) / key.total  # the mean is over all agents, for any block
        return Tilts(self.c + self.spread * apart[:, :, key.agents])

    def loss(self, x: Tensor, b: Tilts) -> Tensor:
        square = x * x
        return (square * square / 4 - square / 2 + b.c * x).sum(-1)

    def grad(self, x: Tensor, b: Tilts) -> Tensor:
        return x * x * x - x + b.c

    def hessian(self, x: Tensor, b: Tilts) -> Tensor:
        return torch.diag_embed((3 * x * x - 1).sum(-2))

    def optimum(self, b: Tilts) -> Tensor:
        c = b.c.mean(-2)
        depth = c.abs() / EDGE
        inner = torch.cos(torch.arccos(depth.clamp(max=1)) / 3)
        outer = torch.cosh(torch.arccosh(depth.clamp(min=1)) / 3)
        root = 2 / math.sqrt(3) * torch.where(depth <= 1, inner, outer)
        for _ in range(2):  # Newton's steps take away what rounding leaves
            root = root - (root * root * root - root - c.abs()) / (3 * root * root - 1)
        return torch.where(c < 0, root, -root)

    def start(self, key: Key) -> Tensor:
        return torch.full((1, 1, self.dim), self.begin, dtype=torch.float64)
