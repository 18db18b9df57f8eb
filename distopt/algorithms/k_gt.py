"""K-GT: gradient tracking with local steps between the exchanges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distopt.directions import direct
from distopt.directions.sgd import SGD
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Direction, Mix, Schedule
from distopt.ranges import direction, flag, positive, step_size, whole
from distopt.schedules import rate

sgd = SGD()

MOST = 1000
"""Local steps in a round."""


class KGTState(NamedTuple):
    """What K-GT carries.

    Attributes:
        c: the correction of local gradients [..., n, d]; its sum over the agents is zero. Without correction it is empty.
        direction: the state of the direction rule, leaves [..., n, *].
    """

    c: Tensor | tuple[()]
    direction: Any


@dataclass(frozen=True)
class KGT(AlgorithmDefaults):
    """K-GT [liu2024]: K local steps with corrected gradients, then one exchange.

        x^0 = x_t,    p^k = grad f_{i,t}(x^k) + c_t,    x^{k+1} = x^k - lr d(p^k),    k = 0 ... K - 1
        z_t = (1/K) sum_k p^k                                                  = (x^0 - x^K) / (K lr) if d(p) = p
        c_{t+1} = c_t - z_t + W_t z_t                                          c_0 = 0
        x_{t+1} = W_t (x_t + server (x^K - x_t))

    x_t, x^k, p^k, z_t and c_t are [..., n, d], and W_t is doubly stochastic. lr > 0 is a number, a schedule or a tensor [R, 1, 1], and K is
    ``local``. The corrections sum to zero over the agents. They correct each agent's gradient towards the network's, so that local steps do
    not drift apart if costs differ. lr is the paper's local step size, and ``server`` is its global step size. Directions other than the
    gradient itself are not in the paper; their state carries over from step to step. In the simulator all K gradients of a round use the
    same data. ``distopt.optim`` does the local steps on batch after batch.

    With ``correction=False`` nothing is corrected, and only x travels: local descent and averaging.

    Raises:
        InputError: ``lr`` or ``server`` not positive, or ``local`` no whole number from 1 to 1000.

    >>> import torch
    >>> from distopt.algorithms.k_gt import KGT
    >>> from distopt.network.net import Rehearsal
    >>> k_gt, x, a = KGT(lr=0.1, local=3), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean, state = lambda name, z: z.mean(-2, keepdim=True).expand_as(z), k_gt.init(x)
    >>> for _ in range(60):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = k_gt.update(x - a, state, x, Rehearsal(mean, x, grad=lambda y: y - a))
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """

    lr: float | Schedule = 0.01
    local: int = 5
    server: float = 1.0
    direction: Direction[Any] = sgd
    correction: bool = True

    def __post_init__(self) -> None:
        step_size("k_gt", self.lr)
        whole("k_gt", 1, MOST, local=self.local)
        positive("k_gt", server=self.server)
        direction("k_gt", self.direction)
        flag("k_gt", correction=self.correction)

    @property
    def channels(self) -> tuple[str, ...]:
        """What travels."""
        return ("z", "x") if self.correction else ("x",)

    def init(self, x: Tensor) -> KGTState:
        return KGTState(torch.zeros_like(x) if self.correction else (), self.direction.init(x))

    def update(self, g: Tensor, state: KGTState, x: Tensor, mix: Mix) -> tuple[Tensor, KGTState]:
        y, direction, total = x, state.direction, None
        for k in range(self.local):
            y, p, direction = self.inner(g if k == 0 else mix.grad(y), state.c, y, direction, mix)
            total = p if total is None else total + p
        assert total is not None
        y, c = self.outer(x, y, total, state.c, mix)
        return y, KGTState(c, direction)

    def inner(
        self, g: Tensor, c: Tensor | tuple[()], y: Tensor, direction: Any, mix: Mix
    ) -> tuple[Tensor, Tensor, Any]:
        """A local step from y, where the gradients are g: (x^{k+1}, p^k, the state of the direction rule)."""
        p = g + c if isinstance(c, Tensor) else g
        lr = rate(self.lr, mix)
        d, direction = direct(self.direction, p, direction, mix, lr, y)
        return y - lr * d, p, direction

    def outer(
        self, x: Tensor, y: Tensor, total: Tensor, c: Tensor | tuple[()], mix: Mix
    ) -> tuple[Tensor, Tensor | tuple[()]]:
        """The exchange after the local steps from x to y, whose p^k sum to ``total``: (x_{t+1}, c_{t+1})."""
        if isinstance(c, Tensor):
            z = total / self.local
            c = c - z + mix("z", z)
        return mix("x", y if self.server == 1 else x + self.server * (y - x)), c
