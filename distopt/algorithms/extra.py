"""EXTRA: exact first-order consensus optimisation with one message a round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.optional import AlgorithmDefaults
from distopt.protocols import Mix, Schedule
from distopt.ranges import step_size
from distopt.schedules import rate


class EXTRAState(NamedTuple):
    """What EXTRA carries.

    Attributes:
        half: (x_{t-1} + W_{t-1} x_{t-1}) / 2 [..., n, d].
        g: the gradients of the round before [..., n, d].
        lr: the step size of the round before, the same at every agent [..., n, 1].
    """

    half: Tensor
    g: Tensor
    lr: Tensor


@dataclass(frozen=True)
class EXTRA(AlgorithmDefaults):
    """EXTRA [shi2015]: DGD corrected by the difference of two rounds, which removes its bias at a constant step.

        x_1 = W x_0 - lr_0 g_0
        x_{t+1} = (I + W) x_t - (I + W) x_{t-1} / 2 - (lr_t g_t - lr_{t-1} g_{t-1})

    x_t [..., n, d] are the agents' points. Row i of g_t [..., n, d] is grad f_{i,t}(x_{i,t}). W is symmetric and doubly stochastic.
    lr > 0 is a number, a schedule or a tensor [R, 1, 1] of x's dtype. This is the paper's choice (I + W) / 2 of its second matrix.
    With x_{-1} = W x_{-1} = x_0 and g_{-1} = 0 the second line gives the first one, so no round is special. (I + W) x_{t-1} / 2 is
    kept from the round before instead of being sent again. A W that changes with t (not in the paper) meets each x_t once, in round
    t. The paper's lr is constant. Here it may change from round to round: each gradient leaves with the lr with which it came, so
    that always mean x_{t+1} = mean x_t - lr_t mean g_t.

    Raises:
        InputError: ``lr`` not positive.

    >>> import torch
    >>> from distopt.algorithms.extra import EXTRA
    >>> extra, x, a = EXTRA(lr=0.3), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean = lambda name, z: z.mean(-2, keepdim=True).expand_as(z)
    >>> state = extra.init(x)
    >>> for _ in range(80):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = extra.update(x - a, state, x, mean)
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """

    lr: float | Schedule = 0.01
    channels: ClassVar[tuple[str, ...]] = ("x",)
    weights: ClassVar[str] = "symmetric"

    def __post_init__(self) -> None:
        step_size("extra", self.lr)

    def init(self, x: Tensor) -> EXTRAState:
        return EXTRAState(x.clone(), torch.zeros_like(x), torch.zeros_like(x[..., :1]))

    def update(self, g: Tensor, state: EXTRAState, x: Tensor, mix: Mix) -> tuple[Tensor, EXTRAState]:
        step, twice = rate(self.lr, mix), x + mix("x", x)
        lr = step + torch.zeros_like(state.lr)
        new = twice - state.half - step * (g - state.g) - (lr - state.lr) * state.g  # the last term is 0 while lr stays
        return new, EXTRAState(twice / 2, g, lr)
