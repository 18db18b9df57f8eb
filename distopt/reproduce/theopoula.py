"""Steep, flat and plain costs of one variable, on which TheoPouLa meets SGD and Adam [lim2021]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from distopt.reproduce import Results, Say
from distopt.reproduce.claimed import Number, above, below, diverges, near, part
from distopt.reproduce.one_agent import DERIVED, EXACT, LOOP, LOOPS, Still, marks, paths
from distopt.reproduce.store import Store

REFERENCE = (
    "Lim, Sabanis: Polygonal Unadjusted Langevin Algorithms: Creating Stable and Efficient Adaptive Algorithms for Neural Networks, "
    "arXiv:2105.13937, 2021"
)
NOTE = (
    "The rule is that of the authors' repository; the costs, starts and step sizes of this page are ours. The regulariser is off (eta = 0), and "
    "there is no noise (beta infinite). Pictures (CIFAR-10, CIFAR-100) and language (Penn Treebank), on which the papers compare it with Adam, "
    f"AMSGrad and others, are out of reach here. {LOOPS}"
)

LR, ROUNDS, LAST = 0.01, 5000, 1000
Q = LR**0.5
SMOOTHED = "theopoula(eps=0.01)"
METHODS = {
    "SGD": "sgd",
    "Adam": f"adam({EXACT.replace('1e-300', '1e-8')},bias_correction=true)",
    "TheoPouLa": "theopoula(eps=1e-8)",
    "TheoPouLa, eps = 0.01": SMOOTHED,
}


@dataclass(frozen=True)
class Power(Still):
    """f(x) = scale x^power for an even power."""

    scale: float
    power: int

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        """See ``distopt.protocols.Scenario``, here and below."""
        return self.scale * times(x, self.power).sum(-1)

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        """scale power x^(power - 1)."""
        return self.scale * self.power * times(x, self.power - 1)


def times(x: Tensor, power: int) -> Tensor:
    """x^power by multiplications, which have the same bits on every engine."""
    found = x
    for _ in range(power - 1):
        found = found * x
    return found


COSTS: dict[str, tuple[Power, float]] = {
    "x^4/4 from 100": (Power(0.25, 4), 100.0),
    "x^30 from 2": (Power(1.0, 30), 2.0),
    "5e-7 x^2 from 5": (Power(5e-7, 2), 5.0),
    "x^2/2 from 1": (Power(0.5, 2), 1.0),
}
STEEP, STEEPER, FLAT, ROUND = COSTS


def measure(store: Store, data: Path | None, say: Say) -> Results:
    """For each cost and method: |x| along the rounds, its last value, the largest of the last rounds, and the longest direction."""
    asked = {"lr": LR, "rounds": ROUNDS, "last": LAST, "methods": METHODS}
    return [store.get(f"theopoula-{k}", asked, partial(_one, name, say)) for k, name in enumerate(COSTS)]


def _one(name: str, say: Say) -> dict[str, Any]:
    cost, start = COSTS[name]
    curves = []
    for method, rule in METHODS.items():
        ((x,),) = (run[..., 0] for run in paths(cost, f"dgd:lr={LR},direction={rule}", ROUNDS, x0=start))
        at = marks(len(x))
        finite = x[np.isfinite(x)]
        curves.append(
            {
                "method": method,
                "rounds": (at + 1).tolist(),
                "size": np.abs(x)[at].tolist(),
                "end": float(abs(x[-1])),
                "late": float(np.abs(x[-LAST:]).max()),
                "longest": float(np.abs(np.diff(finite)).max() / LR),
            }
        )
    say(f"{name}: {len(curves)} methods")
    return {"cost": name, "curves": curves}


def numbers(results: Results) -> list[Number]:
    """Where each method ends on each cost."""
    found: list[Number] = []
    by = {(each["cost"], curve["method"]): curve for each in results for curve in each["curves"]}
    setup = f"lr = {LR}, {ROUNDS:,} rounds"
    tamed = "Taming: TheoPouLa is stable where gradients grow faster than x, and gets near the minimiser"
    boosted = "Boosting: TheoPouLa moves where gradients vanish"
    plain = "Adam does not need boosting: it gets farther on the flat cost (not a claim of the paper)"
    bound = "The direction is bounded: |d| < 1/q + q for q = sqrt(lr), whatever the gradient (derived)"
    floor = "Boosting has a price: near a minimiser steps stay as long as lr q, so x stops at a floor of that order (not a claim of the paper)"

    def end(cost: str, method: str, key: str = "end") -> float:
        return float(by[cost, method][key])

    def says(claim: str, kind: Callable[..., Number], cost: str, method: str, **more: Any) -> None:
        found.append(kind(claim, setup, f"{cost}: last |x| of {method}", measured=end(cost, method), **more))

    says(tamed, diverges, STEEP, "SGD", source=LOOP)
    says(tamed, near, STEEP, "Adam", expected=60.5, within=0.1, source=LOOP)
    says(tamed, near, STEEP, "TheoPouLa", expected=4e-5, within=5e-6, source=LOOP)
    says(tamed, diverges, STEEPER, "SGD", source=LOOP)
    says(tamed, near, STEEPER, "TheoPouLa", expected=0.39, within=0.005, source=LOOP)
    says(boosted, near, FLAT, "SGD", expected=5.0, within=0.05, source=LOOP)
    says(boosted, near, FLAT, "TheoPouLa", expected=0.047, within=0.001, source=LOOP)
    says(boosted, near, FLAT, "TheoPouLa, eps = 0.01", expected=5.0, within=0.05, source="loop: eps must lie below |g|")
    says(plain, below, FLAT, "Adam", bound=end(FLAT, "TheoPouLa"))
    for cost in (STEEP, STEEPER):
        what = f"{cost}: longest direction of TheoPouLa"
        longest = end(cost, "TheoPouLa", "longest")
        found.append(below(bound, setup, what, bound=1 / Q + Q, measured=longest, source=DERIVED))
    what = f"{ROUND}: largest |x| of the last {LAST:,} rounds"
    late = end(ROUND, "TheoPouLa", "late")
    found.append(below(floor, setup, what, bound=LR * Q, measured=late, source=DERIVED))
    found.append(above(floor, setup, what, bound=LR * Q / 10, measured=late, source=DERIVED))
    return found


PARTS = {
    "toys": part(
        measure,
        numbers,
        "figures_of_rules:powers",
        "TheoPouLa tames gradients that grow too fast, and boosts those that vanish",
    ),
}
