"""Aug-DGM: gradient tracking that mixes after each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from distopt.algorithms.gt import GTState
from distopt.directions import direct
from distopt.directions.sgd import SGD
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Direction, Mix, Schedule
from distopt.ranges import direction, step_size
from distopt.schedules import rate

sgd = SGD()


@dataclass(frozen=True)
class AugDGM(AlgorithmDefaults):
    """Aug-DGM: gradient tracking in which both values are mixed after they have moved [xu2015].

        s_t = W_t (s_{t-1} + g_t - g_{t-1}),     x_{t+1} = W_t (x_t - lr d(s_t)),     s_0 = g_0

    x_t [..., n, d] are the agents' points. Row i of g_t [..., n, d] is grad f_{i,t}(x_{i,t}). s_t [..., n, d] are the trackers, W_t is
    the doubly stochastic mixing matrix of round t, and d is the direction rule (s itself by default). lr > 0 is the step size: a number,
    a schedule or a tensor [R, 1, 1] of x's dtype. As s_{-1} = g_{-1} = 0, only the first round is special. It also sends its trackers, so
    that all rounds send the same messages, but does not use the answer. ``direction=adam`` is GTAdam in this form, which is not in its
    paper.

    Raises:
        InputError: ``lr`` not positive.

    >>> import torch
    >>> from distopt.algorithms.aug_dgm import AugDGM
    >>> from distopt.network.net import Rehearsal
    >>> aug, x, a = AugDGM(lr=0.3), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean = lambda name, z: z.mean(-2, keepdim=True).expand_as(z)
    >>> state = aug.init(x)
    >>> for t in range(60):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = aug.update(x - a, state, x, Rehearsal(mean, x, t))
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """

    lr: float | Schedule = 0.01
    direction: Direction[Any] = sgd
    channels: ClassVar[tuple[str, ...]] = ("x", "s")
    tracks: ClassVar[str] = "s"
    weights: ClassVar[str] = "doubly"

    def __post_init__(self) -> None:
        step_size("aug_dgm", self.lr)
        direction("aug_dgm", self.direction)

    def init(self, x: Tensor) -> GTState:
        return GTState(torch.zeros_like(x), torch.zeros_like(x), self.direction.init(x))

    def update(self, g: Tensor, state: GTState, x: Tensor, mix: Mix) -> tuple[Tensor, GTState]:
        moved = state.s + g - state.g
        s = torch.where(mix.t > 0, mix("s", moved), moved)
        lr = rate(self.lr, mix)
        d, direction = direct(self.direction, s, state.direction, mix, lr)
        return mix("x", x - lr * d), GTState(s, g, direction)
