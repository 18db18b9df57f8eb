"""SGD whose momentum is lost over time: how subsampling and mass shape where it ends [jin2025]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from distopt.algorithms.dgd import DGD
from distopt.directions.losing_momentum import LosingMomentum
from distopt.numerics.random import Key
from distopt.reproduce import Results, Say
from distopt.reproduce.claimed import Number, above, below, near, part
from distopt.reproduce.one_agent import DERIVED, LOOP, LOOPS, Floats, averaged, marks, paths
from distopt.reproduce.store import Store
from distopt.scenarios.switching import Switching

REFERENCE = "Jin, Latz, Liu, Scagliotti: Losing Momentum in Continuous-time Stochastic Optimisation, JMLR 26, 2025"
NOTE = (
    "The dynamics are the paper's as we remember them: m(t) p' = -grad Phi_i(x) - alpha p with a mass m(t) that falls and an index i(t) that jumps "
    "at a rate. Its printed scheme was not at hand; the rule here has the friction implicit, and x is moved by the new p. All costs and constants "
    f"are ours. The paper's pictures (a convolutional network) are out of reach here. {LOOPS}"
)


# ---------------------------------------------------------------------------------------------- the rate of subsampling
RATES, MASSES = (0.3, 1.0, 10.0, 100.0), (0.0, 1.0)
STEP, SPAN, BURN, TRIALS, SEED = 0.005, 250.0, 50.0, 100, 0
WITHIN = 0.04
"""The largest relative error of a simulated variance."""
COARSE = 0.1
"""Jumps a step from which on a step is too long for the formula of continuous time."""
SIMULATED = {
    0.0: (0.771, 0.507, 0.0910, 0.0101),
    1.0: (0.934, 0.668, 0.0990, 0.0102),
}
"""Var(x) / Var(a) by mass and rate, in an earlier loop."""


def formula(rate: float, mass: float, alpha: float = 1.0) -> float:
    """Var(x) / Var(a) of the process in continuous time, stationary, for Phi_i = (x - a_i)^2 / 2 and a constant mass.

    >>> formula(1.0, 0.0), round(formula(1.0, 1.0), 3)
    (0.5, 0.667)
    """
    return (alpha + mass * rate) / (alpha * (1 + alpha * rate + mass * rate * rate))


def stepped(rate: float, mass: float, alpha: float = 1.0) -> float:
    """The same for steps of length ``STEP``: the stationary covariance of (x, q, a), where a is a chain with correlation exp(-rate STEP).

    >>> round(stepped(100.0, 0.0), 4), round(formula(100.0, 0.0), 4)
    (0.0101, 0.0099)
    """
    left = np.exp(-rate * STEP)
    of_q = np.array([STEP, mass, -STEP]) / (mass + alpha * STEP)  # q' from x, q and a
    step = np.stack([np.array([1.0, 0.0, 0.0]) - STEP * of_q, of_q, np.array([0.0, 0.0, left])])
    noise = np.zeros((3, 3))
    noise[2, 2] = 1 - left * left
    found = np.linalg.solve(np.eye(9) - np.kron(step, step), noise.reshape(-1))
    return float(found[0])


def rates(store: Store, data: Path | None, say: Say) -> Results:
    """For each rate: Var(x) / Var(a) of each mass."""
    asked = {"step": STEP, "span": SPAN, "burn": BURN, "trials": TRIALS, "seed": SEED, "masses": MASSES}
    line = np.geomspace(min(RATES) / 2, 2 * max(RATES), 100)
    return {
        "masses": MASSES,
        "line": line.tolist(),
        "formula": [[formula(rate, mass) for rate in line.tolist()] for mass in MASSES],
        "runs": [store.get(f"losing-momentum-rate-{rate:g}", asked, partial(_rate, rate, say)) for rate in RATES],
    }


def _rate(rate: float, say: Say) -> dict[str, Any]:
    rule = f"losing_momentum(alpha=1.0,m0=[{','.join(map(str, MASSES))}],decay=constant)"
    spec, rounds = f"dgd:lr={STEP},direction={rule}", round(SPAN / STEP)
    runs = paths(Switching(rate=rate, h=STEP), spec, rounds, trials=TRIALS, seed=SEED)
    key = Key(SEED, range(1), range(TRIALS), 1)
    every = Switching(rate=None, h=STEP).batch(
        torch.zeros(1, 1, 1, 1, dtype=torch.int64), key
    )  # the mean of all samples
    centre, variance = every.centre[0, :, 0].numpy(), 2 * every.least[0, :, 0].numpy()  # [R, 1]
    start = round(BURN / STEP)
    found = [float((np.square(x[:, start:, 0] - centre) / variance).mean()) for x in runs]
    say(f"rates: rate {rate:g}: {TRIALS} trials")
    return {"rate": rate, "variance": found}


def rates_numbers(results: Results) -> list[Number]:
    """The variances of a simulation against the formula, and how they fall with the rate."""
    claim = "Fast switching means no subsampling: the variance of x falls to 0 like 1/rate"
    other = "At every rate a mass makes the variance larger, never smaller (derived for these costs)"
    setup = f"Phi_i = (x - a_i)^2 / 2, alpha = 1, h = {STEP}, {TRIALS} trials over {SPAN - BURN:g} units of time"
    found = []
    for each in results["runs"]:
        for k, (mass, measured) in enumerate(zip(MASSES, each["variance"], strict=True)):
            what = f"Var(x)/Var(a) at rate {each['rate']:g}, m = {mass:g}"
            expected = {f"derived for steps of {STEP}": stepped(each["rate"], mass)}
            if each["rate"] * STEP < COARSE:
                expected["derived for continuous time"] = formula(each["rate"], mass)
            for source, value in expected.items():
                found.append(
                    near(claim, setup, what, expected=value, measured=measured, within=WITHIN * value, source=source)
                )
            earlier = SIMULATED[mass][RATES.index(each["rate"])]
            found.append(
                near(claim, setup, what, expected=earlier, measured=measured, within=WITHIN * earlier, source=LOOP)
            )
            if k and each["rate"] * STEP < COARSE:
                what = f"variance with m = {mass:g} by that with m = 0, at rate {each['rate']:g}"
                found.append(
                    above(other, setup, what, bound=1, measured=measured / each["variance"][0], source=DERIVED)
                )
    return found


# ------------------------------------------------------------------------------------------------------- the double well
WELL_STEP, WELL_ROUNDS, TILT = 0.02, 5000, 0.15
SETTLED = 1e-3
WELLS: dict[str, tuple[float, str]] = {
    "m = 0, from 1.6": (1.6, "m0=0.0,decay=constant"),
    "m = 4, from 1.6": (1.6, "m0=4.0,decay=constant"),
    "m = 4 exp(-t/10), from 1.6": (1.6, "m0=4.0,T=10.0,decay=exponential"),
    "m = 1, from 2.2": (2.2, "m0=1.0,decay=constant"),
}
STAYS, KEEPS, LOSES, FARTHER = WELLS
WRONG_WELL, RIGHT_WELL = 0.914, -1.068
TIMES = {KEEPS: 57.0, LOSES: 21.0, FARTHER: 13.6}
"""Time after which x stays within ``SETTLED`` of the global minimiser, in an earlier loop."""


def well(store: Store, data: Path | None, say: Say) -> Results:
    """For each mass and start: x along the time, its end, and when it has settled."""
    asked = {"step": WELL_STEP, "rounds": WELL_ROUNDS, "tilt": TILT, "ways": WELLS}
    return [store.get(f"losing-momentum-well-{k}", asked, partial(_well, name)) for k, name in enumerate(WELLS)]


def _well(name: str) -> dict[str, Any]:
    start, mass = WELLS[name]
    spec = f"dgd:lr={WELL_STEP},direction=losing_momentum(alpha=1.0,{mass})"
    ((x,),) = (run[..., 0] for run in paths(f"double_well:c={TILT}", spec, WELL_ROUNDS, x0=start))
    at = np.arange(0, len(x), max(len(x) // 800, 1))
    far = np.flatnonzero(np.abs(x - minimiser()) > SETTLED)
    return {
        "way": name,
        "time": (at * WELL_STEP).tolist(),
        "x": x[at].tolist(),
        "end": float(x[-1]),
        "settled": float((far[-1] + 1) * WELL_STEP) if far[-1] + 1 < len(x) else float("inf"),
    }


def minimiser() -> float:
    """The global minimiser of x^4/4 - x^2/2 + ``TILT`` x: the least root of x^3 - x + ``TILT``.

    >>> round(minimiser(), 3)
    -1.068
    """
    return float(np.roots([1.0, 0.0, -1.0, TILT]).real.min())


def well_numbers(results: Results) -> list[Number]:
    """Which mass leaves the wrong well, and how soon x has settled in the right one."""
    ways = {each["way"]: each for each in results}
    setup = f"x^4/4 - x^2/2 + {TILT} x, alpha = 1, h = {WELL_STEP}"
    over = "Momentum carries x out of a local minimum that the process without mass stays in"
    sooner = "Losing the momentum lets x settle sooner than a constant mass does"
    found = [
        near(
            over, setup, f"last x, {STAYS}", expected=WRONG_WELL, measured=ways[STAYS]["end"], within=0.001, source=LOOP
        )
    ]
    for name in (KEEPS, LOSES, FARTHER):
        what, end = f"last x, {name}", ways[name]["end"]
        found.append(near(over, setup, what, expected=minimiser(), measured=end, within=SETTLED, source=DERIVED))
    for name, claim in ((KEEPS, sooner), (LOSES, sooner), (FARTHER, over)):
        what, time = f"time until x stays within {SETTLED:g} of the minimiser, {name}", ways[name]["settled"]
        found.append(near(claim, setup, what, expected=TIMES[name], measured=time, within=0.5, source=LOOP))
    return found


# -------------------------------------------------------------------------------------------------------- a finite sum
FIXED, SUM_ROUNDS, SUM_TRIALS, SUM_SEED = 0.25, 20_000, 1000, 0
FIXED_ROUNDS, LATE = 2000, 0.25
SAMPLES, VARIANCE = 10, 0.57
"""The earlier loop's samples are not known. The variance and ``FIXED`` are fitted to its sizes: of ``RMS`` and ``SQUARES`` only ratios test."""
SCHEDULES = {
    "m = 0": "m0=0.0,decay=constant",
    "m = 1": "m0=1.0,decay=constant",
    "m = 4": "m0=4.0,decay=constant",
    "m = 4 exp(-t/10)": "m0=4.0,T=10.0,decay=exponential",
    "m = 4/(1 + t)^2": "m0=4.0,T=1.0,p=2.0,decay=inverse",
}
FALL: dict[str, Any] = {
    "m = 0": LosingMomentum(alpha=1.0, m0=0.0),
    "m = 4 exp(-t/10)": LosingMomentum(alpha=1.0, m0=4.0, T=10.0, decay="exponential"),
}
"""Rules with the step size that falls."""
RMS = 0.28
SQUARES = {200: 0.028, 2_000: 0.0057, 20_000: 0.0011}
"""E x^2 by the number of steps where h falls, in an earlier loop."""
EXACT_SUM = 1e-12


@dataclass(frozen=True)
class FiniteSum:
    """Phi(x) = mean_i (x - a_i)^2 / 2 of ``SAMPLES`` evenly spaced a_i of mean 0 and variance ``VARIANCE``, seen through one of them.

    Each round draws its own i; with ``full`` every round sees the mean of all. The data of a round are a_i [K, R, 1, 1].
    """

    full: bool = False
    dim: ClassVar[int] = 1
    comparator: ClassVar[bool] = False

    @property
    def a(self) -> Tensor:
        """The samples [SAMPLES]."""
        places = torch.arange(SAMPLES, dtype=torch.float64) - (SAMPLES - 1) / 2
        return places * math.sqrt(VARIANCE / ((SAMPLES * SAMPLES - 1) / 12))

    def batch(self, t: Tensor, key: Key) -> Tensor:
        """See ``distopt.protocols.Scenario``, here and below."""
        if self.full:
            return torch.zeros(1, 1, 1, 1, dtype=torch.float64)
        return self.a[key.integers("finite-sum", SAMPLES, 1, t)]

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        """(x - a_i)^2 / 2."""
        return (x - b).square().sum(-1) / 2

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        """x - a_i."""
        return x - b


@dataclass(frozen=True)
class Falling:
    """h_k = 0.5 / (1 + k/20)^0.7: its sum is infinite, that of its squares is finite."""

    def __call__(self, t: Tensor) -> Tensor:
        """The step size of round t."""
        return 0.5 * torch.exp(-0.7 * torch.log(1 + t.to(torch.float64) / 20))


def falling(k: int) -> float:
    """h_k of ``Falling``, as a number."""
    return float(Falling()(torch.tensor(k)))


def floor(store: Store, data: Path | None, say: Say) -> Results:
    """|x| along the steps: with all samples, with one a step at a fixed step size, and at one that falls."""
    asked = {"h": FIXED, "rounds": SUM_ROUNDS, "fixed": FIXED_ROUNDS, "trials": SUM_TRIALS, "seed": SUM_SEED}
    kinds = {"full": _full, "fixed": _fixed, "falling": _falling}
    return {
        kind: store.get(f"losing-momentum-sum-{kind}", asked | {"masses": SCHEDULES}, partial(make, say))
        for kind, make in kinds.items()
    }


def _full(say: Say) -> list[dict[str, Any]]:
    found = []
    for name, mass in SCHEDULES.items():
        spec = f"dgd:lr={FIXED},direction=losing_momentum(alpha=1.0,{mass})"
        (x,) = paths(FiniteSum(full=True), spec, FIXED_ROUNDS, x0=1.0)
        found.append(_rms(name, x))
    say(f"floor: all samples: {len(found)} masses")
    return found


def _fixed(say: Say) -> list[dict[str, Any]]:
    found = []
    for name, mass in SCHEDULES.items():
        spec = f"dgd:lr={FIXED},direction=losing_momentum(alpha=1.0,{mass})"
        (x,) = paths(FiniteSum(), spec, FIXED_ROUNDS, trials=SUM_TRIALS // 5, seed=SUM_SEED, x0=1.0)
        found.append(_rms(name, x))
    say(f"floor: one sample a step: {len(found)} masses")
    return found


def _rms(name: str, x: Floats) -> dict[str, Any]:
    square = np.square(x[..., 0]).mean(0)
    at = marks(len(square))
    late = square[-int(LATE * len(square)) :].mean() ** 0.5
    return {
        "mass": name,
        "rounds": (at + 1).tolist(),
        "rms": np.sqrt(averaged(square, at)).tolist(),
        "late": float(late),
        "last": float(square[-1] ** 0.5),
    }


def _falling(say: Say) -> list[dict[str, Any]]:
    found = []
    for name, rule in FALL.items():
        (x,) = paths(
            FiniteSum(), DGD(lr=Falling(), direction=rule), SUM_ROUNDS, trials=SUM_TRIALS, seed=SUM_SEED, x0=1.0
        )
        square = np.square(x[..., 0]).mean(0)
        squares = [[k, float(square[int(0.95 * k) : k + 1].mean())] for k in SQUARES if k <= SUM_ROUNDS]
        found.append(_rms(name, x) | {"squares": squares})
    say(f"floor: falling steps: {SUM_TRIALS} trials")
    return found


def floor_numbers(results: Results) -> list[Number]:
    """Full gradients, one sample a step at a fixed step size, and one sample a step at a falling one."""
    setup = f"(x - a_i)^2 / 2, {SAMPLES} samples of variance {VARIANCE}, alpha = 1"
    fixed = f"{setup}, h = {FIXED}"
    whole = "With full gradients x converges for every mass, kept or lost"
    stuck = "With a new sample a step at a fixed step size no loss of mass makes x converge: the rate of switching must grow, or h fall"
    falls = "With a new sample a step and h_k = 0.5/(1 + k/20)^0.7 x converges"
    found = []
    for each in results["full"]:
        what = f"|x| after {FIXED_ROUNDS:,} steps, {each['mass']}"
        found.append(below(whole, fixed, what, bound=EXACT_SUM, measured=each["last"]))
    for each in results["fixed"]:
        what = f"root mean square x of the last quarter, {each['mass']}"
        found.append(near(stuck, fixed, what, expected=RMS, measured=each["late"], within=0.02, source=LOOP))
    for each in results["falling"]:
        for k, square in each["squares"]:
            h = falling(k)
            what = f"E x^2 after {k:,} steps, {each['mass']}"
            derived = VARIANCE * h / (2 - h)
            found.append(
                near(falls, setup, what, expected=derived, measured=square, within=0.15 * derived, source=DERIVED)
            )
            found.append(
                near(falls, setup, what, expected=SQUARES[k], measured=square, within=0.15 * SQUARES[k], source=LOOP)
            )
    return found


PARTS = {
    "rates": part(
        rates,
        rates_numbers,
        "figures_of_rules:rates",
        "how the variance of x depends on the rate of subsampling and on the mass",
    ),
    "well": part(
        well, well_numbers, "figures_of_rules:well", "a mass leaves a local minimum, and losing it ends the swinging"
    ),
    "finite-sum": part(
        floor, floor_numbers, "figures_of_rules:floor", "what converges with subsampling: not the loss of mass alone"
    ),
}
