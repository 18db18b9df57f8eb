"""Rounds with what people write: losses of torch.nn.functional, parts of tensors that are written to."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import distopt
from distopt.numerics.random import Key


class Parts:
    """Heavy ball that writes its state part by part."""

    channels = ("x",)

    def init(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def update(self, g: Tensor, m: Tensor, x: Tensor, mix: Any) -> tuple[Tensor, Tensor]:
        m = m.clone()
        m[..., 0] = 0.5 * m[..., 0] + g[..., 0]
        m[..., 1:].mul_(0.9).add_(g[..., 1:])
        m[m.abs() > 5] = 0
        return mix("x", x) - 0.02 * m / (1 + m.std(-1, keepdim=True)), m


class Classes:
    """Three classes whose rows move, by a loss of torch and its derivative."""

    dim = 6

    def batch(self, t: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        k = torch.arange(5.0)
        place = key.agents[:, None] + k
        rows = torch.stack([torch.sin(0.1 * t + place), torch.cos(0 * t + place)], -1)
        rows = rows.expand(len(t), len(key.trials), len(key.agents), 5, 2)
        return rows, (rows[..., 0] > 0).long() + (rows[..., 1] > 0).long()

    def loss(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        rows, label = b
        scores = torch.einsum("...mp,...cp->...mc", rows, x.unflatten(-1, (3, 2)))
        label = label.expand(scores.shape[:-1])
        each = F.cross_entropy(scores.reshape(-1, 3), label.reshape(-1), reduction="none").reshape(label.shape)
        return each.mean(-1) + 0.05 * F.huber_loss(x, torch.zeros_like(x), reduction="none").sum(-1)

    def grad(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        found: Tensor = torch.func.grad(lambda y: self.loss(y, b).sum())(x)
        return found


class Bearings(Classes):
    """The directions in which agents see a point, and softplus to keep it near."""

    dim = 2

    def loss(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        rows, _ = b
        seen = torch.atan2(x[..., None, 1] - 3 * rows[..., 1], x[..., None, 0] - 3 * rows[..., 0])
        return (1 - torch.cos(seen - rows[..., 0])).mean(-1) + F.softplus(x.square()).sum(-1)


def run(scenario: Any, algorithm: Any, **how: Any) -> np.ndarray[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # rounds that are not compiled say so
        found = distopt.simulate("ring", agents=5, scenario=scenario, algorithm=algorithm, rounds=40, record="x", **how)
    x: np.ndarray[Any, Any] = found["x"]
    return x


@pytest.mark.parametrize("algorithm", ["gtadam:lr=0.02", Parts()], ids=["gtadam", "parts"])
@pytest.mark.parametrize("scenario", [Classes(), Bearings()], ids=["classes", "bearings"])
def test_they_are_compiled_and_equal_eager_rounds(scenario: Any, algorithm: Any) -> None:
    compiled, eager = run(scenario, algorithm), run(scenario, algorithm, mode="eager")
    np.testing.assert_allclose(compiled, eager, rtol=1e-11, atol=1e-12)
    assert np.array_equal(compiled, run(scenario, algorithm, engine="threads", mode="compiled"))
    assert np.array_equal(compiled, run(scenario, algorithm, mode="compiled"))
