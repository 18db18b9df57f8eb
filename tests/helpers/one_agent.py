"""One agent on a fixed cost of known curvatures, with and without noise: rules against loops written from papers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import distopt
from distopt.algorithms.dgd import DGD
from distopt.directions import direct
from distopt.network.net import Rehearsal
from distopt.numerics.random import Key
from distopt.schedules import rate

Floats = NDArray[np.float64]
Gradient = Callable[[Floats, int], Floats]
"""Of the cost of a round, from 0, at a point."""

D, ROUNDS = 10, 300
_draw = np.random.default_rng(5)
_basis = np.linalg.qr(_draw.normal(size=(D, D)))[0]
A: Floats = _basis @ np.diag(np.logspace(np.log10(0.3), 1, D)) @ _basis.T
B: Floats = _draw.normal(size=D)
START: Floats = _draw.normal(size=D)
SHIFT: Floats = _draw.normal(size=(ROUNDS, D))
SCALE: Floats = 0.3 * _draw.normal(size=(ROUNDS, D))


def gradient(noise: float) -> Gradient:
    """A x + b - 0.1 sin x, and noise times (shift + scale x) with the shift and the scale of the round."""
    return lambda x, t: A @ x + B - 0.1 * np.sin(x) + noise * (SHIFT[t] + SCALE[t] * x)


@dataclass(frozen=True)
class Common:
    """The same costs as a scenario: x'Ax/2 + b'x + 0.1 sum cos x, and noise."""

    noise: float = 0.0
    dim = D
    comparator = False

    def batch(self, t: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        rows = t.reshape(-1) % ROUNDS
        shift, scale = (self.noise * torch.tensor(each)[rows][:, None, None] for each in (SHIFT, SCALE))
        return shift, scale

    def start(self, key: Key) -> Tensor:
        return torch.tensor(START)[None, None]

    def loss(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        shift, scale = b
        bent = 0.5 * x * self._curved(x) + 0.1 * torch.cos(x)
        return (bent + (torch.tensor(B) + shift) * x + 0.5 * scale * x * x).sum(-1)

    def grad(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        shift, scale = b
        return self._curved(x) + torch.tensor(B) - 0.1 * torch.sin(x) + shift + scale * x

    def _curved(self, x: Tensor) -> Tensor:
        return (torch.tensor(A) * x.unsqueeze(-2)).sum(-1)


def simulated(algorithm: Any, noise: float, **settings: Any) -> Floats:
    """The points [T + 1, d] of one agent in the simulator."""
    run = distopt.simulate(
        "path",
        agents=1,
        scenario=Common(noise),
        algorithm=algorithm,
        rounds=ROUNDS,
        record=("x",),
        **settings,
    )
    points: Floats = run["x"][0, :, 0]
    return points


def followed(rule: Any, lr: Any, noise: float) -> Floats:
    """The points [T + 1, d] when a rule is called by hand."""
    grad = gradient(noise)
    x = torch.tensor(START)[None, None]
    state, path = rule.init(x), [x]
    for t in range(ROUNDS):
        round = Rehearsal(lambda name, z: z, x, t)
        s, step = torch.tensor(grad(x[0, 0].numpy(), t))[None, None], rate(lr, round)
        d, state = direct(rule, s, state, round, step)
        x = x - step * d
        path.append(x)
    return torch.cat(path)[:, 0].numpy()


def by_descent(rule: Any, lr: Any, noise: float, **settings: Any) -> Floats:
    """The points [T + 1, d] of a rule in the simulator."""
    return simulated(DGD(lr, direction=rule), noise, **settings)


def apart(found: Floats, wanted: Floats) -> float:
    """How far two paths are from each other, for paths that stay where they make sense and that go somewhere."""
    assert found.shape == wanted.shape and np.isfinite(wanted).all()
    assert np.abs(wanted).max() < 50 and np.abs(wanted[-1] - wanted[0]).max() > 0.1
    return float(np.abs(found - wanted).max())
