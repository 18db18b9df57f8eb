"""The counterexamples of "Momentum centering and asynchronous update for adaptive gradient methods" [zhuang2021]."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distopt.reproduce import Results, Say
from distopt.reproduce.claimed import Number, above, below, near, part
from distopt.reproduce.linear_costs import directions, path
from distopt.reproduce.store import Store

REFERENCE = "Zhuang, Ding, Tang, Dvornek, Tatikonda, Duncan: Momentum Centering and Asynchronous Update for Adaptive Gradient Methods, NeurIPS 2021"
NOTE = (
    "The claims are those of the paper's abstract and of its authors' repository; the formulas of the two families are as we remember them. Periods, "
    'b2, alpha and rounds are ours. Numbers with the source "loop" come from loops of a few lines written from the equations. Training on '
    "ImageNet, CIFAR and GANs, and the rates of convergence of the paper are out of reach here."
)

LOOP = "loop"
ROUNDS, ALPHA, B1, TAIL = 20_000, 1.0, 0.9, 0.1
PERIODS = (11, 31)
B2 = (0.2, 0.5, 0.9, 0.99, 0.999)
WINDOWS = {"family": 10, "sparse": 1}
"""AdaShift's window of gradients in each family."""
FAMILY = {
    (11, 0.5): {"Adam": 1.0, "AdaBelief": 1.0, "AMSGrad": -1.0, "AdaShift": -0.99, "ACProp": -0.99},
    (31, 0.9): {"Adam": 0.99, "AdaBelief": 0.99, "AMSGrad": -1.0, "AdaShift": -0.98, "ACProp": -0.98},
    (31, 0.99): {"Adam": -0.63, "AdaBelief": -0.63, "AMSGrad": -1.0, "AdaShift": -0.98, "ACProp": -0.98},
}
SPARSE = {(11, 0.2): {"AdaShift": 0.84, "ACProp": -0.99}, (31, 0.5): {"AdaShift": 0.71, "ACProp": -0.99}}
"""Mean x of the end by (period, b2) and method."""
ROUNDED = 0.01
CLOSE = -0.9
"""A mean x of the end below it counts as right."""


def measure(form: str, store: Store, data: Path | None, say: Say) -> Results:
    """For each method and period: the mean x of the last tenth of the rounds by b2."""
    asked = {"rounds": ROUNDS, "b2": B2, "alpha": ALPHA, "window": WINDOWS[form]}
    found = []
    for period in PERIODS:
        for name, rule in directions(B1, f"[{','.join(map(str, B2))}]", WINDOWS[form]).items():
            kept = f"acprop-{form}-{period}-{name}"
            found.append(store.get(kept, asked | {"rule": rule}, partial(_one, form, period, name, rule)))
        say(f"{form}: period {period}: {len(found)} of {len(PERIODS) * 5} curves")
    return found


def _one(form: str, period: int, name: str, rule: str) -> dict[str, Any]:
    runs = path(f"reddi:form={form},P={period}", rule, ROUNDS, alpha=ALPHA)
    ends = [float(x[0, -int(TAIL * len(x[0])) :].mean()) for x in runs]
    return {"method": name, "period": period, "b2": B2, "ends": ends}


def _table(results: Results) -> dict[tuple[str, int, float], float]:
    return {
        (each["method"], each["period"], b2): end
        for each in results
        for b2, end in zip(each["b2"], each["ends"], strict=True)
    }


def _setup(form: str) -> str:
    costs = (
        "c_t = P if t mod P = 1, else -1"
        if form == "family"
        else "c_t = P/2 if t mod P = 1, -1 if t mod P = P - 2, else 0"
    )
    window = WINDOWS[form]
    return f"{costs}; alpha = {ALPHA:g}, b1 = {B1}, {ROUNDS:,} rounds, mean x of the last tenth; AdaShift with a window of {window}"


def family_numbers(results: Results) -> list[Number]:
    """The family on which methods whose moments have seen the gradient need b2 close to 1."""
    ends, setup = _table(results), _setup("family")
    delayed = "Asynchronous methods (ACProp, AdaShift) go to the best point, x = -1, for all b2"
    fresh = "Synchronous methods (Adam, AdaBelief) go to the worst point, x = 1, unless b2 is close to 1"
    control = "AMSGrad goes to x = -1 for all b2 (not a claim of this paper)"
    found = []
    for claim, names in ((delayed, ("ACProp", "AdaShift")), (fresh, ("Adam", "AdaBelief")), (control, ("AMSGrad",))):
        for name in names:
            for (period, b2), expected in FAMILY.items():
                what = f"{name}, P = {period}, b2 = {b2}"
                measured = ends[name, period, b2]
                found.append(
                    near(claim, setup, what, expected=expected[name], measured=measured, within=ROUNDED, source=LOOP)
                )
            own = [end for (method, _, _), end in ends.items() if method == name]
            if claim != fresh:
                what = f"{name}, largest of {len(own)} pairs of P and b2"
                found.append(below(claim, setup, what, bound=CLOSE, measured=max(own)))
            else:
                closest = max(B2)
                least = [end for (method, _, b2), end in ends.items() if method == name and b2 == closest]
                what = f"{name}, larger of the two P at b2 = {closest}"
                found.append(below(claim, setup, what, bound=CLOSE, measured=max(least)))
    return found


def sparse_numbers(results: Results) -> list[Number]:
    """The family that separates centring from mere delay."""
    ends, setup = _table(results), _setup("sparse")
    apart = "On sparse gradients ACProp goes to x = -1 where AdaShift does not: centring adds to delay"
    found = []
    for (period, b2), expected in SPARSE.items():
        for name, value in expected.items():
            what = f"{name}, P = {period}, b2 = {b2}"
            measured = ends[name, period, b2]
            found.append(near(apart, setup, what, expected=value, measured=measured, within=ROUNDED, source=LOOP))
            if name == "AdaShift":
                found.append(above(apart, setup, what, bound=0, measured=measured))
    every = [end for (method, _, _), end in ends.items() if method == "ACProp"]
    found.append(
        below(apart, setup, f"ACProp, largest of {len(every)} pairs of P and b2", bound=CLOSE, measured=max(every))
    )
    both = "From b2 = 0.9 on both go to x = -1 there (not a claim of the paper)"
    for name in ("AdaShift", "ACProp"):
        own = [end for (method, _, b2), end in ends.items() if method == name and b2 >= 0.9]
        found.append(
            below(both, setup, f"{name}, largest over P and b2 >= 0.9", bound=CLOSE, measured=max(own), source=LOOP)
        )
    adam = [end for (method, _, _), end in ends.items() if method == "Adam"]
    found.append(
        below(
            "Adam goes to x = -1 in the whole sparse family (not a claim of the paper)",
            setup,
            f"Adam, largest of {len(adam)} pairs of P and b2",
            bound=CLOSE,
            measured=float(np.max(adam)),
            source=LOOP,
        )
    )
    return found


PARTS = {
    "family": part(
        partial(measure, "family"),
        family_numbers,
        "figures_of_rules:family",
        "asynchronous methods converge for every b2 where synchronous ones need b2 close to 1",
    ),
    "sparse": part(
        partial(measure, "sparse"),
        sparse_numbers,
        "figures_of_rules:sparse",
        "on sparse gradients delay alone (AdaShift) is not enough, and ACProp converges",
    ),
}
