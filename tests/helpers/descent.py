"""One agent on a smooth bowl in ten dimensions: the points that a direction rule takes, in ``simulate`` and called by hand, beside NumPy's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import distopt
from distopt.algorithms.dgd import DGD
from distopt.directions import direct
from distopt.network.net import Rehearsal
from distopt.numerics.random import Key, words
from distopt.schedules import rate

Floats = NDArray[np.float64]

D, ROUNDS, SEED = 10, 300, 4
_random = np.random.default_rng(8)
_turn = np.linalg.qr(_random.normal(size=(D, D)))[0]
A: Floats = _turn @ np.diag(np.geomspace(0.3, 10, D)) @ _turn.T
B: Floats = _random.normal(size=D)
START: Floats = _random.normal(size=D)


class Noise(NamedTuple):
    """What is added to the gradient of a round, [K, R, n, d]."""

    added: Tensor


@dataclasses.dataclass(frozen=True)
class Bowl:
    """f(x) = x' A x / 2 + b' x + 0.1 sum cos x, the eigenvalues of A from 0.3 to 10; gradients have noise of the size ``noise``."""

    noise: float = 0.0
    dim: int = D
    comparator: bool = False

    def batch(self, t: Tensor, key: Key) -> Noise:
        return Noise(self.noise * key.normal("bowl", D, t))

    def loss(self, x: Tensor, b: Noise) -> Tensor:
        quadratic = (x * (torch.from_numpy(A) * x.unsqueeze(-2)).sum(-1)).sum(-1) / 2
        return quadratic + ((torch.from_numpy(B) + b.added) * x + 0.1 * torch.cos(x)).sum(-1)

    def grad(self, x: Tensor, b: Noise) -> Tensor:
        product = (torch.from_numpy(A) * x.unsqueeze(-2)).sum(-1)
        return product + torch.from_numpy(B) - 0.1 * torch.sin(x) + b.added


def noises(noise: float) -> Floats:
    """What ``Bowl`` adds to the gradients of all rounds, [T, d]."""
    drawn = Bowl(noise).batch(torch.arange(ROUNDS).reshape(-1, 1, 1, 1), Key(SEED, range(1), range(1), 1))
    out: Floats = drawn.added[:, 0, 0].numpy()
    return out


def gradients(noise: float) -> Callable[[int, Floats], Floats]:
    """The gradient of a round at a point."""
    added = noises(noise)
    return lambda t, x: A @ x + B - 0.1 * np.sin(x) + added[t]


def uniforms(count: int = D) -> Floats:
    """The uniform numbers that an algorithm of one agent is given in ``simulate``, [T, count]."""
    return words(SEED, "uniform", 0, 0, ROUNDS * count).reshape(ROUNDS, count)


def simulated(rule: Any, lr: Any, noise: float = 0.0, **settings: Any) -> Floats:
    """The points [T + 1, d] of ``distopt.simulate``."""
    given = {"rounds": ROUNDS, "seed": SEED, "x0": START, "record": "x", "mode": "eager"} | settings
    run = distopt.simulate("ring", agents=1, scenario=Bowl(noise), algorithm=DGD(lr, direction=rule), **given)
    out: Floats = run["x"][0, :, 0]
    return out


class Handed(Rehearsal):
    """A round that hands over these uniform numbers."""

    given: Tensor

    def uniform(self, words: int) -> Tensor:
        assert words == self.given.shape[-1]
        return self.given.expand(*self.x.shape[:-1], words)


def walked(
    rule: Any,
    gradient: Callable[[int, Floats], Any],
    start: Any,
    lr: Any,
    rounds: int = ROUNDS,
    drawn: Floats | None = None,
    limit: float | None = None,
) -> Floats:
    """The points [T + 1, ...] of a rule that is called by hand, in float64; kept in [-limit, limit]."""
    x = torch.as_tensor(start, dtype=torch.float64)
    x = x.reshape(1, 1, -1) if x.ndim < 2 else x
    state, path = rule.init(x), [x]
    for t in range(rounds):
        round = Handed(lambda _, z: z, x, t)
        if drawn is not None:
            round.given = torch.from_numpy(drawn[t])
        s = torch.as_tensor(gradient(t, x.squeeze().numpy()), dtype=torch.float64).reshape(x.shape)
        step = rate(lr, round)
        d, state = direct(rule, s, state, round, step)
        x = x - step * d
        x = x if limit is None else x.clamp(-limit, limit)
        path.append(x)
    out: Floats = torch.stack(path).squeeze().numpy()
    return out
