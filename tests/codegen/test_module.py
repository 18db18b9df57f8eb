"""A round is cut into several functions of its module, and nobody sees where."""

from __future__ import annotations

import pytest
import torch
from helpers.operations import CLOSE, EXACT, both

from distopt.codegen import module


@pytest.mark.parametrize("name", [*EXACT, *CLOSE])
def test_a_round_that_is_cut_after_every_loop_has_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = (EXACT | CLOSE)[name]
    whole = [got.clone() for got, _ in both(*case)]
    monkeypatch.setattr(module, "PART", 1)
    for got, (cut, _) in zip(whole, both(*case), strict=True):
        torch.testing.assert_close(cut, got, rtol=0, atol=0, equal_nan=True)


def test_loops_that_share_small_memory_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of all is found in memory of its own, which no other function sees."""
    monkeypatch.setattr(module, "PART", 1)
    row = torch.rand(1000, dtype=torch.float64)
    for got, expected in both(lambda a: [a.amax(), a.sum() * 2, (a > 2).any(), a.topk(1).values, a.cumsum(0)], (row,)):
        torch.testing.assert_close(got, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("part", range(1, 12))
def test_a_long_sum_is_cut_nowhere(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lanes wait in small memory while its rest is added up in more of it."""
    row = torch.rand(150_000)
    whole = [got.clone() for got, _ in both(lambda a: [a.abs().sum(), (a * 2).sum()], (row,))]
    monkeypatch.setattr(module, "PART", part)
    for got, (cut, _) in zip(whole, both(lambda a: [a.abs().sum(), (a * 2).sum()], (row,)), strict=True):
        torch.testing.assert_close(cut, got, rtol=0, atol=0)
