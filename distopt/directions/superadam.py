"""Super-Adam in its momentum form: a step size and a momentum that fall together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.ranges import fraction, positive


class SuperAdamState(NamedTuple):
    """What Super-Adam remembers.

    Attributes:
        estimate: G, the average of the gradients [..., n, d].
        v: second moment [..., n, d].
        steps: how many were taken [..., n, 1].
        power: beta^t [..., n, 1].
    """

    estimate: Tensor
    v: Tensor
    steps: Tensor
    power: Tensor


@dataclass(frozen=True)
class SuperAdam:
    """Super-Adam [huang2021] with tau = 0, coordinate by coordinate.

        mu_t = k / (m + t)^(1/2),    al_t = min(c mu_t, 1)                t = 1, 2, ...
        G_t = (1 - al_t) G_{t-1} + al_t s_t                               G_1 = s_1
        v_t = beta v_{t-1} + (1 - beta) s_t^2                             v_0 = 0
        d_t = mu_t G_t / (sqrt(v_t / (1 - beta^t)) + lam)

    s_t, G_t, v_t and d_t are [..., n, d]. Both the step mu_t and the weight al_t of the new gradient fall like 1 / sqrt(t), so the average is
    taken over more and more gradients. The algorithm's ``lr`` is the paper's gamma. The rule counts its own steps: a round may have several. Up to
    2^24 of them it counts exactly in float32.

    c mu_t may exceed 1 (2.4 in the authors' script), where the average would oscillate and grow, so it is capped. v is corrected as
    the authors' code does. That code has k = 0.001, so it averages 2,000 gradients from its first steps on; our default is k = 1.
    With tau = 1 Super-Adam takes a second gradient in each step: the algorithms ``storm`` and ``gt_storm``.

    Raises:
        InputError: ``k``, ``m``, ``c`` or ``lam`` not positive, or ``beta`` outside [0, 1).

    >>> import torch
    >>> from distopt.directions.superadam import SuperAdam
    >>> rule = SuperAdam(m=99.0)
    >>> d, _ = rule(torch.tensor([[[-7.0]]]), rule.init(torch.zeros(1, 1, 1)))
    >>> round(d.item(), 4)  # mu_1 = 1/10
    -0.1
    """

    k: float = 1.0
    m: float = 100.0
    c: float = 5.0
    beta: float = 0.999
    lam: float = 1e-3

    def __post_init__(self) -> None:
        positive("superadam", k=self.k, m=self.m, c=self.c, lam=self.lam)
        fraction("superadam", beta=self.beta)

    def init(self, x: Tensor) -> SuperAdamState:
        one = torch.ones_like(x[..., :1])
        return SuperAdamState(torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(one), one)

    def __call__(self, s: Tensor, state: SuperAdamState) -> tuple[Tensor, SuperAdamState]:
        steps, power = state.steps + 1, self.beta * state.power
        mu = self.k / torch.sqrt(self.m + steps)
        share = torch.where(state.steps > 0, (self.c * mu).clamp(max=1.0), torch.ones_like(mu))
        estimate = (1 - share) * state.estimate + share * s
        v = self.beta * state.v + (1 - self.beta) * s * s
        d = mu * estimate / denominator(v, power, self.lam)
        return d, SuperAdamState(estimate, v, steps, power)


def denominator(v: Tensor, power: Tensor, lam: float) -> Tensor:
    """sqrt(v / (1 - power)) + lam [..., n, d], by which Super-Adam divides.

    >>> import torch
    >>> from distopt.directions.superadam import denominator
    >>> denominator(torch.full((1, 1, 1), 2.0), torch.full((1, 1, 1), 0.5), lam=1.0).item()
    3.0
    """
    return torch.sqrt(v / (1 - power)) + lam
