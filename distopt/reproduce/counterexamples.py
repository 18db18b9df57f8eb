"""Three small problems on which signSGD fails for every step size, and error feedback does not [karimireddy2019]."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from distopt.algorithms.ef_signsgd import ef_signsgd
from distopt.algorithms.signsgd import SignSGD
from distopt.api import simulate
from distopt.numerics.random import Key
from distopt.reproduce import Results, Say
from distopt.reproduce.store import Store
from distopt.schedules.inverse_sqrt import InverseSqrt
from distopt.schedules.step import Step

ROUNDS, RUNS, SEED = 2000, 20, 0
SIGN_STEPS = (0.3, 0.1, 0.03, 0.01)
EF_STEP = 0.05
HALVINGS = 25
LAST = 500  # rounds at the end over which f is averaged
SOLVED = 1e-6
ROUNDING = 1e-12


def sided(z: Tensor) -> Tensor:
    """The sign of z, 1 at 0: at a kink a subgradient must take one side, or a step would leave the line that traps signSGD."""
    return torch.where(z >= 0, 1.0, -1.0).to(z.dtype)


@dataclass(frozen=True)
class Drift:
    """f(x) = x / 4 on [-1, 1], seen through a gradient that is 4 with probability 1/4 and -1 otherwise.

    Its mean is 1/4, but that of its sign is -1/2: sign steps drift to the wrong end. There they walk between 1, 1 - lr, ..., with
    probabilities 2/3, 2/9, ..., so that f - f* is 1/2 - lr / 8 in the mean. The data of a round are the gradient [K, R, 1, 1].
    """

    dim: ClassVar[int] = 1
    least: ClassVar[float] = -0.25
    floor: ClassVar[float] = 0.4
    stage: ClassVar[int] = (
        400  # rounds before a falling step size is halved: enough to walk out of what noise there was
    )
    trap: ClassVar[str] = "ends at x = 1, f - f* = 1/2"

    def batch(self, t: Tensor, key: Key) -> Tensor:
        """See ``distopt.protocols.Scenario``, here and below."""
        return torch.where(key.uniform("counterexample", 1, t) < 0.25, 4.0, -1.0).to(torch.float64)

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        """The cost whose gradient the round shows."""
        return (x * b).sum(-1)

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        """4 or -1, wherever x is."""
        return b.expand_as(x)

    def optimum(self, b: Tensor) -> Tensor:
        """The end of [-1, 1] against the gradient."""
        return -torch.sign(b.sum(2))

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of [-1, 1]."""
        return x.clamp(-1, 1)

    def objective(self, x: Tensor) -> Tensor:
        """f at x [..., d]."""
        return x.sum(-1) / 4


@dataclass(frozen=True)
class Kink:
    """f(x) = eps |x1 + x2| + |x1 - x2| from (1, 1), with exact subgradients.

    Their signs are (1, -1) or (-1, 1) everywhere, so that x1 + x2 = 2 for ever and f >= 2 eps, where it began. The data are empty.
    """

    eps: float = 0.5
    dim: ClassVar[int] = 2
    least: ClassVar[float] = 0.0
    stage: ClassVar[int] = 200
    trap: ClassVar[str] = "f >= 2 eps for ever"

    @property
    def floor(self) -> float:
        """The value below which signSGD never gets."""
        return 2 * self.eps

    def batch(self, t: Tensor, key: Key) -> Tensor:
        """Nothing that changes."""
        return torch.zeros(1, 1, 1, 1, dtype=torch.float64)

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        """f itself."""
        return self.objective(x)

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        """A subgradient; at x1 = x2 and at x1 = -x2 that of one side."""
        plus, minus = sided(x[..., :1] + x[..., 1:]), sided(x[..., :1] - x[..., 1:])
        return torch.cat([self.eps * plus + minus, self.eps * plus - minus], -1)

    def optimum(self, b: Tensor) -> Tensor:
        """0."""
        return torch.zeros(1, 1, 2, dtype=torch.float64)

    def start(self, key: Key) -> Tensor:
        """(1, 1)."""
        return torch.ones(1, 1, 2, dtype=torch.float64)

    def objective(self, x: Tensor) -> Tensor:
        """f at x [..., 2]."""
        return self.eps * (x[..., 0] + x[..., 1]).abs() + (x[..., 0] - x[..., 1]).abs()


@dataclass(frozen=True)
class Valley:
    """f(x) = <a_1, x>^2 + <a_2, x>^2 from (1, 1), a_{1,2} = +-(1, -1) + eps (1, 1), one of the two, drawn evenly, in each round.

    Each gradient is a multiple of its a, of sign (1, -1) or (-1, 1), so that x1 + x2 = 2 for ever and f >= 8 eps^2, where it began.
    A round costs 2 <a_i, x>^2, whose mean over i is f. The data of a round are a_i [K, R, 1, 2].
    """

    eps: float = 0.5
    dim: ClassVar[int] = 2
    least: ClassVar[float] = 0.0
    stage: ClassVar[int] = 200
    trap: ClassVar[str] = "f >= 8 eps^2 for ever"

    @property
    def floor(self) -> float:
        """The value below which signSGD never gets."""
        return 8 * self.eps**2

    @property
    def a(self) -> Tensor:
        """The two samples [2, 2]."""
        return torch.tensor([[1 + self.eps, -1 + self.eps], [-1 + self.eps, 1 + self.eps]], dtype=torch.float64)

    def batch(self, t: Tensor, key: Key) -> Tensor:
        """The sample drawn."""
        return self.a[key.integers("counterexample", 2, 1, t)[..., 0]]

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        """Twice the square of <a, x>."""
        return 2 * (b * x).sum(-1) ** 2

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        """4 <a, x> a; where <a, x> = 0, a multiple too small to matter that still has a sign."""
        inner = (b * x).sum(-1, keepdim=True)
        return 4 * torch.where(inner == 0, 1e-300, inner) * b

    def optimum(self, b: Tensor) -> Tensor:
        """0."""
        return torch.zeros(1, 1, 2, dtype=torch.float64)

    def start(self, key: Key) -> Tensor:
        """(1, 1)."""
        return torch.ones(1, 1, 2, dtype=torch.float64)

    def objective(self, x: Tensor) -> Tensor:
        """f at x [..., 2]."""
        return (x @ self.a.T).square().sum(-1)


PROBLEMS: dict[str, Drift | Kink | Valley] = {"1 drift": Drift(), "2 kink": Kink(), "3 valley": Valley()}


def halved(lr: float, stage: int) -> Step:
    """Halved after every ``stage`` rounds: where f grows at least linearly away from its minimiser, as in 1 and 2, the error halves with it."""
    return Step(lr, every=stage, factor=0.5)


def ways(stage: int) -> list[tuple[str, Any, str, int]]:
    """The runs on each problem: (method, algorithm, its step size in words, rounds)."""
    sign: list[tuple[str, Any, str, int]] = [("signSGD", SignSGD(lr), f"{lr}", ROUNDS) for lr in SIGN_STEPS]
    first = SIGN_STEPS[0]
    return [
        *sign,
        ("signSGD", SignSGD(InverseSqrt(first)), f"{first}/sqrt(t+1)", ROUNDS),
        ("EF-signSGD", ef_signsgd(EF_STEP), f"{EF_STEP}", ROUNDS),
        ("EF-signSGD", ef_signsgd(halved(EF_STEP, stage)), f"{EF_STEP}, halved", HALVINGS * stage),
    ]


def path(problem: Drift | Kink | Valley, algorithm: Any, rounds: int, runs: int = RUNS, seed: int = SEED) -> Tensor:
    """x_0 .. x_T of one worker, [T + 1, R, 1, d], in ``runs`` independent runs."""
    with warnings.catch_warnings():
        # no gradient certifies a minimiser at a kink
        warnings.filterwarnings("ignore", "the comparator's relative gradient norm")
        run = simulate(
            "ring",
            agents=1,
            scenario=problem,
            algorithm=algorithm,
            rounds=rounds,
            trials=runs,
            seed=seed,
            record="x",
            mode="eager",
            agentwise=False,
        )
    return torch.from_numpy(run["x"]).transpose(0, 1)


def measure(store: Store, data: Path | None, say: Say) -> Results:
    """For each problem and way: f - f* along the rounds (mean, least, largest run), its least value ever, and its end."""
    asked = {
        "rounds": ROUNDS,
        "runs": RUNS,
        "seed": SEED,
        "sign": SIGN_STEPS,
        "ef": EF_STEP,
        "halvings": HALVINGS,
        "last": LAST,
    }
    return [store.get(f"counterexample-{name[0]}", asked, partial(_one, name, say)) for name in PROBLEMS]


def _one(name: str, say: Say) -> dict[str, Any]:
    problem = PROBLEMS[name]
    curves = []
    for method, algorithm, step, rounds in ways(problem.stage):
        gap = (problem.objective(path(problem, algorithm, rounds))[..., 0] - problem.least).numpy()  # [T + 1, R]
        end = gap[-LAST:].mean(0)
        marks = np.unique(np.geomspace(1, len(gap), 80).round().astype(int)) - 1
        seen = np.add.reduceat(gap, marks) / np.diff(marks, append=len(gap))[:, None]  # the mean from mark to mark
        curves.append(
            {
                "rounds": marks.tolist(),
                "method": method,
                "step": step,
                "lowest": float(gap.min()),
                "end": [float(end.min()), float(end.max())],
                "mean": seen.mean(1).tolist(),
                "low": seen.min(1).tolist(),
                "high": seen.max(1).tolist(),
            }
        )
    say(f"counterexample {name}: {len(curves)} ways to solve it")
    return {"problem": name, "floor": problem.floor, "trap": problem.trap, "curves": curves}


def rows(results: Results) -> list[dict[str, Any]]:
    """A row for each problem and method, with the paper's claim and whether it holds here."""
    out = []
    for each in results:
        for curve in each["curves"]:
            sign, (best, worst) = curve["method"] == "signSGD", curve["end"]
            if sign:  # the drift begins below its end
                held = (
                    best >= each["floor"]
                    if each["problem"].startswith("1")
                    else curve["lowest"] >= each["floor"] - ROUNDING
                )
            else:
                held = worst < SOLVED
            promised = sign or "halved" in curve["step"] or each["problem"].startswith("3")
            out.append(
                {
                    "problem": each["problem"],
                    "method": curve["method"],
                    "step size": curve["step"],
                    "least f - f*": curve["lowest"],
                    "end, best run": best,
                    "end, worst run": worst,
                    "claim": each["trap"]
                    if sign
                    else f"f - f* < {SOLVED:g}"
                    if promised
                    else "none: a constant step stops at a floor",
                    "holds": ("yes" if held else "NO") if promised else "",
                }
            )
    return out
