"""Gradient tracking that corrects on the present cost and then follows a prediction of the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distopt.directions import direct
from distopt.directions.sgd import SGD
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Direction, Mix, Schedule
from distopt.ranges import direction, step_size, whole
from distopt.schedules import rate

sgd = SGD()

MOST = 1000
"""Prediction steps in a round."""


class PredictionCorrectionState(NamedTuple):
    """What prediction-correction carries.

    Attributes:
        s: tracker [..., n, d]; its mean over all agents is that of h.
        h: the last gradients that the tracker has taken in, of the last predicted cost [..., n, d].
        direction: the state of the direction rule, leaves [..., n, *].
    """

    s: Tensor
    h: Tensor
    direction: Any


@dataclass(frozen=True)
class PredictionCorrection(AlgorithmDefaults):
    """Prediction-correction [simonetto2016] [bastianello2023] by gradient tracking: one step on f_t, then P steps on a prediction of f_{t+1}.

        y^0 = x_t,    h^0 = g_t                                                                          the correction
        h^p = 2 grad f_{i,t}(y^p) - grad f_{i,t-1}(y^p),   p = 1 ... P                                   the prediction
        s <- W_t s + h^p - (the h before),    y^{p+1} = W_t y^p - lr d(s),    p = 0 ... P                s = h = 0 at first
        x_{t+1} = y^{P+1}

    x_t, y^p, h^p and s are [..., n, d], and row i of g_t is grad f_{i,t}(x_t). W_t is doubly stochastic. lr > 0 is a number, a schedule or
    a tensor [R, 1, 1], and P is ``steps``. The predicted cost 2 f_t - f_{t-1} repeats the last change of the costs. It is exact if they
    change by the same function in every round. It need not be convex, but differs from f_t by no more than f_t from f_{t-1}. In round 0
    it is f_0. With ``order=1`` the prediction is f_t itself: P further steps on the cost that is known.

    A prediction step takes two gradients, or one with ``order=1``. Each of the P + 1 steps sends x and s. So a round takes 1 + 2 P gradients (1 + P
    with ``order=1``) and P + 1 messages. P = 0 is ``gt``. The papers treat one agent, or agents that solve each step together over the network.
    Tracking the prediction's gradients is our composition, and so are directions other than s itself. The mean of s equals the mean of the
    predicted gradients, so there is no ``tracks``. If the scenario restricts the points, x_{t+1} is projected, and the y^p are not.

    Raises:
        InputError: ``lr`` not positive, ``steps`` no whole number from 0 to 1000, or ``order`` neither 1 nor 2.

    >>> import torch
    >>> from distopt.algorithms.prediction_correction import PredictionCorrection
    >>> from distopt.network.net import Rehearsal
    >>> method, x = PredictionCorrection(lr=0.5, steps=3), torch.zeros(1, 1, 1)
    >>> state = method.init(x)
    >>> for t in range(40):  # f_t(x) = (x - t)^2 / 2, of which f_{t-1} is known, too
    ...     now = Rehearsal(lambda name, z: z, x, t, grad=lambda y: y - t, earlier=lambda y: y - (t - 1))
    ...     x, state = method.update(x - t, state, x, now)
    >>> round(x.item(), 4)  # the next minimiser is 40; as many steps on f_t alone end before 39
    39.8667
    """

    lr: float | Schedule = 0.01
    steps: int = 1
    order: int = 2
    direction: Direction[Any] = sgd

    def __post_init__(self) -> None:
        step_size("prediction_correction", self.lr)
        whole("prediction_correction", 0, MOST, steps=self.steps)
        whole("prediction_correction", 1, 2, order=self.order)
        direction("prediction_correction", self.direction)

    @property
    def channels(self) -> tuple[str, ...]:
        """What travels: x and s in the correction, x1 and s1 in the first prediction step, and so on."""
        return ("x", "s", *(f"{name}{p}" for p in range(1, self.steps + 1) for name in ("x", "s")))

    def init(self, x: Tensor) -> PredictionCorrectionState:
        return PredictionCorrectionState(torch.zeros_like(x), torch.zeros_like(x), self.direction.init(x))

    def update(
        self, g: Tensor, state: PredictionCorrectionState, x: Tensor, mix: Mix
    ) -> tuple[Tensor, PredictionCorrectionState]:
        (s, before, direction), y, lr = state, x, rate(self.lr, mix)
        for p in range(self.steps + 1):
            h = g if p == 0 else self._predicted(y, mix)
            s = mix(f"s{p or ''}", s) + h - before
            d, direction = direct(self.direction, s, direction, mix, lr, y)
            y, before = mix(f"x{p or ''}", y) - lr * d, h
        return y, PredictionCorrectionState(s, before, direction)

    def _predicted(self, y: Tensor, mix: Mix) -> Tensor:
        """The gradients of the predicted costs at y."""
        now = mix.grad(y)
        return now if self.order == 1 else 2 * now - mix.grad(y, ago=1)
