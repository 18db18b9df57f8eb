"""Exact diffusion: adapt, correct, combine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from distopt.optional import AlgorithmDefaults
from distopt.protocols import Mix, Schedule
from distopt.ranges import step_size
from distopt.schedules import rate


class ExactDiffusionState(NamedTuple):
    """What exact diffusion carries: psi_t, the adapted points of the round before [..., n, d]."""

    psi: Tensor


@dataclass(frozen=True)
class ExactDiffusion(AlgorithmDefaults):
    """Exact diffusion [yuan2019], also known as D^2 [tang2018]: diffusion with its bias subtracted.

        psi_{t+1} = x_t - lr g_t                              adapt
        phi_{t+1} = psi_{t+1} + x_t - psi_t                   correct (psi_0 = x_0)
        x_{t+1}   = (I + W_t) phi_{t+1} / 2                   combine

    x_t, psi_t and phi_t are [..., n, d], and row i of g_t [..., n, d] is grad f_{i,t}(x_{i,t}). W_t is symmetric and doubly
    stochastic. lr > 0 is a number, a schedule or a tensor [R, 1, 1] of x's dtype. The paper also covers left-stochastic weights with a
    Perron scaling of the steps; that is left out. NIDS is the same recursion without mixing in the first round.

    Raises:
        InputError: ``lr`` not positive.

    >>> import torch
    >>> from distopt.algorithms.exact_diffusion import ExactDiffusion
    >>> algorithm, x, a = ExactDiffusion(lr=0.5), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean = lambda name, z: z.mean(-2, keepdim=True).expand_as(z)
    >>> state = algorithm.init(x)
    >>> for _ in range(80):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = algorithm.update(x - a, state, x, mean)
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """

    lr: float | Schedule = 0.01
    channels: ClassVar[tuple[str, ...]] = ("x",)
    weights: ClassVar[str] = "symmetric"

    def __post_init__(self) -> None:
        step_size("exact_diffusion", self.lr)

    def init(self, x: Tensor) -> ExactDiffusionState:
        return ExactDiffusionState(x.clone())

    def update(self, g: Tensor, state: ExactDiffusionState, x: Tensor, mix: Mix) -> tuple[Tensor, ExactDiffusionState]:
        psi = x - rate(self.lr, mix) * g
        phi = psi + x - state.psi
        return (phi + mix("x", phi)) / 2, ExactDiffusionState(psi)
