"""Every operation of torch that is written out gives what torch gives; every other one is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.operations import CLOSE, COUNTED, EXACT, PLACES, SUM, A, both
from torch import Tensor

from distopt.codegen.function import compiled
from distopt.codegen.recording import Unsupported


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_operation_has_the_bits_of_torch(name: str) -> None:
    for k, (got, expected) in enumerate(both(*EXACT[name])):
        assert got.dtype == expected.dtype and got.shape == expected.shape, k
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True, msg=lambda text, k=k: f"{k}: {text}")


@pytest.mark.parametrize("name", CLOSE)
def test_what_torch_rounds_differently_is_close(name: str) -> None:
    for k, (got, expected) in enumerate(both(*CLOSE[name])):
        single = expected.dtype == torch.float32
        close = {"rtol": 1e-6 if single else 1e-14, "atol": 1e-6 if single else 1e-14}
        torch.testing.assert_close(got, expected, msg=lambda text, k=k: f"{k}: {text}", **close)


def _changed_view(part: Tensor, a: Tensor) -> Tensor:
    part[0] = 0
    part[1:] += a[0, 1:]
    return part + 1


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "a number": (lambda a: [a * a.sum().item()], "number"),
    "a branch": (lambda a: [a if a.sum() > 0 else -a], "number"),
    "a list": (lambda a: [a * a[0, 0].tolist()[0]], "tolist"),
    "numpy": (lambda a: [a + torch.from_numpy(a.numpy() * 2)], "numpy"),
    "an array": (lambda a: [a + torch.from_numpy(__import__("numpy").asarray(a))], "__array__"),
    "a comparison": (lambda a: [a * 2 if torch.equal(a, a * 1) else a], "equal"),
    "a counter": (lambda a: [a * len(COUNTED.append(0) or COUNTED)], "each time"),
    "digits": (lambda a: [a.round(decimals=2)], "decimals"),
    "data": (lambda a: [a.data * a.untyped_storage()[0]], "something else|not written out|number"),
    "an accumulator": (lambda a: [a + SUM.add_(a)], "keeps from round to round"),
    "a buffer that is read": (lambda a: [a + SUM * 2 * SUM.copy_(a)], "keeps from round to round"),
    "a part of a buffer": (lambda a: [a + SUM * SUM[0].copy_(a[0])], "keeps from round to round"),
    "chance": (lambda a: [a + torch.rand_like(a)], "rand"),
    "an unknown operation": (lambda a: [torch.linalg.qr(a)[0]], "qr"),
    "a mask": (lambda a: [a[a > 0]], "index.Tensor"),
    "complex numbers": (lambda a: [torch.fft.fft(a).real], "complex"),
    "half precision": (lambda a: [a.half() + 1], "in 16 bits"),
    "a view of a buffer": (lambda a: [_changed_view(SUM[0], a)], "keeps from round to round"),
    "a given result with a composite": (lambda a: [torch.logit(a, out=torch.empty_like(a))], "writes to a tensor"),
    "a given result": (lambda a: [torch.add(a, a, out=torch.empty_like(a))], "writes to a tensor"),
    "a result that is no tensor": (lambda a: [3.0], "float"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_out_is_refused_by_name(name: str) -> None:
    do, named = REFUSED[name]
    with pytest.raises(Unsupported, match=named):
        both(do, [A])


def gathered(shift: int) -> Tensor:
    """What is gathered from places that are far outside in the second round, and in the first one only seem so."""

    def do(_: Any, given: list[Tensor]) -> Any:
        a, p = given
        return [], [a.gather(-1, p - shift)]

    data = [A[None], PLACES[None].repeat(2, 1, 1, 1) + shift]
    data[1][1] += 10**6
    rows = [torch.empty(2, *PLACES.shape, dtype=torch.float64)]
    compiled(do, [], data).bound([], data, rows)(0, 2)
    return rows[0]


def test_places_that_rounds_compute_never_leave_the_tensor() -> None:
    rows = gathered(1)
    assert torch.equal(rows[0], A.gather(-1, PLACES)) and torch.equal(rows[1], A[..., -1:].expand(PLACES.shape))


def test_data_with_places_outside_are_refused() -> None:
    with pytest.raises(
        IndexError, match="1000000 .. 1000009 in a tensor that has 10|0 .. 1000009 in a tensor that has 10"
    ):
        gathered(0)


def test_a_power_of_a_half_is_the_root_rounded_once() -> None:
    ((got, _),) = both(lambda a: [a.abs() ** 0.5], (A,))
    expected = np.sqrt(np.abs(A.numpy()))  # torch's own root is not correctly rounded on every processor
    assert np.array_equal(got.numpy().reshape(expected.shape), expected)


@pytest.mark.parametrize("n", [63, 64, 71, 200])
def test_the_largest_of_a_long_row_is_that_of_torch(n: int) -> None:
    rows = torch.randn(5, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    rows[1, 7], rows[2, n - 1], rows[3, n - 1], rows[4, 0] = torch.nan, 9.0, -9.0, torch.inf
    for got, expected in both(lambda a: [a.amax(-1), a.amin(-1), a.abs().amax(-1, keepdim=True)], (rows,)):
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
