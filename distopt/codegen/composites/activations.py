"""Activations of neural networks and their derivatives, where g is the gradient by their results."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    z = x * beta
    return torch.where(z > threshold, x, torch.log1p(torch.exp(z)) / beta)


def softplus_backward(g: Tensor, x: Tensor, beta: float, threshold: float) -> Tensor:
    z = x * beta
    return torch.where(z > threshold, g, g * torch.sigmoid(z))


def log_sigmoid_forward(x: Tensor) -> tuple[Tensor, Tensor]:
    e = torch.exp(-x.abs())
    return x.clamp(max=0) - torch.log1p(e), e


def log_sigmoid_backward(g: Tensor, x: Tensor, buffer: Tensor) -> Tensor:
    return g * torch.sigmoid(-x)


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def silu_backward(g: Tensor, x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return g * (s * (1 + x * (1 - s)))


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    if approximate == "none":
        return x * (0.5 * torch.erfc(-x / math.sqrt(2)))
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def gelu_backward(g: Tensor, x: Tensor, *, approximate: str = "none") -> Tensor:
    if approximate == "none":
        density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        return g * (0.5 * torch.erfc(-x / math.sqrt(2)) + x * density)
    t = torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    return g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope)


def mish(x: Tensor) -> Tensor:
    return x * torch.tanh(softplus(x))


def mish_backward(g: Tensor, x: Tensor) -> Tensor:
    t = torch.tanh(softplus(x))
    return g * (t + x * torch.sigmoid(x) * (1 - t * t))


def elu(x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Tensor:
    return torch.where(x > 0, x * scale, torch.expm1(x * input_scale) * (alpha * scale))


def elu_backward(g: Tensor, alpha: float, scale: float, input_scale: float, made: bool, y: Tensor) -> Tensor:
    below = y + alpha * scale if made else torch.exp(y * input_scale) * (alpha * scale)
    return torch.where(y > 0, g * scale, g * (below * input_scale))


def celu(x: Tensor, alpha: float = 1) -> Tensor:
    return elu(x, alpha, 1, 1 / alpha)


def leaky_relu(x: Tensor, slope: float = 0.01) -> Tensor:
    return torch.where(x > 0, x, x * slope)


def leaky_relu_backward(g: Tensor, x: Tensor, slope: float, made: bool) -> Tensor:
    return torch.where(x > 0, g, g * slope)


def threshold(x: Tensor, least: float, value: float) -> Tensor:
    return torch.where(x <= least, value, x)


def hardtanh(x: Tensor, low: float = -1, high: float = 1) -> Tensor:
    return x.clamp(low, high)


def hardtanh_backward(g: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    return torch.where((x <= low) | (x >= high), 0.0, g)


def hardsigmoid(x: Tensor) -> Tensor:
    return (x + 3).clamp(0, 6) / 6


def hardsigmoid_backward(g: Tensor, x: Tensor) -> Tensor:
    return torch.where((x > -3) & (x < 3), g / 6, 0.0)


def hardswish(x: Tensor) -> Tensor:
    return x * (x + 3).clamp(0, 6) / 6


def hardswish_backward(g: Tensor, x: Tensor) -> Tensor:
    return torch.where(x <= -3, 0.0, torch.where(x < 3, g * (x / 3 + 0.5), g))


def softshrink(x: Tensor, reach: float = 0.5) -> Tensor:
    return torch.where(x > reach, x - reach, torch.where(x < -reach, x + reach, x * 0))


def hardshrink(x: Tensor, reach: float = 0.5) -> Tensor:
    return torch.where((x >= -reach) & (x <= reach), 0.0, x)


def softshrink_backward(g: Tensor, x: Tensor, reach: float) -> Tensor:
    return torch.where((x >= -reach) & (x <= reach), 0.0, g)
