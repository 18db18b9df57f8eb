"""LT-ADMM: ADMM whose minimisations are a few gradient steps, with one exchange after them."""

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
class LTADMM(AlgorithmDefaults):
    """LT-ADMM [ren2025]: local training between exchanges, and a variable for each end of each link.

        r = x_t - sum_j z_ij
        phi^0 = x_t,    phi^{k+1} = phi^k - lr grad f_{i,t}(phi^k) - (dual / K) r        k = 0 ... K - 1
        x_{t+1} = phi^K
        z_ij <- (1 - a) z_ij - a (z_ji - 2 w_ij x_{j,t+1})                               z_ii = x_{i,0}, others 0, at first

    x_t, phi^k and z_ij are [..., n, d], and W_t is symmetric and doubly stochastic. lr > 0 is a number, a schedule or a tensor [R, 1,
    1]. K is ``local``, and a, in (0, 1], is ``relaxation``. With a = 1/2, K = 1, a constant lr and agents that start at one point it is
    ``dlm`` whose penalty is dual / (2 lr). Then the r_i sum to zero over the agents, and the mean moves by lr times the mean of the K
    gradients, for any lr. With another a this only holds in the limit.

    The paper has one penalty rho for all links, and a step beta. Only K beta rho matters, which is ``dual``. Our links have the penalties rho
    w_ij, and an agent also has a link with itself, with its self weight. So an agent only keeps the sums of z_ij and of z_ji, and sends d
    numbers to all neighbours instead of d to each. On a regular graph without self weights this is the paper's method. The sums serve as well
    as the single z_ij if each link carries both messages or neither. So the method stays exact if links fail and agents sleep. The paper's
    method also waits with z_ij if a message is lost in one direction. Ours cannot, so a warning then says that it does not end at the
    optimum; ``robust_lt_admm`` can. One message a round. There is no ``direction``, for the reason that ``led`` has none.

    Raises:
        InputError: ``lr`` or ``dual`` not positive, ``local`` no whole number from 1 to 1000, or ``relaxation`` outside (0, 1].

    >>> import torch
    >>> from distopt.algorithms.lt_admm import LTADMM
    >>> from distopt.network.net import Rehearsal
    >>> admm, x, a = LTADMM(lr=0.1, local=3), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean, state = lambda name, z: z.mean(-2, keepdim=True).expand_as(z), admm.init(x)
    >>> for _ in range(60):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = admm.update(x - a, state, x, Rehearsal(mean, x, grad=lambda y: y - a))
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """

    lr: float | Schedule = 0.01
    local: int = 5
    dual: float = 1.0
    relaxation: float = 0.5
    channels: ClassVar[tuple[str, ...]] = ("x",)
    weights: ClassVar[str] = "symmetric"

    def __post_init__(self) -> None:
        step_size("lt_admm", self.lr)
        whole("lt_admm", 1, MOST, local=self.local)
        positive("lt_admm", dual=self.dual)
        share("lt_admm", relaxation=self.relaxation)

    def init(self, x: Tensor) -> Links:
        return begun(x)

    def update(self, g: Tensor, state: Links, x: Tensor, mix: Mix) -> tuple[Tensor, Links]:
        lr, pull = rate(self.lr, mix), self.dual / self.local * (x - state.own)
        phi = x - lr * g - pull
        for _ in range(self.local - 1):
            phi = phi - lr * mix.grad(phi) - pull
        return phi, relaxed(state, phi, mix("x", phi), self.relaxation)
