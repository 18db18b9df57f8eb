"""LED: exact diffusion with local steps between the exchanges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.algorithms.k_gt import MOST
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Mix, Schedule
from distopt.ranges import positive, step_size, whole
from distopt.schedules import rate


class LEDState(NamedTuple):
    """What LED carries: the dual variable y_t [..., n, d]. Its sum over the agents is zero."""

    y: Tensor


@dataclass(frozen=True)
class LED(AlgorithmDefaults):
    """LED, local exact diffusion [alghunaim2024]: K local steps that a dual variable corrects, then one exchange.

        phi^0 = x_t,    phi^{k+1} = phi^k - lr grad f_{i,t}(phi^k) - (dual / K) y_t        k = 0 ... K - 1
        x_{t+1} = (I + W_t) phi^K / 2
        y_{t+1} = y_t + phi^K - x_{t+1}                                                    y_0 = 0

    x_t, phi^k and y_t are [..., n, d], and W_t is symmetric and doubly stochastic. lr > 0 is a number, a schedule or a tensor [R, 1, 1],
    and K is ``local``. At the optimum (dual / K) y_t cancels the step along each agent's own gradient, so agents stay there for any
    number of local steps. The paper's alpha is lr, and its beta is dual / K. The paper's matrix has no negative eigenvalues; (I + W) / 2
    has none for any W. With K = 1 and dual = 1 this is ``exact_diffusion``. One message a round.

    The y_t sum to zero over the agents for any lr, so the mean moves by lr times the mean of the K gradients. There is no ``direction``: y_t
    corrects steps of size lr times the gradient, and rules such as Adam make other steps. All K gradients of a round are of the same data.

    Raises:
        InputError: ``lr`` or ``dual`` not positive, or ``local`` no whole number from 1 to 1000.

    >>> import torch
    >>> from distopt.algorithms.led import LED
    >>> from distopt.network.net import Rehearsal
    >>> led, x, a = LED(lr=0.1, local=3), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean, state = lambda name, z: z.mean(-2, keepdim=True).expand_as(z), led.init(x)
    >>> for _ in range(60):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = led.update(x - a, state, x, Rehearsal(mean, x, grad=lambda y: y - a))
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """

    lr: float | Schedule = 0.01
    local: int = 5
    dual: float = 1.0
    channels: ClassVar[tuple[str, ...]] = ("phi",)
    weights: ClassVar[str] = "symmetric"

    def __post_init__(self) -> None:
        step_size("led", self.lr)
        whole("led", 1, MOST, local=self.local)
        positive("led", dual=self.dual)

    def init(self, x: Tensor) -> LEDState:
        return LEDState(torch.zeros_like(x))

    def update(self, g: Tensor, state: LEDState, x: Tensor, mix: Mix) -> tuple[Tensor, LEDState]:
        lr, correction = rate(self.lr, mix), self.dual / self.local * state.y
        phi = x - lr * g - correction
        for _ in range(self.local - 1):
            phi = phi - lr * mix.grad(phi) - correction
        x = (phi + mix("phi", phi)) / 2
        return x, LEDState(state.y + phi - x)
