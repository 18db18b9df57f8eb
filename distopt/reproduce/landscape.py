"""Shared by the experiments on curvature: readings of probes, their plateau, and the curvature of each agent's own cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigs
from torch import Tensor

from distopt.numerics.trees import leaf, reweighted, tree_map
from distopt.optional import ProbeDefaults
from distopt.probes._lanczos import ritz
from distopt.runs.results import Run
from distopt.simulation.snapshot import Snapshot

Floats = NDArray[np.float64]
LAST = 10
"""A plateau is the mean of so many last readings."""


def read(run: Run, name: str) -> dict[str, list[float]]:
    """The readings of a probe in the first trial: rounds, and values that are finite."""
    rounds, values = run.readings(name)
    good = np.isfinite(values[0])
    return {"t": rounds[good].tolist(), "values": values[0][good].tolist()}


def plateau(readings: dict[str, list[float]], factor: float = 1.0, last: int = LAST) -> float:
    """The mean of the ``last`` readings times a factor; nan where there are none.

    >>> plateau({"t": [9, 19, 29], "values": [1.0, 2.0, 3.0]}, factor=0.5)
    1.0
    """
    values = readings["values"][-last:]
    return factor * float(np.mean(values)) if values else math.nan


def edge(b1: float) -> float:
    """(2 + 2 b1) / (1 - b1): what a curvature times the step size may be at most, for a moving average of gradients with a fixed divisor.

    >>> [round(edge(b1), 6) for b1 in (0.9, 0.5, 0.0)]
    [38.0, 6.0, 2.0]
    """
    return (2 + 2 * b1) / (1 - b1)


@dataclass(frozen=True)
class OwnSharpness(ProbeDefaults):
    """The sharpness of each agent's own cost at its own point, plain and after division by its own P_i.

        lambda_max(P_i^{-1/2} H_i P_i^{-1/2}),    H_i = Hessian of f_{i,t} at x_{i,t}

    The columns are the smallest, the mean and the largest over the agents.
    """

    every: int = 100
    steps: int = 100
    tolerance: float = 1e-3
    columns: ClassVar[tuple[str, ...]] = ("low", "mean", "high")

    def measure(self, seen: Snapshot) -> tuple[float, float, float]:
        """See ``distopt.protocols.Probe``."""
        algorithm, state = seen.algorithm, seen.state
        p: Tensor = algorithm.direction.preconditioner(state.direction).expand(seen.x.shape)
        if not bool((1 / p).isfinite().all()):
            return math.nan, math.nan, math.nan
        found = [self._of(alone(seen, i), torch.sqrt(1 / p[i])) for i in range(len(seen.x))]
        return min(found), float(np.mean(found)), max(found)

    def _of(self, seen: Snapshot, root: Tensor) -> float:
        product = seen.curvature(seen.mean)
        values, _ = ritz(lambda v: root * product(root * v), seen.normal(), self.steps, self.tolerance, wanted=(-1,))
        return float(values[-1])


@dataclass(frozen=True)
class HessianSpread(ProbeDefaults):
    """P sigma^2 of the Hessians H_r [P, P] of single samples at the network average, where sigma^2 is the variance of an element of H_r, mean over
    all elements: the mean of |(H_r - H) v|^2 / P over random samples r and as many vectors v of standard normal numbers.
    """

    every: int = 100
    draws: int = 50

    def measure(self, seen: Snapshot) -> float:
        """See ``distopt.protocols.Probe``."""
        name, whole = seen.scenario.row_weights, seen.curvature(seen.mean)
        w = leaf(seen.data, name)
        places = (w != 0).flatten().nonzero()[:, 0]
        found = 0.0
        for k, place in enumerate(places[seen.normal(1)[: len(places)].argsort(stable=True)[: self.draws]]):
            factor = torch.zeros(w.numel(), dtype=w.dtype)
            factor[place] = len(places)
            one = seen.with_data(reweighted(seen.data, name, factor.reshape(w.shape))).curvature(seen.mean)
            v = seen.normal(2 + k)
            found += float((one(v) - whole(v)).square().sum()) / self.draws
        return found / seen.x.shape[-1]


def alone(seen: Snapshot, i: int) -> Snapshot:
    """Agent i of a run, as if it were the only one: its own point and its own cost."""

    def data(t: int) -> Any:
        return tree_map(lambda leaf: leaf[:, i : i + 1] if leaf.shape[1] > 1 else leaf, seen.data_of(t))

    return replace(seen, x=seen.x[i : i + 1], data_of=data, memory={})


def ring(agents: int) -> Floats:
    """Metropolis weights of a ring [N, N]: a third for oneself and for each neighbour. One agent hears itself alone.

    >>> ring(3)[0].round(3).tolist(), ring(1).tolist()
    ([0.333, 0.333, 0.333], [[1.0]])
    """
    if agents < 3:
        return np.full((agents, agents), 1 / agents)
    one = np.eye(agents)
    return np.asarray((one + np.roll(one, 1, axis=1) + np.roll(one, -1, axis=1)) / 3)


@dataclass(frozen=True)
class NetworkSharpness(ProbeDefaults):
    """The preconditioned sharpness as a whole network on a ring feels it, all points x_i together.

        tracking:   4 lambda_max((I + W)^-1 P^-1 (I + W)^-1 H)
        without:    2 lambda_max((I + W)^-1 P^-1 H)

    H and P are block diagonal, with H_i at x_i and P_i. Where the method x+ = W x - lr P^-1 m, with m a moving average of the tracked gradients
    s+ = W s + g+ - g, or of the gradients themselves, is linearised, a solution that changes its sign in each round, x_t = (-1)^t x, is on the
    edge between growing and shrinking where lr times this number is (2 + 2 b1) / (1 - b1). For one agent it is the
    preconditioned sharpness. The first matrix is similar to a symmetric one; the second one need not be, and its largest eigenvalue comes from
    the Arnoldi process.
    """

    every: int = 100
    tracking: bool = True
    steps: int = 200
    tolerance: float = 1e-3

    def measure(self, seen: Snapshot) -> float:
        """See ``distopt.protocols.Probe``."""
        algorithm, state, (agents, d) = seen.algorithm, seen.state, seen.x.shape
        p: Tensor = algorithm.direction.preconditioner(state.direction).expand(seen.x.shape)
        if not bool((1 / p).isfinite().all()):
            return math.nan
        mixed = torch.linalg.inv(torch.eye(agents, dtype=torch.float64) + torch.from_numpy(ring(agents)))
        each = [alone(seen, i) for i in range(agents)]
        products = [own.curvature(own.mean) for own in each]
        start = torch.stack([seen.normal(i) for i in range(agents)]).flatten()

        def curved(v: Tensor) -> Tensor:
            return torch.stack([product(row) for product, row in zip(products, v, strict=True)])

        if self.tracking:
            root = torch.sqrt(1 / p)

            def product(v: Tensor) -> Tensor:
                inner: Tensor = mixed @ curved(mixed @ (root * v.reshape(agents, d)))
                return 4 * (root * inner).flatten()

            return float(ritz(product, start, self.steps, self.tolerance, wanted=(-1,))[0][-1])

        def matrix(v: Floats) -> Floats:
            found: Tensor = 2 * (mixed @ (curved(torch.from_numpy(v).reshape(agents, d)) / p))
            return np.asarray(found.flatten())

        size = agents * d
        operator = LinearOperator((size, size), matvec=matrix, dtype=np.float64)
        found = eigs(operator, k=1, which="LR", v0=start.numpy(), tol=self.tolerance, return_eigenvectors=False)
        return float(found[0].real)
