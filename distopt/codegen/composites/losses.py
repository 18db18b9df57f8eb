"""Losses and their derivatives, where g is the gradient by their results."""

from __future__ import annotations

import torch
from torch import Tensor

from distopt.codegen.composites.activations import log_sigmoid_forward

NONE, MEAN, SUM = range(3)
"""What becomes of the losses of single numbers."""


def _reduced(each: Tensor, reduction: int) -> Tensor:
    return each if reduction == NONE else each.mean() if reduction == MEAN else each.sum()


def _shared(g: Tensor, x: Tensor, reduction: int) -> Tensor:
    """The gradient by the losses of single numbers, where g is that by the result."""
    return g / x.numel() if reduction == MEAN else g


def mse_loss(x: Tensor, y: Tensor, reduction: int = MEAN) -> Tensor:
    return _reduced((x - y).square(), reduction)


def mse_loss_backward(g: Tensor, x: Tensor, y: Tensor, reduction: int) -> Tensor:
    return _shared(g, x, reduction) * (2 * (x - y))


def huber_loss(x: Tensor, y: Tensor, reduction: int = MEAN, delta: float = 1) -> Tensor:
    away = (x - y).abs()
    return _reduced(torch.where(away < delta, 0.5 * away * away, delta * (away - 0.5 * delta)), reduction)


def huber_loss_backward(g: Tensor, x: Tensor, y: Tensor, reduction: int, delta: float) -> Tensor:
    return _shared(g, x, reduction) * (x - y).clamp(-delta, delta)


def smooth_l1_loss(x: Tensor, y: Tensor, reduction: int = MEAN, beta: float = 1) -> Tensor:
    away = (x - y).abs()
    return _reduced(torch.where(away < beta, 0.5 * away * away / beta, away - 0.5 * beta), reduction)


def smooth_l1_loss_backward(g: Tensor, x: Tensor, y: Tensor, reduction: int, beta: float) -> Tensor:
    return _shared(g, x, reduction) * ((x - y).clamp(-beta, beta) / beta)


def soft_margin_loss(x: Tensor, y: Tensor, reduction: int = MEAN) -> Tensor:
    return _reduced(torch.log1p(torch.exp(-y * x)), reduction)


def soft_margin_loss_backward(g: Tensor, x: Tensor, y: Tensor, reduction: int) -> Tensor:
    return _shared(g, x, reduction) * (-y * torch.sigmoid(-y * x))


def binary_cross_entropy(x: Tensor, y: Tensor, weight: Tensor | None = None, reduction: int = MEAN) -> Tensor:
    each = (y - 1) * torch.log1p(-x).clamp(min=-100) - y * torch.log(x).clamp(min=-100)
    return _reduced(each if weight is None else each * weight, reduction)


def binary_cross_entropy_backward(
    g: Tensor, x: Tensor, y: Tensor, weight: Tensor | None = None, reduction: int = MEAN
) -> Tensor:
    each = _shared(g, x, reduction) * ((x - y) / ((1 - x) * x).clamp(min=1e-12))
    return each if weight is None else each * weight


def binary_cross_entropy_with_logits(
    x: Tensor,
    y: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: int = MEAN,
) -> Tensor:
    lost = -log_sigmoid_forward(x)[0]
    each = (1 - y) * x + (lost if pos_weight is None else ((pos_weight - 1) * y + 1) * lost)
    return _reduced(each if weight is None else each * weight, reduction)


def _counted(x: Tensor, label: Tensor, weight: Tensor | None, ignored: int) -> tuple[int, Tensor, Tensor]:
    """(the axis of the classes, the labels along it, how much each row counts)."""
    axis = 1 if x.dim() > 1 else 0
    there = label != ignored
    place = torch.where(there, label, 0)
    counts = (
        torch.ones((), dtype=x.dtype)
        if weight is None
        else weight.index_select(0, place.reshape(-1)).reshape(label.shape)
    )
    return axis, place.unsqueeze(axis), torch.where(there, counts, 0.0)


def nll_loss_forward(
    x: Tensor, label: Tensor, weight: Tensor | None, reduction: int, ignored: int
) -> tuple[Tensor, Tensor]:
    axis, place, counts = _counted(x, label, weight, ignored)
    each = -x.gather(axis, place).squeeze(axis) * counts
    if reduction == NONE:
        return each, torch.zeros((), dtype=x.dtype)
    total = counts.sum()
    return (each.sum() / total if reduction == MEAN else each.sum()), total


def nll_loss_backward(
    g: Tensor, x: Tensor, label: Tensor, weight: Tensor | None, reduction: int, ignored: int, total: Tensor
) -> Tensor:
    axis, place, counts = _counted(x, label, weight, ignored)
    pulls = -g * counts / (total if reduction == MEAN else 1)
    return torch.zeros_like(x).scatter(axis, place, pulls.unsqueeze(axis))
