"""GT-SAGA: gradient tracking fed by SAGA's estimates of the gradient of a finite sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.algorithms._sampled import Form, Sampled, sgd
from distopt.protocols import Direction, Mix, Schedule


def gt_saga(lr: float | Schedule = 0.01, batch: int = 1, form: Form = "atc", direction: Direction[Any] = sgd) -> GTSaga:
    """GT-SAGA [xin2020]: a table of row gradients removes the noise of sampling, and gradient tracking removes the difference between agents.

        r_b ~ {1 ... m},    b = 1 ... B                                                       rows of the agent's own data
        v_t = (1/B) sum_b (grad f_{i,r_b}(x_t) - T_{r_b}) + (1/m) sum_j T_j,    then T_{r_b} = grad f_{i,r_b}(x_t)
        atc:  s_t = W_t (s_{t-1} + v_t - v_{t-1}),    x_{t+1} = W_t (x_t - lr d(s_t))         s_{-1} = v_{-1} = 0
        cta:  s_t = W_t s_{t-1} + v_t - v_{t-1},      x_{t+1} = W_t x_t - lr d(s_t)

    Agent i's cost is the mean of f_{i,j} over its m rows of data, the same in all rounds. Scenarios that change these rows
    are refused. x_t, v_t and
    s_t are [..., n, d], and T [..., n, m d] is the table. W_t is doubly stochastic, and B is ``batch``. lr > 0 is a number, a schedule or a
    tensor [R, 1, 1]. A round costs B/m of a gradient, and the memory is m times that of a point. The error of v_t vanishes where x_t converges,
    so the agents find the optimum itself with a constant lr. If the data change slowly, some entries of the table are gradients of earlier
    data.

    The paper has B = 1, the form atc and a table that begins with the gradients at x_0. Ours begins with zeros, so that no round is special; the
    estimate has no bias either way. Directions other than s itself are not in the paper. The mean of s_t equals the mean of v_t and not of the
    gradients, so there is no ``tracks``.

    Raises:
        InputError: ``lr`` not positive, ``batch`` below 1, or an unknown ``form``.

    >>> import torch
    >>> from distopt.algorithms.gt_saga import gt_saga
    >>> from distopt.network.net import Rehearsal
    >>> saga, x, a = gt_saga(lr=0.3), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean, state = lambda name, z: z.mean(-2, keepdim=True).expand_as(z), saga.init(x)
    >>> for _ in range(60):  # one row each, f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = saga.update(x - a, state, x, Rehearsal(mean, x, grad=lambda y: y - a))
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """
    return GTSaga(lr, batch, form, direction)


class GTSagaState(NamedTuple):
    """What GT-SAGA carries.

    Attributes:
        s: tracker [..., n, d]; its mean over all agents is that of the estimates.
        estimate: v, the agent's estimate of its gradient [..., n, d].
        table: the last gradient of each row, row after row [..., n, m d].
        direction: the state of the direction rule, leaves [..., n, *].
    """

    s: Tensor
    estimate: Tensor
    table: Tensor
    direction: Any


@dataclass(frozen=True)
class GTSaga(Sampled):
    """See ``gt_saga``; ``rows`` is m."""

    full: ClassVar[float] = 0.0
    name: ClassVar[str] = "gt_saga"

    def init(self, x: Tensor) -> GTSagaState:
        zero = torch.zeros_like(x)
        table = x.new_zeros(*x.shape[:-1], self.rows * x.shape[-1])
        return GTSagaState(zero, zero.clone(), table, self.direction.init(x))

    def update(self, g: Tensor, state: GTSagaState, x: Tensor, mix: Mix) -> tuple[Tensor, GTSagaState]:
        table = state.table.reshape(*x.shape[:-1], self.rows, x.shape[-1])
        each = torch.arange(self.rows, dtype=x.dtype, device=x.device)
        estimate, after = table.sum(-2) / self.rows, table
        for row in self.drawn(mix).chunk(int(self.batch), -1):
            fresh, chosen = mix.grad(x, row), (row == each).unsqueeze(-1)
            estimate = estimate + (fresh - torch.where(chosen, table, 0.0).sum(-2)) / self.batch
            after = torch.where(chosen, fresh.unsqueeze(-2), after)
        x, s, direction = self.tracked(estimate, state, x, mix)
        return x, GTSagaState(s, estimate, after.flatten(-2), direction)
