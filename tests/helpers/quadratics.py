"""Quadratics that drift, as a scenario and in NumPy, and weights of a small ring: for loops written from papers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import distopt
from distopt.numerics.random import Key

Floats = NDArray[np.float64]
N, D, ROUNDS = 5, 3, 60
_draw = np.random.default_rng(3)
CURVATURE: Floats = _draw.uniform(0.5, 1.5, (N, D))
CENTRE: Floats = _draw.normal(0, 1, (N, D))
DRIFT: Floats = _draw.normal(0, 1, (N, D))
W: Floats = np.zeros((N, N))
for _i in range(N):
    W[_i, [_i, (_i + 1) % N, (_i - 1) % N]] = 1 / 3


def centre(t: int) -> Floats:
    """The agents' own minimisers in round t."""
    return CENTRE + DRIFT * np.sin(0.1 * t)


def gradient(x: Floats, t: int) -> Floats:
    """The gradients of round t; before round 0 stands round 0."""
    return CURVATURE * (x - centre(max(t, 0)))


def cost(x: Floats, t: int) -> Floats:
    """The costs of round t [N, 1]."""
    return 0.5 * (CURVATURE * (x - centre(t)) ** 2).sum(-1, keepdims=True)


@dataclass(frozen=True)
class Drifting:
    """f_{i,t}(x) = 1/2 sum_k a_ik (x_k - c_{i,t,k})^2."""

    dim = D

    def batch(self, t: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        mine = key.agents.tolist()
        a, c, drift = (torch.from_numpy(each[mine])[None, None] for each in (CURVATURE, CENTRE, DRIFT))
        return a, c + drift * torch.sin(0.1 * t.double())

    def loss(self, x: Tensor, b: Any) -> Tensor:
        return 0.5 * (b[0] * (x - b[1]).square()).sum(-1)

    def grad(self, x: Tensor, b: Any) -> Tensor:
        g: Tensor = b[0] * (x - b[1])
        return g

    def optimum(self, b: Any) -> Tensor:
        best: Tensor = (b[0] * b[1]).sum(-2) / b[0].sum(-2)
        return best


def simulated(algorithm: Any, **settings: Any) -> Floats:
    """The points [T + 1, N, D] of the simulator, from 0."""
    given = {"scenario": Drifting(), "rounds": ROUNDS, "record": ("x",), **settings}
    points: Floats = distopt.simulate(W, algorithm=algorithm, **given)["x"][0]
    return points


def apart(found: Floats, wanted: Floats) -> float:
    """How far two paths are from each other, for paths that stay where they make sense and that go somewhere."""
    assert found.shape == wanted.shape and np.isfinite(wanted).all()
    assert np.abs(wanted).max() < 50 and np.abs(wanted[-1] - wanted[0]).max() > 0.1
    return float(np.abs(found - wanted).max())
