"""The sharpness of random mini-batches, which is what stochastic gradient descent feels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.numerics.trees import leaf, reweighted
from distopt.optional import ProbeDefaults, entry
from distopt.probes._lanczos import ritz
from distopt.protocols import Snapshot
from distopt.ranges import positive, whole


@dataclass(frozen=True)
class MiniBatchEdge(ProbeDefaults):
    """The mean of the largest eigenvalues of Hessians of random batches of ``size`` samples, at the network average.

        F_S(x) = rows / (size N) sum_{(i, r) in S} w_ir loss_ir(x),    S: ``size`` of all agents' samples, without repetition
        mini_batch_edge = mean over ``batches`` draws S of lambda_max(Hessian of F_S)
        mini_batch_edge_step = 2 / mini_batch_edge

    The mean of F_S is F_t = 1/N sum_i f_{i,t}. Terms of the costs without samples, such as a regulariser, stay in F_S. With all samples it is
    the sharpness, up to the tolerance. Small batches are sharper: by theory for random matrices the excess is inversely proportional to the
    size [granziol2022]. 2 over it is about the largest stable step size of stochastic gradient descent if one direction is the sharpest in all
    batches. For single samples it is not, since their sharpest directions differ. ``distopt reproduce random-matrix`` compares the two. The
    draws are the same in all rounds.

    Only scenarios whose costs are sums over samples have mini-batches: those that name their ``row_weights``
    (``distopt.optional.ScenarioDefaults``), such as digits_mlp, digits and stream. Others are refused.

    Args:
        every: rounds from one measurement to the next, at least 1.
        size: samples in a batch, at least 1, at most all.
        batches: number of batches that are drawn, at least 1.
        steps: the most products with the Hessian for a batch, at least 1.
        tolerance: largest error of an eigenvalue, relative to the largest one, above 0.

    Raises:
        InputError: for a parameter out of range, a scenario without ``row_weights``, or one with fewer samples in a round.

    >>> from distopt import simulate
    >>> asked = {"agents": 1, "scenario": "digits_mlp:rows=20", "algorithm": "dgd", "rounds": 2}
    >>> run = simulate("complete", **asked, probe=["sharpness:every=2", "mini_batch_edge:every=2,size=20,batches=1"])
    >>> round(float(run["mini_batch_edge"][0, 1] / run["sharpness"][0, 1]), 3)
    1.0
    """

    every: int = 100
    size: int = 16
    batches: int = 10
    steps: int = 100
    tolerance: float = 1e-2
    columns: ClassVar[tuple[str, ...]] = ("", "step")
    titles: ClassVar[tuple[str, ...]] = ("Sharpness of mini-batches", "2 over the sharpness of mini-batches")

    def __post_init__(self) -> None:
        whole("mini_batch_edge", 1, every=self.every, size=self.size, batches=self.batches, steps=self.steps)
        positive("mini_batch_edge", tolerance=self.tolerance)

    def check(self, scenario: Any, algorithm: Any) -> None:
        """Refuse costs that are no sums over samples."""
        if scenario.row_weights is None:
            raise InputError(
                f"probe mini_batch_edge: the costs of scenario {entry(scenario)} are not sums over samples "
                "(row_weights); use digits_mlp, digits or stream"
            )

    def measure(self, seen: Snapshot) -> tuple[float, float]:
        name, agents = seen.scenario.row_weights, len(seen.x)
        given = leaf(seen.data, name)
        w = given.expand(1, agents, given.shape[-1])
        places = (w != 0).flatten().nonzero()[:, 0]
        if len(places) < self.size:
            raise InputError(
                f"probe mini_batch_edge: size={self.size}: there are {len(places)} samples in round {seen.t}; give a smaller size"
            )
        found = 0.0
        for number in range(self.batches):
            chosen = places[_order(seen, number, len(places))[: self.size]]
            factor = torch.zeros(w.numel(), dtype=w.dtype)
            factor[chosen] = len(places) / self.size
            batch = seen.with_data(reweighted(seen.data, name, factor.reshape(w.shape)))
            values, _ = ritz(batch.curvature(seen.mean), seen.normal(), self.steps, self.tolerance, wanted=(-1,))
            found += float(values[-1]) / self.batches
        return found, 2 / found if found > 0 else torch.inf


def _order(seen: Snapshot, number: int, count: int) -> Tensor:
    """A random order of ``count`` places, int64 [count]."""
    need = -(-count // seen.x.shape[-1])  # rows of d normal numbers
    drawn = torch.cat([seen.normal((1 + number) * 1000 + k) for k in range(need)])
    return drawn[:count].argsort(stable=True)
