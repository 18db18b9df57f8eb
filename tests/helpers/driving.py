"""A small network driven round by round through ``Net``, and costs in plain numbers, for loops written from papers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt.algorithms._through import Through
from distopt.algorithms.aug_dgm import AugDGM
from distopt.algorithms.gt import GT
from distopt.directions.sgd import SGD
from distopt.network.net import Net, Rehearsal

sgd = SGD()
Floats = NDArray[np.float64]
N, D, ROUNDS = 6, 5, 300


def ring() -> Floats:
    """Weights of a ring, each neighbour 0.3."""
    W = 0.4 * np.eye(N)
    for i in range(N):
        W[i, (i + 1) % N] = W[i, (i - 1) % N] = 0.3
    return W


class Costs:
    """f_{i,t}(x) = a_i |x - c_i - b_t|^2 / 2 with a moving b_t, in plain numbers."""

    def __init__(self, seed: int = 0, speed: float = 0.01) -> None:
        draw = np.random.default_rng(seed)
        self.a, self.c = draw.uniform(0.5, 2.0, (N, 1)), draw.normal(size=(N, D))
        self.speed = speed

    def grad(self, x: Floats, t: int) -> Floats:
        return self.a * (x - self.c - np.sin(self.speed * t))


class Linked:
    """All agents on one machine; ``W`` as a matrix."""

    own = slice(None)

    def __init__(self, W: Floats) -> None:
        self.W = torch.tensor(W)

    def send(self, payloads: dict[str, Any]) -> None: ...

    def heard(self, name: str, payload: Any) -> Any:
        return payload

    def weigh(self, name: str, rows: Tensor) -> Tensor:
        return torch.einsum("ij,rjd->rid", self.W.to(rows.dtype), rows)


def tracking(lr: Any, form: Any, direction: Any = sgd) -> GT | AugDGM:
    """Gradient tracking in one of its three forms."""
    return AugDGM(lr, direction) if form == "aug_dgm" else GT(lr, form, direction)


def at_rate(algorithm: Any, lr: Any) -> Any:
    """The same algorithm with another step size."""
    if isinstance(algorithm, Through):
        return replace(algorithm, algorithm=at_rate(algorithm.algorithm, lr))
    return replace(algorithm, lr=lr)


def driven(
    algorithm: Any, channels: Any, W: Floats, costs: Costs, rounds: int = ROUNDS
) -> tuple[Floats, Any, dict[str, Any]]:
    """The points x_0 .. x_T [T + 1, N, D], the last state and the channels' memories, of a run from x_0 = c / 2."""
    named = channels if isinstance(channels, Mapping) else dict.fromkeys(algorithm.channels, channels)
    x = torch.tensor(costs.c / 2)[None]
    state, memory, points = algorithm.init(x), {}, [x[0].numpy()]
    for t in range(rounds):
        net = Net(named, Linked(W), memory)
        x, state = algorithm.update(torch.tensor(costs.grad(x[0].numpy(), t))[None], state, x, Rehearsal(net.mix, x, t))
        memory = net.memory
        points.append(x[0].numpy())
    return np.stack(points), state, memory


def sign(p: Floats) -> Floats:
    """The paper's (|p|_1 / d) sign(p) of one row, number by number."""
    scale = sum(abs(each) for each in p) / len(p)
    return np.array([scale if each >= 0 else -scale for each in p])
