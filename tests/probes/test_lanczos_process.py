"""The Lanczos process against scipy's, against whole matrices, and where it ends early."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from distopt.probes._lanczos import ritz
from distopt.probes.spectrum import quantile


def symmetric(d: int, seed: int = 0) -> Tensor:
    a = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a + a.T


def vector(d: int, seed: int = 1) -> Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_outermost_values_are_those_of_scipy() -> None:
    h = symmetric(400) + 60 * torch.outer(vector(400, 2), vector(400, 2)) / 400
    values, _ = ritz(lambda v: h @ v, vector(400), steps=150, tolerance=1e-8)
    operator = LinearOperator((400, 400), matvec=lambda v: h.numpy() @ v)
    expected = np.sort(eigsh(operator, k=2, which="BE", return_eigenvectors=False))
    assert float(values[0]) == pytest.approx(expected[0], rel=1e-9)
    assert float(values[-1]) == pytest.approx(expected[1], rel=1e-9)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-8])
def test_the_tolerance_is_kept_and_a_wider_one_ends_sooner(tolerance: float) -> None:
    h, count = symmetric(300), 0

    def product(v: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return h @ v

    values, _ = ritz(product, vector(300), steps=300, tolerance=tolerance)
    exact = torch.linalg.eigvalsh(h)
    assert float((values[[0, -1]] - exact[[0, -1]]).abs().max()) <= tolerance * float(exact.abs().max())
    assert count == len(values) < 300


def test_as_many_steps_as_coordinates_give_all_eigenvalues() -> None:
    h = symmetric(40)
    values, weights = ritz(lambda v: h @ v, vector(40), steps=1000)
    exact, vectors = torch.linalg.eigh(h)
    start = vector(40) / vector(40).norm()
    torch.testing.assert_close(values, exact, rtol=0, atol=1e-10)
    torch.testing.assert_close(weights, (vectors.T @ start).square(), rtol=0, atol=1e-10)


def test_a_value_comes_once_however_many_steps_there_are() -> None:
    """Without orthogonality an isolated eigenvalue is found again and again."""
    diagonal = torch.cat([torch.tensor([1000.0]), torch.linspace(0, 1, 199)]).double()
    values, _ = ritz(lambda v: diagonal * v, vector(200), steps=120)
    assert len(values) == 120 and int((values > 2).sum()) == 1


def test_it_ends_where_the_vectors_span_an_invariant_space() -> None:
    diagonal = torch.tensor([1.0, 1.0, 1.0, 5.0, 5.0, 0.0]).double()
    values, weights = ritz(lambda v: diagonal * v, torch.ones(6).double(), steps=6)
    torch.testing.assert_close(values, torch.tensor([0.0, 1.0, 5.0]).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(weights, torch.tensor([1.0, 3.0, 2.0]).double() / 6, rtol=0, atol=1e-12)
    nothing, _ = ritz(torch.zeros_like, torch.ones(6).double(), steps=6)
    assert nothing.tolist() == [0.0]


def test_weights_integrate_polynomials_exactly() -> None:
    h, q = symmetric(60), vector(60) / vector(60).norm()
    values, weights = ritz(lambda v: h @ v, q, steps=4)
    power, expected = q, []
    for _ in range(8):  # degrees 0 to 2 k - 1
        expected.append(float(q @ power))
        power = h @ power
    found = [float((weights * values**degree).sum()) for degree in range(8)]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * max(map(abs, expected)))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_products_that_are_not_finite_give_nan(bad: float) -> None:
    values, weights = ritz(lambda v: bad * v, torch.ones(5).double(), steps=5)
    assert values.isnan().all() and weights.isnan().all()


def test_quantiles_are_values_up_to_which_so_much_lies() -> None:
    values, weights = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0.1, 0.4, 0.4, 0.1])
    assert [quantile(values, weights, level) for level in (0.05, 0.3, 0.75, 0.95)] == [0.0, 1.0, 2.0, 3.0]
