"""ProxSkip: local steps, and an exchange in the rounds that a shared coin decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.optional import AlgorithmDefaults
from distopt.protocols import Mix, Schedule
from distopt.ranges import at_least_one, share, step_size
from distopt.schedules import rate


class ProxSkipState(NamedTuple):
    """What ProxSkip carries: the dual variable y_t [..., n, d]. Its sum over the agents is zero."""

    y: Tensor


@dataclass(frozen=True)
class ProxSkip(AlgorithmDefaults):
    """Decentralised ProxSkip [mishchenko2022] [guo2023]: exchanges in a part p of the rounds, without losing the exact optimum.

        z_t = x_t - lr g_t - y_t                                                   y_0 = 0
        with probability p:   x_{t+1} = z_t - (z_t - W_t z_t) / (2 chi),    y_{t+1} = y_t + p (z_t - x_{t+1})
        otherwise:            x_{t+1} = z_t,                                y_{t+1} = y_t

    x_t, y_t and z_t are [..., n, d], and row i of g_t [..., n, d] is grad f_{i,t}(x_{i,t}). W_t is symmetric and doubly stochastic. lr > 0 is a
    number, a schedule or a tensor [R, 1, 1], p is in (0, 1], and chi >= 1. One coin decides for all agents of a trial (``mix.coin``). It follows
    from the seed, so agents need not communicate to agree on it. A round without an exchange counts no bits and no messages. With p = 1 and
    chi = 1 this is ``exact_diffusion``. ``led`` has local steps of a fixed number.

    The dual step, beta in the paper, is p. The y_t sum to zero over the agents for any lr, so the mean moves by lr_t mean g_t in every round. There
    is no ``direction``, for the reason that ``led`` has none. Engines with several processes, and ``distopt.optim``, still send messages in rounds
    without an exchange, but ignore them. Metrics count only what the method needs. Channels that remember something keep their memory in such a
    round.

    Raises:
        InputError: ``lr`` not positive, ``p`` outside (0, 1], or ``chi`` below 1.

    >>> import torch
    >>> from distopt.algorithms.prox_skip import ProxSkip
    >>> from distopt.network.net import Rehearsal
    >>> skip, x, a = ProxSkip(lr=0.5, p=0.5), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean, state = lambda name, z: z.mean(-2, keepdim=True).expand_as(z), skip.init(x)
    >>> for t in range(80):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3. A rehearsal has an exchange in every round
    ...     x, state = skip.update(x - a, state, x, Rehearsal(mean, x, t))
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """

    lr: float | Schedule = 0.01
    p: float = 0.2
    chi: float = 1.0
    channels: ClassVar[tuple[str, ...]] = ("z",)
    weights: ClassVar[str] = "symmetric"

    def __post_init__(self) -> None:
        step_size("prox_skip", self.lr)
        share("prox_skip", p=self.p)
        at_least_one("prox_skip", chi=self.chi)

    @property
    def coin(self) -> Any:
        """How often there is an exchange."""
        return self.p

    def init(self, x: Tensor) -> ProxSkipState:
        return ProxSkipState(torch.zeros_like(x))

    def update(self, g: Tensor, state: ProxSkipState, x: Tensor, mix: Mix) -> tuple[Tensor, ProxSkipState]:
        z = x - rate(self.lr, mix) * g - state.y
        moved = (z - mix("z", z)) / (2 * self.chi)
        moved = torch.where(mix.coin, moved, torch.zeros_like(moved))
        return z - moved, ProxSkipState(state.y + self.p * moved)
