"""TheoPouLa: large gradients are tamed, small ones boosted, and noise of a chosen temperature may be added."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distopt.numerics.normal import normal
from distopt.protocols import DirectionRound
from distopt.ranges import not_negative, positive, whole

MOST = 100
"""The largest r. |x|^(2 r) is multiplied up."""


@dataclass(frozen=True)
class TheoPouLa:
    """TheoPouLa [lim2021] and e-TheoPouLa [lim2022], coordinate by coordinate.

        d_t = s_t / (1 + q |s_t|) (1 + q / (eps + |s_t|)) + eta x_t |x_t|^(2r) / (1 + q |x_t|^(2r)) - sqrt(2 / (lr beta)) xi_t
        q = sqrt(lr)

    s_t, x_t and d_t are [..., n, d], and lr is the step size of the round. The first factor tames s: it is below 1 / q for any gradient.
    The second one boosts gradients that are small against q. Without noise and with eta = 0, |d_t| < 1 / q + q. Its
    drawback: if eps is far below |s|, a step near the optimum is at least about lr q long, so a constant lr leaves an error of that
    order. The default eps suits gradients without noise, and 1e-2 noisy ones.

    The term with eta > 0 pulls x back to 0. |x_t| is the norm of the agent's whole row x_{i,t}, while s is tamed coordinate by coordinate. The
    authors' code adds this term to x, and without the factor lr. Here it is subtracted, as in the papers.

    With a number for ``beta``, x_{t+1} = x_t - lr d_t has the papers' noise sqrt(2 lr / beta) xi_t; xi_t [..., n, d] are standard normals,
    made of ``mix.uniform``. None is an infinite beta: no noise. The authors' default, 1e14, is noise of the size 1e-8.

    Raises:
        InputError: ``eps`` or ``beta`` not positive, ``eta`` negative, or ``r`` no whole number from 1 to 100.

    >>> import torch
    >>> from distopt.directions import direct
    >>> from distopt.directions.theopoula import TheoPouLa
    >>> from distopt.network.net import Rehearsal
    >>> x = torch.tensor([[100.0]])
    >>> d, _ = direct(TheoPouLa(), x**3, (), Rehearsal(lambda _, z: z, x), lr=0.01)
    >>> round(d.item(), 3)  # the gradient of x^4 / 4 is a million
    10.0
    """

    eps: float = 1e-8
    eta: float = 0.0
    r: int = 3
    beta: float | None = None

    def __post_init__(self) -> None:
        positive("theopoula", eps=self.eps)
        not_negative("theopoula", eta=self.eta)
        whole("theopoula", 1, MOST, r=self.r)
        if self.beta is not None:
            positive("theopoula", beta=self.beta)

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def __call__(self, s: Tensor, state: tuple[()], mix: DirectionRound) -> tuple[Tensor, tuple[()]]:
        lr = mix.lr * torch.ones_like(s[..., :1])
        q, size = torch.sqrt(lr), s.abs()
        inverse = 1 / mix.x.square().sum(-1, keepdim=True)
        power = inverse  # 1 / |x|^(2r): where it is infinite or 0 the term is 0 or eta x / q, and |x|^(2r) could be too large
        for _ in range(self.r - 1):
            power = power * inverse
        d = s / (1 + q * size) * (1 + q / (self.eps + size)) + self.eta * mix.x / (power + q)
        if self.beta is not None:
            d = d - torch.sqrt(2 / (self.beta * lr)) * normal(mix.uniform(s.shape[-1]))
        return d, ()
