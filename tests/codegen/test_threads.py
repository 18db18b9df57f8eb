"""Rounds that several threads share have the bits of one thread."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import pytest
import torch
from helpers.operations import CLOSE, EXACT, both

import distopt
from distopt.codegen import function, parts, threads


def shared(monkeypatch: pytest.MonkeyPatch, among: int) -> None:
    """Every loop is shared, however short it is."""
    monkeypatch.setattr(function, "LARGE", 0)
    monkeypatch.setattr(function, "count", lambda numbers: among)
    monkeypatch.setattr(parts, "FEW", 1)


@pytest.mark.parametrize("name", [*EXACT, *CLOSE])
def test_every_operation_has_the_bits_of_one_thread(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = (EXACT | CLOSE)[name]
    alone = [got.clone() for got, _ in both(*case)]
    for among in (1, 3):
        with monkeypatch.context() as patch:
            shared(patch, among)
            for got, (made, _) in zip(alone, both(*case), strict=True):
                torch.testing.assert_close(made, got, rtol=0, atol=0, equal_nan=True)


def walk(carry: list[torch.Tensor], data: list[torch.Tensor]) -> Any:
    """Numbers go to the neighbours, and what all hold is added up: every thread needs what the others have made."""
    (x, y), (g,) = carry, data
    moved = x.roll(1, 0) * 0.5 + x * 0.5 - 0.1 * y * g
    return [moved, y.flip(0) + moved - x], [moved.sum(0), (y * y).sum(-1).amax()]


def walked(rounds: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    carry = [torch.randn(101, 7, generator=generator, dtype=torch.float64) for _ in range(2)]
    data = [torch.randn(rounds, 101, 7, generator=generator, dtype=torch.float64)]
    made = function.compiled(walk, carry, data)
    rows = [torch.zeros(rounds, *shape, dtype=dtype) for shape, dtype in made.rows]
    bound = made.bound(carry, data, rows)
    for start in range(0, rounds, 37):
        bound(start, min(start + 37, rounds))
    return [*bound.carry, *rows]


def test_threads_share_no_loop_whose_turns_do_several_rows() -> None:
    z = torch.zeros(1, 3, 100, 45, dtype=torch.float64)
    routine = function.written_out(lambda _, data: ([], [data[0].sum(-1)]), [], [z])
    assert [(loop.stop, loop.step) for _, loop in parts.divided(routine.body) if loop is not None] == [(3, 1)]


@pytest.mark.parametrize("among", [2, 5])
def test_threads_wait_for_each_other_in_every_round(among: int, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = walked(500)
    shared(monkeypatch, among)
    assert all(map(torch.equal, walked(500), alone))


@pytest.mark.parametrize(
    ("algorithm", "channel", "settings"),
    [
        ("gtadam", "exact", {"topology": "ring"}),
        ("gt", "choco(topk:k=2)", {"topology": "barabasi_albert", "trials": 2}),
        ("gt", "naive(qsgd)", {"topology": "random_matching", "drop_links": 0.2}),
        ("dgd", "exact", {"topology": "star", "dtype": "float32", "scenario": "drifting_logistic"}),
    ],
)
def test_runs_have_the_bits_of_one_thread(
    algorithm: str, channel: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"scenario": "moving_target:dim=5", "agents": 64, "record": ["x"], "rounds": 20} | settings
    alone = distopt.simulate(algorithm=algorithm, channel=channel, **settings)
    shared(monkeypatch, 3)
    crowd = distopt.simulate(algorithm=algorithm, channel=channel, **settings)
    np.testing.assert_array_equal(crowd["x"], alone["x"])
    np.testing.assert_array_equal(crowd["dynamic_regret"], alone["dynamic_regret"])


def test_no_thread_waits_for_one_that_could_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = walked(50)
    for most in (0, 1, 2):
        with monkeypatch.context() as patch:
            shared(patch, 4)
            left = [most]

            def start(self: threading.Thread, left: list[int] = left, begin: Any = threading.Thread.start) -> None:
                if not left[0]:
                    raise RuntimeError("can't start new thread")
                left[0] -= 1
                begin(self)

            patch.setattr(threading.Thread, "start", start)
            found = walked(37)
            patch.undo()
        assert all(map(torch.equal, found, walked(37))), most
    assert all(map(torch.equal, walked(50), alone))


def test_threads_are_as_many_as_torch_has_and_as_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    before, free = torch.get_num_threads(), True
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0 if free else 1e9, 0.0, 0.0))
    try:
        torch.set_num_threads(1)
        assert threads.count(10**9) == 1
        torch.set_num_threads(3)
        assert [threads.count(n * threads.SHARE) for n in (1, 2, 3, 100)] == [1, 2, 3, 3]
        free = False
        assert threads.count(10**9) == 1
    finally:
        torch.set_num_threads(before)
