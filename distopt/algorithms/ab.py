"""AB, or Push-Pull: gradient tracking on directed graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from distopt.directions import direct
from distopt.directions.sgd import SGD
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Direction, Mix, Schedule
from distopt.ranges import choice, direction, step_size
from distopt.schedules import rate

Form = Literal["cta", "atc"]
sgd = SGD()


class ABState(NamedTuple):
    """What AB carries.

    Attributes:
        s: trackers [..., n, d]; their sum over all agents is that of g.
        g: the gradients of the round before, old cost at old point [..., n, d].
        direction: the state of the direction rule, leaves [..., n, *].
    """

    s: Tensor
    g: Tensor
    direction: Any


@dataclass(frozen=True)
class AB(AlgorithmDefaults):
    """AB, or Push-Pull: gradient tracking on directed graphs, with row weights for points and column weights for trackers.

        cta:  s_t = C_t s_{t-1} + g_t - g_{t-1},     x_{t+1} = R_t x_t - lr d(s_t)       AB [xin2018]
        atc:  s_t = C_t s_{t-1} + g_t - g_{t-1},     x_{t+1} = R_t (x_t - lr d(s_t))     Push-Pull [pu2021]

    x_t [..., n, d] are the agents' points. Row i of g_t [..., n, d] is grad f_{i,t}(x_{i,t}). s_t [..., n, d] are the trackers, and d is
    the direction rule (s itself by default). lr > 0 is a number, a schedule or a tensor [R, 1, 1]. The rows of R_t sum to 1, so points
    that agree stay where they are. The columns of C_t sum to 1, so sum s_t = sum g_t, and all agents' costs count alike. No W with both is
    needed, which a directed graph rarely has. With R = C doubly stochastic it is ``gt``.

    As in ``gt``, s_{-1} = g_{-1} = 0 gives the papers' start s_0 = g_0, and x_t and s_{t-1} travel in one round. Directions other than
    the tracker itself are not in the papers: ``ab:direction=adam`` is GTAdam on a directed graph.

    Raises:
        InputError: ``lr`` not positive, or an unknown ``form``.

    >>> import torch
    >>> from distopt.algorithms.ab import AB
    >>> ab, x, a = AB(lr=0.2), torch.zeros(1, 3, 1), torch.tensor([[[1.0], [2.0], [6.0]]])
    >>> R = torch.tensor([[1 / 2, 0, 1 / 2], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]])  # 0 sends to 1 and 2, 1 to 2, 2 to 0
    >>> C = torch.tensor([[1 / 3, 0, 1 / 2], [1 / 3, 1 / 2, 0], [1 / 3, 1 / 2, 1 / 2]])
    >>> state = ab.init(x)
    >>> for _ in range(200):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = ab.update(x - a, state, x, lambda name, z: {"x": R, "s": C}[name] @ z)
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """

    lr: float | Schedule = 0.01
    form: Form = "cta"
    direction: Direction[Any] = sgd
    channels: ClassVar[tuple[str, ...]] = ("x", "s")
    tracks: ClassVar[str] = "s"
    weights: ClassVar[dict[str, str]] = {"x": "row", "s": "column"}

    def __post_init__(self) -> None:
        step_size("ab", self.lr)
        choice("ab", get_args(Form), form=self.form)
        direction("ab", self.direction)

    def init(self, x: Tensor) -> ABState:
        return ABState(torch.zeros_like(x), torch.zeros_like(x), self.direction.init(x))

    def update(self, g: Tensor, state: ABState, x: Tensor, mix: Mix) -> tuple[Tensor, ABState]:
        s = mix("s", state.s) + g - state.g
        lr = rate(self.lr, mix)
        d, direction = direct(self.direction, s, state.direction, mix, lr)
        step = lr * d
        x = mix("x", x) - step if self.form == "cta" else mix("x", x - step)
        return x, ABState(s, g, direction)
