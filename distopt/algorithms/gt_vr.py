"""GT-VR: gradient tracking with estimates around a reference point, whose full gradient is known. A coin decides when it is renewed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.algorithms._sampled import Form, Sampled, sgd
from distopt.protocols import Direction, Mix, Schedule
from distopt.ranges import share


def gt_vr(
    lr: float | Schedule = 0.01,
    batch: int = 1,
    p: float = 0.05,
    form: Form = "atc",
    direction: Direction[Any] = sgd,
) -> GTVR:
    """GT-VR [jiang2022]: loopless variance reduction, as in L-SVRG, with gradient tracking.

        with probability p, and in the first round:  tau_t = x_t, whose full gradient is taken;  otherwise tau_t = tau_{t-1}
        v_t = g_{t,B}(x_t) - g_{t,B}(tau_t) + grad f_i(tau_t)                                 g_{t,B} on B rows drawn in round t
        atc:  s_t = W_t (s_{t-1} + v_t - v_{t-1}),    x_{t+1} = W_t (x_t - lr d(s_t))         s_{-1} = v_{-1} = 0
        cta:  s_t = W_t s_{t-1} + v_t - v_{t-1},      x_{t+1} = W_t x_t - lr d(s_t)

    Agent i's cost is the mean over its m rows of data, the same in all rounds. Scenarios that change these rows
    are refused; use ``gt_storm`` for
    them. x_t, tau_t, v_t and s_t are [..., n, d], and W_t is doubly stochastic. B is ``batch``, and p is in (0, 1]. lr > 0 is a number, a
    schedule or a tensor [R, 1, 1]. Every agent has a coin of its own. In the mean a round costs p + 2 B/m gradients. If costs change, the full
    gradient at tau_t still belongs to the round in which it was taken.

    The form atc is the paper's, in the order of a round here. Directions other than s itself are not in it. The mean of s_t equals the mean
    of v_t and not of the gradients, so there is no ``tracks``.

    Raises:
        InputError: ``lr`` not positive, ``batch`` below 1, ``p`` outside (0, 1], or an unknown ``form``.

    >>> import torch
    >>> from distopt.algorithms.gt_vr import gt_vr
    >>> from distopt.network.net import Rehearsal
    >>> vr, x, a = gt_vr(lr=0.3), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean, state = lambda name, z: z.mean(-2, keepdim=True).expand_as(z), vr.init(x)
    >>> for t in range(60):  # one row each, f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = vr.update(x - a, state, x, Rehearsal(mean, x, t, grad=lambda y: y - a))
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """
    return GTVR(lr, batch, form, direction, p=p)


class GTVRState(NamedTuple):
    """What GT-VR carries.

    Attributes:
        s: tracker [..., n, d]; its mean over all agents is that of the estimates.
        estimate: v, the agent's estimate of its gradient [..., n, d].
        tau: the point whose full gradient is known [..., n, d].
        full: that gradient [..., n, d].
        begun: 0 before the agent's first round and 1 after it [..., n, 1].
        direction: the state of the direction rule, leaves [..., n, *].
    """

    s: Tensor
    estimate: Tensor
    tau: Tensor
    full: Tensor
    begun: Tensor
    direction: Any


@dataclass(frozen=True)
class GTVR(Sampled):
    """See ``gt_vr``; ``rows`` is m."""

    p: float = 0.05
    name: ClassVar[str] = "gt_vr"

    def __post_init__(self) -> None:
        super().__post_init__()
        share("gt_vr", p=self.p)

    @property
    def full(self) -> Any:
        """The mean fraction of rounds that take the full gradient."""
        return self.p

    def init(self, x: Tensor) -> GTVRState:
        zero = torch.zeros_like(x)
        return GTVRState(
            zero, zero.clone(), x.clone(), zero.clone(), torch.zeros_like(x[..., :1]), self.direction.init(x)
        )

    def update(self, g: Tensor, state: GTVRState, x: Tensor, mix: Mix) -> tuple[Tensor, GTVRState]:
        rows, coin = self.drawn(mix), mix.uniform(1)
        renewed = (coin - self.p < 0) | (state.begun == 0)
        tau, full = torch.where(renewed, x, state.tau), torch.where(renewed, g, state.full)
        estimate = mix.grad(x, rows) - mix.grad(tau, rows) + full
        x, s, direction = self.tracked(estimate, state, x, mix)
        return x, GTVRState(s, estimate, tau, full, torch.ones_like(state.begun), direction)
