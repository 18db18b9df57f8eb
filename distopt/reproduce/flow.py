"""Gradient descent beside the gradient flow [elkabetz2021]."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from distopt.api import simulate
from distopt.numerics.random import Key
from distopt.optional import ScenarioDefaults
from distopt.reproduce import Results, Say
from distopt.reproduce.claimed import Number, above, below, near, part
from distopt.reproduce.landscape import Floats, read
from distopt.reproduce.smooth import with_unreached
from distopt.reproduce.store import Store

REFERENCE = (
    "Elkabetz, Cohen: Continuous vs. Discrete Optimization of Deep Neural Networks, NeurIPS 2021, arXiv 2107.06608"
)
NOTE = (
    "The deep linear networks are three matrices of 4 x 4, with one fixed target; the other network is that of digits_mlp. Sizes and step sizes are "
    "ours. The flow is integrated by Runge and Kutta's method of order 4."
)

SIDE = 4
TIME, BETWEEN = 30.0, 0.5
RATES = (0.1, 0.05, 0.025, 0.0125)
SCALES = (0.3, 0.05)
DIGITS_TIME = 40.0
DIGITS_RATES = (0.5, 0.2, 0.1, 0.05)
STARTS, START_LR, START_ROUNDS = 20, 0.03, 10_000
REACHED = 1e-8
POINTS = 20
"""Random points at which the Hessian of the deep linear network is taken."""


@dataclass(frozen=True)
class DeepLinear(ScenarioDefaults):
    """f(x) = |W_3 W_2 W_1 - A|^2 / 2 for three 4 x 4 matrices, whose rows x holds one after the other.

    A is I + N / 4 with standard normal numbers N, the same in all trials; its determinant is positive. ``start`` is made of standard
    normal numbers times ``scale``, its own in each trial. With ``balanced`` it is the product M that has such numbers: with M = U S V',

        W_1 = S^(1/3) V',    W_2 = S^(1/3),    W_3 = U S^(1/3),

    which have W_{j+1}' W_{j+1} = W_j W_j'; the first column of U is turned so that det M has the sign ``balanced``, and a hundredth of normal
    numbers times ``scale`` is added to each entry.
    """

    scale: float = 0.3
    balanced: int = 0
    dim: ClassVar[int] = 3 * SIDE * SIDE
    comparator: ClassVar[bool] = False

    def batch(self, t: Tensor, key: Key) -> Tensor:
        """A, row by row, see ``distopt.protocols.Scenario``, here and below."""
        return torch.from_numpy(target()).reshape(1, 1, 1, -1)

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        """f."""
        one, two, three = split(x)
        rest = times(three, times(two, one)) - b.reshape(*b.shape[:-1], SIDE, SIDE)
        return 0.5 * rest.square().sum((-1, -2))

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        """(W_2' W_3' E, W_3' E W_1', E W_1' W_2') with E the error of the product."""
        one, two, three = split(x)
        inner, outer = times(two, one), times(three, two)
        rest = times(three, inner) - b.reshape(*b.shape[:-1], SIDE, SIDE)
        back = times(three.mT, rest)
        parts = times(outer.mT, rest), times(back, one.mT), times(rest, inner.mT)
        return torch.cat([each.flatten(-2) for each in parts], -1)

    def start(self, key: Key) -> Tensor:
        """[R, 1, 48]."""
        drawn = key.shared.normal("deep linear", self.dim)[0]
        if not self.balanced:
            return self.scale * drawn
        product = self.scale * key.shared.normal("deep linear product", SIDE * SIDE)[0]
        u, s, vt = torch.linalg.svd(product.reshape(*product.shape[:-1], SIDE, SIDE))
        sign = self.balanced * torch.linalg.det(u) * torch.linalg.det(vt)
        u = torch.cat([u[..., :1] * sign[..., None, None], u[..., 1:]], -1)
        root = torch.diag_embed(torch.exp(torch.log(s) / 3))
        whole = torch.cat([each.flatten(-2) for each in (times(root, vt), root, times(u, root))], -1)
        return whole + 0.01 * self.scale * drawn


def target() -> Floats:
    """A [16].

    >>> np.linalg.svd(target().reshape(4, 4))[1].round(3).tolist(), round(float(np.linalg.det(target().reshape(4, 4))), 3)
    ([1.463, 1.245, 0.923, 0.637], 1.07)
    """
    drawn = Key(0, range(1), range(1), 1).normal("deep linear target", SIDE * SIDE)[0, 0, 0].numpy()
    return np.asarray((np.eye(SIDE) + drawn.reshape(SIDE, SIDE) / 4).ravel())


def split(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """W_1, W_2 and W_3 [..., 4, 4] in x [..., 48]."""
    size = SIDE * SIDE
    one, two, three = (x[..., k * size : (k + 1) * size].reshape(*x.shape[:-1], SIDE, SIDE) for k in range(3))
    return one, two, three


def times(a: Tensor, b: Tensor) -> Tensor:
    """A B of matrices [..., 4, 4]."""
    return (a.unsqueeze(-1) * b.unsqueeze(-3)).sum(-2)


# ------------------------------------------------------------------------------------------------------------------ order


def order(store: Store, data: Path | None, say: Say) -> Results:
    """The distance from the flow along runs with different step sizes, on both networks."""
    asked = {"time": [TIME, BETWEEN, DIGITS_TIME], "rates": [RATES, DIGITS_RATES], "scales": SCALES}
    return store.get("flow-order", asked, lambda: _order(say))


def _order(say: Say) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for scale in SCALES:
        found[f"deep linear, start {scale:g}"] = [_beside(DeepLinear(scale), lr, TIME, 2) for lr in RATES]
        say(f"flow: deep linear networks, start {scale:g}")
    smallest = min(DIGITS_RATES)
    found["digits"] = [_beside("digits_mlp", lr, DIGITS_TIME, round(lr / smallest)) for lr in DIGITS_RATES]
    say("flow: digits")
    return found


def _beside(scenario: Any, lr: float, time: float, parts: int) -> dict[str, Any]:
    """A run up to a time and its distances from the flow."""
    rounds, every = round(time / lr) + 1, max(round(BETWEEN / lr), 1)
    run = simulate(
        "complete",
        agents=1,
        scenario=scenario,
        algorithm=f"dgd:lr={lr}",
        rounds=rounds,
        probe=f"flow_distance:every={every},parts={parts}",
    )
    distance, relative = read(run, "flow_distance"), read(run, "flow_distance_relative")
    return {
        "lr": lr,
        "time": [lr * t for t in distance["t"]],
        "distance": distance["values"],
        "most": max(distance["values"]),
        "relative": relative["values"][-1],
        "cost": float(run["cost"][0, -1]),
    }


def order_numbers(results: Results) -> list[Number]:
    """Ratios of distances at step sizes that are halved, and how far the digits' runs are from the flow."""
    found = []
    claim = "the distance from the flow is of the order of the step size"
    for scale in SCALES:
        runs = results[f"deep linear, start {scale:g}"]
        setup = f"three 4 x 4 matrices, start {scale:g} times normal numbers, up to time {TIME:g}"
        for large, small in pairwise(runs[1:]):
            found.append(
                near(
                    claim,
                    setup,
                    f"largest distance with lr = {large['lr']:g} over that with {small['lr']:g}",
                    expected=2,
                    measured=large["most"] / small["most"],
                    within=0.2,
                    source="order 1",
                )
            )
    runs = results["digits"]
    setup = f"digits_mlp, one machine, at time {DIGITS_TIME:g}"
    large, small = runs[-2:]
    found.append(
        near(
            claim,
            setup,
            f"relative distance with lr = {large['lr']:g} over that with {small['lr']:g}",
            expected=2,
            measured=large["relative"] / small["relative"],
            within=0.2,
            source="order 1",
        )
    )
    claim = "conventional step sizes are close to the flow"
    for each in runs[1:]:
        words = f"distance from the flow over the way that the flow has gone, lr = {each['lr']:g}"
        found.append(below(claim, setup, words, bound=0.1, measured=each["relative"]))
        if each is not runs[-1]:
            words = f"cost with lr = {each['lr']:g} over that with {runs[-1]['lr']:g}"
            ratio = each["cost"] / runs[-1]["cost"]
            found.append(near(claim, setup, words, expected=1, measured=ratio, within=0.02, source="an earlier loop"))
    return found


# ---------------------------------------------------------------------------------------------------------------- valleys


def valleys(store: Store, data: Path | None, say: Say) -> Results:
    """How far from convex the cost of a deep linear network is along the flow and elsewhere, and where balanced starts lead."""
    asked = {"time": TIME, "starts": [STARTS, START_LR, START_ROUNDS], "points": POINTS, "lr": RATES[-1]}
    return store.get("flow-valleys", asked, lambda: _valleys(say))


def _valleys(say: Say) -> dict[str, Any]:
    lr = RATES[-1]
    rounds = round(TIME / lr)
    asked: dict[str, Any] = {"agents": 1, "scenario": DeepLinear(0.3, 1), "algorithm": f"dgd:lr={lr}"}
    run = simulate("complete", **asked, rounds=rounds, probe=f"sharpness:every={round(BETWEEN / lr)}")
    lowest = read(run, "sharpness_lowest")
    say("flow: the Hessian along a balanced run")
    drawn = Key(1, range(1), range(POINTS), 1).normal("flow/points", DeepLinear.dim)[0, :, 0]
    found: dict[str, Any] = {
        "stride": max(START_ROUNDS // 200, 1),
        "time": [lr * t for t in lowest["t"]],
        "along": [max(-value, 0.0) for value in lowest["values"]],
        "elsewhere": [-float(torch.linalg.eigvalsh(hessian(x))[0]) for x in drawn],
    }
    for name, sign in (("same", 1), ("other", -1)):
        run = simulate(
            "complete",
            agents=1,
            scenario=DeepLinear(0.3, sign),
            algorithm=f"dgd:lr={START_LR}",
            rounds=START_ROUNDS,
            trials=STARTS,
        )
        cost = np.asarray(run["cost"])
        good = cost < REACHED
        found[name] = {
            "reached": int(good.any(1).sum()),
            "median": float(np.median(np.where(good.any(1), good.argmax(1), START_ROUNDS))),
            "cost": [each[:: found["stride"]].tolist() for each in cost],
            "least": float(cost[:, -1].min()),
        }
        say(f"flow: {STARTS} balanced starts, the {name} sign of the determinant")
    return found


def hessian(x: Tensor) -> Tensor:
    """Of the deep linear network's cost at x [48]: [48, 48]."""
    b = torch.from_numpy(target())

    def loss(y: Tensor) -> Tensor:
        return DeepLinear().loss(y, b)

    found: Tensor = torch.func.hessian(loss)(x)
    return found


def valley_numbers(results: Results) -> list[Number]:
    """The most negative curvatures, and how many starts reach the minimum."""
    setup = f"three 4 x 4 matrices, a nearly balanced start, lr = {RATES[-1]:g}, up to time {TIME:g}"
    claim = "along the flow from a nearly balanced start the cost is far less non-convex than elsewhere"
    most, least = max(results["along"]), min(results["elsewhere"])
    starts = f"{STARTS} nearly balanced starts, lr = {START_LR:g}, {START_ROUNDS:,} rounds"
    found = [
        below(claim, setup, "largest -lam_min along the run", bound=3.5, measured=most, source="an earlier loop"),
        above(
            claim,
            setup,
            f"smallest -lam_min at {POINTS} points of standard normal numbers over the largest along the run",
            bound=5,
            measured=least / most,
            source="26 to 79 against 3.5 in an earlier loop",
        ),
        near(
            "from nearly balanced starts gradient descent reaches the global minimum almost surely",
            starts,
            f"starts whose cost falls below {REACHED:g}, sign of det M as that of A",
            expected=STARTS,
            measured=results["same"]["reached"],
            within=0,
            source="the corollary",
        ),
    ]
    return found


PARTS = {
    "order": part(
        order,
        order_numbers,
        "figures_of_edges:flow_order",
        "gradient descent stays near the gradient flow: the distance is of the order of the step size",
    ),
    "valleys": with_unreached(
        part(
            valleys,
            valley_numbers,
            "figures_of_edges:flow_valleys",
            "near the trajectories of deep linear networks the cost is nearly convex, which is why",
        ),
        {
            "the bound of the theorem holds": "it grows like the exponential of the integral of -lam_min, and says nothing over these times"
        },
    ),
}
