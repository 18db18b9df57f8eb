"""Distributed online mirror descent: steps in the geometry of a mirror map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from distopt.optional import AlgorithmDefaults
from distopt.protocols import Mix, Schedule
from distopt.ranges import between, choice, step_size
from distopt.schedules import rate

Geometry = Literal["euclidean", "entropy", "pnorm"]


@dataclass(frozen=True)
class DOMD(AlgorithmDefaults):
    """Distributed online mirror descent [shahrampour2018]: a step in the mirror, then the mean of the neighbours' points.

        grad h(y_t) = grad h(x_t) - lr g_t,    x_{t+1} = W_t y_t

    x_t and y_t are [..., n, d], and row i of g_t is grad f_{i,t}(x_{i,t}). W_t is doubly stochastic. lr > 0 is a number, a schedule or a
    tensor [R, 1, 1]. h is the mirror map (``geometry``):

    - euclidean: |x|^2 / 2. y_t = P(x_t - lr g_t) with the nearest allowed points P: projected descent.
    - entropy: sum_k x_k log x_k, on the simplex. y_t is x_t exp(-lr g_t), scaled so that it has the sum that x_t has: multiplicative weights. No
      projection is needed. Coordinates must be positive at the start, as with ``feasible(..., form=simplex)``. A coordinate that is 0
      stays 0, and agents that start at 0 stay there.
    - pnorm: |x|_p^2 / 2 with p = ``p`` in (1, 2), near 1 for sparse points in many coordinates. y_t is then projected in the Euclidean sense,
      as the Bregman projection has no closed form; this is our choice.

    There is no state: x is all that it carries.

    Raises:
        InputError: ``lr`` not positive, an unknown ``geometry``, or ``p`` outside (1, 2).

    >>> import torch
    >>> from distopt.algorithms.domd import DOMD
    >>> from distopt.network.net import Rehearsal
    >>> x, losses = torch.full((1, 1, 2), 0.5), torch.tensor([[[0.0, 1.0]]])
    >>> x, _ = DOMD(lr=1.0, geometry="entropy").update(losses, (), x, Rehearsal(lambda name, z: z, x))
    >>> round(x[0, 0, 0].item(), 4)  # 1 / (1 + 1 / e)
    0.7311
    """

    lr: float | Schedule = 0.01
    geometry: Geometry = "euclidean"
    p: float = 1.5
    channels: ClassVar[tuple[str, ...]] = ("x",)
    weights: ClassVar[str] = "doubly"

    def __post_init__(self) -> None:
        step_size("domd", self.lr)
        choice("domd", get_args(Geometry), geometry=self.geometry)
        between("domd", 1.0, 2.0, p=self.p)

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def update(self, g: Tensor, state: tuple[()], x: Tensor, mix: Mix) -> tuple[Tensor, tuple[()]]:
        step = rate(self.lr, mix) * g
        if self.geometry == "entropy":
            y = x * torch.exp(step.amin(-1, keepdim=True) - step)  # no exponent is above 0
            total = y.sum(-1, keepdim=True)  # of nothing, where agents start at 0: they stay there
            y = torch.where(total > 0, y * (x.sum(-1, keepdim=True) / total), x)
        elif self.geometry == "pnorm":
            y = mix.project(self._from_mirror(self._to_mirror(x) - step))
        else:
            y = mix.project(x - step)
        return mix("x", y), ()

    def _to_mirror(self, x: Tensor) -> Tensor:
        """The gradient of |x|_p^2 / 2."""
        return _dual(x, self.p * torch.ones_like(x[..., :1]))

    def _from_mirror(self, z: Tensor) -> Tensor:
        """Its inverse, which is the gradient of |z|_q^2 / 2 with 1/p + 1/q = 1."""
        p = self.p * torch.ones_like(z[..., :1])
        return _dual(z, p / (p - 1))


def _dual(x: Tensor, p: Tensor) -> Tensor:
    """sign(x_k) |x_k|^(p-1) |x|_p^(2-p) [..., d], the gradient of |x|_p^2 / 2; p is [..., 1].

    Numbers are divided by the largest one, so that no power overflows.
    """
    size = x.abs()
    largest = size.amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    logs = torch.log((size / largest).clamp(min=torch.finfo(x.dtype).tiny))
    norm = torch.exp(torch.log(torch.exp(p * logs).sum(-1, keepdim=True)) / p)
    return largest * torch.sign(x) * torch.exp((p - 1) * logs) * torch.exp((2 - p) * torch.log(norm))
