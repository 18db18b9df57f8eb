"""Compressors: the battery, loops written number by number from the definitions, and what is packed."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from distopt.catalog.registry import make, names
from distopt.checks import check_compressor
from distopt.checks.compressors import there_and_back
from distopt.codegen.function import compiled
from distopt.compressors._packed import planes, size, unplaned
from distopt.compressors.lowrank import LowRank
from distopt.compressors.qsgd import QSGD
from distopt.compressors.sign import Sign
from distopt.compressors.unscaled_sign import UnscaledSign
from distopt.errors import InputError

SPECS = [
    *names("compressors"),
    "sign:segments=1",
    "unscaled_sign:zero=minus",
    "topk:k=3",
    "randomk:k=2",
    "randomk:fraction=0.2,unbiased=true",
    "qsgd:levels=1",
    "qsgd:levels=7,contraction=true",
    "dither:precision=4,block=8",
    "dither:precision=3,block=3",
    "cast:to=bf16",
    "lowrank:rank=2",
    "lowrank:rank=3,rows=5",
]
rows = st.integers(1, 40).flatmap(
    lambda d: arrays(np.float64, d, elements=st.floats(-1e300, 1e300, allow_subnormal=True))
)


@pytest.mark.parametrize("spec", SPECS)
def test_the_battery(spec: str) -> None:
    check_compressor(make("compressors", spec))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows)
@example(np.array([1.0, 0.0, 0.0, 1.0] + 7 * [0.0]))  # as a matrix it has rank 1
def test_any_row_comes_back_finite_and_contracted(row: np.ndarray) -> None:
    z = torch.from_numpy(row)[None]
    largest = float(np.abs(row).max()) or 1.0
    for spec in SPECS:
        compressor = make("compressors", spec)
        _, back = there_and_back(compressor, z)
        assert back.shape == z.shape and back.dtype == z.dtype
        assert bool(torch.isfinite(back).all()), spec
        delta = compressor.delta(len(row))
        if delta is not None and not (compressor.words(1)):  # random ones contract on average only
            lost = float(((back - z) / largest).square().sum())
            assert lost <= (1 - delta) * float((z / largest).square().sum()) * (1 + 1e-9) + 1e-300, spec


# From the definitions


def uniforms(z: Tensor, compressor: Any, seed: int = 0) -> Tensor:
    return torch.rand(*z.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand_sign(z: list[float], u: list[float]) -> list[float]:
    scale = sum(abs(each) for each in z) / len(z)
    return [scale if each >= 0 else -scale for each in z]


def by_hand_qsgd(z: list[float], u: list[float]) -> list[float]:
    length = math.sqrt(sum(each * each for each in z))
    return [
        math.copysign(length * math.floor(4 * abs(each) / length + drawn) / 4, each)
        for each, drawn in zip(z, u, strict=True)
    ]


def by_hand_dither(z: list[float], u: list[float]) -> list[float]:
    out = []
    for start in range(0, len(z), 8):
        largest = max(abs(each) for each in z[start : start + 8])
        for each, drawn in zip(z[start : start + 8], u[start : start + 8], strict=True):
            out.append(math.copysign(largest / 7 * min(7, math.floor(7 * abs(each) / largest + drawn)), each))
    return out


def by_hand_natural(z: list[float], u: list[float]) -> list[float]:
    out = []
    for each, drawn in zip(z, u, strict=True):
        power = math.floor(math.log2(abs(each)))
        out.append(math.copysign(2.0 ** (power + (drawn < abs(each) / 2.0**power - 1)), each))
    return out


def by_hand_topk(z: list[float], u: list[float]) -> list[float]:
    kept = sorted(range(len(z)), key=lambda i: -abs(z[i]))[:3]
    return [each if i in kept else 0.0 for i, each in enumerate(z)]


def by_hand_randomk(z: list[float], u: list[float]) -> list[float]:
    kept = sorted(range(len(z)), key=lambda i: -u[i])[:2]
    return [each if i in kept else 0.0 for i, each in enumerate(z)]


@pytest.mark.parametrize(
    ("spec", "by_hand"),
    [
        ("sign", by_hand_sign),
        ("qsgd", by_hand_qsgd),
        ("dither:precision=4,block=8", by_hand_dither),
        ("natural", by_hand_natural),
        ("topk:k=3", by_hand_topk),
        ("randomk:k=2", by_hand_randomk),
    ],
)
@pytest.mark.parametrize("d", [5, 8, 19])
def test_each_is_its_definition(spec: str, by_hand: Any, d: int) -> None:
    compressor, z = make("compressors", spec), numbers(20, d)
    u = uniforms(z, compressor)
    if compressor.shared:
        u = u[:1].expand_as(u)
    back = compressor.decode(compressor.encode(z, u), d, z.dtype, u)
    for row, drawn, found in zip(z.tolist(), u.tolist(), back.tolist(), strict=True):
        assert np.allclose(by_hand(row, drawn), found, rtol=1e-12, atol=0)


def test_lowrank_is_a_power_iteration_and_approaches_the_best() -> None:
    z, low = numbers(1, 42, seed=3), LowRank(rank=2, rows=7)
    matrix = z.reshape(7, 6).numpy()
    warm = low.start(42, z.dtype)[None]
    first = np.linalg.qr(matrix @ warm.reshape(2, 6).numpy().T)[0]
    assert np.allclose(
        low.decode(low.encode(z, None, warm), 42, z.dtype).reshape(7, 6), first @ first.T @ matrix, atol=1e-12
    )
    for _ in range(300):
        payload = low.encode(z, None, warm)
        warm = low.warm(payload, 42)
    left, values, right = np.linalg.svd(matrix)
    best = (left[:, :2] * values[:2]) @ right[:2]
    assert np.allclose(low.decode(payload, 42, z.dtype).reshape(7, 6), best, atol=1e-8)
    assert low.warm(low.encode(torch.zeros(1, 42), None, warm.float()), 42).abs().max() > 0, (
        "a zero message would end it for ever"
    )


def test_the_residual_of_the_sign_is_its_density() -> None:
    z = numbers(50, 13)
    back = Sign().decode(Sign().encode(z), 13, z.dtype)
    density = z.abs().sum(-1).square() / (13 * z.square().sum(-1))
    assert torch.allclose((back - z).square().sum(-1), (1 - density) * z.square().sum(-1), rtol=1e-12)


def test_segments_have_their_own_scales() -> None:
    z = numbers(4, 10)
    parts = [Sign().decode(Sign().encode(part), part.shape[-1], z.dtype) for part in z.split([3, 5, 2], -1)]
    for spec in ("3+5", "3+5+2"):
        whole = Sign(spec)
        assert torch.equal(whole.decode(whole.encode(z), 10, z.dtype), torch.cat(parts, -1))
        assert whole.bits(10, 8) == 16 + 3 * 64


def test_the_sign_of_zero_is_what_was_asked_for() -> None:
    z = torch.tensor([[0.0, -0.0, 2.0, -3.0]])
    for zero, value in (("plus", 1.0), ("minus", -1.0)):
        sign = UnscaledSign(zero)
        assert sign.decode(sign.encode(z), 4, z.dtype).tolist() == [[value, value, 1.0, -1.0]]


def test_signs_are_bits_in_bytes() -> None:
    packed, scale = Sign().encode(numbers(3, 1000).float())
    assert packed.dtype == torch.uint8 and packed.shape == (3, 125) and scale.shape == (3, 1)
    assert Sign().bits(1000, 4) == 1032  # the paper's d + 32


@given(
    st.integers(1, 12).flatmap(
        lambda w: st.tuples(st.just(w), st.lists(st.integers(0, 2**w - 1), min_size=1, max_size=50))
    )
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_codes_survive_packing(case: tuple[int, list[int]]) -> None:
    width, codes = case
    packed = planes(torch.tensor(codes), width)
    assert 8 * packed.shape[-1] == size(len(codes), width) < 8 * width * (len(codes) / 8 + 1)
    assert unplaned(packed, len(codes), width).tolist() == codes


@pytest.mark.parametrize("lead", [(), (0,), (2, 3)], ids=str)
@pytest.mark.parametrize("width", [1, 12, 31, 32, 40])
def test_planes_are_the_bits_of_the_codes_whatever_their_shape(width: int, lead: tuple[int, ...]) -> None:
    for d in (0, 1, 8, 9):
        codes = torch.randint(0, 2**width, (*lead, d), generator=torch.Generator().manual_seed(d))
        packed, m = planes(codes, width), -(-d // 8)
        assert packed.dtype == torch.uint8 and packed.shape == (*lead, width * m)
        assert torch.equal(unplaned(packed, d, width), codes)
        for p, k, j in itertools.product(range(width), range(8), range(m)):
            own = codes[..., k * m + j] if k * m + j < d else torch.zeros(lead, dtype=torch.int64)
            assert torch.equal((packed[..., p * m + j] >> k) & 1, (own >> p).to(torch.uint8) & 1)


@pytest.mark.parametrize(
    "spec",
    [
        "sign:segments=0+2",
        "sign:segments=a",
        "topk:k=-1",
        "randomk:fraction=0",
        "qsgd:levels=0",
        "dither:precision=1",
        "cast:to=fp8",
        "lowrank:rank=0",
    ],
)
def test_bad_settings_are_refused_in_one_line(spec: str) -> None:
    with pytest.raises(InputError) as caught:
        make("compressors", spec)
    assert "\n" not in str(caught.value) and spec.split(":", maxsplit=1)[0] in str(caught.value)


def test_segments_longer_than_the_row_are_refused() -> None:
    with pytest.raises(InputError, match="a row has 3"):
        Sign("4").encode(torch.ones(1, 3))


@pytest.mark.parametrize(
    "spec", ["sign", "topk:k=3", "qsgd", "natural", "dither:precision=4,block=8", "lowrank:rank=2"]
)
def test_compiled_they_give_the_same_on_any_rows(spec: str) -> None:
    method = make("compressors", spec)

    def both_ways(z: Tensor, u: Tensor) -> Tensor:
        warm = () if method.start is None else (method.start(19, z.dtype).expand(*z.shape[:-1], -1),)
        decoded: Tensor = method.decode(method.encode(z, u, *warm), 19, z.dtype)
        return decoded

    def written(z: Tensor, u: Tensor) -> Tensor:
        function = compiled(lambda _, data: ([], [both_ways(*data)]), [], [z[None], u[None]])
        out = torch.empty(1, *z.shape, dtype=z.dtype)
        function.bound([], [z[None].contiguous(), u[None].contiguous()], [out])(0, 1)
        return out[0]

    z = numbers(1, 12, 19)
    u = uniforms(z, QSGD())
    whole = written(z, u)
    for part in (slice(7, 8), slice(3, 10)):
        assert torch.equal(written(z[:, part], u[:, part]), whole[:, part])
    assert torch.allclose(both_ways(z, u), whole, rtol=1e-12, atol=1e-14)


def test_the_page_tells_each_compressor_as_it_is() -> None:
    text = (Path(__file__).parents[2] / "docs" / "compression.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if re.match(r"\| `\w+(:\S+)?` \| \d", line)
    ]
    assert {row[0].strip("`").partition(":")[0] for row in rows} == set(names("compressors"))
    for spec, *told in (row[:4] for row in rows):
        compressor = make("compressors", spec.strip("`"))
        bits, delta, omega = compressor.bits(1000, 4), compressor.delta(1000), compressor.omega(1000)
        assert told == [str(bits), *("-" if each is None else f"{each:.3g}" for each in (delta, omega))], spec
