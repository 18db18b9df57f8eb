"""Operations that are recorded as others give what torch gives, and so do their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.operations import both
from torch import Tensor

from distopt.codegen import record
from distopt.codegen.composites import COMPOSITES, composite
from distopt.codegen.recording import Unsupported

torch.manual_seed(1)
A, B = torch.randn(4, 5, 6, dtype=torch.float64), torch.randn(4, 5, 6, dtype=torch.float64)
SURE = torch.rand(4, 5, 6, dtype=torch.float64) * 0.9 + 0.05
LABEL, SIGN = torch.randint(0, 5, (4, 6)), B.sign()
LABEL_OR_NONE = torch.where(torch.rand(4, 6) < 0.2, -100, LABEL)
WEIGHT = torch.rand(5, dtype=torch.float64) + 0.5
ODD = torch.tensor(
    [0.0, -0.0, 0.5, -2.5, 1.0, -1.0, 40.0, -40.0, 800.0, -800.0, math.inf, -math.inf, math.nan], dtype=torch.float64
)

Smooth = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Smooth] = {
    "softplus": F.softplus,
    "softplus, sharper": lambda x: F.softplus(x, 3, 2),
    "logsigmoid": F.logsigmoid,
    "silu": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "elu": lambda x: F.elu(x, 0.7),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 1.3),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "relu6": lambda x: F.relu6(4 * x),
    "hardtanh": F.hardtanh,
    "hardsigmoid": lambda x: F.hardsigmoid(3 * x),
    "hardswish": lambda x: F.hardswish(3 * x),
    "softshrink": lambda x: F.softshrink(x, 0.3),
    "hardshrink": lambda x: F.hardshrink(x, 0.3),
    "threshold": lambda x: F.threshold(x, 0.1, -3.0),
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
}

LOSSES: dict[str, Smooth] = {
    **{f"mean squares, {how}": lambda x, how=how: F.mse_loss(x, B, reduction=how) for how in ("none", "mean", "sum")},
    **{f"huber, {how}": lambda x, how=how: F.huber_loss(x, B, how, 0.7) for how in ("none", "mean", "sum")},
    **{
        f"smooth_l1, {how}": lambda x, how=how: F.smooth_l1_loss(x, B, reduction=how, beta=0.7)
        for how in ("none", "mean", "sum")
    },
    **{
        f"soft margin, {how}": lambda x, how=how: F.soft_margin_loss(x, SIGN, reduction=how)
        for how in ("none", "mean", "sum")
    },
    "l1": lambda x: F.l1_loss(x, B),
    "hinge": lambda x: F.hinge_embedding_loss(x, SIGN),
    "cross entropy of probabilities": lambda x: F.binary_cross_entropy(x.sigmoid(), SURE),
    "weighted cross entropy of probabilities": lambda x: F.binary_cross_entropy(
        x.sigmoid(), SURE, SURE, reduction="none"
    ),
    "cross entropy of logits": lambda x: F.binary_cross_entropy_with_logits(x, SURE),
    "weighted cross entropy of logits": lambda x: F.binary_cross_entropy_with_logits(
        x, SURE, SURE, pos_weight=SURE + 1, reduction="sum"
    ),
    "divergence": lambda x: F.kl_div(x, SURE, reduction="batchmean"),
    "counts": lambda x: F.poisson_nll_loss(x, SURE, full=True),
    "classes": lambda x: F.cross_entropy(x, LABEL),
    "classes, each": lambda x: F.cross_entropy(x, LABEL, reduction="none"),
    "classes, summed and smoothed": lambda x: F.cross_entropy(x, LABEL, reduction="sum", label_smoothing=0.1),
    "weighted classes, some unknown": lambda x: F.cross_entropy(x, LABEL_OR_NONE, WEIGHT),
    "rows of classes": lambda x: F.cross_entropy(x[:, :, 0], LABEL[:, 0], WEIGHT),
    "rows of classes, summed": lambda x: F.nll_loss(x[:, :, 0], LABEL_OR_NONE[:, 0], reduction="sum"),
    "one row": lambda x: F.nll_loss(x[0, :, 0], LABEL[0, 0]),
}

NUMBERS: dict[str, Smooth] = {
    **{
        name: getattr(torch, name)
        for name in (
            "atan",
            "erf",
            "erfc",
            "sinh",
            "cosh",
            "asinh",
            "tan",
            "exp2",
            "sinc",
            "frac",
            "deg2rad",
            "rad2deg",
        )
    },
    "asin": lambda x: torch.asin(x.tanh()),
    "acos": lambda x: torch.acos(x.tanh()),
    "acosh": lambda x: torch.acosh(1 + x.abs()),
    "atanh": lambda x: torch.atanh(0.9 * x.tanh()),
    "logit": lambda x: torch.logit(x.sigmoid()),
    "log2": lambda x: x.abs().log2(),
    "log10": lambda x: x.abs().log10(),
    "atan2": lambda x: torch.atan2(x, B),
    "hypot": lambda x: torch.hypot(x, B),
    "logaddexp": lambda x: torch.logaddexp(x, B),
    "xlogy": lambda x: torch.xlogy(x, SURE),
    "entropy": lambda x: torch.special.entr(x.abs()),
    "copysign": lambda x: torch.copysign(x, B),
    "fmax": lambda x: torch.fmax(x, B),
    "fmin": lambda x: torch.fmin(x, B),
    "fmod": lambda x: torch.fmod(x, 0.3) + torch.fmod(x, B),
}


def _parts_set(x: Tensor) -> Tensor:
    """Slices of a copy that are written to, whole, part by part and through a view."""
    y = x.clone()
    y[..., 0] = B[..., 1]
    y[:, 1:3] -= 0.3 * B[:, 1:3]
    y[..., 1::2].mul_(2)
    y[:, ::2].add_(1)
    view = y.mT
    view[0].zero_()
    y[:, :0] = 7
    y[y > 1.5] = 1.5
    return y * x


NUMBERS_OF_ROWS = torch.tensor([2, 0])


def _rows_put(x: Tensor) -> Tensor:
    y = x * 1
    y[NUMBERS_OF_ROWS] = B[:2]
    y[torch.tensor([-1])] = B[:1]
    return y.index_put((torch.tensor([1, 1, 3]),), B[:1], accumulate=True) * x


TENSORS: dict[str, Smooth] = {
    "var": lambda x: x.var(-1),
    "var of several axes": lambda x: x.var((0, 2), correction=0, keepdim=True),
    "std": lambda x: x.std(1),
    "std of all": lambda x: x.std(),
    "var and mean": lambda x: torch.cat(torch.var_mean(x, -1)),
    "std and mean": lambda x: torch.cat(torch.std_mean(x, -1, keepdim=True)),
    "median": lambda x: x.median(-1).values,
    "median of an even number": lambda x: x.median(0, keepdim=True).values,
    "kthvalue": lambda x: x.kthvalue(2, 1).values,
    "nansum": lambda x: x.nansum(-1) + x.nanmean(-1),
    "aminmax": lambda x: torch.stack(x.aminmax(dim=-1)),
    "cumprod": lambda x: x[..., :3].cumprod(-1),
    "norms": lambda x: x.norm(3, -1) + x.norm(1.5, -1) + x.norm(-math.inf, -1),
    "median of all": lambda x: x.median(),
    "distance": lambda x: torch.dist(x, B),
    "no distance": lambda x: x.norm(0, -1) * x.sum(-1),
    "distances": lambda x: torch.cdist(x, B[:, :3]),
    "pairwise": lambda x: F.pairwise_distance(x, B),
    "cross": lambda x: torch.linalg.cross(x[..., :3], B[..., :3]),
    "tril": lambda x: x.tril(-1) + x.triu(1),
    "diagonal": lambda x: x.diagonal(1, 1, 2),
    "diagonal below": lambda x: x.diagonal(-2, 2, 0),
    "diag_embed": lambda x: torch.cat([torch.diag_embed(x, k, *at).flatten() for k in (1, -1) for at in ((), (0, 2))]),
    "rows put": _rows_put,
    "diag": lambda x: torch.diag(x[0, 0]) + torch.diag(x[0].mT @ x[0]),
    "trace": lambda x: (x[0].mT @ x[0]).trace(),
    "layer_norm": lambda x: F.layer_norm(x, (5, 6), SURE[0], B[0]),
    "plain layer_norm": lambda x: F.layer_norm(x, (6,)),
    "rot90": lambda x: torch.cat([x.rot90(k, (0, 2)).flatten() for k in range(4)]),
    "parts set": _parts_set,
    "fixed": lambda x: x @ torch.eye(6, dtype=x.dtype) * torch.linspace(0, 1, 6, dtype=x.dtype),
}

NO_DERIVATIVE = ("rot90", "parts set", "hardsigmoid")  # torch's hardsigmoid multiplies by a sixth in single precision


SMOOTH = {
    f"{kind}: {name}": f
    for kind, cases in (("activations", ACTIVATIONS), ("losses", LOSSES), ("numbers", NUMBERS), ("tensors", TENSORS))
    for name, f in cases.items()
}


@pytest.mark.parametrize("name", SMOOTH)
def test_an_operation_made_of_others_is_that_of_torch(name: str) -> None:
    for got, expected in both(lambda x: [SMOOTH[name](x)], [A]):
        torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-14)


def derivative(f: Smooth, x: Tensor) -> Tensor:
    """By torch's functions."""
    found: Tensor = torch.func.grad(lambda y: f(y).cos().sum())(x)
    return found


def gradient(f: Smooth, x: Tensor) -> Tensor:
    """By torch's graph, for which it has other operations."""
    with torch.enable_grad():
        y = x.detach().requires_grad_()
        return torch.autograd.grad(f(y).cos().sum(), y)[0]


@pytest.mark.parametrize("by", [derivative, gradient])
@pytest.mark.parametrize("name", [name for name in SMOOTH if not name.endswith(NO_DERIVATIVE)])
def test_its_derivative_is_that_of_torch(name: str, by: Callable[[Smooth, Tensor], Tensor]) -> None:
    for got, expected in both(lambda x: [by(SMOOTH[name], x)], [A]):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["softplus", "logsigmoid", "silu", "gelu", "elu", "hardtanh", "softshrink"])
def test_activations_end_where_those_of_torch_do(name: str) -> None:
    f = ACTIVATIONS[name]
    ((got, expected),) = both(lambda x: [f(x)], [ODD])
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-300, equal_nan=True)


@pytest.mark.parametrize(
    "name",
    ["atan", "erf", "erfc", "sinh", "cosh", "asinh", "acosh", "atanh", "asin", "signbit", "log2", "sinc", "logit"],
)
def test_functions_end_where_those_of_torch_do(name: str) -> None:
    f: Any = getattr(torch, name)
    ((got, expected),) = both(lambda x: [f(x)], [ODD])
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=0, equal_nan=True)


def test_functions_of_two_numbers_are_those_of_torch_at_all_pairs() -> None:
    x, y = (each.flatten() for each in torch.meshgrid(ODD, ODD, indexing="ij"))
    names = ("atan2", "hypot", "copysign", "fmax", "fmin", "logaddexp", "heaviside", "fmod")
    found = both(lambda x, y: [getattr(torch, name)(x, y) for name in names], [x, y])
    for name, (got, expected) in zip(names, found, strict=True):
        torch.testing.assert_close(
            got, expected, rtol=1e-15, atol=0, equal_nan=True, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_whole_numbers_and_places() -> None:
    whole = torch.randint(-9, 9, (4, 5, 6))

    def do(a: Tensor, i: Tensor) -> list[Tensor]:
        return [
            torch.fmod(i, 4),
            torch.fmod(i, i.abs() + 1),
            (a > 0).count_nonzero(-1),
            i.count_nonzero(),
            i.median(-1).values,
            i.signbit(),
            torch.bucketize(a, torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float64)),
            torch.bucketize(i, torch.tensor([-3, 0, 4]), right=True),
            torch.bucketize(a, torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float64), out_int32=True, right=True),
            torch.copysign(i, a),
            i.nansum(-1),
            (i > 0).tril(),
            i.diagonal(0, -1, -2),
            a.unfold(-1, 3, 2),
            a.unfold(0, 2, 1),
            i.tril(),
            a.masked_fill(a > 0, 0.0).median(1).values,
        ]

    for k, (got, expected) in enumerate(both(do, [A, whole])):
        torch.testing.assert_close(got, expected, rtol=0, atol=0, msg=lambda text, k=k: f"{k}: {text}")


def test_the_median_of_numbers_that_are_none_is_none() -> None:
    a = A.clone()
    a[0, 0, 0] = a[3, 2, 5] = math.nan
    for got, expected in both(lambda x: [x.median(-1).values, x.median(0).values, x.median()], [a]):
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", [name for name in SMOOTH if name.startswith(("activations", "numbers"))])
def test_single_precision(name: str) -> None:
    for got, expected in both(lambda x: [SMOOTH[name](x)], [A.to(torch.float32)]):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=2e-6, atol=1e-6)


def test_a_view_of_what_is_written_to_changes_with_it() -> None:
    def do(x: Tensor) -> list[Tensor]:
        y = x.clone()
        diagonal, windows = y.diagonal(0, 1, 2), y.unfold(-1, 2, 2)
        y.add_(1)
        return [diagonal * 2, windows * 2]

    for got, expected in both(do, [A]):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("view", [lambda y: y.unfold(-1, 2, 2), lambda y: y.diagonal(0, 1, 2)])
def test_a_tensor_whose_diagonal_or_windows_are_written_to_is_refused(view: Smooth) -> None:
    def do(x: Tensor) -> list[Tensor]:
        y = x.clone()
        view(y).mul_(3)
        return [y + 1]

    with pytest.raises(Unsupported, match="which is not written out"):
        both(do, [A])


def test_in_place_forms() -> None:
    def do(x: Tensor) -> list[Tensor]:
        y = F.leaky_relu(x.clone(), inplace=True)
        y = F.silu(y, inplace=True)
        return [y.fmod_(0.7).atan_(), F.hardtanh(x * 2, inplace=True)]

    for got, expected in both(do, [A]):
        torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.slow
def test_every_one_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[Any] = set()

    def noted(name: str) -> Any:
        found = composite(name)
        seen.add(found)
        return found

    monkeypatch.setattr(record, "composite", noted)
    record._known.cache_clear()
    for name, f in SMOOTH.items():
        both(lambda x, f=f: [f(x)], [A])
        if not name.endswith(NO_DERIVATIVE):
            both(lambda x, f=f: [derivative(f, x), gradient(f, x)], [A])
    test_functions_of_two_numbers_are_those_of_torch_at_all_pairs()
    test_whole_numbers_and_places()
    test_functions_end_where_those_of_torch_do("signbit")
    missing = {name for name, f in COMPOSITES.items() if f not in seen}
    assert missing == {"hardsigmoid_backward"}  # torch's own has a sixth in single precision
