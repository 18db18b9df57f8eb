"""The conformance check of schedules: the shipped ones pass, and one that breaks a promise is told which."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from checks.test_checks import fails
from torch import Tensor

from distopt.catalog.registry import make, names
from distopt.checks import check_schedule


@pytest.mark.parametrize("name", names("schedules"))
def test_shipped_schedules(name: str) -> None:
    check_schedule(make("schedules", f"{name}:lr=0.1"))


class Schedule:
    def __call__(self, t: Tensor) -> Any:
        return 0.1 / (1 + t.to(torch.float64))


class Single(Schedule):
    def __call__(self, t: Tensor) -> Any:
        return (0.1 / (1 + t)).float()


class Row(Schedule):
    def __call__(self, t: Tensor) -> Any:
        return super().__call__(t).reshape(1)


class Word(Schedule):
    def __call__(self, t: Tensor) -> Any:
        return "fast"


class Ends(Schedule):
    def __call__(self, t: Tensor) -> Any:
        return (0.1 - 0.01 * t.to(torch.float64)).clamp(min=0)


class Counts(Schedule):
    count = 0

    def __call__(self, t: Tensor) -> Any:
        self.count += 1
        return 0.1 / self.count


class Moves(Schedule):
    def __call__(self, t: Tensor) -> Any:
        return 0.1 / (t.add_(1)).to(torch.float64)


class Asks(Schedule):
    def __call__(self, t: Tensor) -> Any:
        return 0.1 / math.sqrt(1 + int(t))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Single, "float32 in round 0, not one number in float64"),
        (Row, r"returns \[1\]"),
        (Word, "returns str"),
        (Ends, "gives 0.0 in round 100"),
        (Counts, "not pure"),
        (Moves, "changes t in place"),
        (Asks, "asks the round for its value"),
    ],
)
def test_broken_schedules(broken: Any, words: str) -> None:
    check_schedule(Schedule())
    fails(check_schedule, broken(), words)
