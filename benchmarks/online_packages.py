"""The streams of online_peers.py in other packages. It is run by the Python that has them, and imports nothing of distopt.

Usage: python benchmarks/online_packages.py PACKAGE STREAMS.npz ANSWER.npz    as online_peers.py does
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LR, EXPERTS, EPS, RADIUS = 0.0125, 6, 0.03, 1.5
DESCENT, SMALL, WIDE = 0.1, 0.01, 0.5
"""The step of descent, and the distances at which two points and one point are observed."""
SLOW = 0.005
"""The step of one-point feedback, whose noise is large."""


def pynol(given: Mapping[str, Array]) -> dict[str, Array]:
    """The points x_t [T, d] of each method of PyNOL on one stream: learners of one agent on a ball.

    ``given`` has curvatures a [d], targets c [T, d] and directions u [T, d]; costs are 1/2 sum_k a_k (x_k - c_tk)^2, and x_0 = 0.
    """
    from pynol.environment.domain import Ball
    from pynol.environment.environment import Environment
    from pynol.learner.base import OGD, BGDOnePoint, BGDTwoPoint
    from pynol.learner.meta import Hedge
    from pynol.learner.models.dynamic.ader import Ader
    from pynol.learner.models.model import Model
    from pynol.learner.schedule.schedule import Schedule
    from pynol.learner.schedule.ssp import DiscreteSSP
    from pynol.learner.specification.perturbation import TwoPointPerturbation
    from pynol.learner.specification.surrogate_base import LinearSurrogateBase
    from pynol.learner.specification.surrogate_meta import SurrogateMetaFromBase

    a, c, u = given["a"], given["c"], given["u"]
    T, d = c.shape
    zero = np.zeros(d)

    class Told(Ball):
        """A ball whose random directions are given: the package seeds its own from the system anew in each round."""

        directions: Iterator[Array] = iter(())

        def unit_vec(self, seed: int | None = None) -> Array:
            return next(self.directions)

    def ball(radius: float = RADIUS) -> Any:
        made = Told(dimension=d, radius=radius)
        made.directions = iter(u)
        return made

    def pool(domain: Any) -> Any:
        """Experts with the steps LR, 2 LR, ...: the package doubles until it has passed the largest."""
        return DiscreteSSP(OGD, LR, 1.5 * LR * 2 ** (EXPERTS - 2), grid=2, domain=domain, prior=zero)

    def experts(domain: Any, **parts: Any) -> Any:
        """Experts with these steps, and weights as distopt's: uniform at first, with a constant rate."""
        return Model(
            Schedule(pool(domain)),
            Hedge(np.full(EXPERTS, 1 / EXPERTS), EPS),
            surrogate_base=LinearSurrogateBase(),
            surrogate_meta=SurrogateMetaFromBase(),
            **parts,
        )

    def followed(learner: Any, full: bool = True) -> Array:
        """The points of a learner, round by round. A mean of experts is told by the round itself, as weights are brought up to date in it."""
        points = []
        for t in range(T):
            environment = Environment(
                func=lambda x, t=t: 0.5 * float(a @ (x - c[t]) ** 2),
                grad_func=lambda x, t=t: a * (x - c[t]),
                full_info=full,
            )
            before = None if isinstance(learner, Model) else np.array(learner.x)
            told, *_ = learner.opt(environment)
            points.append(np.array(told) if before is None else before)
        return np.array(points)

    # The bandits of the package shrink the ball by delta / radius, so that no cost is observed outside; a ball larger by delta shrinks to ours.
    wide, around = ball(RADIUS + SMALL), RADIUS / (RADIUS + SMALL)
    steepest = float(np.max(np.linalg.norm(a * (np.abs(c) + RADIUS), axis=1)))
    return {
        "descent": followed(OGD(ball(), DESCENT, prior=zero)),
        "experts": followed(experts(ball())),
        "two_point": followed(BGDTwoPoint(wide, DESCENT, SMALL, prior=zero)),
        "one_point": followed(BGDOnePoint(ball(RADIUS + WIDE), SLOW, WIDE, prior=zero)),
        "experts two_point": followed(
            experts(around * ball(RADIUS + SMALL), perturbation=TwoPointPerturbation(ball(), SMALL)), False
        ),
        "its own constants": followed(Ader(ball(), T, steepest, prior=zero)),
    }


def disropt(given: Mapping[str, Array]) -> dict[str, Array]:
    """The points x_t [T, N, d] of methods for directed graphs in disropt, one MPI process per agent.

    ``given`` has curvatures a and offsets c [N, d], a step lr, T as rounds, and by graph row weights R and column weights C [N, N]: of the
    balanced graph and of the other one. The package has gradient tracking with both weights, and push-sum of given numbers; steps
    of (sub)gradients between its exchanges make subgradient-push and Push-DIGing of it. All start at 0.
    """
    from disropt.agents import Agent
    from disropt.algorithms.consensus import PushSumConsensus
    from disropt.algorithms.gradient_tracking import DirectedGradientTracking
    from disropt.functions import QuadraticForm, Variable
    from disropt.problems import Problem
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    i, a, c, lr = world.rank, given["a"], given["c"], float(given["lr"])
    others, zero = [j for j in range(len(a)) if j != i], np.zeros((a.shape[1], 1))
    # Its form is x'P x + q'x, without the half.
    cost = QuadraticForm(Variable(a.shape[1]), np.diag(a[i]) / 2, -(a[i] * c[i])[:, None])

    def agent(graph: str) -> Any:
        R, C = given[f"{graph} R"], given[f"{graph} C"]
        made = Agent(
            in_neighbors=[j for j in others if R[i, j]],
            out_neighbors=[j for j in others if R[j, i]],
            in_weights=R[i].tolist(),
            out_weights=C[:, i].tolist(),
        )
        made.set_problem(Problem(cost, force_general_problem=True))
        return made

    def slope(x: Array) -> Array:
        return np.asarray(cost.subgradient(x))

    def tracking(graph: str) -> Iterator[Array]:
        algorithm = DirectedGradientTracking(agent(graph), zero)
        # Its trackers start at the gradients; ours meet the weights before they are used, so these do, too.
        algorithm.y = (given[f"{graph} C"] @ (-a * c))[i][:, None]
        while True:
            yield algorithm.get_result()
            algorithm.iterate_run(stepsize=lr)

    def push(graph: str) -> Iterator[Array]:
        algorithm = PushSumConsensus(agent(graph), zero)
        while True:
            yield algorithm.z
            algorithm.x = algorithm.x - lr * slope(algorithm.z)
            algorithm.iterate_run()

    def push_tracked(graph: str) -> Iterator[Array]:
        points, trackers = PushSumConsensus(agent(graph), zero), PushSumConsensus(agent(graph), slope(zero))
        while True:
            yield points.z
            points.x, before = points.x - lr * trackers.x, slope(points.z)
            points.iterate_run()
            trackers.iterate_run()
            trackers.x = trackers.x + slope(points.z) - before

    found = {}
    for graph in ("balanced", "other"):
        for name, method in (("tracking", tracking), ("push", push), ("push tracked", push_tracked)):
            points = [x.ravel().copy() for x, _ in zip(method(graph), range(int(given["rounds"])), strict=False)]
            found[f"{graph} {name}"] = np.array(world.allgather(np.array(points))).transpose(1, 0, 2)
    return found


def child(package: str, streams: str, path: str) -> None:
    """Run one package in its own Python on what ``streams`` has, and leave what it found in ``path``."""
    from importlib.metadata import version

    with np.load(streams, allow_pickle=False) as z:
        found = {"pynol-xzp": pynol, "disropt": disropt}[package](dict(z))
    if os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK", "0")) == "0":
        np.savez(path, version=version(package), **found)


if __name__ == "__main__":
    # A script finds its own folder first on the path, where this file's siblings could hide a package of the same name.
    sys.path = [entry for entry in sys.path if entry != str(Path(__file__).resolve().parent)]
    child(*sys.argv[1:])
