"""Shared by the methods that sample rows of an agent's data: drawing rows, and gradient tracking of the estimates."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from distopt.directions import direct
from distopt.protocols import Direction, Mix, Schedule
from distopt.ranges import choice, direction, step_size, whole
from distopt.schedules import rate

Form = Literal["cta", "atc"]

MOST = 2**24
"""Rows that are sampled in a round."""


def check(part: str, lr: Any, batch: Any, form: Any, rule: Any) -> None:
    """Refuse what these methods cannot take."""
    step_size(part, lr)
    whole(part, 1, MOST, batch=batch)
    choice(part, get_args(Form), form=form)
    direction(part, rule)


def drawn(mix: Mix, batch: int, rows: int) -> Tensor:
    """``batch`` of each agent's ``rows`` rows, drawn one by one, any row at any time: whole numbers [R, n, batch].

    >>> from distopt.network.net import Rehearsal
    >>> drawn(Rehearsal(lambda name, z: z, torch.zeros(1, 1, 3)), 2, 5).tolist()
    [[[2.0, 2.0]]]
    """
    return torch.floor(rows * mix.uniform(batch)).clamp(max=rows - 1)


def tracked(
    estimate: Tensor,
    before: Tensor,
    s: Tensor,
    x: Tensor,
    mix: Mix,
    lr: float | Schedule,
    form: Form,
    rule: Direction[Any],
    remembered: Any,
) -> tuple[Tensor, Tensor, Any]:
    """(x_{t+1}, s_t, the direction rule's state) of gradient tracking, from an estimate and the estimate before.

    cta:  s_t = W_t s_{t-1} + v_t - v_{t-1},      x_{t+1} = W_t x_t - lr d(s_t)
    atc:  s_t = W_t (s_{t-1} + v_t - v_{t-1}),    x_{t+1} = W_t (x_t - lr d(s_t))
    """
    s = mix("s", s) + estimate - before if form == "cta" else mix("s", s + estimate - before)
    step = rate(lr, mix)
    d, remembered = direct(rule, s, remembered, mix, step)
    return (mix("x", x) - step * d if form == "cta" else mix("x", x - step * d)), s, remembered
