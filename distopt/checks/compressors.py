"""Compressors: pure row by row, packed as small as they say, and as good as they say."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.checks._common import N, R, copied, normals, require, same_bits
from distopt.optional import CompressorDefaults, completed

DIMS = (1, 2, 3, 7, 8, 9, 17, 64, 100)
DRAWS = 400


def drawn(compressor: Any, lead: tuple[int, ...], d: int, seed: int) -> Tensor | None:
    """Uniforms [*lead, words], or [*lead[:-1], 1, words] for a shared draw; None if it draws no numbers."""
    words = compressor.words(d)
    if not words:
        return None
    lead = (*lead[:-1], 1) if compressor.shared else lead
    return torch.rand(*lead, words, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def there_and_back(compressor: Any, z: Tensor, seed: int = 0) -> tuple[Any, Tensor]:
    """The payload of z [..., n, d] and what it decodes to."""
    d = z.shape[-1]
    u = drawn(compressor, tuple(z.shape[:-1]), d, seed)
    warm = None if compressor.start is None else compressor.start(d, z.dtype).expand(*z.shape[:-1], -1)
    payload = compressor.encode(z, u) if warm is None else compressor.encode(z, u, warm)
    return payload, compressor.decode(payload, d, z.dtype, u if compressor.shared else None)


def check_compressor(compressor: Any) -> None:
    """Check a compressor against ``distopt.protocols.Compressor``.

    Promises, for rows of 1 to 100 numbers in both precisions:

    - Decoding gives z's shape and dtype, and ``bits`` is the size of the payload. Both functions are pure.
    - A row's numbers do not depend on the other rows, bit for bit.
    - Zeros stay zero if a contraction or variance is promised. Huge and tiny numbers stay finite, and a NaN is not lost.
    - The error is within ``delta`` (on average over the draws). With ``omega``, the mean is z.

    Raises:
        AssertionError: naming the first promise that is broken.

    >>> from distopt.compressors.topk import TopK
    >>> print(check_compressor(TopK(k=2)))
    None
    """
    who, compressor = type(compressor).__name__, completed(CompressorDefaults, compressor)
    for d in DIMS:
        for dtype in (torch.float32, torch.float64):
            _check_form(compressor, normals(R, N, d, seed=d, dtype=dtype), f"{who}, d = {d}, {dtype}")
        _check_quality(compressor, d, f"{who}, d = {d}")


def _check_form(compressor: Any, z: Tensor, who: str) -> None:
    d = z.shape[-1]
    before = copied(z)
    payload, back = there_and_back(compressor, z)
    require(back.shape == z.shape and back.dtype == z.dtype, f"{who}: comes back as {list(back.shape)} {back.dtype}")
    require(same_bits(before, z), f"{who}: changes its input in place")
    require(
        same_bits((payload, back), there_and_back(compressor, z)),
        f"{who}: not pure: the same input gives another payload",
    )
    leaves = pytree.tree_leaves(payload)
    require(all(leaf.shape[:-1] == z.shape[:-1] for leaf in leaves), f"{who}: a payload leaf is not [R, n, *]")
    took = sum(8 * leaf.shape[-1] * leaf.element_size() for leaf in leaves)
    told = compressor.bits(d, z.element_size())
    require(told == took, f"{who}: bits says {told}, the payload of a row takes {took}")
    u = drawn(compressor, tuple(z.shape[:-1]), d, 0)
    known = u if compressor.shared else None
    for n in range(N):
        own = u if u is None or known is not None else u[:, n : n + 1]
        warm = () if compressor.start is None else (compressor.start(d, z.dtype).expand(R, 1, -1),)
        alone = compressor.decode(compressor.encode(z[:, n : n + 1], own, *warm), d, z.dtype, known)
        require(same_bits(alone, back[:, n : n + 1]), f"{who}: a row alone gives other numbers than among others")
    if compressor.delta(d) is not None or compressor.omega(d) is not None:
        require(bool((there_and_back(compressor, torch.zeros_like(z))[1] == 0).all()), f"{who}: zeros do not stay zero")
    limits = torch.finfo(z.dtype)
    for size in (limits.max / 2**10, limits.tiny * 8):
        require(
            bool(torch.isfinite(there_and_back(compressor, z.clamp(-4, 4) * size)[1]).all()),
            f"{who}: not finite at size {size:.1e}",
        )
    spoilt = z.clone()
    spoilt[0, 0, d // 2] = torch.nan
    require(bool(there_and_back(compressor, spoilt)[1][0, 0].isnan().any()), f"{who}: a NaN gets lost")
    require(bool(torch.isfinite(there_and_back(compressor, spoilt)[1][1, 0]).all()), f"{who}: a NaN spoils another row")


def _check_quality(compressor: Any, d: int, who: str) -> None:
    delta, omega = compressor.delta(d), compressor.omega(d)
    for seed, z in enumerate(
        (normals(d, seed=d), normals(d, seed=d + 1).pow(5), torch.arange(d, dtype=torch.float64) == 0)
    ):
        rows = z.to(torch.float64).expand(DRAWS, 1, d)
        _, back = there_and_back(compressor, rows, seed)
        length = rows[0].square().sum()
        errors = (back - rows).square().sum((-2, -1)) / length
        allowed = 4 * errors.std() / DRAWS**0.5 + 1e-9  # four standard errors of the mean over the draws
        lost = float(errors.mean())
        if delta is not None:
            require(
                bool(lost <= 1 - delta + allowed), f"{who}: loses {lost:.4g} of |z|^2, over 1 - delta = {1 - delta:.4g}"
            )
        if omega is not None:
            require(bool(lost <= omega + allowed), f"{who}: has variance {lost:.4g} |z|^2, over omega = {omega:.4g}")
            far = float((back.mean(0) - rows[0]).abs().max() / length.sqrt())
            require(
                far <= 5 * (omega / DRAWS) ** 0.5 + 1e-9,
                f"{who}: the mean over the draws is off by {far:.2g} |z|, so it is biased",
            )
