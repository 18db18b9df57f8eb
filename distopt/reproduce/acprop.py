"""The counterexamples of "Momentum centering and asynchronous update for adaptive gradient methods" [zhuang2021]."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from distopt.reproduce import Results, Say
from distopt.reproduce.claimed import Number, above, below, near, part
from distopt.reproduce.linear_costs import directions, path
from distopt.reproduce.one_agent import LOOP, LOOPS
from distopt.reproduce.store import Store

REFERENCE = "Zhuang, Ding, Tang, Dvornek, Tatikonda, Duncan: Momentum Centering and Asynchronous Update for Adaptive Gradient Methods, NeurIPS 2021"
NOTE = (
    "The claims are those of the paper's abstract and of its authors' repository; the formulas of the two families are as we remember them. Periods, "
    "b2, alpha and rounds are ours. Adam and AMSGrad have torch's bias corrections here. Training on ImageNet, CIFAR and GANs, and the paper's rates "
    f"of convergence are out of reach here. {LOOPS}"
)

HORIZONS, ALPHA, B1, TAIL = (20_000, 200_000), 1.0, 0.9, 0.1
PERIODS = (11, 31)
B2 = (0.2, 0.5, 0.9, 0.99, 0.999)
WINDOW = 1
"""AdaShift's window of gradients."""
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
    """For each method and period: the mean x of the last tenth of each horizon, by b2."""
    asked = {"horizons": HORIZONS, "b2": B2, "alpha": ALPHA, "tail": TAIL}
    found = []
    for period in PERIODS:
        for name, rule in directions(B1, f"[{','.join(map(str, B2))}]", WINDOW, corrected=True).items():
            kept = f"acprop-{form}-{period}-{name}"
            found.append(store.get(kept, asked | {"rule": rule}, partial(_one, form, period, name, rule)))
        say(f"{form}: period {period}: {len(found)} of {len(PERIODS) * 5} curves")
    return found


def _one(form: str, period: int, name: str, rule: str) -> dict[str, Any]:
    runs = path(f"reddi:form={form},P={period}", rule, max(HORIZONS), alpha=ALPHA)
    ends = [[float(x[0, int((1 - TAIL) * rounds) : rounds].mean()) for x in runs] for rounds in HORIZONS]
    return {"method": name, "period": period, "b2": B2, "ends": ends}


def _table(results: Results, place: int) -> dict[tuple[str, int, float], float]:
    """The ends by method, P and b2, at the first horizon (0) or at the last one (-1)."""
    return {
        (each["method"], each["period"], b2): end
        for each in results
        for b2, end in zip(each["b2"], each["ends"][place], strict=True)
    }


def _setup(form: str) -> str:
    family, sparse = "c_t = P if t mod P = 1, else -1", "c_t = P/2 if t mod P = 1, -1 if t mod P = P - 2, else 0"
    costs = family if form == "family" else sparse
    return f"{costs}; alpha = {ALPHA:g}, b1 = {B1}, AdaShift with one gradient; mean x of the last tenth of the rounds"


def _largest(results: Results, claim: str, setup: str, name: str, least: float = 0.0) -> Number:
    """The worst end of a method over P and all b2 of at least ``least``, at the last horizon."""
    own = [end for (method, _, b2), end in _table(results, -1).items() if method == name and b2 >= least]
    what = f"{name}, largest of {len(own)} pairs of P and b2{f' >= {least:g}' if least else ''} after {HORIZONS[-1]:,} rounds"
    return below(claim, setup, what, bound=CLOSE, measured=max(own))


def _known(claim: str, setup: str, name: str, known: Any, ends: Any) -> list[Number]:
    """The figures of a method that are expected, at the first horizon."""
    found = []
    for (period, b2), expected in known.items():
        what, end = f"{name}, P = {period}, b2 = {b2}, after {HORIZONS[0]:,} rounds", ends[name, period, b2]
        found.append(near(claim, setup, what, expected=expected[name], measured=end, within=ROUNDED, source=LOOP))
    return found


def family_numbers(results: Results) -> list[Number]:
    """The family on which methods whose moments have seen the gradient need b2 close to 1."""
    ends, setup = _table(results, 0), _setup("family")
    delayed = "Asynchronous methods (ACProp, AdaShift) go to the best point, x = -1, for all b2"
    fresh = "Synchronous methods (Adam, AdaBelief) go to the worst point, x = 1, unless b2 is close to 1"
    control = "AMSGrad goes to x = -1 for all b2 (not a claim of this paper)"
    found = []
    for claim, names in ((delayed, ("ACProp", "AdaShift")), (fresh, ("Adam", "AdaBelief")), (control, ("AMSGrad",))):
        for name in names:
            found += _known(claim, setup, name, FAMILY, ends)
            found.append(_largest(results, claim, setup, name, max(B2) if claim == fresh else 0.0))
    return found


def sparse_numbers(results: Results) -> list[Number]:
    """The family that separates centring from mere delay."""
    ends, setup = _table(results, 0), _setup("sparse")
    apart = "On sparse gradients ACProp goes to x = -1 where AdaShift does not: centring adds to delay"
    both = "From b2 = 0.9 on both go to x = -1 there (not a claim of the paper)"
    adam = "Adam goes to x = -1 in the whole sparse family (not a claim of the paper)"
    found = [number for name in ("AdaShift", "ACProp") for number in _known(apart, setup, name, SPARSE, ends)]
    for period, b2 in SPARSE:
        what, end = f"AdaShift, P = {period}, b2 = {b2}, after {HORIZONS[-1]:,} rounds", _table(results, -1)
        found.append(above(apart, setup, what, bound=0, measured=end["AdaShift", period, b2]))
    found.append(_largest(results, apart, setup, "ACProp"))
    found += [_largest(results, both, setup, name, 0.9) for name in ("AdaShift", "ACProp")]
    return [*found, _largest(results, adam, setup, "Adam")]


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
