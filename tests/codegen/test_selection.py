"""The first numbers of rows, in order: of equal ones the first, and a NaN is the largest of all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distopt.codegen.function import compiled


def first(z: Tensor, k: int, largest: bool) -> tuple[Tensor, Tensor]:
    """The k first numbers of each row and their places, by a compiled function."""
    function = compiled(lambda _, data: ([], [*data[0].topk(k, -1, largest)]), [], [z[None]])
    values, places = (torch.empty(1, *shape, dtype=dtype) for shape, dtype in function.rows)
    function.bound([], [z[None]], [values, places])(0, 1)
    return values[0], places[0]


def rows(kind: str, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    z = torch.randn(3, n, generator=generator, dtype=torch.float64)
    if kind == "few values":
        return (3 * z).round()
    if kind == "odd values":
        odd = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1.0], dtype=torch.float64)
        return odd[torch.randint(0, 6, (3, n), generator=generator)]
    return {"all values": z, "rising": z.sort().values, "falling": z.sort(descending=True).values, "equal": z * 0}[kind]


@pytest.mark.parametrize("kind", ["all values", "few values", "odd values", "rising", "falling", "equal"])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (2, 2), (3, 2), (7, 7), (100, 1), (100, 33), (257, 256)])
def test_they_are_those_of_a_stable_sort(kind: str, n: int, k: int) -> None:
    z = rows(kind, n)
    for largest in (True, False):
        values, places = first(z, k, largest)
        order = torch.sort(z, stable=True, descending=largest).indices[:, :k]
        assert torch.equal(places, order)
        torch.testing.assert_close(values, z.gather(-1, order), rtol=0, atol=0, equal_nan=True)
