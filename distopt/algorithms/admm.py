"""Decentralised ADMM: each agent minimises its cost near what its links say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from distopt.algorithms._links import Links, begun, relaxed
from distopt.algorithms.k_gt import MOST
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Mix, Schedule
from distopt.ranges import positive, share, step_size, whole
from distopt.schedules import rate


@dataclass(frozen=True)
class ADMM(AlgorithmDefaults):
    """Relaxed ADMM over the links of a graph [bastianello2021], with K gradient steps in place of each minimisation.

        x_{t+1} = argmin_y  f_{i,t}(y) + rho / 2 |y - sum_j z_ij|^2
        z_ij <- (1 - a) z_ij - a (z_ji - 2 w_ij x_{j,t+1})                               z_ii = x_{i,0}, others 0, at first

    The minimum is sought by y^{k+1} = y^k - lr (grad f_{i,t}(y^k) + rho (y^k - sum_j z_ij)), k = 0 ... K - 1, from y^0 = x_t. x_t and z_ij are
    [..., n, d], and W_t is symmetric and doubly stochastic. lr > 0 is a number, a schedule or a tensor [R, 1, 1], below 2 / (L + rho), and rho
    > 0. K is ``local``, and a, in (0, 1], is ``relaxation``. The optimum is the only point at rest for every K and every lr: a schedule changes
    how accurate each minimisation is, but not the limit. All K gradients of a round are of the same data.

    The paper has exact minimisations, and one penalty for all links. Our links have the penalties rho w_ij, and an agent also has a link with
    itself, with its self weight. So an agent keeps two sums, of z_ij and of z_ji, and sends one message of d numbers to all. Failing links are
    treated as in ``lt_admm``. There, the pull towards the links does not change within a round. There is no ``direction``.

    Raises:
        InputError: ``lr`` or ``rho`` not positive, ``local`` no whole number from 1 to 1000, or ``relaxation`` outside (0, 1].

    >>> import torch
    >>> from distopt.algorithms.admm import ADMM
    >>> from distopt.network.net import Rehearsal
    >>> admm, x, a = ADMM(lr=0.5), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean, state = lambda name, z: z.mean(-2, keepdim=True).expand_as(z), admm.init(x)
    >>> for _ in range(60):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = admm.update(x - a, state, x, Rehearsal(mean, x, grad=lambda y: y - a))
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """

    lr: float | Schedule = 0.01
    rho: float = 1.0
    local: int = 5
    relaxation: float = 0.5
    channels: ClassVar[tuple[str, ...]] = ("x",)
    weights: ClassVar[str] = "symmetric"

    def __post_init__(self) -> None:
        step_size("admm", self.lr)
        positive("admm", rho=self.rho)
        whole("admm", 1, MOST, local=self.local)
        share("admm", relaxation=self.relaxation)

    def init(self, x: Tensor) -> Links:
        return begun(x)

    def update(self, g: Tensor, state: Links, x: Tensor, mix: Mix) -> tuple[Tensor, Links]:
        lr, y = rate(self.lr, mix), x
        for k in range(self.local):
            y = y - lr * ((g if k == 0 else mix.grad(y)) + self.rho * (y - state.own))
        return y, relaxed(state, y, mix("x", y), self.relaxation)
