"""Large rounds are recorded without numbers, and come out as they do with them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import distopt
from distopt.codegen import record
from distopt.codegen.folder import CompileWarning
from distopt.codegen.function import written_out
from distopt.codegen.module import assembly
from distopt.codegen.recording import Unsupported

LARGE, SMALL = 0, 2**60


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The inputs of which recordings have made copies with other numbers."""
    made: list[Tensor] = []
    other = record._other
    monkeypatch.setattr(record, "_other", lambda each: (made.append(each), other(each))[1])
    return made


def both(
    do: Callable[..., Any], carry: list[Tensor], data: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str]:
    """The module of a round that is recorded with numbers, and of one that is recorded without."""
    texts = []
    for limit in (SMALL, LARGE):
        monkeypatch.setattr(record, "LARGE", limit)
        texts.append(assembly(written_out(do, carry, data)))
    return texts[0], texts[1]


def usual(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    (x,), (f,) = carry, data
    y = x - 0.1 * (x.sum(-1, True) - f).tanh()
    y = torch.cat([y[..., 1:], y[..., :1]], -1) + torch.arange(3, device=x.device, dtype=x.dtype)
    z = y.clone()
    z.mul_(2)
    return [z], [z.square().sum()]


def test_a_round_without_numbers_is_the_same(copies: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    with_numbers, without = both(usual, [torch.randn(2, 3)], [torch.randn(1, 2, 3)], monkeypatch)
    assert with_numbers == without
    assert len(copies) == 2, "only the round with numbers needs others"


def test_a_tensor_of_its_own_makes_a_round_ask_for_numbers(
    copies: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has memory does not mix with those that have none."""
    own = torch.tensor([1.0, 2.0, 3.0])

    def do(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return [carry[0] * own + data[0]], []

    with_numbers, without = both(do, [torch.randn(2, 3)], [torch.randn(1, 2, 3)], monkeypatch)
    assert with_numbers == without
    assert len(copies) == 4


def looks(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    return [carry[0] * (2 if carry[0].sum() > 0 else 3)], []


@pytest.mark.parametrize("limit", [SMALL, LARGE])
def test_who_looks_at_numbers_is_refused_alike(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "LARGE", limit)
    with pytest.raises(Unsupported, match=r"the rounds look at the numbers of a tensor \(Tensor.__bool__\)"):
        written_out(looks, [torch.randn(3)], [])


@pytest.mark.parametrize("limit", [SMALL, LARGE])
def test_who_counts_is_refused_alike(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "LARGE", limit)
    calls: list[int] = []

    def counts(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        calls.append(1)
        return [carry[0] * len(calls)], []

    with pytest.raises(Unsupported, match="the rounds do something else each time"):
        written_out(counts, [torch.randn(3)], [])


@pytest.mark.parametrize(
    "channel", ["exact", "choco:compressor=sign,gamma=0.4", "choco:compressor=topk(k=2),gamma=0.4"]
)
@pytest.mark.parametrize("scenario", ["moving_target:dim=3", "drifting_logistic", "digits"])
def test_runs_have_the_same_bits(
    scenario: str, channel: str, copies: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for limit in (SMALL, LARGE):
        monkeypatch.setattr(record, "LARGE", limit)
        copies.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("error", CompileWarning)
            found.append(
                distopt.simulate(
                    "ring", agents=4, scenario=scenario, algorithm="gtadam", channel=channel, rounds=5, record="x"
                )["x"]
            )
    assert np.array_equal(*found)
    assert not copies, "all was recorded without numbers"


class Keeps:
    """Costs that keep a tensor from their first round. No minimiser is sought, so that nobody asks for gradients before the recording."""

    dim = 3
    comparator = False
    ones: Tensor | None = None

    def batch(self, t: Tensor, key: Any) -> Tensor:
        return torch.zeros(1, 1, key.total, 3)

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        return (x - b - 1).square().sum(-1)

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        if self.ones is None:
            self.ones = torch.ones_like(x)
        return 2 * (x - b - self.ones)


@pytest.mark.parametrize("limit", [SMALL, LARGE])
def test_what_a_scenario_keeps_is_not_that_of_the_recording(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "LARGE", limit)
    ask: dict[str, Any] = {"agents": 4, "algorithm": "gt:lr=0.05", "rounds": 5, "record": "x"}
    eager = distopt.simulate("ring", scenario=Keeps(), mode="eager", **ask)["x"]
    with pytest.warns(CompileWarning, match="the rounds do something else each time"):
        found = distopt.simulate("ring", scenario=Keeps(), **ask)["x"]
    assert np.array_equal(found, eager), "they run eagerly, with a tensor of their own"
