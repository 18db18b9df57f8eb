"""Functions of single numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

BITS = {torch.float64: torch.int64, torch.float32: torch.int32}


def signbit(x: Tensor) -> Any:
    if not x.is_floating_point():
        return x < 0
    return x.view(BITS[x.dtype]) < 0 if x.dtype in BITS else NotImplemented


def copysign(x: Tensor, y: Tensor | float) -> Tensor:
    size = x.abs() if x.is_floating_point() else x.abs().to(torch.get_default_dtype())
    if isinstance(y, Tensor):
        return torch.where(signbit(y), -size, size).to(torch.result_type(x, y))
    return size if math.copysign(1, y) > 0 else -size


def hypot(x: Tensor, y: Tensor) -> Tensor:
    long, short = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    part = torch.where(short == long, 1.0, short / long)
    found = torch.where(long == 0, long, long * torch.sqrt(1 + part * part))
    return torch.where(x.isinf() | y.isinf(), math.inf, found)


def frac(x: Tensor) -> Tensor:
    return x - torch.trunc(x)


def heaviside(x: Tensor, value: Tensor) -> Tensor:
    return torch.where(x == 0, value, (x > 0).to(x.dtype))


def fmax(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(x.isnan(), y, torch.where(y.isnan(), x, torch.maximum(x, y)))


def fmin(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(x.isnan(), y, torch.where(y.isnan(), x, torch.minimum(x, y)))


def logaddexp(x: Tensor, y: Tensor) -> Tensor:
    high = torch.maximum(x, y)
    return torch.where(x == y, x + math.log(2), high + torch.log1p(torch.exp(-(x - y).abs())))


def xlogy(x: Tensor, y: Tensor) -> Tensor:
    return torch.where((x == 0) & ~y.isnan(), 0.0, x * torch.log(y))


def special_entr(x: Tensor) -> Tensor:
    return torch.where(x == 0, 0.0, torch.where(x < 0, -math.inf, -x * torch.log(x)))


def logit(x: Tensor, eps: float | None = None) -> Tensor:
    z = x if eps is None else x.clamp(eps, 1 - eps)
    return torch.log(z / (1 - z))


def logit_backward(g: Tensor, x: Tensor, eps: float | None = None) -> Tensor:
    inside = (x >= (eps or 0.0)) & (x <= 1 - (eps or 0.0))
    return torch.where(inside, g / (x * (1 - x)), math.nan if eps is None else 0.0)


def exp2(x: Tensor) -> Tensor:
    return torch.pow(2.0, x)


def sinc(x: Tensor) -> Tensor:
    z = x * math.pi
    return torch.where(x == 0, 1.0, torch.sin(z) / z)


def tan(x: Tensor) -> Tensor:
    return torch.sin(x) / torch.cos(x)


def sinh(x: Tensor) -> Tensor:
    e, half = torch.expm1(x.abs()), torch.exp(0.5 * x.abs())
    return copysign(torch.where(x.abs() > 700, 0.5 * half * half, 0.5 * (e + e / (e + 1))), x)


def cosh(x: Tensor) -> Tensor:
    e, half = torch.exp(x.abs()), torch.exp(0.5 * x.abs())
    return torch.where(x.abs() > 700, 0.5 * half * half, 0.5 * (e + 1 / e))


def asinh(x: Tensor) -> Tensor:
    size = x.abs()
    near = torch.log1p(size + size * size / (1 + torch.sqrt(1 + size * size)))
    return copysign(torch.where(size > 2.0**28, torch.log(size) + math.log(2), near), x)


def acosh(x: Tensor) -> Tensor:
    t = x - 1
    near = torch.log1p(t + torch.sqrt(2 * t + t * t))
    return torch.where(x < 1, math.nan, torch.where(x > 2.0**28, torch.log(x) + math.log(2), near))


def atanh(x: Tensor) -> Tensor:
    size = x.abs()
    return copysign(0.5 * torch.log1p(2 * size / (1 - size)), x)


def atan2(y: Tensor, x: Tensor) -> Tensor:
    long, short = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    part = torch.where(short == long, torch.where(long == 0, 0.0, 1.0), short / long)
    angle = torch.atan(part)
    angle = torch.where(y.abs() > x.abs(), math.pi / 2 - angle, angle)
    angle = torch.where(signbit(x), math.pi - angle, angle)
    return torch.where(x.isnan() | y.isnan(), x + y, copysign(angle, y))


def asin(x: Tensor) -> Tensor:
    return atan2(x, torch.sqrt((1 - x) * (1 + x)))


def acos(x: Tensor) -> Tensor:
    return atan2(torch.sqrt((1 - x) * (1 + x)), x)


def deg2rad(x: Tensor) -> Tensor:
    return x * (math.pi / 180)


def rad2deg(x: Tensor) -> Tensor:
    return x * (180 / math.pi)
