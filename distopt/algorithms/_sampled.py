"""Shared by the methods that sample rows of an agent's data: drawing rows, and gradient tracking of the estimates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, Self, get_args

import torch
from torch import Tensor

from distopt.directions import direct
from distopt.directions.sgd import SGD
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Direction, Mix, Schedule
from distopt.ranges import choice, direction, step_size, whole
from distopt.schedules import rate

Form = Literal["cta", "atc"]
sgd = SGD()

MOST = 2**24
"""Rows that are sampled in a round."""


def drawn(mix: Mix, batch: int, rows: int) -> Tensor:
    """``batch`` of each agent's ``rows`` rows, drawn one by one, any row at any time: whole numbers [R, n, batch].

    >>> from distopt.network.net import Rehearsal
    >>> drawn(Rehearsal(lambda name, z: z, torch.zeros(1, 1, 3)), 2, 5).tolist()
    [[[2.0, 2.0]]]
    """
    return torch.floor(rows * mix.uniform(batch)).clamp(max=rows - 1)


class Feed(Protocol):
    """The fields that the states of all these methods have."""

    @property
    def s(self) -> Tensor: ...
    @property
    def estimate(self) -> Tensor: ...
    @property
    def direction(self) -> Any: ...


@dataclass(frozen=True)
class Sampled(AlgorithmDefaults):
    """Gradient tracking of estimates v_t, which come from some rows of each agent's data.

        cta:  s_t = W_t s_{t-1} + v_t - v_{t-1},      x_{t+1} = W_t x_t - lr d(s_t)
        atc:  s_t = W_t (s_{t-1} + v_t - v_{t-1}),    x_{t+1} = W_t (x_t - lr d(s_t))

    Attributes:
        lr, batch, form, direction: the step size, the number of rows drawn in a round, the form above, and the direction rule.
        rows: the number of rows of an agent.
    """

    lr: float | Schedule = 0.01
    batch: int = 1
    form: Form = "atc"
    direction: Direction[Any] = sgd
    rows: int = 1
    channels: ClassVar[tuple[str, ...]] = ("s", "x")
    weights: ClassVar[str] = "doubly"
    name: ClassVar[str]

    def __post_init__(self) -> None:
        step_size(self.name, self.lr)
        whole(self.name, 1, MOST, batch=self.batch)
        choice(self.name, get_args(Form), form=self.form)
        direction(self.name, self.direction)

    def for_rows(self, rows: int) -> Self:
        """The method for agents with so many rows of data."""
        return replace(self, rows=rows)

    def drawn(self, mix: Mix) -> Tensor:
        """The rows of this round [R, n, batch]."""
        return drawn(mix, self.batch, self.rows)

    def tracked(self, estimate: Tensor, state: Feed, x: Tensor, mix: Mix) -> tuple[Tensor, Tensor, Any]:
        """(x_{t+1}, s_t, what the direction rule remembers)."""
        cta = self.form == "cta"
        s = mix("s", state.s) + estimate - state.estimate if cta else mix("s", state.s + estimate - state.estimate)
        step = rate(self.lr, mix)
        d, remembered = direct(self.direction, s, state.direction, mix, step)
        return (mix("x", x) - step * d if cta else mix("x", x - step * d)), s, remembered
