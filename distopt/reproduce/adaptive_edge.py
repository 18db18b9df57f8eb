"""Adaptive methods at the edge of stability [cohen2022]: one machine, a quadratic, and what a network of agents makes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distopt.algorithms.dgd import DGD
from distopt.api import simulate
from distopt.directions.adam import Adam
from distopt.numerics.random import Key
from distopt.optional import ScenarioDefaults
from distopt.reproduce import Results, Say
from distopt.reproduce.claimed import Number, above, below, near, part
from distopt.reproduce.landscape import Floats, NetworkSharpness, OwnSharpness, edge, plateau, read, ring
from distopt.reproduce.smooth import points, run, with_unreached
from distopt.reproduce.store import Store

REFERENCE = (
    "Cohen, Ghorbani, Krishnan, Agarwal, Medapati, Badura, Suo, Cardoze, Nado, Dahl, Gilmer: Adaptive Gradient Methods at the Edge of "
    "Stability, arXiv 2207.14484, 2022"
)
NOTE = (
    "The network is that of the scenario digits_mlp, not one of the paper's: 2,410 parameters, 200 digits, all in every round. The paper has one "
    "machine. What is said of networks of agents was derived and measured here, with weights 1/3 on a ring."
)

ROUNDS, EVERY = 3000, 100
ADAM = ((0.9, 0.999, 3e-3), (0.9, 0.999, 1e-2), (0.9, 0.99, 3e-3), (0.5, 0.999, 1e-3), (0.0, 0.999, 1e-3))
"""b1, b2 and lr of runs that reach the edge in time."""
SLOW = (0.9, 0.999, 1e-3)
"""b1, b2 and lr of a run that does not."""
WITHIN = 0.05
STABLE_ROUNDS, BESIDE = 5000, 1e-3
AGENTS, NETWORK_LR = 5, 3e-3
NETWORK_EVERY, NETWORK_LAST = 200, 5
NETWORKS = {
    "one agent": ("gtadam", 1, "label"),
    "gtadam, digits by label": ("gtadam", AGENTS, "label"),
    "gtadam, digits at random": ("gtadam", AGENTS, "random"),
    "Adam and mixing, digits by label": ("dgd", AGENTS, "label"),
}
"""The algorithm, the number of agents, and how the digits are dealt."""


# ----------------------------------------------------------------------------------------------------------------- digits


def digits(store: Store, data: Path | None, say: Say) -> Results:
    """The preconditioned and the raw sharpness along each run."""
    asked = {"rounds": ROUNDS, "every": EVERY, "runs": [*ADAM, SLOW]}
    return store.get("adaptive-edge-digits", asked, lambda: [_digits(*each, say) for each in (*ADAM, SLOW)])


def _digits(b1: float, b2: float, lr: float, say: Say) -> dict[str, Any]:
    rule = Adam(b1=b1, b2=b2, eps_inside=False, cap=None, bias_correction=True)
    probes = [f"preconditioned_sharpness:every={EVERY}", f"sharpness:every={EVERY}"]
    found = simulate(
        "complete", agents=1, scenario="digits_mlp", algorithm=DGD(lr=lr, direction=rule), rounds=ROUNDS, probe=probes
    )
    say(f"adaptive-edge: Adam with b1 = {b1:g}, b2 = {b2:g}, lr = {lr:g}")
    each = read(found, "preconditioned_sharpness")
    raw = read(found, "sharpness")
    return {"b1": b1, "b2": b2, "lr": lr, "readings": each, "raw": raw, "ends": plateau(each, lr)}


def digits_numbers(results: Results) -> list[Number]:
    """Plateaus beside (2 + 2 b1) / (1 - b1)."""
    setup = f"digits_mlp, one machine, {ROUNDS:,} rounds, a reading every {EVERY}; mean of the last 10"
    found = []
    for each in results[:-1]:
        expected = edge(each["b1"])
        found.append(
            near(
                "full-batch Adam trains where lr times the preconditioned sharpness is (2 + 2 b1) / (1 - b1)",
                setup,
                f"lr times it, b1 = {each['b1']:g}, b2 = {each['b2']:g}, lr = {each['lr']:g}",
                expected=expected,
                measured=each["ends"],
                within=WITHIN * expected,
                source="the paper's formula",
            )
        )
    slow = results[-1]
    found.append(
        below(
            "it does so from some round on: a small step size needs more rounds than these",
            setup,
            f"lr times the last reading, b1 = {slow['b1']:g}, lr = {slow['lr']:g}",
            bound=(1 - WITHIN) * edge(slow["b1"]),
            measured=slow["lr"] * slow["readings"]["values"][-1],
            source="15 in an earlier loop, from another start",
        )
    )
    small, large = results[:2]
    found.append(
        below(
            "the sharpness itself does not settle at a number over lr",
            setup,
            f"sharpness with lr = {small['lr']:g} over that with lr = {large['lr']:g}, b1 = 0.9, b2 = 0.999",
            bound=2,
            measured=plateau(small["raw"]) / plateau(large["raw"]),
            source=f"{large['lr'] / small['lr']:.2g} if it did",
        )
    )
    return found


# -------------------------------------------------------------------------------------------------------------- quadratic


@dataclass(frozen=True)
class Tilted(ScenarioDefaults):
    """f(x) = x'Hx/2 in two coordinates, H = [[3, 1], [1, 2]]. It starts at (1, 1)."""

    dim: ClassVar[int] = 2
    comparator: ClassVar[bool] = False

    def batch(self, t: Tensor, key: Key) -> Tensor:
        """The rows of H, see ``distopt.protocols.Scenario``, here and below."""
        return torch.tensor([3.0, 1.0, 1.0, 2.0], dtype=torch.float64).reshape(1, 1, 1, 4)

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        """f."""
        return 0.5 * (x * self.grad(x, b)).sum(-1)

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        """H x."""
        return b[..., :2] * x[..., :1] + b[..., 2:] * x[..., 1:]

    def start(self, key: Key) -> Tensor:
        """[1, 1, 2]."""
        return torch.ones(1, 1, 2, dtype=torch.float64)


class FrozenState(NamedTuple):
    """The moving average of the gradients [..., n, 2]."""

    m: Tensor


@dataclass(frozen=True)
class Frozen:
    """Adam without a change of its divisor: m_t = b1 m_{t-1} + (1 - b1) s_t, d_t = m_t / P with P = (first, second)."""

    b1: float
    first: float = 0.5
    second: float = 2.0

    def init(self, x: Tensor) -> FrozenState:
        """m = 0."""
        return FrozenState(torch.zeros_like(x))

    def __call__(self, s: Tensor, state: FrozenState) -> tuple[Tensor, FrozenState]:
        """d_t."""
        m = self.b1 * state.m + (1 - self.b1) * s
        d = torch.cat([m[..., :1] / self.first, m[..., 1:] / self.second], -1)
        return d, FrozenState(m)


TOP = float(np.linalg.eigvals(np.array([[3.0, 1.0], [1.0, 2.0]]) / np.array([[0.5], [2.0]])).real.max())
"""The largest eigenvalue of P^-1 H."""
RULES: dict[str, tuple[Any, float]] = {
    "Adam with a fixed P, b1 = 0.9": (Frozen(0.9), edge(0.9) / TOP),
    "Adam with a fixed P, b1 = 0.5": (Frozen(0.5), edge(0.5) / TOP),
    "Adam with a fixed P, b1 = 0": (Frozen(0.0), edge(0.0) / TOP),
    "heavy ball, b = 0.9": ("momentum(b=0.9)", 2 * 1.9 / ((5 + math.sqrt(5)) / 2)),
    "Nesterov, b = 0.9": ("nesterov(b=0.9)", 2 * 1.9 / (1 + 2 * 0.9) / ((5 + math.sqrt(5)) / 2)),
}
"""Each rule and the largest step size that is stable; (5 + sqrt 5) / 2 is the largest eigenvalue of H."""


def quadratic(store: Store, data: Path | None, say: Say) -> Results:
    """How far each rule ends from the minimiser just below and just above its largest step size."""
    asked = {"rounds": STABLE_ROUNDS, "beside": BESIDE, "rules": {name: limit for name, (_, limit) in RULES.items()}}
    return store.get("adaptive-edge-quadratic", asked, lambda: {name: _stable(name) for name in RULES})


def _stable(name: str) -> dict[str, Any]:
    rule, limit = RULES[name]
    found: dict[str, Any] = {"limit": limit}
    for side, factor in (("below", 1 - BESIDE), ("above", 1 + BESIDE)):
        lr = factor * limit
        algorithm = f"dgd:lr={lr!r},direction={rule}" if isinstance(rule, str) else DGD(lr, direction=rule)
        x = points(run(Tilted(), algorithm, STABLE_ROUNDS))[0]
        size: Floats = np.sqrt((x * x).sum(-1))
        good = size[np.isfinite(size)]
        places = np.linspace(0, len(good) - 1, 200).astype(int)
        half = len(good) // 2
        found[side] = {"t": places.tolist(), "size": good[places].tolist(), "growth": float(good[-1] / good[half])}
    return found


def quadratic_numbers(results: Results) -> list[Number]:
    """|x| at the end over |x| at half of the rounds."""
    setup = f"f = x'Hx/2, H = [[3, 1], [1, 2]], P = (0.5, 2), {STABLE_ROUNDS:,} rounds"
    found = []
    for name, each in results.items():
        adam = name.startswith("Adam")
        claim = (
            "on a quadratic, with P fixed, the edge is sharp: (2 + 2 b1) / (1 - b1) over the largest eigenvalue of P^-1 H"
            if adam
            else "heavy ball and Nesterov's method have the edges 2 (1 + b) and 2 (1 + b) / (1 + 2 b)"
        )
        what = "|x| at the end over |x| at half of the rounds, {} times the edge, " + name
        source = f"derived: lr = {each['limit']:.4g}"
        small, large = each["below"]["growth"], each["above"]["growth"]
        found.append(below(claim, setup, what.format(1 - BESIDE), bound=0.1, measured=small, source=source))
        found.append(above(claim, setup, what.format(1 + BESIDE), bound=10, measured=large, source=source))
    return found


# ---------------------------------------------------------------------------------------------------------------- network


def network(store: Store, data: Path | None, say: Say) -> Results:
    """Three kinds of sharpness along the run of each network."""
    asked = {"rounds": ROUNDS, "every": [NETWORK_EVERY, NETWORK_LAST], "lr": NETWORK_LR, "networks": NETWORKS}
    return store.get("adaptive-edge-network", asked, lambda: {name: _network(name, say) for name in NETWORKS})


def _network(name: str, say: Say) -> dict[str, Any]:
    kind, agents, shards = NETWORKS[name]
    tracking = kind == "gtadam"
    found = simulate(
        "ring",
        agents=agents,
        scenario=f"digits_mlp:shards={shards}",
        algorithm=f"gtadam:lr={NETWORK_LR}" if tracking else f"dgd:lr={NETWORK_LR},direction=adam",
        rounds=ROUNDS,
        every=NETWORK_EVERY,
        probe=[
            f"preconditioned_sharpness:every={NETWORK_EVERY}",
            OwnSharpness(NETWORK_EVERY),
            NetworkSharpness(NETWORK_EVERY, tracking),
        ],
    )
    say(f"adaptive-edge: {name}")
    names = {
        "average": "preconditioned_sharpness",
        "low": "ownsharpness_low",
        "own": "ownsharpness_mean",
        "high": "ownsharpness_high",
        "network": "networksharpness",
    }
    kept = {short: read(found, long) for short, long in names.items()}
    ends = {short: plateau(each, NETWORK_LR, NETWORK_LAST) for short, each in kept.items()}
    return {"readings": kept, "ends": ends, "agents": agents, "cost": float(found["cost"][0, -1])}


def lowest(agents: int) -> float:
    """The smallest eigenvalue of the weights of a ring.

    >>> round(lowest(5), 4)
    -0.206
    """
    return float(np.linalg.eigvalsh(ring(agents))[0])


def network_numbers(results: Results) -> list[Number]:
    """Whether 38 is reached by the average, by agents themselves, or by the network as a whole."""
    setup = f"digits_mlp on a ring of {AGENTS}, weights 1/3, lr = {NETWORK_LR:g}, {ROUNDS:,} rounds; mean of the last {NETWORK_LAST} readings"
    full = edge(0.9)
    whole = "what reaches 38 / lr in a network is the sharpness of the linearised network: 4 (I + W)^-1 P^-1 (I + W)^-1 H with tracking"
    found = []
    for name, each in results.items():
        if each["agents"] > 1:
            claim = "the preconditioned sharpness at the network average reaches 38 / lr, as that of one machine does"
            words = f"lr times it at the average, {name}"
            found.append(near(claim, setup, words, expected=full, measured=each["ends"]["average"], within=0.05 * full))
            claim = "each agent's own preconditioned sharpness reaches 38 / lr"
            words = f"lr times the mean of the agents' own, {name}"
            found.append(near(claim, setup, words, expected=full, measured=each["ends"]["own"], within=0.05 * full))
        found.append(
            near(
                whole,
                setup,
                f"lr times it, {name}",
                expected=full,
                measured=each["ends"]["network"],
                within=0.05 * full,
                source="derived",
            )
        )
    alike = results["gtadam, digits at random"]["ends"]["average"]
    expected = full * (1 + lowest(AGENTS)) ** 2 / 4
    found.append(
        near(
            "where agents have like data, the mode of W's smallest eigenvalue w decides: the average stops at 38 (1 + w)² / (4 lr)",
            setup,
            "lr times the preconditioned sharpness at the average, digits at random",
            expected=expected,
            measured=alike,
            within=0.05 * expected,
            source=f"derived, w = {lowest(AGENTS):.3f}",
        )
    )
    return found


PARTS = {
    "digits": part(
        digits,
        digits_numbers,
        "figures_of_edges:adaptive_digits",
        "full-batch Adam trains at the edge of its preconditioned sharpness, (2 + 2 b1) / ((1 - b1) lr)",
    ),
    "quadratic": part(
        quadratic,
        quadratic_numbers,
        "figures_of_edges:adaptive_quadratic",
        "on a quadratic, with a fixed divisor, the edge is sharp",
    ),
    "network": with_unreached(
        part(
            network,
            network_numbers,
            "figures_of_edges:adaptive_network",
            "which sharpness reaches the edge where agents train together (no claim of the paper)",
        ),
        {"networks of image classification and translation behave alike": "the data cannot be shipped"},
    ),
}
