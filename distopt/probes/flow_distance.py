"""How far gradient descent is from the gradient flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.optional import ProbeDefaults, entry
from distopt.protocols import Snapshot
from distopt.ranges import whole


@runtime_checkable
class Stepping(Protocol):
    """An algorithm that has a step size."""

    lr: Any


@dataclass(frozen=True)
class FlowDistance(ProbeDefaults):
    """The distance of the network average from the gradient flow with the same start [elkabetz2021].

        x'(s) = -grad F_tau(x(s)) for s between s_tau and s_{tau+1},    s_0 = 0,    s_{tau+1} = s_tau + lr_tau,    x(0) = x_0
        flow_distance = |x_t - x(s_t)|,    flow_distance_relative = |x_t - x(s_t)| / |x(s_t) - x_0|

    F_t(x) = 1/N sum_i f_{i,t}(x), and x_t stands for the network average. Gradient descent is Euler's method for the flow. For algorithms whose
    step sizes mean something else, such as adaptive directions, the distance does, too. The flow is integrated by Runge and Kutta's method of
    order 4 in ``parts`` steps a round, which are 4 ``parts`` gradients. The flow is kept from one reading to the next. A resumed run
    integrates it from the start at its first reading. Before the first round the relative distance is nan.

    Args:
        every: rounds from one measurement to the next, at least 1.
        parts: steps of the integration in a round, at least 1.

    Raises:
        InputError: for a parameter out of range, or an algorithm whose step size ``lr`` is neither a number nor a schedule.

    >>> from distopt import simulate
    >>> asked = {"agents": 1, "scenario": "quadratic:dim=1,kappa=1", "algorithm": "dgd:lr=0.1", "rounds": 11}
    >>> run = simulate("complete", **asked, probe="flow_distance:every=11", record="x")
    >>> centre = run["x"][0, 1, 0, 0] / 0.1
    >>> round(float(run["flow_distance"][0, -1] / abs(centre)), 6), round(2.718281828459045**-1 - 0.9**10, 6)
    (0.019201, 0.019201)
    """

    every: int = 100
    parts: int = 10
    columns: ClassVar[tuple[str, ...]] = ("", "relative")
    titles: ClassVar[tuple[str, ...]] = (
        "Distance from the gradient flow",
        "Distance from the gradient flow, as a part of its way",
    )

    def __post_init__(self) -> None:
        whole("flow_distance", 1, every=self.every, parts=self.parts)

    def check(self, scenario: Any, algorithm: Any) -> None:
        """Refuse an algorithm without a step size, and costs that have no flow."""
        if scenario.prox is not None:
            raise InputError(
                "probe flow_distance: a part of the costs has no gradient, and so there is no gradient flow; leave the probe out"
            )
        number = isinstance(algorithm, Stepping) and (callable(algorithm.lr) or isinstance(algorithm.lr, int | float))
        if not number:
            raise InputError(
                f"probe flow_distance: {entry(algorithm)} has no step size lr that is a number or a schedule; use an algorithm with one"
            )

    def measure(self, seen: Snapshot) -> tuple[float, float]:
        memory = seen.memory
        if not memory:
            memory.update(t=0, x=seen.start.clone())
        while memory["t"] < seen.t:
            t = memory["t"]
            step = rate(seen.algorithm.lr, t) / self.parts
            for _ in range(self.parts):
                memory["x"] = moved(seen, memory["x"], t, step)
            memory["t"] = t + 1
        distance, way = (seen.mean - memory["x"]).norm(), (memory["x"] - seen.start).norm()
        return float(distance), float(distance / way)


def rate(lr: Any, t: int) -> float:
    """The step size of round t.

    >>> rate(0.1, 3)
    0.1
    """
    return float(lr(torch.tensor(t)) if callable(lr) else lr)


def moved(seen: Snapshot, x: Tensor, t: int, step: float) -> Tensor:
    """The point that the flow of F_t reaches from x [d] in the time ``step``, by one step of Runge and Kutta's method."""
    a = seen.grad(x, t)
    b = seen.grad(x - step / 2 * a, t)
    c = seen.grad(x - step / 2 * b, t)
    d = seen.grad(x - step * c, t)
    return x - step / 6 * (a + 2 * b + 2 * c + d)
