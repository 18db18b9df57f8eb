"""Normalisation, weight decay, and the sharpness on the sphere [lyu2022]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from distopt.algorithms.dgd import DGD
from distopt.api import simulate
from distopt.protocols import DirectionRound
from distopt.reproduce import Results, Say
from distopt.reproduce.claimed import Number, above, below, near, part
from distopt.reproduce.landscape import read
from distopt.reproduce.smooth import with_unreached
from distopt.reproduce.store import Store

REFERENCE = "Lyu, Li, Arora: Understanding the Generalization Benefit of Normalization Layers: Sharpness Reduction, NeurIPS 2022, arXiv 2206.07085"
NOTE = (
    "The network is that of digits_mlp at 8 x / |x|, so that its cost does not depend on the length of x. Networks with normalisation layers "
    "share this property, and are not run here. Step sizes and decays are ours. The paper's flow on the set of minimisers is not integrated."
)

SCENARIO = "digits_mlp:normalised=8"
RUNS = ((0.02, 0.01, 6000), (0.05, 0.02, 12_000), (0.05, 0.0, 6000))
"""lr, decay and rounds. The first point has length 1."""
READINGS = 24
EARLIER = {(0.02, 0.01): (200, 144, 1.03, 1.06), (0.05, 0.02): (325, 90, 1.07, 1.12), (0.05, 0.0): (388, 460, 0.5, 0.6)}
"""First and last sharpness, smallest and largest ratio, in a loop that was written beforehand, from another start."""


@dataclass(frozen=True)
class Decayed:
    """The gradient and decoupled weight decay: d_t = s_t + decay x_t."""

    decay: float

    def init(self, x: Tensor) -> tuple[()]:
        """Nothing is remembered."""
        return ()

    def __call__(self, s: Tensor, state: tuple[()], mix: DirectionRound) -> tuple[Tensor, tuple[()]]:
        """d_t."""
        return s + self.decay * mix.x, ()


def digits(store: Store, data: Path | None, say: Say) -> Results:
    """The spherical sharpness, its ratio to the edge, and |x| along each run."""
    asked = {"runs": RUNS, "readings": READINGS}
    return store.get("spherical-sharpness-digits", asked, lambda: [_digits(*each, say) for each in RUNS])


def _digits(lr: float, decay: float, rounds: int, say: Say) -> dict[str, Any]:
    first = simulate("complete", agents=1, scenario=SCENARIO, algorithm="dgd", rounds=1, record="x")["x"][0, 0]
    rule: Any = Decayed(decay)  # it takes the round, too
    found = simulate(
        "complete",
        agents=1,
        scenario=SCENARIO,
        algorithm=DGD(lr, direction=rule),
        rounds=rounds,
        x0=first / np.linalg.norm(first),
        probe=f"spherical_sharpness:every={rounds // READINGS}",
    )
    say(f"spherical-sharpness: lr = {lr:g}, decay = {decay:g}, {rounds:,} rounds")
    sharpness, length = read(found, "spherical_sharpness"), read(found, "spherical_sharpness_norm")
    pairs = zip(sharpness["values"], length["values"], strict=True)
    ratio = [value / limit(lr, decay, size) for value, size in pairs]
    cost = found["cost"][0]
    return {
        "lr": lr,
        "decay": decay,
        "rounds": rounds,
        "sharpness": sharpness,
        "length": length,
        "ratio": {"t": sharpness["t"], "values": ratio},
        "cost": float(cost[-1]),
    }


def limit(lr: float, decay: float, length: float) -> float:
    """2 over the step size on the sphere, which is lr / ((1 - lr decay) |x|^2).

    >>> limit(0.02, 0.0, 1.5)
    225.0
    """
    return 2 * (1 - lr * decay) * length**2 / lr


def digits_numbers(results: Results) -> list[Number]:
    """Whether the sharpness keeps to its edge, and where it goes."""
    found = []
    for each in results:
        lr, decay, rounds = each["lr"], each["decay"], each["rounds"]
        setup = f"digits_mlp at 8 x / |x|, |x_0| = 1, lr = {lr:g}, decay = {decay:g}, {rounds:,} rounds"
        ratio, sharpness, length = (each[name]["values"] for name in ("ratio", "sharpness", "length"))
        begin, end, low, high = EARLIER[lr, decay]
        told = f"{begin} -> {end} in an earlier loop, from another start"
        if decay:
            claim = "with weight decay it trains at the edge of stability on the sphere, or a little above"
            source = f"{low:g} to {high:g} in an earlier loop"
            words = "{} ratio of the spherical sharpness to 2 over the step size on the sphere, after the first reading"
            found.append(above(claim, setup, words.format("least"), bound=1, measured=min(ratio[1:]), source=source))
            found.append(
                below(claim, setup, words.format("largest"), bound=1.15, measured=max(ratio[1:]), source=source)
            )
            claim = "so weight decay reduces the spherical sharpness"
            words = "last spherical sharpness over the first one read"
            found.append(below(claim, setup, words, bound=0.8, measured=sharpness[-1] / sharpness[0], source=told))
            claim = "it does so by making x shorter, and the step on the sphere larger"
            words = "last |x| over the first one read"
            found.append(below(claim, setup, words, bound=0.95, measured=length[-1] / length[0]))
        else:
            claim = "without weight decay the spherical sharpness rises"
            words = "last spherical sharpness over the first one read"
            found.append(above(claim, setup, words, bound=1, measured=sharpness[-1] / sharpness[0], source=told))
            claim = "without weight decay it stays below the edge, at a fixed length of x"
            words = "largest ratio to 2 over the step size on the sphere"
            source = f"{low:g} to {high:g} in an earlier loop"
            found.append(below(claim, setup, words, bound=0.9, measured=max(ratio), source=source))
            words = "last |x| over the first one read"
            found.append(near(claim, setup, words, expected=1, measured=length[-1] / length[0], within=0.01))
    return found


PARTS = {
    "digits": with_unreached(
        part(
            digits,
            digits_numbers,
            "figures_of_edges:spherical",
            "with weight decay gradient descent moves along the edge of stability on the sphere, to smaller sharpness",
        ),
        {
            "it follows a flow on the set of minimisers that reduces the logarithm of the sharpness": "the flow is not integrated here",
            "a smaller spherical sharpness goes with better generalisation": "it needs networks and data that generalise",
        },
    )
}
