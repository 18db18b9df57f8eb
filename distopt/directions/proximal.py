"""The proximal step: gradient descent for costs with a part that has no gradient, as the LASSO's penalty."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distopt.protocols import DirectionRound


@dataclass(frozen=True)
class Proximal:
    """Proximal gradient descent [beck2009], x_{t+1} = prox(x_t - lr s_t), written as a direction.

        d_t = (x_t - prox(x_t - lr s_t)) / lr,    prox(u) = argmin_z h(z) + |z - u|^2 / (2 lr)

    s_t, x_t and d_t are [..., n, d]; s_t is the gradient of the smooth part of the costs, or a tracker of it. h is the part that has no gradient
    (``prox`` of the scenario), as l1 |z|_1 of ``teacher_student:l1=0.05``: there prox moves each coordinate by lr l1 towards 0, and no farther than
    to it. Without such a part prox(u) = u, and d_t is s_t up to rounding. It remembers nothing.

    ``gt:form=atc,direction=proximal`` is the composite form of NEXT [dilorenzo2016] and comes to the minimiser of all costs. Forms that mix
    before they step (``cta``) end beside it: they move by lr d_t from W_t x_t, and d_t belongs to x_t.

    >>> import torch
    >>> from distopt.directions import direct
    >>> from distopt.directions.proximal import Proximal
    >>> from distopt.network.net import Rehearsal
    >>> rule, x, s = Proximal(), torch.tensor([[[1.0, 0.25]]]), torch.tensor([[[-2.0, 0.5]]])
    >>> soft = lambda u, lr: torch.sign(u) * (u.abs() - lr).clamp(min=0)  # h(z) = |z|_1
    >>> d, _ = direct(rule, s, rule.init(x), Rehearsal(lambda name, z: z, x, prox=soft), lr=0.5)
    >>> (x - 0.5 * d).flatten().tolist()  # x - lr s = (2, 0)
    [1.5, 0.0]
    """

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def __call__(self, s: Tensor, state: tuple[()], mix: DirectionRound) -> tuple[Tensor, tuple[()]]:
        u = mix.x - mix.lr * s
        return (mix.x - mix.prox(u, mix.lr * torch.ones_like(u[..., :1]))) / mix.lr, ()
