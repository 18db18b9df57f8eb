"""Loops that are fused give the bits of loops one after the other, for any order of rows, in place or not, on one thread or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from distopt.codegen import function, fusion, parts
from distopt.codegen.function import compiled, written_out
from distopt.codegen.loops import Loop, work
from distopt.codegen.memory import Routine
from distopt.numerics.sums import tree_sum

N, D = 21, 11

OPERATIONS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda x, y: x + 0.5 * y,
    lambda x, y: (x * y).sum(-1, keepdim=True) * 0.1 + x,
    lambda x, y: x / (1 + y.square()),
    lambda x, y: x - tree_sum(y) / N,
    lambda x, y: 0.5 * (x.roll(1, -2) + y),
    lambda x, y: x[..., torch.arange(N - 1, -1, -1), :] - 0.1 * y,
    lambda x, y: torch.tanh(x) * y.abs().amax(-1, keepdim=True),
    lambda x, y: (x - y).norm(dim=-1, keepdim=True) + 0.3 * x,
    lambda x, y: torch.where(x > y, x, 0.5 * y),
    lambda x, y: (x - y).square().sum(-1, keepdim=True).amax(-2, keepdim=True).sqrt() * x,
    lambda x, y: x.cumsum(-2) / N + y,
]


def program(
    seed: int, trials: int, length: int = 12
) -> Callable[[list[Tensor], list[Tensor]], tuple[list[Tensor], list[Tensor]]]:
    """A random round: three leaves are carried, and some of what it computes is kept."""
    draw = torch.Generator().manual_seed(seed)

    def any_of(n: int) -> int:
        return int(torch.randint(n, (1,), generator=draw))

    steps = [(any_of(len(OPERATIONS)), any_of(4 + k), any_of(4 + k)) for k in range(length)]
    last = [4 + any_of(length) for _ in range(3)]
    kept = [4 + any_of(length) for _ in range(3)]

    def do(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        known = [*carry, *data]
        for operation, a, b in steps:
            known.append(OPERATIONS[operation](known[a], known[b]).expand(trials, N, D))
        after = [
            torch.tanh(known[k]) if k == last[0] else 0.5 * (known[k] / (1 + known[k].abs()) + own)
            for k, own in zip(last, carry, strict=True)
        ]
        return after, [known[kept[0]].sum(-1), tree_sum(known[kept[1]]), known[kept[2]] * 1.0]

    return do


def outcome(seed: int, trials: int, rounds: int = 5) -> list[Tensor]:
    """What is carried and kept after some rounds."""
    draw = torch.Generator().manual_seed(seed)
    carry = [torch.randn(trials, N, D, generator=draw, dtype=torch.float64) for _ in range(3)]
    data = [torch.randn(rounds, trials, N, D, generator=draw, dtype=torch.float64)]
    made = compiled(program(seed, trials), carry, data)
    rows = [torch.zeros(rounds, *shape, dtype=dtype) for shape, dtype in made.rows]
    bound = made.bound(carry, data, rows)
    bound(0, rounds)
    return [*(each.clone() for each in bound.carry), *rows]


@pytest.mark.parametrize("trials", [1, 3])
@pytest.mark.parametrize("seed", range(12))
def test_random_rounds_have_the_bits_of_loops_one_after_the_other(
    seed: int, trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusion, "ENOUGH", 2**62)
    expected = outcome(seed, trials)
    monkeypatch.setattr(fusion, "ENOUGH", 0)
    found = [outcome(seed, trials)]
    monkeypatch.setattr(fusion, "ROW", 0)  # rows are stored where they were
    found.append(outcome(seed, trials))
    monkeypatch.setattr(fusion, "ROW", 2**14)
    monkeypatch.setattr(function, "LARGE", 0)
    monkeypatch.setattr(function, "count", lambda numbers: 3)
    monkeypatch.setattr(parts, "FEW", 1)
    found.append(outcome(seed, trials))
    for each in found:
        for got, own in zip(each, expected, strict=True):
            torch.testing.assert_close(got, own, rtol=0, atol=0, equal_nan=True)


def test_random_rounds_are_what_torch_computes() -> None:
    for seed in range(12):
        draw = torch.Generator().manual_seed(seed)
        carry = [torch.randn(1, N, D, generator=draw, dtype=torch.float64) for _ in range(3)]
        data = torch.randn(5, 1, N, D, generator=draw, dtype=torch.float64)
        do, rows = program(seed, 1), list[Sequence[Tensor]]()
        for k in range(5):
            carry, kept = do(carry, [data[k]])
            rows.append(kept)
        found = outcome(seed, 1)
        for got, own in zip(found, [*carry, *map(torch.stack, zip(*rows, strict=True))], strict=True):
            torch.testing.assert_close(got, own, rtol=1e-9, atol=1e-9)


def planned(f: Callable[..., list[Tensor]], *leaves: Tensor) -> Routine:
    return written_out(lambda _, data: ([], f(*data)), [], [each.unsqueeze(0) for each in leaves])


def large(routine: Routine) -> list[Loop]:
    """The loops over all rows around other loops."""
    loops = [each for each in routine.body if isinstance(each, Loop) and each.stop == 600]
    return [each for each in loops if any(isinstance(inner, Loop) for inner in each.body)]


def test_sums_over_the_same_rows_share_their_loops() -> None:
    a, b = torch.rand(600, 64, dtype=torch.float64), torch.rand(600, 64, dtype=torch.float64)
    (loop,) = large(planned(lambda a, b: [(a * b).sum(-1), (a - b).square().sum(-1), (a / b).norm(dim=-1)], a, b))
    assert sum(isinstance(each, Loop) for each in loop.body) == 1


def test_a_sum_that_needs_another_does_not_share_its_loop() -> None:
    a = torch.rand(600, 64, dtype=torch.float64)

    def f(a: Tensor) -> list[Tensor]:
        mean = a.sum(-1, keepdim=True) / 64
        return [mean, (a - mean).square().sum(-1)]

    (loop,) = large(planned(f, a))
    assert sum(isinstance(each, Loop) for each in loop.body) == 2


def test_what_only_a_row_needs_takes_no_memory_of_all_rows() -> None:
    a = torch.rand(600, 64, dtype=torch.float64)

    def f(a: Tensor) -> list[Tensor]:
        e = torch.exp(a)
        return [e.sum(-1), (e / (1 + e)).sum(-1)]

    assert planned(f, a).scratch < 600 * 64 * 8


def test_rows_that_others_read_are_not_overwritten() -> None:
    x = torch.rand(600, 64, dtype=torch.float64)

    def do(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        (x,) = carry
        s = torch.exp(-x.roll(-1, 0)).sum(-1, keepdim=True)  # of the next row, as it was before the round
        return [0.9 * x + 0.001 * s], [(x - s).square().sum(-1)]

    expected, rows = x.clone(), []
    for _ in range(3):
        (expected,), (row,) = do([expected], [])
        rows.append(row)
    made = compiled(do, [x], [])
    kept = [torch.zeros(3, 600, dtype=torch.float64)]
    bound = made.bound([x.clone()], [], kept)
    bound(0, 3)
    torch.testing.assert_close(bound.carry[0], expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(kept[0], torch.stack(rows), rtol=1e-12, atol=1e-12)


def test_sums_over_slices_of_what_rounds_change_read_it_again() -> None:
    x, g = torch.rand(600, 64, dtype=torch.float64), torch.rand(3, 600, 64, dtype=torch.float64)

    def do(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        (x,), (g,) = carry, data
        mean = tree_sum(x) / 600
        return [0.5 * (x + x[torch.arange(599, -1, -1)]) - 0.1 * g], [
            mean,
            tree_sum((x - mean).square()),
            tree_sum((x - g).square()),
        ]

    expected, rows = x.clone(), []
    for each in g:
        (expected,), kept = do([expected], [each])
        rows.append(kept)
    assert written_out(do, [x], [g]).scratch < 600 * 64 * 8  # neither square is in memory
    made = compiled(do, [x], [g])
    found = [torch.zeros(3, 1, 64, dtype=torch.float64) for _ in range(3)]
    bound = made.bound([x.clone()], [g], found)
    bound(0, 3)
    assert torch.equal(bound.carry[0], expected)
    assert all(torch.equal(each, torch.stack(own)) for each, own in zip(found, zip(*rows, strict=True), strict=True))


@pytest.mark.parametrize("rows", [2, 9])
def test_work_grows_with_the_numbers(rows: int) -> None:
    """It decides what is worth a meeting of threads: sums in chunks, and of several rows at a time, count each number about once."""

    def of(n: int) -> int:
        made = planned(lambda x: [x.sum(-1)], torch.zeros(rows, n, dtype=torch.float64))
        return sum(map(work, made.body))

    for n in (100, 1000, 1032, 2048, 3000):
        assert 0.9 * rows * n < of(n) < 1.5 * rows * n + 100, n
