"""GT-SARAH: gradient tracking fed by a recursive estimate of the gradient of a finite sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.algorithms._sampled import MOST, Form, Sampled, sgd
from distopt.protocols import Direction, Mix, Schedule
from distopt.ranges import whole


def gt_sarah(
    lr: float | Schedule = 0.01,
    batch: int = 1,
    period: int = 20,
    form: Form = "atc",
    direction: Direction[Any] = sgd,
) -> GTSarah:
    """GT-SARAH [xin2022]: the full gradient every q rounds, and differences on a few rows in between.

        v_t = grad f_i(x_t)                                                 t a multiple of q
        v_t = v_{t-1} + g_{t,B}(x_t) - g_{t,B}(x_{t-1})                     otherwise; g_{t,B} on B rows drawn in round t
        atc:  s_t = W_t (s_{t-1} + v_t - v_{t-1}),    x_{t+1} = W_t (x_t - lr d(s_t))         s_{-1} = v_{-1} = 0
        cta:  s_t = W_t s_{t-1} + v_t - v_{t-1},      x_{t+1} = W_t x_t - lr d(s_t)

    Agent i's cost is the mean over its m rows of data, the same in all rounds. Scenarios that change these rows
    are refused; use ``gt_storm`` for
    them. x_t, v_t and s_t are [..., n, d], and W_t is doubly stochastic. B is ``batch``, and q is ``period``. lr > 0 is a number, a schedule or a
    tensor [R, 1, 1]. In the mean a round costs 1/q + 2 B/m gradients. If costs change, v_t is exact in every q-th round and drifts in between.

    The paper draws rows with replacement, as here, and has the form atc. Directions other than s itself are not in the paper. In every q-th
    round the rows are also drawn, but not used, so that all rounds have the same operations. The mean of s_t equals the mean of v_t and
    not of the gradients, so there is no ``tracks``.

    Raises:
        InputError: ``lr`` not positive, ``batch`` or ``period`` below 1, or an unknown ``form``.

    >>> import torch
    >>> from distopt.algorithms.gt_sarah import gt_sarah
    >>> from distopt.network.net import Rehearsal
    >>> sarah, x, a = gt_sarah(lr=0.3), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean, state = lambda name, z: z.mean(-2, keepdim=True).expand_as(z), sarah.init(x)
    >>> for t in range(60):  # one row each, f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = sarah.update(x - a, state, x, Rehearsal(mean, x, t, grad=lambda y: y - a))
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """
    return GTSarah(lr, batch, form, direction, period=period)


class GTSarahState(NamedTuple):
    """What GT-SARAH carries.

    Attributes:
        s: tracker [..., n, d]; its mean over all agents is that of the estimates.
        estimate: v, the agent's estimate of its gradient [..., n, d].
        x: where the agents stood a round ago [..., n, d].
        begun: 0 before the agent's first round and 1 after it [..., n, 1].
        direction: the state of the direction rule, leaves [..., n, *].
    """

    s: Tensor
    estimate: Tensor
    x: Tensor
    begun: Tensor
    direction: Any


@dataclass(frozen=True)
class GTSarah(Sampled):
    """See ``gt_sarah``; ``rows`` is m."""

    period: int = 20
    name: ClassVar[str] = "gt_sarah"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("gt_sarah", 1, MOST, period=self.period)

    @property
    def full(self) -> float:
        """In what part of the rounds it needs the full gradient."""
        return 1 / int(self.period)

    def init(self, x: Tensor) -> GTSarahState:
        zero = torch.zeros_like(x)
        return GTSarahState(zero, zero.clone(), x.clone(), torch.zeros_like(x[..., :1]), self.direction.init(x))

    def update(self, g: Tensor, state: GTSarahState, x: Tensor, mix: Mix) -> tuple[Tensor, GTSarahState]:
        rows, period = self.drawn(mix), int(self.period)
        recursive = state.estimate + mix.grad(x, rows) - mix.grad(state.x, rows)
        due = mix.t - torch.div(mix.t, period, rounding_mode="floor") * period == 0
        estimate = torch.where(due | (state.begun == 0), g, recursive)
        after, s, direction = self.tracked(estimate, state, x, mix)
        return after, GTSarahState(s, estimate, x.clone(), torch.ones_like(state.begun), direction)
