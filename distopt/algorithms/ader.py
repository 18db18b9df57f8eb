"""Ader: several experts with different step sizes, so that no step size has to be tuned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distopt.optional import AlgorithmDefaults
from distopt.protocols import Mix, Schedule
from distopt.ranges import flag, positive, step_size, whole
from distopt.schedules import rate

MOST = 64
"""Experts."""


class AderState(NamedTuple):
    """What Ader carries, with M experts.

    Attributes:
        z: the experts' points, one after the other [..., n, M d].
        loss: what each expert has lost so far, relative to the best one [..., n, M].
        s: tracker [..., n, d]; its mean over the agents is that of g. Without tracking it is empty.
        g: the gradients of the round before [..., n, d]; empty without tracking.
    """

    z: Tensor
    loss: Tensor
    s: Tensor | tuple[()]
    g: Tensor | tuple[()]


@dataclass(frozen=True)
class Ader(AlgorithmDefaults):
    """Ader [zhang2018] on a network: M experts with step sizes lr, 2 lr, 4 lr, ..., and a mean of them that follows the best.

        p_{t,m} = exp(-eps L_{t,m}) / sum_k exp(-eps L_{t,k}),    x_t = sum_m p_{t,m} z_{t,m}
        s_t = g_t;   with ``tracking`` s_t = W_t s_{t-1} + g_t - g_{t-1}     s_{-1} = g_{-1} = 0
        L_{t+1} = W_t L_t + (<s_t, z_{t,m} - x_t>)_m                         L_0 = 0
        z_{t+1,m} = P(W_t z_{t,m} - 2^m lr s_t),    m = 0 ... M - 1          z_{0,m} = x_0

    x_t, g_t, s_t and z_{t,m} are [..., n, d], L_t and p_t [..., n, M], and row i of g_t is grad f_{i,t}(x_{i,t}). W_t is doubly stochastic,
    and lr > 0 is a number, a schedule or a tensor [R, 1, 1]. P projects on the allowed points, and M is ``experts``. A round takes one
    gradient, at x_t, for all experts, as the paper's improved form does. A message has all experts (M d numbers), their losses and, with
    ``tracking``, s.

    The paper has one agent. Here experts and losses are mixed, so that agents agree about which step size is good. If costs differ,
    agents prefer large steps, since their own gradients do not show that their points spread. The mean of the points then follows
    closely, and single agents do not. With ``tracking`` the loss estimates the network's cost. Steps are then smaller, and all agents
    follow about equally well. The paper's eps and range of step sizes come from bounds on gradients and on the set of points. The
    defaults fit costs of curvature about 1: the largest step, 2^(M-1) lr, may diverge on its own, since diverging experts lose
    their weight. Larger eps follows the best expert faster, and becomes unstable where losses are large.

    Raises:
        InputError: ``lr`` or ``eps`` not positive, or ``experts`` no whole number from 1 to 64.

    >>> import torch
    >>> from distopt.algorithms.ader import Ader
    >>> from distopt.network.net import Rehearsal
    >>> ader, x, a = Ader(tracking=True), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean, state = lambda name, z: z.mean(-2, keepdim=True).expand_as(z), ader.init(x)
    >>> for t in range(120):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = ader.update(x - a, state, x, Rehearsal(mean, x, t))
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """

    lr: float | Schedule = 0.0125
    experts: int = 6
    eps: float = 0.03
    tracking: bool = False

    def __post_init__(self) -> None:
        step_size("ader", self.lr)
        whole("ader", 1, MOST, experts=self.experts)
        positive("ader", eps=self.eps)
        flag("ader", tracking=self.tracking)

    @property
    def channels(self) -> tuple[str, ...]:
        """What travels."""
        return ("z", "loss", "s") if self.tracking else ("z", "loss")

    @property
    def tracks(self) -> str | None:
        """The tracker, if there is one."""
        return "s" if self.tracking else None

    def init(self, x: Tensor) -> AderState:
        none = torch.zeros_like(x)
        z = torch.cat([x] * self.experts, -1)
        loss = torch.cat([none[..., :1]] * self.experts, -1)
        return AderState(z, loss, none, none.clone()) if self.tracking else AderState(z, loss, (), ())

    def update(self, g: Tensor, state: AderState, x: Tensor, mix: Mix) -> tuple[Tensor, AderState]:
        s, last, d, lr = state.s, state.g, x.shape[-1], rate(self.lr, mix)
        if isinstance(s, Tensor) and isinstance(last, Tensor):
            s, last = mix("s", s) + g - last, g
        step = s if isinstance(s, Tensor) else g
        before, mixed = state.z, mix("z", state.z)
        lost = [(step * (before[..., d * m : d * (m + 1)] - x)).sum(-1, keepdim=True) for m in range(self.experts)]
        loss = mix("loss", state.loss) + torch.cat(lost, -1)
        loss = loss - loss.amin(-1, keepdim=True)
        moved = [mix.project(mixed[..., d * m : d * (m + 1)] - 2.0**m * lr * step) for m in range(self.experts)]
        p = torch.exp(-self.eps * loss)
        p = p / p.sum(-1, keepdim=True)
        x = sum((p[..., m : m + 1] * z for m, z in enumerate(moved)), torch.zeros_like(x))
        return x, AderState(torch.cat(moved, -1), loss, s, last)
