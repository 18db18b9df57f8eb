"""Distributed gradient descent, in its combine-then-adapt and its adapt-then-combine form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from torch import Tensor

from distopt.directions import direct
from distopt.directions.sgd import SGD
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Direction, Mix, Schedule
from distopt.ranges import choice, direction, step_size
from distopt.schedules import rate

Form = Literal["cta", "atc"]
sgd = SGD()


class DGDState(NamedTuple):
    """What DGD carries: the state of its direction rule, leaves [..., n, *]."""

    direction: Any


@dataclass(frozen=True)
class DGD(AlgorithmDefaults):
    """Distributed (sub)gradient descent [nedic2009] and diffusion [chen2012].

        cta:  x_{t+1} = W_t x_t - lr d(g_t)           combine, then adapt
        atc:  x_{t+1} = W_t (x_t - lr d(g_t))         adapt, then combine

    x_t [..., n, d] are the agents' points. Row i of g_t [..., n, d] is grad f_{i,t}(x_{i,t}). d is the direction rule (the gradient itself by
    default), and W_t is the mixing matrix of round t. lr > 0 is the step size: a number, a schedule or a tensor [R, 1, 1] of x's dtype with one
    value per trial. With a constant step the agents stop at a distance O(lr) from the optimum, because the local gradients do not vanish
    there. The papers therefore let lr fall with t, as ``lr=inverse_sqrt(0.1)`` does. Projections are left out. The rows of W must sum to 1.
    If its columns do not, the points approach the optimum of a weighted sum, and a run warns of that.

    Raises:
        InputError: ``lr`` not positive, or an unknown ``form``.

    >>> import torch
    >>> from distopt.algorithms.dgd import DGD
    >>> dgd, x = DGD(lr=0.1), torch.tensor([[[0.0], [4.0]]])
    >>> x, _ = dgd.update(2 * x, dgd.init(x), x, lambda name, z: z.mean(-2, keepdim=True).expand_as(z))
    >>> round(x[0, 1, 0].item(), 4)  # 2 - 0.1 * 8
    1.2
    """

    lr: float | Schedule = 0.01
    form: Form = "cta"
    direction: Direction[Any] = sgd
    channels: ClassVar[tuple[str, ...]] = ("x",)
    weights: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        step_size("dgd", self.lr)
        choice("dgd", get_args(Form), form=self.form)
        direction("dgd", self.direction)

    def init(self, x: Tensor) -> DGDState:
        return DGDState(self.direction.init(x))

    def update(self, g: Tensor, state: DGDState, x: Tensor, mix: Mix) -> tuple[Tensor, DGDState]:
        lr = rate(self.lr, mix)
        d, direction = direct(self.direction, g, state.direction, mix, lr)
        step = lr * d
        if self.form == "cta":
            return mix("x", x) - step, DGDState(direction)
        return mix("x", x - step), DGDState(direction)
