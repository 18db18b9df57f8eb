"""Gradient tracking: DIGing and NEXT/SONATA are its two forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from distopt.directions import direct
from distopt.directions.sgd import SGD
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Direction, Mix, Schedule
from distopt.ranges import choice, direction, step_size
from distopt.schedules import rate

Form = Literal["cta", "atc"]
sgd = SGD()


class GTState(NamedTuple):
    """What gradient tracking carries.

    Attributes:
        s: tracker [..., n, d]; its mean over all agents is the mean of g.
        g: the gradients of the round before, old cost at old point [..., n, d].
        direction: the state of the direction rule, leaves [..., n, *].
    """

    s: Tensor
    g: Tensor
    direction: Any


@dataclass(frozen=True)
class GT(AlgorithmDefaults):
    """Gradient tracking: every agent follows an estimate of the network's average gradient.

        cta:  s_t = W_t s_{t-1} + g_t - g_{t-1},     x_{t+1} = W_t x_t - lr d(s_t)      DIGing [nedic2017] [qu2018]
        atc:  s_t = W_t s_{t-1} + g_t - g_{t-1},     x_{t+1} = W_t (x_t - lr d(s_t))    NEXT, SONATA [dilorenzo2016]

    x_t [..., n, d] are the agents' points. Row i of g_t [..., n, d] is grad f_{i,t}(x_{i,t}). s_t [..., n, d] are the trackers, W_t is
    the doubly stochastic mixing matrix of round t, and d is the direction rule (s itself by default; Adam gives GTAdam). lr > 0 is the
    step size: a number, a schedule or a tensor [R, 1, 1] of x's dtype with one value per trial. g_{t-1} is the stored OLD gradient. The
    gradient of the new cost at the old point would destroy the invariant mean s_t = mean g_t.

    The papers start from s_0 = g_0 and update the tracker at the end of an iteration. Starting from s_{-1} = g_{-1} = 0 with an update
    at the beginning gives the same recursion, and no round is special. One difference remains: in a time-varying network x_t and s_{t-1}
    both travel in round t, hence both meet W_t. NEXT's convex surrogates and SONATA's push-sum are left out.

    Raises:
        InputError: ``lr`` not positive, or an unknown ``form``.

    >>> import torch
    >>> from distopt.algorithms.gt import GT
    >>> gt, x, a = GT(lr=0.3), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean = lambda name, z: z.mean(-2, keepdim=True).expand_as(z)
    >>> state = gt.init(x)
    >>> for _ in range(60):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = gt.update(x - a, state, x, mean)
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """

    lr: float | Schedule = 0.01
    form: Form = "cta"
    direction: Direction[Any] = sgd
    channels: ClassVar[tuple[str, ...]] = ("x", "s")
    tracks: ClassVar[str] = "s"
    weights: ClassVar[str] = "doubly"

    def __post_init__(self) -> None:
        step_size("gt", self.lr)
        choice("gt", get_args(Form), form=self.form)
        direction("gt", self.direction)

    def init(self, x: Tensor) -> GTState:
        return GTState(torch.zeros_like(x), torch.zeros_like(x), self.direction.init(x))

    def update(self, g: Tensor, state: GTState, x: Tensor, mix: Mix) -> tuple[Tensor, GTState]:
        s = mix("s", state.s) + g - state.g
        lr = rate(self.lr, mix)
        d, direction = direct(self.direction, s, state.direction, mix, lr)
        return self._moved(x, lr * d, mix), GTState(s, g, direction)

    def _moved(self, x: Tensor, step: Tensor, mix: Mix) -> Tensor:
        """x_{t+1}: "cta" combines the points and then steps, "atc" steps and then combines."""
        return mix("x", x) - step if self.form == "cta" else mix("x", x - step)
