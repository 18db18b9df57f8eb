"""Sets of allowed points: the nearest point of each, and the one that minimises a linear function."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Form = Literal["ball", "box", "simplex", "l1"]


def nearest(form: Form, radius: float, x: Tensor) -> Tensor:
    """The points of a set that are nearest to x [..., d]: of |x|_2 <= r, |x|_inf <= r, |x|_1 <= r, or x >= 0 with sum r (simplex).

    >>> nearest("simplex", 1.0, torch.tensor([0.75, 0.5, -3.0])).tolist()
    [0.625, 0.375, 0.0]
    """
    if form == "box":
        return x.clamp(-radius, radius)
    if form == "ball":
        size = torch.sqrt((x * x).sum(-1, keepdim=True))
        return torch.where(
            size > radius, x * (radius / size.clamp(min=1e-300 if x.dtype == torch.float64 else 1e-30)), x
        )
    if form == "simplex":
        return (x - _threshold(x, radius)).clamp(min=0)
    size = x.abs()
    return torch.sign(x) * (size - _threshold(size, radius).clamp(min=0)).clamp(min=0)


def _threshold(x: Tensor, total: float) -> Tensor:
    """What must be taken from each number of x [..., d], so that the positive ones among what is left sum to ``total`` [..., 1] [held1974].

    It is the largest of (the sum of the k largest - total) / k over all k.
    """
    largest, above, found = torch.sort(x, -1, descending=True)[0], torch.zeros_like(x[..., :1]), []
    for k in range(x.shape[-1]):
        above = above + largest[..., k : k + 1]
        found.append((above - total) / (k + 1))
    return torch.cat(found, -1).amax(-1, keepdim=True)


def least(form: Form, radius: float, s: Tensor) -> Tensor:
    """The points v of a set that minimise <s, v>, for s [..., d]; 0 is among them where s is 0, but on the simplex.

    >>> least("simplex", 2.0, torch.tensor([1.0, -3.0])).tolist()
    [0.0, 2.0]
    """
    if form == "box":
        return -radius * torch.sign(s)
    if form == "ball":
        size = torch.sqrt((s * s).sum(-1, keepdim=True))
        return s * (-radius / size.clamp(min=1e-300 if s.dtype == torch.float64 else 1e-30))
    where = torch.argmin(s, -1, keepdim=True) if form == "simplex" else torch.argmax(s.abs(), -1, keepdim=True)
    corner = torch.zeros_like(s).scatter(-1, where, torch.ones_like(s[..., :1]))
    return radius * corner if form == "simplex" else -radius * torch.sign(s) * corner
