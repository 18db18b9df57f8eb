"""Smooth costs of one agent on which several papers are tried, and what their pages share: runs, curves, and claims that are out of reach."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt.api import simulate
from distopt.numerics.random import Key
from distopt.optional import ScenarioDefaults
from distopt.report.claims import Verdict
from distopt.reproduce import Part, Results
from distopt.runs.results import Run

POINTS = 250  # in a curve
Floats = NDArray[np.float64]


class BowlBatch(NamedTuple):
    """Curvatures c [1, 1, 1, d], and the noise of the gradients: standard normals [K, R, n, d], or zeros [1, 1, 1, d]."""

    c: Tensor
    xi: Tensor


@dataclass(frozen=True)
class Bowl(ScenarioDefaults):
    """f(x) = 1/2 sum_k c_k x_k^2, seen through gradients with noise.

        f_t(x) = f(x) + noise sum_k xi_tk (x_k + growth x_k^2 / 2)         so that g_t(x) = c x + noise xi_t (1 + growth x)

    The curvatures c_k run from ``low`` to ``high`` in equal ratios; xi_tk are standard normals, independent in each round.
    ``growth`` makes the noise depend on x. All coordinates start at ``at``.
    """

    dim: int = 1
    low: float = 1.0
    high: float = 1.0
    noise: float = 0.0
    growth: float = 0.0
    at: float = 1.0
    comparator: ClassVar[bool] = False

    @property
    def curvatures(self) -> Tensor:
        """c [d]."""
        return torch.logspace(math.log10(self.low), math.log10(self.high), self.dim, dtype=torch.float64)

    def batch(self, t: Tensor, key: Key) -> BowlBatch:
        """See ``distopt.protocols.Scenario``, here and below."""
        return BowlBatch(self.curvatures.reshape(1, 1, 1, -1), drawn("bowl", self.dim, self.noise, t, key))

    def loss(self, x: Tensor, b: BowlBatch) -> Tensor:
        """f_t."""
        return (0.5 * b.c * x * x + self.noise * b.xi * (x + 0.5 * self.growth * x * x)).sum(-1)

    def grad(self, x: Tensor, b: BowlBatch) -> Tensor:
        """g_t."""
        return b.c * x + self.noise * b.xi * (1 + self.growth * x)

    def start(self, key: Key) -> Tensor:
        """The same number in all coordinates."""
        return torch.full((1, 1, self.dim), self.at, dtype=torch.float64)

    def objective(self, x: Floats) -> Floats:
        """f, without noise, at x [..., d]."""
        return np.asarray(0.5 * (x * x) @ self.curvatures.numpy())


class WavesBatch(NamedTuple):
    """Eigenvalues, mirror and slope, [1, 1, 1, d] each, and noise [K|1, R|1, n|1, d]."""

    c: Tensor
    v: Tensor
    b: Tensor
    xi: Tensor


@dataclass(frozen=True)
class Waves(ScenarioDefaults):
    """f(x) = x'Ax/2 + b'x + 0.1 sum_k cos x_k in d = 10 coordinates: strongly convex, and no quadratic.

    A has eigenvalues from 0.3 to 10 in equal ratios, in the axes that a mirror makes of the coordinates: A = M diag(c) M with
    M = I - 2 v v' / |v|^2 and v = (1, ..., d). b runs from -1 to 1; all coordinates start at 1. A round's gradient has noise: grad f + noise xi_t.
    """

    noise: float = 0.0
    dim: ClassVar[int] = 10
    ripple: ClassVar[float] = 0.1
    comparator: ClassVar[bool] = False

    @property
    def data(self) -> tuple[Tensor, Tensor, Tensor]:
        """c, v and b, [d] each; v has length 1."""
        c = torch.logspace(math.log10(0.3), 1, self.dim, dtype=torch.float64)
        v = torch.arange(1, self.dim + 1, dtype=torch.float64)
        return c, v / v.norm(), torch.linspace(-1, 1, self.dim, dtype=torch.float64)

    def batch(self, t: Tensor, key: Key) -> WavesBatch:
        """See ``distopt.protocols.Scenario``, here and below."""
        c, v, b = (each.reshape(1, 1, 1, -1) for each in self.data)
        return WavesBatch(c, v, b, drawn("waves", self.dim, self.noise, t, key))

    def loss(self, x: Tensor, b: WavesBatch) -> Tensor:
        """f and the noise."""
        return (0.5 * x * self._times(x, b) + (b.b + self.noise * b.xi) * x + self.ripple * torch.cos(x)).sum(-1)

    def grad(self, x: Tensor, b: WavesBatch) -> Tensor:
        """Its gradient."""
        return self._times(x, b) + b.b + self.noise * b.xi - self.ripple * torch.sin(x)

    def start(self, key: Key) -> Tensor:
        """1 in all coordinates."""
        return torch.ones(1, 1, self.dim, dtype=torch.float64)

    @staticmethod
    def _times(x: Tensor, b: WavesBatch) -> Tensor:
        """A x."""
        y = b.c * (x - 2 * b.v * (b.v * x).sum(-1, keepdim=True))
        return y - 2 * b.v * (b.v * y).sum(-1, keepdim=True)

    @property
    def matrix(self) -> Floats:
        """A [d, d]."""
        c, v, _ = (each.numpy() for each in self.data)
        mirror = np.eye(self.dim) - 2 * np.outer(v, v)
        return np.asarray(mirror @ np.diag(c) @ mirror)

    def slope(self, x: Floats) -> Floats:
        """grad f, without noise, at x [..., d]."""
        return np.asarray(x @ self.matrix + self.data[2].numpy() - self.ripple * np.sin(x))

    def objective(self, x: Floats) -> Floats:
        """f(x) - f*, without noise, at x [..., d]."""
        return self._value(x) - self._value(self.minimiser)

    @property
    def minimiser(self) -> Floats:
        """x*, by Newton's method."""
        x = np.zeros(self.dim)
        for _ in range(50):
            x = x - np.linalg.solve(self.matrix - self.ripple * np.diag(np.cos(x)), self.slope(x))
        return x

    def _value(self, x: Floats) -> Floats:
        return np.asarray(
            ((0.5 * x @ self.matrix + self.data[2].numpy()) * x).sum(-1) + self.ripple * np.cos(x).sum(-1)
        )


def drawn(stream: str, dim: int, noise: float, t: Tensor, key: Key) -> Tensor:
    """Standard normals of the rounds ``t``; zeros, the same in all rounds, where there is no noise."""
    return key.normal(stream, dim, t) if noise else torch.zeros(1, 1, 1, dim, dtype=torch.float64)


def runs(
    scenario: Any,
    algorithms: Sequence[Any],
    rounds: int,
    trials: int = 1,
    seed: int = 0,
    record: Sequence[str] = ("x",),
    dtype: str = "float64",
) -> list[Run]:
    """The runs of one machine, of several algorithms and of the points of their grids, in order."""
    found: Any = simulate(
        "ring",
        agents=1,
        scenario=scenario,
        algorithm=list(algorithms),
        rounds=rounds,
        trials=trials,
        seed=seed,
        dtype=dtype,
        record=tuple(record),
        agentwise=False,
    )
    return list(found.values())


def run(scenario: Any, algorithm: Any, rounds: int, **asked: Any) -> Run:
    """The run of one algorithm, with the arguments of ``runs``."""
    (found,) = runs(scenario, [algorithm], rounds, **asked)
    return found


def points(run: Run, name: str = "x") -> Floats:
    """What one machine recorded under a name, [R, T, d] or, of x, [R, T + 1, d]. A run that diverged is filled up with nan."""
    found = np.asarray(run[name][:, :, 0], dtype=np.float64)
    rounds = int(run.info["rounds"]) + (name == "x")
    missing = np.full((found.shape[0], max(rounds - found.shape[1], 0), found.shape[2]), np.nan)
    return np.concatenate([found, missing], 1)


def marks(count: int, points: int = POINTS) -> NDArray[np.int64]:
    """Places in 0 .. count - 1 for a curve on a logarithmic axis.

    >>> marks(1000, 4).tolist()
    [0, 9, 99, 999]
    """
    return np.unique(np.geomspace(1, count, min(count, points)).round().astype(np.int64)) - 1


def curve(values: Floats) -> dict[str, list[float]]:
    """A series [T] where it is drawn: its places, from 1, and its values there."""
    places = marks(len(values))
    return {"t": (places + 1).tolist(), "values": values[places].tolist()}


def changes(values: Floats) -> int:
    """How often a series changes its sign.

    >>> changes(np.array([1.0, -1.0, -2.0, 3.0]))
    2
    """
    signs = np.sign(values)[values != 0]
    return int((signs[1:] != signs[:-1]).sum())


def with_unreached(part: Part, unreached: Mapping[str, str]) -> Part:
    """The part with claims that no run here can test, each with the reason; their verdict is "open"."""

    def rows(results: Results) -> list[dict[str, Any]]:
        told = [
            {
                "claim": claim,
                "our set-up": f"not run: {why}",
                "number expected": "",
                "number measured": "",
                "verdict": "open",
            }
            for claim, why in unreached.items()
        ]
        return part.rows(results) + told

    def verdicts(results: Results) -> list[Verdict]:
        return part.verdicts(results) + [
            Verdict(claim, "not run here", "open", why) for claim, why in unreached.items()
        ]

    return part._replace(rows=rows, verdicts=verdicts)
