"""Gradient descent, heavy ball and Nesterov on quadratics: rates, the largest stable steps, and how far noise keeps them from the minimiser."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distopt.api import simulate
from distopt.numerics.random import Key
from distopt.optional import ScenarioDefaults
from distopt.reproduce import Results, Say
from distopt.reproduce.claimed import Number, below, near, part
from distopt.reproduce.smooth import Floats, curve
from distopt.reproduce.store import Store

REFERENCE = (
    "Polyak: Some Methods of Speeding up the Convergence of Iteration Methods, 1964; Nesterov: A Method for Solving the Convex Programming "
    "Problem with Convergence Rate O(1/k²), 1983; and what textbooks say of them on quadratics"
)
NOTE = (
    "No paper's figure is repeated here: what is expected follows from the eigenvalues of a step, which is a linear map. A quadratic is the sum of "
    "problems of one coordinate, one for each curvature. All constants are ours."
)

DIM, MU, L = 20, 1e-3, 1.0
ROUNDS, LONG = 4000, 60_000
"""Of the fast methods, and of gradient descent. Squares of errors must end above 1e-308."""
DRAWN = 4000
AGENTS = 8
LIMIT_ROUNDS, BESIDE = 4000, 1e-3
"""Steps that much below and above the limit are taken."""
FLOORS = ((0.0, 0.1), (0.5, 0.05), (0.9, 0.01), (0.9, 0.1))
"""b and lr of heavy ball, on a curvature of 1 and with noise of variance 1."""
FLOOR_ROUNDS, FLOOR_TRIALS, BURN = 6000, 64, 1000
DEVIATIONS = 3


class Parts(NamedTuple):
    """Curvatures [1, 1, n, d], and the noise of the gradients [K, R, n, d], or zeros [1, 1, 1, d]."""

    c: Tensor
    xi: Tensor


@dataclass(frozen=True)
class Shared(ScenarioDefaults):
    """Agents whose mean cost is 1/2 sum_k c_k x_k^2. Agent i has the share 2 (i + 1) / (N + 1) of it, and sees its gradients with noise of its own.

    The curvatures c_k run from ``low`` to ``high`` in equal ratios. Each agent's noise is standard normal times ``noise``, in each coordinate.
    All coordinates start at 1.
    """

    dim: int = 1
    low: float = 1.0
    high: float = 1.0
    noise: float = 0.0
    comparator: ClassVar[bool] = False

    @property
    def curvatures(self) -> Tensor:
        """c [d]."""
        return torch.logspace(math.log10(self.low), math.log10(self.high), self.dim, dtype=torch.float64)

    def batch(self, t: Tensor, key: Key) -> Parts:
        """See ``distopt.protocols.Scenario``, here and below."""
        share = 2.0 * (key.agents.to(torch.float64) + 1) / (key.total + 1)
        c = self.curvatures.reshape(1, 1, 1, -1) * share.reshape(1, 1, -1, 1)
        if not self.noise:
            return Parts(c, torch.zeros(1, 1, 1, self.dim, dtype=torch.float64))
        return Parts(c, self.noise * key.normal("quadratics", self.dim, t))

    def loss(self, x: Tensor, b: Parts) -> Tensor:
        """The cost and the noise."""
        return ((0.5 * b.c * x + b.xi) * x).sum(-1)

    def grad(self, x: Tensor, b: Parts) -> Tensor:
        """Its gradient."""
        return b.c * x + b.xi

    def start(self, key: Key) -> Tensor:
        """1 in all coordinates."""
        return torch.ones(1, 1, self.dim, dtype=torch.float64)


@dataclass(frozen=True)
class Averaged:
    """Momentum as a mean of gradients: d_t = m_t = b m_{t-1} + (1 - b) s_t. Its step lr is 1 / (1 - b) times that of ``momentum``."""

    b: float = 0.9

    def init(self, x: Tensor) -> Tensor:
        """m_{-1} = 0."""
        return torch.zeros_like(x)

    def __call__(self, s: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """d."""
        m = self.b * state + (1 - self.b) * s
        return m, m.clone()


def rule(kind: str, lr: Any, b: float) -> Any:
    """The algorithm ``dgd`` with this rule: each agent steps, then they average."""
    from distopt.algorithms.dgd import DGD
    from distopt.directions.momentum import Momentum
    from distopt.directions.nesterov import Nesterov
    from distopt.directions.sgd import SGD

    directions: dict[str, Any] = {
        "gradient descent": SGD(),
        "heavy ball": Momentum(b),
        "Nesterov": Nesterov(b),
        "mean of gradients": Averaged(b),
    }
    return DGD(lr=lr, form="atc", direction=directions[kind])


# ---------------------------------------------------------------------------------------------------------------- theory


def step_map(kind: str, lr: float, b: float, curvature: float) -> tuple[Floats, Floats]:
    """A step as a linear map of (x, m), [2, 2], and what noise of the gradient adds to both, [2].

    >>> step_map("heavy ball", 0.1, 0.9, 1.0)[0].tolist()
    [[0.9, -0.09000000000000001], [1.0, 0.9]]
    """
    gain = 1 - b if kind == "mean of gradients" else 1.0  # m' = b m + gain s
    own, old = (1 + b, b * b) if kind == "Nesterov" else (gain, b)  # d = own s + old m
    matrix = np.array([[1 - lr * own * curvature, -lr * old], [gain * curvature, b]])
    return matrix, np.array([-lr * own, gain])


def factor(kind: str, lr: float, b: float, curvature: float) -> float:
    """By which the error shrinks in a round at last: the largest eigenvalue of a step.

    >>> round(factor("gradient descent", 0.1, 0.0, 1.0), 6)
    0.9
    """
    return float(np.abs(np.linalg.eigvals(step_map(kind, lr, b, curvature)[0])).max())


def limit(kind: str, b: float, smoothness: float = 1.0) -> float:
    """The step size at and above which a rule diverges on curvatures up to ``smoothness``.

    >>> [round(limit(kind, 0.9), 4) for kind in ("gradient descent", "heavy ball", "Nesterov", "mean of gradients")]
    [2.0, 3.8, 1.3571, 38.0]
    """
    of_b = {
        "gradient descent": 2.0,
        "heavy ball": 2 * (1 + b),
        "Nesterov": 2 * (1 + b) / (1 + 2 * b),
        "mean of gradients": 2 * (1 + b) / (1 - b),
    }
    return of_b[kind] / smoothness


def floor(b: float, lr: float, curvature: float = 1.0, variance: float = 1.0) -> float:
    """E x² of heavy ball at rest, where gradients have noise of this variance: lr s² / (lam (2 (1 + b) - lr lam)) (1 + b) / (1 - b).

    >>> [round(floor(b, lr), 4) for b, lr in ((0.0, 0.1), (0.9, 0.01), (0.9, 0.1))]
    [0.0526, 0.0501, 0.5135]
    """
    return lr * variance / (curvature * (2 * (1 + b) - lr * curvature)) * (1 + b) / (1 - b)


def settings() -> dict[str, tuple[str, float, float, float]]:
    """For each method of the first part: its kind, lr, b, and the rate that is expected.

    >>> {name: round(each[3], 5) for name, each in settings().items()}["heavy ball"]
    0.93869
    """
    k = math.sqrt(L / MU)
    return {
        "gradient descent, 1/L": ("gradient descent", 1 / L, 0.0, 1 - MU / L),
        "gradient descent, 2/(L+mu)": ("gradient descent", 2 / (L + MU), 0.0, (L - MU) / (L + MU)),
        "Nesterov": ("Nesterov", 1 / L, (k - 1) / (k + 1), 1 - 1 / k),
        "heavy ball": (
            "heavy ball",
            4 / (math.sqrt(L) + math.sqrt(MU)) ** 2,
            ((k - 1) / (k + 1)) ** 2,
            (k - 1) / (k + 1),
        ),
    }


# ----------------------------------------------------------------------------------------------------------------- rates


def taken(scenario: Any, algorithms: list[Any], rounds: int, agents: int, trials: int = 1) -> list[Any]:
    """Runs of agents that average exactly, on the complete graph. They are then at one point, and the mean of their gradients is the gradient."""
    found: Any = simulate(
        "complete",
        agents=agents,
        scenario=scenario,
        algorithm=algorithms,
        rounds=rounds,
        trials=trials,
        record=("x",),
        agentwise=False,
    )
    return list(found.values())


def rates(store: Store, data: Path | None, say: Say) -> Results:
    """For each method: the course of |x|, and its factor at last, of one agent and of several."""
    asked = {"dim": DIM, "mu": MU, "rounds": [ROUNDS, LONG], "agents": AGENTS}
    return store.get("quadratics-rates", asked, lambda: [_rate(name, say) for name in settings()])


def _rate(name: str, say: Say) -> dict[str, Any]:
    kind, lr, b, expected = settings()[name]
    slow = kind == "gradient descent"
    rounds = LONG if slow else ROUNDS
    sizes = []
    for agents in (1, AGENTS):
        (run,) = taken(Shared(DIM, MU, L), [rule(kind, lr, b)], rounds, agents)
        x = np.asarray(run["x"][0], dtype=np.float64)  # [T + 1, N, d]
        sizes.append(np.sqrt((x.mean(1) ** 2).sum(-1)))
    say(f"{name}: rate {_factor(sizes[0]):.5f}, expected {expected:.5f}")
    return {
        "name": name,
        "expected": expected,
        "one": _factor(sizes[0]),
        "several": _factor(sizes[1]),
        "apart": float((np.abs(sizes[1] - sizes[0]) / sizes[0]).max()),
        "rounds": int(np.argmax(sizes[0] < 1e-6 * sizes[0][0])),
        "course": curve(sizes[0][: DRAWN + 1]),
    }


def _factor(size: Floats) -> float:
    """The mean factor of a round in the second half of a course.

    The best settings of heavy ball and Nesterov make two eigenvalues equal. Errors then fall like t rho^t, and the second half of T rounds shows
    rho 4^(1 / T): the first half is less accurate.
    """
    middle = len(size) // 2
    return float((size[-1] / size[middle]) ** (1 / (len(size) - 1 - middle)))


def rate_numbers(results: Results) -> list[Number]:
    """Rates of one agent and of several."""
    setup = f"{DIM} curvatures from {MU:g} to {L:g} in equal ratios, so kappa = {L / MU:,.0f}"
    found = []
    for each in results:
        expected = settings()[each["name"]][3]
        claim = "asymptotic rates on a quadratic"
        words = f"factor of a round in the second half of the rounds, {each['name']}"
        found.append(near(claim, setup, words, expected=expected, measured=each["one"], within=5e-4, source="derived"))
    for each in results:
        claim = f"{AGENTS} agents with unequal shares of the cost, on the complete graph, move as one agent does"
        words = f"largest relative difference of |x|, {each['name']}"
        found.append(below(claim, setup, words, bound=1e-6, measured=each["apart"], source="rounding"))
    return found


# ---------------------------------------------------------------------------------------------------------------- limits


def limits(store: Store, data: Path | None, say: Say) -> Results:
    """For each rule: factors of a round at steps below, at and above the limit."""
    asked = {"rounds": LIMIT_ROUNDS, "beside": BESIDE}
    return store.get("quadratics-limits", asked, lambda: [_limit(*case, say) for case in CASES])


CASES = (("gradient descent", 0.0), ("heavy ball", 0.9), ("Nesterov", 0.9), ("mean of gradients", 0.9))


def _limit(kind: str, b: float, say: Say) -> dict[str, Any]:
    edge = limit(kind, b)
    sides = [_measured(kind, b, edge * (1 + side), LIMIT_ROUNDS) for side in (-BESIDE, BESIDE)]
    parts = np.linspace(0.1, 1.2, 12)
    factors = [_measured(kind, b, edge * each, 300) for each in parts]
    say(f"{kind}: factors {sides[0]:.6f} and {sides[1]:.6f} beside lr = {edge:.4g}")
    fine = np.linspace(0.005, 1.25, 250)
    line = [factor(kind, edge * each, b, 1.0) for each in fine]
    return {
        "kind": kind,
        "b": b,
        "limit": edge,
        "sides": sides,
        "parts": parts.tolist(),
        "factors": factors,
        "line": [fine.tolist(), line],
    }


def _measured(kind: str, b: float, lr: float, rounds: int) -> float:
    """The factor of a round on x²/2, from the largest |x| of the last two quarters."""
    (run,) = taken(Shared(), [rule(kind, lr, b)], rounds, 1)
    x = np.abs(np.asarray(run["x"][0, :, 0, 0], dtype=np.float64))
    quarter = len(x) // 4
    return float((x[-quarter:].max() / x[-2 * quarter : -quarter].max()) ** (1 / quarter))


def limit_numbers(results: Results) -> list[Number]:
    """Factors beside the limits."""
    found = []
    formulas = ("2 / L", "2 (1 + b) / L", "2 (1 + b) / ((1 + 2 b) L)", "2 (1 + b) / ((1 - b) L)")
    for each, formula in zip(results, formulas, strict=True):
        claim = f"{each['kind']} is stable for lr below {formula}, and not above"
        setup = f"x²/2, b = {each['b']:g}, {LIMIT_ROUNDS:,} rounds"
        for side, measured in zip((-BESIDE, BESIDE), each["sides"], strict=True):
            lr = each["limit"] * (1 + side)
            expected = factor(each["kind"], lr, each["b"], 1.0)
            words = f"factor of a round at lr = {lr:.5g}, {100 * abs(side):g} % {'below' if side < 0 else 'above'} the limit"
            within = abs(expected - 1) / 10
            found.append(
                near(claim, setup, words, expected=expected, measured=measured, within=within, source="derived")
            )
    return found


# ---------------------------------------------------------------------------------------------------------------- floors


def floors(store: Store, data: Path | None, say: Say) -> Results:
    """E x² at rest under noise, of one agent and of several."""
    asked = {"cases": FLOORS, "rounds": FLOOR_ROUNDS, "trials": FLOOR_TRIALS, "agents": AGENTS}
    return store.get("quadratics-floors", asked, lambda: [_floor(b, lr, say) for b, lr in FLOORS])


def _floor(b: float, lr: float, say: Say) -> dict[str, Any]:
    found: dict[str, Any] = {"b": b, "lr": lr}
    for name, agents in (("one", 1), ("several", AGENTS)):
        (run,) = taken(Shared(noise=1.0), [rule("heavy ball", lr, b)], FLOOR_ROUNDS, agents, FLOOR_TRIALS)
        x = np.asarray(run["x"], dtype=np.float64).mean(2)[..., 0]  # [R, T + 1]
        each = (x[:, BURN:] ** 2).mean(1)
        found[name] = {"mean": float(each.mean()), "error": float(each.std(ddof=1) / math.sqrt(len(each)))}
        found[name] |= {"expected": floor(b, lr) / agents, "course": curve((x**2).mean(0))}
    say(f"b = {b:g}, lr = {lr:g}: E x² = {found['one']['mean']:.4f}, expected {floor(b, lr):.4f}")
    return found


def floor_numbers(results: Results) -> list[Number]:
    """Floors, and that they fall with the number of agents."""
    found = []
    setup = f"x²/2, noise of variance 1, {FLOOR_TRIALS} trials of {FLOOR_ROUNDS:,} rounds, the first {BURN:,} left out"
    claims = {
        "one": (
            "under noise x comes to rest at E x² = lr s² / (lam (2 (1 + b) - lr lam)) (1 + b) / (1 - b): at equal lr / (1 - b) momentum has nearly "
            "the floor of gradient descent",
            1,
        ),
        "several": (
            f"{AGENTS} agents with noise of their own, on the complete graph, have that floor divided by {AGENTS}",
            AGENTS,
        ),
    }
    for name, (claim, agents) in claims.items():
        for each in results:
            own = each[name]
            found.append(
                near(
                    claim,
                    setup,
                    f"E x², b = {each['b']:g}, lr = {each['lr']:g}, {'one agent' if agents == 1 else f'{agents} agents'}",
                    expected=own["expected"],
                    measured=own["mean"],
                    within=DEVIATIONS * own["error"],
                    source=f"derived, give or take {DEVIATIONS} standard errors",
                )
            )
    return found


PARTS = {
    "rates": part(
        rates,
        rate_numbers,
        "figures_of_glm:quadratic_rates",
        "how fast the methods are on a quadratic, and how they must be set for that",
    ),
    "limits": part(
        limits,
        limit_numbers,
        "figures_of_glm:quadratic_limits",
        "how large a step may be: momentum allows a larger one, Nesterov's a smaller one",
    ),
    "floors": part(
        floors,
        floor_numbers,
        "figures_of_glm:quadratic_floors",
        "how far from the minimiser noise keeps a method: momentum at an equal lr / (1 - b) gains nothing, agents do",
    ),
}
