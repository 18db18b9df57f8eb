"""rPGD: gradient steps on length and direction of the point, the direction projected to the sphere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from distopt.protocols import DirectionRound
from distopt.ranges import choice, flag, not_negative, whole

Gradient = Literal["old", "new", "fresh"]
MOST = 2**53


@dataclass(frozen=True)
class RPGD:
    """Reparametrised projected gradient descent [wu2020]: x = g w with |w| = 1, a step of w on the sphere, and one of its length g.

        w_{t+1} = v / |v|,    v = w_t - lr g_t s_t
        g_{t+1} = g_t - lr ratio w_t's_t,    x_{t+1} = g_{t+1} w_{t+1},    d_t = (x_t - x_{t+1}) / lr

    s_t, x_t, w_t and d_t are [..., n, d], g_t = |x_t| and w_t = x_t / |x_t|. s_t is the gradient at x_t, or a tracker of it. There is no
    state: (g, w) and (-g, -w) are the same point and take the same step, so the point suffices. The paper has one machine. In a network the
    algorithm mixes the points, and each agent computes g and w from its own x_t in each round. This is our choice; with ``gt`` the agents
    agree on a solution. At x_t = 0, where w is free, the step is that of gradient descent: d_t = s_t, as for w = -s / |s|.

    On least squares with more columns than rows it ends near the shortest solution x* if g_0 < |x*|. The part of w outside the span of the rows
    shrinks like exp((g_0^2 - g^2) / 2). Gradient descent leaves that part of x as it was. In two phases, with g held at first, it reaches x*.

    Attributes:
        gradient: at which w the step of g is taken: the old or the new one, both with s_t, or the new one with a fresh
            gradient of the agent's own cost at g_t w_{t+1}, a second one in every round. They differ at O(lr). Our
            sources do not say which one is the paper's.
        tangential: True takes v = w - lr g (s - (w's) w), the step of weight normalisation with |v_0| = 1 and projection.
        hold: number of rounds in which g does not change.
        ratio: step size of g divided by that of w.

    Raises:
        InputError: for an unknown ``gradient``, a negative ``ratio``, or ``hold`` that is no whole number of at least 0.

    >>> import torch
    >>> from distopt.directions import direct
    >>> from distopt.directions.rpgd import RPGD
    >>> rule, x, s = RPGD(), torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[-1.0, 2.0]]])
    >>> d, _ = direct(rule, s, rule.init(x), None, lr=0.1, x=x)
    >>> [round(value, 3) for value in (x - 0.1 * d).flatten().tolist()]  # g = 4.9, w = (1.1, -0.2) / |.|
    [4.821, -0.877]
    """

    gradient: Gradient = "old"
    tangential: bool = False
    hold: int = 0
    ratio: float = 1.0

    def __post_init__(self) -> None:
        choice("rpgd", get_args(Gradient), gradient=self.gradient)
        flag("rpgd", tangential=self.tangential)
        whole("rpgd", 0, MOST, hold=self.hold)
        not_negative("rpgd", ratio=self.ratio)

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def __call__(self, s: Tensor, state: tuple[()], mix: DirectionRound) -> tuple[Tensor, tuple[()]]:
        x, lr = mix.x, mix.lr
        g, w = polar(x)
        push = (w * s).sum(-1, keepdim=True)
        step = lr * g
        _, turned = polar(w - step * (s - push * w if self.tangential else s))
        if self.gradient != "old":
            seen = mix.grad(g * turned) if self.gradient == "fresh" else s
            push = (turned * seen).sum(-1, keepdim=True)
        move = self.ratio * (lr * push)
        if self.hold:
            move = torch.where(mix.t >= self.hold, move, torch.zeros_like(move))
        return torch.where(g > 0, (x - (g - move) * turned) / lr, s), ()


def polar(x: Tensor) -> tuple[Tensor, Tensor]:
    """|x| [..., n, 1], and x / |x|, which is 0 where x is.

    >>> polar(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))[0].flatten().tolist()
    [5.0, 0.0]
    """
    length = torch.sqrt((x * x).sum(-1, keepdim=True))
    return length, x / torch.where(length > 0, length, torch.ones_like(length))
