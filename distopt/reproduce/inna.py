"""INNA, a hybrid of Newton's method and momentum [castera2021]: when it spirals, and that it avoids saddles, in OUR set-ups."""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from distopt.algorithms.dgd import DGD
from distopt.numerics.random import Key
from distopt.optional import ScenarioDefaults
from distopt.protocols import DirectionRound
from distopt.reproduce import Results, Say
from distopt.reproduce.claimed import Number, near, part
from distopt.reproduce.smooth import Bowl, Floats, changes, curve, points, run, with_unreached
from distopt.reproduce.store import Store

REFERENCE = (
    "Castera, Bolte, Févotte, Pauwels: An Inertial Newton Algorithm for Deep Learning, JMLR 22, 2021; "
    "Castera: Inertial Newton Algorithms Avoiding Strict Saddle Points, arXiv 2111.04596, 2021"
)
NOTE = (
    "The method is that of the authors' code, in a form without a second point (see the direction inna). All constants are ours, apart from the "
    "usual alpha = 0.5, beta = 0.1 and lr = 0.1. What is expected was derived, or counted beforehand in a loop in numpy, as said each time."
)

LR, ROUNDS = 0.1, 2000
CASES = ((0.5, 0.1, 1.0), (0.5, 0.1, 0.05), (2.1, 0.1, 1.0))
"""alpha, beta, and the curvature of the quadratic."""
COUNTED = 61
"""Changes of sign in the first case in a loop in numpy that was written beforehand."""
STARTS, SADDLE_ROUNDS = 1000, 2000
SETTINGS = ((0.5, 0.1, 0.1), (1.0, 0.5, 0.1), (2.1, 0.1, 0.05))
"""alpha, beta and lr."""
NEWTON_BEFORE = 351
NEWTON_ROUNDS = 200
NEAR = 0.01


@dataclass(frozen=True)
class Saddle(ScenarioDefaults):
    """f(x, y) = x²/2 - y²/2 + y⁴/4: a saddle at 0, and minima at (0, ±1). Trials start at standard normal points, or, ``on_line``, at y = 0."""

    on_line: bool = False
    dim: ClassVar[int] = 2
    comparator: ClassVar[bool] = False

    def batch(self, t: Tensor, key: Key) -> Tensor:
        """The signs of the two curvatures at 0, see ``distopt.protocols.Scenario``, here and below."""
        return torch.tensor([1.0, -1.0], dtype=torch.float64).reshape(1, 1, 1, 2)

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        """f."""
        return (0.5 * b * x * x + 0.125 * (1 - b) * x * x * x * x).sum(-1)

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        """(x, y³ - y)."""
        return b * x + 0.5 * (1 - b) * x * x * x

    def start(self, key: Key) -> Tensor:
        """[1, R, 1, 2] without its first axis."""
        found = key.normal("saddle", self.dim)[0]
        return found * torch.tensor([1.0, 0.0 if self.on_line else 1.0], dtype=torch.float64)


@dataclass(frozen=True)
class NewtonOnSaddle:
    """Newton's direction on ``Saddle``: the gradient divided by the second derivatives, (1, 3 y² - 1)."""

    def init(self, x: Tensor) -> tuple[()]:
        """Nothing is remembered."""
        return ()

    def __call__(self, s: Tensor, state: tuple[()], mix: DirectionRound) -> tuple[Tensor, tuple[()]]:
        """d = H^-1 s."""
        y = mix.x[..., 1:]
        return s / torch.cat([torch.ones_like(y), 3 * y * y - 1], -1), ()


def spec(alpha: float, beta: float, lr: float) -> str:
    """The method as ``simulate`` takes it."""
    return f"dgd:lr={lr},direction=inna(alpha={alpha},beta={beta})"


# ---------------------------------------------------------------------------------------------------------------- spirals


def spirals(store: Store, data: Path | None, say: Say) -> Results:
    """For each case: the path on a quadratic, its changes of sign, and the map of a step."""
    asked = {"lr": LR, "rounds": ROUNDS, "cases": CASES}
    return store.get("inna-spirals", asked, lambda: [_spiral(*case) for case in CASES])


def _spiral(alpha: float, beta: float, curvature: float) -> dict[str, Any]:
    x = points(run(Bowl(low=curvature, high=curvature), spec(alpha, beta, LR), ROUNDS))[0, :, 0]
    first = x[:20]  # x_{k+2} = trace x_{k+1} - det x_k: two numbers from 18 equations
    fit, *_ = np.linalg.lstsq(np.stack([first[1:-1], -first[:-2]], 1), first[2:], rcond=None)
    return {
        "alpha": alpha,
        "beta": beta,
        "curvature": curvature,
        "changes": changes(x),
        "trace": float(fit[0]),
        "det": float(fit[1]),
        "path": x[: 1 + ROUNDS // 4].tolist(),
    }


def discriminant(alpha: float, beta: float, curvature: float) -> float:
    """(alpha + beta lam)² - 4 lam: the flow spirals where it is negative.

    >>> round(discriminant(0.5, 0.1, 1.0), 6)
    -3.64
    """
    return (alpha + beta * curvature) ** 2 - 4 * curvature


def turns(alpha: float, beta: float, curvature: float) -> float:
    """Half turns in all rounds: the eigenvalues of a step are 1 + lr z, those of the flow z = (-(alpha + beta lam) +- sqrt(discriminant)) / 2.

    >>> round(turns(0.5, 0.1, 1.0), 1), turns(2.1, 0.1, 1.0)
    (62.4, 0.0)
    """
    z = (-(alpha + beta * curvature) + cmath.sqrt(discriminant(alpha, beta, curvature))) / 2
    return abs(cmath.phase(1 + LR * z)) * ROUNDS / math.pi


def determinant(alpha: float, beta: float, curvature: float) -> float:
    """Of the map of a step: 1 - lr alpha - lr lam (beta - lr)."""
    return 1 - LR * alpha - LR * curvature * (beta - LR)


def spiral_numbers(results: Results) -> list[Number]:
    """Changes of sign and determinants."""
    claim = "near a minimum of curvature lam it spirals if and only if (alpha + beta lam)² < 4 lam"
    setup = f"f = lam x²/2 from x = 1, lr = {LR:g}, {ROUNDS:,} rounds"
    found = []
    for k, each in enumerate(results):
        case = f"alpha = {each['alpha']:g}, beta = {each['beta']:g}, lam = {each['curvature']:g}"
        constants = each["alpha"], each["beta"], each["curvature"]
        expected = turns(*constants)
        before = "" if k else f"; {COUNTED} in an earlier loop"
        found.append(
            near(
                claim,
                setup,
                f"changes of sign of x, {case}",
                expected=expected,
                measured=each["changes"],
                within=1 if expected else 0,
                source=f"derived: (alpha + beta lam)² - 4 lam = {discriminant(*constants):.2f}{before}",
            )
        )
        found.append(
            near(
                "a step is an invertible map where 1 - lr alpha - lr lam (beta - lr) is not 0, which lets it avoid saddles",
                setup,
                f"determinant of the map of a step, {case}",
                expected=determinant(*constants),
                measured=each["det"],
                within=1e-9,
                source="derived",
            )
        )
    return found


# ----------------------------------------------------------------------------------------------------------------- saddle


def saddle(store: Store, data: Path | None, say: Say) -> Results:
    """Where INNA and Newton's method end from many starts, and INNA from the line that leads into the saddle."""
    asked = {"starts": STARTS, "rounds": [SADDLE_ROUNDS, NEWTON_ROUNDS], "settings": SETTINGS}
    return store.get("inna-saddle", asked, lambda: _saddle(say))


def _saddle(say: Say) -> dict[str, Any]:
    found: dict[str, Any] = {"inna": [], "line": []}
    for setting in SETTINGS:
        for name, on_line in (("inna", False), ("line", True)):
            x = points(run(Saddle(on_line), spec(*setting), SADDLE_ROUNDS, trials=STARTS))
            found[name].append({"setting": setting, **_ends(x)})
        say(f"inna: alpha, beta, lr = {setting}: {STARTS:,} starts")
    newton: Any = NewtonOnSaddle()  # it takes the round, too
    x = points(run(Saddle(), DGD(1.0, direction=newton), NEWTON_ROUNDS, trials=STARTS))
    found["newton"] = {"setting": (), **_ends(x), "chance": newton_chance()}
    return found


def _ends(x: Floats) -> dict[str, Any]:
    """Of paths [R, T + 1, 2]: how many end at the saddle and at a minimum, and some of the heights |y| on the way."""
    last = x[:, -1]
    height = np.abs(x[..., 1])
    return {
        "saddle": int((np.abs(last).max(-1) < NEAR).sum()),
        "minimum": int(((np.abs(last[:, 0]) < NEAR) & (np.abs(height[:, -1] - 1) < NEAR)).sum()),
        "heights": [curve(each) for each in height[:40]],
    }


def newton_chance(count: int = 200_001) -> float:
    """The probability that Newton's method on y⁴/4 - y²/2 ends at 0 from a standard normal start: the density summed over a fine grid of starts."""
    start = np.linspace(-8, 8, count)
    y = start.copy()
    for _ in range(NEWTON_ROUNDS):
        slope = 3 * y * y - 1
        y = y - (y**3 - y) / np.where(slope == 0, 1e-300, slope)
    density = np.exp(-(start**2) / 2)
    return float(density[np.abs(y) < NEAR].sum() / density.sum())


def saddle_numbers(results: Results) -> list[Number]:
    """How many paths end where."""
    setup = f"f = x²/2 - y²/2 + y⁴/4, {STARTS:,} standard normal starts, {SADDLE_ROUNDS:,} rounds"
    claim = "for any alpha, beta > 0 it avoids strict saddles from almost every start"
    found = []
    for each in results["inna"]:
        alpha, beta, lr = each["setting"]
        case = f"alpha = {alpha:g}, beta = {beta:g}, lr = {lr:g}"
        for where, expected in (("saddle", 0), ("minimum", STARTS)):
            words = f"paths that end at {'the saddle' if where == 'saddle' else 'a minimum'}, {case}"
            found.append(
                near(claim, setup, words, expected=expected, measured=each[where], within=0, source="the theorem")
            )
    newton = results["newton"]
    deviation = (STARTS * newton["chance"] * (1 - newton["chance"])) ** 0.5
    found.append(
        near(
            "Newton's method does not avoid them",
            f"the same starts, {NEWTON_ROUNDS} rounds",
            "paths of Newton's method that end at the saddle",
            expected=STARTS * newton["chance"],
            measured=newton["saddle"],
            within=4 * deviation,
            source=f"{newton['chance']:.3f} of the starts, by summing over a grid, give or take 4 deviations; {NEWTON_BEFORE} in other draws",
        )
    )
    for each in results["line"]:
        alpha, beta, lr = each["setting"]
        found.append(
            near(
                "almost every start is not every start: from the line y = 0 it runs into the saddle",
                f"the same function, {STARTS:,} starts with y = 0",
                f"paths that end at the saddle, alpha = {alpha:g}, beta = {beta:g}, lr = {lr:g}",
                expected=STARTS,
                measured=each["saddle"],
                within=0,
                source="derived: y stays 0",
            )
        )
    return found


PARTS = {
    "spirals": part(
        spirals,
        spiral_numbers,
        "figures_of_methods:inna_spirals",
        "alpha and beta decide whether INNA spirals into a minimum (linearised equations of motion)",
    ),
    "saddle": with_unreached(
        part(
            saddle,
            saddle_numbers,
            "figures_of_methods:inna_saddle",
            "INNA avoids strict saddles from almost every start, where Newton's method runs into them (the theorem of the second paper)",
        ),
        {
            "it trains large networks on CIFAR at least as well as SGD and Adam": "the data cannot be shipped, and the networks need large machines"
        },
    ),
}
