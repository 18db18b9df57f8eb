"""Sums are made in the order that the pages of the modules tell, and long ones keep their accuracy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distopt.codegen.function import compiled
from distopt.codegen.lanes import CHUNK, LANES


def summed(z: torch.Tensor, axis: int = -1) -> torch.Tensor:
    """The sums along an axis by a compiled function."""
    out = z.sum(axis)[None]
    function = compiled(lambda _, data: ([], [data[0].sum(axis)]), [], [z[None]])
    function.bound([], [z[None]], [out])(0, 1)
    return out[0]


def lanes(rows: np.ndarray) -> np.ndarray:
    """The eight sums of [turns, 8] numbers, chunk by chunk."""
    turns = len(rows)
    out = np.zeros(LANES, rows.dtype)
    if turns <= CHUNK:
        for row in rows:
            out = out + row
        return out
    size = CHUNK
    while size * CHUNK < turns:
        size *= CHUNK
    for k in range(0, turns, size):
        out = out + lanes(rows[k : k + size])
    return out


def by_hand(z: np.ndarray) -> float:
    whole = len(z) - len(z) % LANES
    each = list(lanes(z[:whole].reshape(-1, LANES)))
    while len(each) > 1:
        each = [a + b for a, b in zip(each[: len(each) // 2], each[len(each) // 2 :], strict=True)]
    for number in z[whole:]:
        each[0] = each[0] + number
    return float(each[0])


@pytest.mark.parametrize("n", [8, 9, 1024, 1031, 1032, 1040, 5003, LANES * CHUNK**2, LANES * CHUNK**2 + 1029])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_is_added_up_in_lanes_and_chunks(n: int, dtype: torch.dtype) -> None:
    z = torch.randn(2, n, dtype=dtype, generator=torch.Generator().manual_seed(n))
    assert summed(z).tolist() == [by_hand(row) for row in z.numpy()]


@pytest.mark.parametrize("rows", [1, 3, 4, 7, 8])
def test_rows_that_are_added_up_together_are_added_up_as_each_alone(rows: int) -> None:
    z = torch.randn(3, rows, 45, dtype=torch.float64, generator=torch.Generator().manual_seed(rows))
    assert summed(z).tolist() == [[by_hand(row) for row in block] for block in z.numpy()]


@pytest.mark.parametrize("n", [9, 10, 11, 12, 13])
def test_numbers_of_many_rows_are_added_up_from_the_first_to_the_last(n: int) -> None:
    z = torch.randn(2, n, 37, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    expected = z[:, 0]
    for k in range(1, n):
        expected = expected + z[:, k]
    assert torch.equal(summed(z, 1), expected)


def test_a_long_sum_in_single_precision_keeps_seven_digits() -> None:
    z = torch.rand(1, 3_000_001, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    exact = math.fsum(z[0].tolist())
    assert abs(summed(z).item() - exact) < 2e-7 * exact
