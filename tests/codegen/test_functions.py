"""The elementary functions: within 2 units in the last place of the truth (ndtri and erfc: 3), everywhere, in both precisions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt.codegen.function import compiled

Floats = NDArray[Any]
RNG = np.random.default_rng(5)


def emitted(f: Callable[..., Tensor], *xs: Floats) -> Floats:
    """f of these numbers, written out and compiled."""
    data = [torch.from_numpy(x)[None] for x in xs]
    rows = torch.empty_like(data[0])
    compiled(lambda _, given: ([], [f(*given)]), [], data).bound([], data, [rows])(0, 1)
    return rows[0].numpy()


def errors(got: Floats, true: list[Any]) -> Floats:
    """In units in the last place; 0 where both are infinite or no numbers."""
    out = []
    for number, exact in zip(got.tolist(), true, strict=True):
        near = got.dtype.type(float(exact))
        if math.isfinite(near):
            out.append(
                float(abs(mpmath.mpf(number) - exact) / float(np.spacing(abs(near))))
                if math.isfinite(number)
                else math.inf
            )
        else:
            out.append(0.0 if number == near or (math.isnan(number) and math.isnan(near)) else math.inf)
    return np.array(out)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x))


def quantile(p: Any) -> Any:
    """The quantile of the standard normal distribution, by Newton's method in the smaller tail."""
    if p in (0, 1):
        return mpmath.inf if p else -mpmath.inf
    tail = min(p, 1 - p)
    x = mpmath.mpf(torch.special.ndtri(torch.tensor(float(tail), dtype=torch.float64)).item())
    for _ in range(4):
        density = mpmath.exp(-x * x / 2) / mpmath.sqrt(2 * mpmath.pi)
        x -= (mpmath.erfc(-x / mpmath.sqrt(2)) / 2 - tail) / density
    return x if tail == p else -x


def spread(low: float, high: float, signed: bool = False) -> Floats:
    """Numbers of all sizes between two powers of ten."""
    size = 10.0 ** RNG.uniform(low, high, 300)
    return size * RNG.choice([-1, 1], 300) if signed else size


def within(low: float, high: float) -> Floats:
    return RNG.uniform(low, high, 300)


CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Any], list[Floats]]] = {
    "exp": (torch.exp, mpmath.exp, [within(-1, 1), within(-745, 709.7), spread(-320, 0, True)]),
    "expm1": (torch.expm1, mpmath.expm1, [within(-1, 1), within(-50, 709.7), spread(-300, 0, True)]),
    "tanh": (torch.tanh, mpmath.tanh, [within(-0.3, 0.3), within(-25, 25), spread(-300, 1, True)]),
    "sigmoid": (torch.sigmoid, sigmoid, [within(-2, 2), within(-40, 40), within(-700, 700)]),
    "ndtri": (torch.special.ndtri, quantile, [within(0, 1), spread(-307, -1), 1 - spread(-15, -0.4)]),
    "log": (torch.log, mpmath.log, [within(0.5, 2), spread(-320, 308), within(0.99, 1.01)]),
    "log1p": (torch.log1p, mpmath.log1p, [within(-0.999, 1), spread(-300, 300), spread(-20, -0.01, True)]),
    "cos": (torch.cos, mpmath.cos, [within(-4, 4), within(-1e6, 1e6), spread(-300, 0, True)]),
    "atan": (torch.atan, mpmath.atan, [within(-3, 3), within(-50, 50), spread(-300, 300, True)]),
    "erf": (torch.erf, mpmath.erf, [within(-1.5, 1.5), within(-6.5, 6.5), spread(-300, 1, True)]),
    "log2": (torch.log2, lambda x: mpmath.log(x, 2), [within(0.5, 2), spread(-320, 308), within(0.99, 1.01)]),
    "log10": (torch.log10, mpmath.log10, [within(0.5, 2), spread(-320, 308), within(0.99, 1.01)]),
    "erfc": (torch.erfc, mpmath.erfc, [within(-1.5, 1.5), within(-6.5, 26), spread(-300, 1, True)]),
    "sin": (torch.sin, mpmath.sin, [within(-4, 4), within(-1e6, 1e6), spread(-300, 0, True)]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_function_is_within_its_bound(name: str, dtype: Any) -> None:
    f, truth, samples = CASES[name]
    with np.errstate(over="ignore"):
        x = np.concatenate(samples).astype(dtype)
    x = x[np.isfinite(x) & ((x > -1) | (name != "log1p")) & ((x > 0) | (name not in ("log", "log2", "log10")))]
    with mpmath.workprec(200), np.errstate(over="ignore", under="ignore"):
        worst = errors(emitted(f, x), [truth(mpmath.mpf(float(each))) for each in x]).max()
    limit = 3 if name in ("ndtri", "erfc") else 2
    assert worst < (limit if dtype is np.float64 else 0.51)


def test_a_power_is_within_2_units_in_the_last_place() -> None:
    x = np.concatenate([spread(-2, 2), spread(-10, 10), within(0.9, 1.1), spread(-0.5, 0.5)])
    y = np.concatenate([within(-5, 5), within(-9, 9), within(-1000, 1000), within(-300, 300)])
    with mpmath.workprec(300):
        truth = [mpmath.power(mpmath.mpf(a), mpmath.mpf(b)) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
        assert errors(emitted(torch.pow, x, y), truth).max() < 2


LIMITS = [0.0, -0.0, 1.0, -1.0, -2.0, 5e-324, 1e-310, 709.79, 800.0, -800.0, math.inf, -math.inf, math.nan]


@pytest.mark.parametrize("name", CASES)
def test_a_function_has_the_limits_that_torch_has(name: str) -> None:
    f = CASES[name][0]
    x = np.array([each for each in LIMITS if name not in ("sin", "cos") or abs(each) < 1e6 or math.isnan(each)])
    np.testing.assert_allclose(emitted(f, x), f(torch.from_numpy(x)).numpy(), rtol=1e-15, atol=1e-323)


def test_a_power_has_the_limits_that_torch_has() -> None:
    bases = [0.0, 1.0, -1.0, -2.0, 2.0, 0.5, 1e-310, math.inf, math.nan]
    pairs = [(a, b) for a in bases for b in (0.0, 1.0, -1.0, 2.0, 3.0, -3.0, 0.5, -0.5, 1e4, -1e4, math.nan)]
    x, y = (np.array(each) for each in zip(*pairs, strict=True))
    expected = torch.pow(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    np.testing.assert_allclose(emitted(torch.pow, x, y), expected, rtol=1e-15)


def test_an_error_of_3_units_would_be_noticed() -> None:
    x = within(1, 2)
    with mpmath.workprec(200):
        truth = [mpmath.exp(mpmath.mpf(each)) for each in x.tolist()]
        wrong = emitted(torch.exp, x)
        for _ in range(3):
            wrong = np.nextafter(wrong, np.inf)
        assert errors(wrong, truth).max() > 2
