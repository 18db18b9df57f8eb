"""Statistics, and numbers moved to other places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def _spread(
    x: Tensor, dim: Sequence[int] | int | None, correction: float | None, keepdim: bool
) -> tuple[Tensor, Tensor]:
    """The variance along axes, and the mean."""
    axes = list(range(x.dim())) if dim is None or dim == [] else [dim] if isinstance(dim, int) else list(dim)
    count = math.prod(x.shape[axis] for axis in axes)
    mean = x.mean(axes, True)
    var = (x - mean).square().sum(axes, keepdim) / max(0, count - (1 if correction is None else correction))
    return var, mean if keepdim else x.mean(axes)


def var(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    return _spread(x, dim, correction, keepdim)[0]


def std(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    return _spread(x, dim, correction, keepdim)[0].sqrt()


def var_mean(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    return _spread(x, dim, correction, keepdim)


def std_mean(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    found, mean = _spread(x, dim, correction, keepdim)
    return found.sqrt(), mean


def kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    values, places = (each.narrow(dim, k - 1, 1) for each in x.sort(dim))
    return (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))


def median_dim(x: Tensor, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    values, places = kthvalue(x, (x.shape[dim] + 1) // 2, dim, keepdim)
    if not x.is_floating_point():
        return values, places
    lost = x.isnan()
    first = lost.to(torch.int64).argmax(dim, keepdim)
    some = lost.any(dim, keepdim)
    return torch.where(some, math.nan, values), torch.where(some, first, places)


def median(x: Tensor) -> Tensor:
    return median_dim(x.reshape(-1))[0]


def nansum(
    x: Tensor, dim: tuple[int, ...] | int | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor:
    return x.masked_fill(x.isnan(), 0).sum(dim, keepdim, dtype=dtype)


def count_nonzero(x: Tensor, dim: tuple[int, ...] | int | None = None) -> Tensor:
    return (x != 0).sum(dim)


def aminmax(x: Tensor, *, dim: int | None = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    axes = [] if dim is None else [dim]
    return x.amin(axes, keepdim), x.amax(axes, keepdim)


def dist(x: Tensor, y: Tensor, p: float = 2) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x - y, p)
    return found


def cdist_forward(x: Tensor, y: Tensor, p: float, mode: int | None) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)
    return found


def cdist_backward(g: Tensor, x: Tensor, y: Tensor, p: float, distance: Tensor) -> Any:
    if p not in (1, 2):
        return NotImplemented
    apart = x.unsqueeze(-2) - y.unsqueeze(-3)
    if p == 1:
        return (g.unsqueeze(-1) * apart.sign()).sum(-2)
    pull = torch.where(distance == 0, 0.0, g / distance)
    return (pull.unsqueeze(-1) * apart).sum(-2)


def norm_scalaropt_dim(x: Tensor, p: float | None, dim: Sequence[int], keepdim: bool = False) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x, 2 if p is None else p, list(dim), keepdim)
    return found


def linalg_cross(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    return x.roll(-1, dim) * y.roll(-2, dim) - x.roll(-2, dim) * y.roll(-1, dim)


def _above(x: Tensor) -> Tensor:
    """By how much each column's place is larger than the row's."""
    return torch.arange(x.shape[-1]) - torch.arange(x.shape[-2])[:, None]


def tril(x: Tensor, diagonal: int = 0) -> Tensor:
    return x.masked_fill(_above(x) > diagonal, 0)


def triu(x: Tensor, diagonal: int = 0) -> Tensor:
    return x.masked_fill(_above(x) < diagonal, 0)


def diagonal_copy(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    return x.diagonal(offset, dim1, dim2).clone()


def diag_embed(x: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    more = abs(offset)
    y = torch.cat([x, torch.zeros(*x.shape[:-1], more, dtype=x.dtype)], -1) if more else x
    y = (y.unsqueeze(-1) if offset >= 0 else y.unsqueeze(-2)).expand(*y.shape, y.shape[-1])
    return torch.where(_above(y) == offset, y, 0).movedim((-2, -1), (dim1, dim2))


def diagonal_backward(g: Tensor, sizes: Sequence[int], offset: int, dim1: int, dim2: int) -> Tensor:
    rows, columns = sizes[dim1], sizes[dim2]
    y = diag_embed(g, offset)[..., :rows, :columns]
    y = torch.nn.functional.pad(y, (0, columns - y.shape[-1], 0, rows - y.shape[-2]))
    return y.movedim((-2, -1), (dim1, dim2))


def trace(x: Tensor) -> Tensor:
    return x.diagonal().sum()


def rot90(x: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    a, b = dims
    if k % 4 == 1:
        return x.flip(b).transpose(a, b)
    if k % 4 == 3:
        return x.flip(a).transpose(a, b)
    return x.flip((a, b)) if k % 4 else x.clone()


def bucketize(x: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    y = x.unsqueeze(-1)
    there = (boundaries <= y) if right else (boundaries < y)
    found = torch.where(x.isnan(), len(boundaries), there.sum(-1)) if x.is_floating_point() else there.sum(-1)
    return found.to(torch.int32) if out_int32 else found


def select_scatter(x: Tensor, part: Tensor, dim: int, index: int) -> Tensor:
    place = index % x.shape[dim]
    return slice_scatter(x, part.unsqueeze(dim), dim, place, place + 1)


def slice_scatter(
    x: Tensor, part: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    count = x.shape[dim]
    places = range(count)[slice(start, end, step)]
    if not places:
        return x.clone()
    if len(places) == places[-1] - places[0] + 1:
        rest = x.narrow(dim, places[-1] + 1, count - places[-1] - 1)
        return torch.cat([x.narrow(dim, 0, places[0]), part.to(x.dtype), rest], dim)
    away = torch.arange(count) - places[0]
    found = part.to(x.dtype).index_select(dim, (away // step).clamp(0, len(places) - 1))
    there = (away % step == 0) & (away >= 0) & (away <= places[-1] - places[0])
    return torch.where(there.reshape(-1, *(1,) * (x.dim() - dim % x.dim() - 1)), found, x)


def index_put(x: Tensor, places: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Any:
    (place, *others) = places
    if place is None or others:
        return NotImplemented
    if place.dtype == torch.bool and values.numel() == 1 and not accumulate:
        there = place.reshape(*place.shape, *(1,) * (x.dim() - place.dim()))
        return torch.where(there, values.reshape(()).to(x.dtype), x)
    if place.dtype not in (torch.int64, torch.int32) or place.dim() != 1:
        return NotImplemented
    place, rows = torch.where(place < 0, place + len(x), place), values.expand(len(place), *x.shape[1:])
    return x.index_add(0, place, rows) if accumulate else x.index_copy(0, place, rows)


def index_fill(x: Tensor, dim: int, places: Tensor, value: float | Tensor) -> Tensor:
    there = (torch.arange(x.shape[dim])[:, None] == places.reshape(-1)).any(-1)
    return torch.where(there.reshape(-1, *(1,) * (x.dim() - dim % x.dim() - 1)), value, x)


def linalg_vector_norm(
    x: Tensor,
    ord: float = 2,
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Any:
    if ord in (1, 2, math.inf) or dtype is not None:
        return NotImplemented  # written out as they stand
    axes = list(range(x.dim())) if dim is None else list(dim)
    if ord == 0:
        return (x != 0).to(x.dtype).sum(axes, keepdim)
    if ord == -math.inf:
        return x.abs().amin(axes, keepdim)
    return x.abs().pow(ord).sum(axes, keepdim).pow(1 / ord)


def native_layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    axes = list(range(x.dim() - len(shape), x.dim()))
    found, mean = _spread(x, axes, 0, True)
    scale = torch.rsqrt(found + eps)
    y = (x - mean) * scale
    y = y if weight is None else y * weight
    return (y if bias is None else y + bias), mean, scale


def native_layer_norm_backward(
    g: Tensor,
    x: Tensor,
    shape: Sequence[int],
    mean: Tensor,
    scale: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    lead, axes = list(range(x.dim() - len(shape))), list(range(x.dim() - len(shape), x.dim()))
    y = (x - mean) * scale
    h = g if weight is None else g * weight
    back = scale * (h - h.mean(axes, True) - y * (h * y).mean(axes, True))
    by_weight, by_bias = ((g * y).sum(lead), g.sum(lead)) if lead else (g * y, g)
    return tuple(each if asked else None for each, asked in zip((back, by_weight, by_bias), wanted, strict=True))


def empty_like(x: Tensor, *, dtype: torch.dtype | None = None, **others: Any) -> Tensor:
    return torch.zeros_like(x, dtype=dtype)


def empty(size: Sequence[int], *, dtype: torch.dtype | None = None, **others: Any) -> Tensor:
    return torch.zeros(list(size), dtype=dtype)
