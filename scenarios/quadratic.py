"""Static quadratics: the problem on which every method should converge, and the reference for rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.numerics.random import Key
from distopt.optional import ScenarioDefaults
from distopt.scenarios._ranges import real, room, whole


class Curves(NamedTuple):
    """Curvatures a and centres c, both float64 [1, R, n, d]."""

    a: Tensor
    c: Tensor


@dataclass(frozen=True)
class Quadratic(ScenarioDefaults):
    """Agree on the minimiser of a sum of quadratics that never change.

        f_i(x) = 1/2 sum_k a_ik (x_k - c_ik)^2

    Curvatures a_ik are uniform in [1, kappa], independent over agents and coordinates; centres c_ik are normal with standard
    deviation ``spread``. The sum over agents has its minimiser at the curvature-weighted mean of the centres, which is not
    their mean: a method that forgets the curvatures is biased. Our set-up.

    Attributes:
        dim: d, the number of coordinates.
        kappa: the largest curvature, so that every f_i is 1-strongly convex and kappa-smooth; at least 1.
        spread: distance between the agents' own minimisers; 0: all equal.

    Raises:
        InputError: for dim < 1, kappa < 1, spread < 0, or a number above 1e100.

    >>> s, key = Quadratic(dim=2), Key(0, range(3), range(1), total=3)
    >>> b = s.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), key)
    >>> x = s.optimum(b).expand(1, 3, 2)
    >>> round(float(s.grad(x, Curves(*(leaf[0] for leaf in b))).sum(-2).abs().max()), 12)
    0.0
    """

    dim: int = 10
    kappa: float = 10.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        whole(self, "dim")
        real(self, "kappa", low=1)
        real(self, "spread")
        room(self, self.dim, "dim")

    def batch(self, t: Tensor, key: Key) -> Curves:
        room(self, 2 * self.dim * len(key.trials) * len(key.agents), "dim")
        a = 1 + (self.kappa - 1) * key.uniform("quadratic.curvature", self.dim)
        return Curves(a, self.spread * key.normal("quadratic.centre", self.dim))

    def loss(self, x: Tensor, b: Curves) -> Tensor:
        a, c = b
        return 0.5 * (a * (x - c).square()).sum(-1)

    def grad(self, x: Tensor, b: Curves) -> Tensor:
        a, c = b
        return a * (x - c)

    def hessian(self, x: Tensor, b: Curves) -> Tensor:
        return torch.diag_embed(b[0].expand_as(x).sum(-2))

    def optimum(self, b: Curves) -> Tensor:
        a, c = b
        return (a * c).sum(-2) / a.sum(-2)

    def modulus(self, b: Curves) -> Tensor:
        return b.a.sum(-2).amin(-1)

    def smoothness(self, b: Curves) -> Tensor:
        return b.a.sum(-2).amax(-1)
