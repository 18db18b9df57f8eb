"""LT-ADMM with a variable for each end of each link, which waits where messages are lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from distopt.algorithms.k_gt import MOST
from distopt.channels._link_variables import LinkVariables
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Mix, Schedule
from distopt.ranges import positive, step_size, whole
from distopt.schedules import rate


class Near(NamedTuple):
    """What the method carries besides its channel.

    Attributes:
        near: where the links pull an agent, w_ii x_i + sum_j w_ij z_ij [..., n, d].
    """

    near: Tensor


@dataclass(frozen=True)
class RobustLTADMM(AlgorithmDefaults):
    """LT-ADMM [ren2025] as its paper has it: local training between exchanges, and a variable z_ij for each end of each link, which may wait.

        r_i = sum_j w_ij (x_{i,t} - z_ij),  r = 0 at first
        phi^0 = x_t,    phi^{k+1} = phi^k - lr grad f_{i,t}(phi^k) - (dual / K) r        k = 0 ... K - 1
        x_{t+1} = phi^K
        i tells j: z_ij - 2 x_{i,t+1};    z_ij <- (z_ij - (z_ji - 2 x_{j,t+1})) / 2 where j's message arrives      z_ij = 0 at first

    x_t, phi^k and z_ij are [..., n, d], W is constant and symmetric, lr > 0 a number, a schedule or a tensor [R, 1, 1], K is ``local``; j are the
    neighbours. Where a message is lost, one way or both, or somebody sleeps, z_ij stays. Where nothing moves any more
    z_ij + z_ji = 2 x_i = 2 x_j, so the r_i sum to zero, and x is the minimiser of the mean cost. ``lt_admm`` keeps sums of the z_ij, for which one
    broadcast to all neighbours is enough. They are not right any more once a message is lost one way.

    The paper has one penalty rho for all links, a step beta and a relaxation, which is 1/2 here. Our links have the penalties rho w_ij, and z_ij
    stands for the paper's divided by that; only K beta rho matters, which is ``dual``. On a regular graph this is the paper's method.
    One message a round to each neighbour, of d numbers of its own; ``bits`` counts them for the largest degree. Agents that have
    heard nothing of a neighbour yet are pulled to z_ij = 0 for so long. It brings its own channel. There is no ``direction``, for the reason
    that ``led`` has none.

    Raises:
        InputError: ``lr`` or ``dual`` not positive, or ``local`` no whole number from 1 to 1000.

    >>> import distopt
    >>> ask = {"agents": 8, "scenario": "quadratic:kappa=2", "rounds": 800, "drop_messages": 0.3}
    >>> run = distopt.simulate("ring", algorithm="robust_lt_admm:lr=0.05", **ask)
    >>> [round(float(run["tracking_error"][0, t]), 6) for t in (0, -1)]
    [0.685575, 0.0]
    """

    lr: float | Schedule = 0.01
    local: int = 5
    dual: float = 1.0
    channels: ClassVar[tuple[str, ...]] = ("x",)
    channel: ClassVar[LinkVariables] = LinkVariables()
    weights: ClassVar[str] = "symmetric"

    def __post_init__(self) -> None:
        step_size("robust_lt_admm", self.lr)
        whole("robust_lt_admm", 1, MOST, local=self.local)
        positive("robust_lt_admm", dual=self.dual)

    def init(self, x: Tensor) -> Near:
        return Near(x.clone())

    def update(self, g: Tensor, state: Near, x: Tensor, mix: Mix) -> tuple[Tensor, Near]:
        lr, pull = rate(self.lr, mix), self.dual / self.local * (x - state.near)
        phi = x - lr * g - pull
        for _ in range(self.local - 1):
            phi = phi - lr * mix.grad(phi) - pull
        return phi, Near(mix("x", phi))
