"""Three functions of one variable with two minima each, on which diffGrad and Adam are compared [dubey2020]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from distopt.reproduce import Results, Say
from distopt.reproduce.claimed import Number, near, part
from distopt.reproduce.one_agent import LOOP, LOOPS, Still, paths
from distopt.reproduce.store import Store

REFERENCE = (
    "Dubey, Chakraborty, Roy, Mukherjee, Singh, Chaudhuri: diffGrad: An Optimization Method for Convolutional Neural Networks, "
    "IEEE Transactions on Neural Networks and Learning Systems, 2020"
)
NOTE = (
    "The three derivatives, the start, lr = 0.1, b1 = 0.95 and 300 rounds are those of the authors' notebook; as there, Adam has eps inside the "
    f"root. The step sizes of the second part are ours. Training on CIFAR-10 and CIFAR-100 is out of reach here. {LOOPS}"
)

START, ROUNDS, LR = -1.0, 300, 0.1
LRS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3)
LONG = 3000
"""Rounds with other step sizes: enough for the smallest of them to arrive."""
METHODS = {
    "diffGrad": "diffgrad(b1=0.95,b2=0.999,eps=1e-8)",
    "Adam": "adam(b1=0.95,b2=0.999,eps=1e-8,eps_inside=true,cap=none,bias_correction=true)",
}


@dataclass(frozen=True)
class TwoBowls(Still):
    """F1: x^2 + 0.6 x for x <= 0, else x^2 - 0.4 x: minima at -0.3 (-0.09, the least) and at 0.2 (-0.04).

    Attributes:
        best: where the least value is.
        well: the points from which descent leads there.
    """

    best: ClassVar[float] = -0.3
    well: ClassVar[tuple[float, float]] = (-math.inf, 0.0)

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        """See ``distopt.protocols.Scenario``, here and below."""
        return (x * x + torch.where(x <= 0, 0.6 * x, -0.4 * x)).sum(-1)

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        """Its derivative."""
        return 2 * x + torch.where(x <= 0, 0.6, -0.4).to(x.dtype)


@dataclass(frozen=True)
class Waves(Still):
    """F2: the derivative is -40 for x <= -0.9, else x cos 8x + sin 8x + 3 x^2.

    The derivative is that of the authors' notebook; x sin 8x + x^3 would have 8 x cos 8x there. Its integral is what ``loss`` returns. The least
    value is at the kink, -0.9, where the slope jumps from -40 to 2.4: methods swing around it. There is a local minimum at 0.
    """

    best: ClassVar[float] = -0.9
    well: ClassVar[tuple[float, float]] = (-math.inf, -0.318)

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        """x sin(8x)/8 - 7 cos(8x)/64 + x^3 on the right, and the straight line that meets it at -0.9 on the left."""
        edge = -0.9 * torch.ones_like(x)
        return torch.where(x <= -0.9, self._wave(edge) - 40 * (x - edge), self._wave(x)).sum(-1)

    def _wave(self, x: Tensor) -> Tensor:
        return x * torch.sin(8 * x) / 8 - 7 * torch.cos(8 * x) / 64 + x * x * x

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        """The derivative."""
        return torch.where(x <= -0.9, -40 * torch.ones_like(x), x * torch.cos(8 * x) + torch.sin(8 * x) + 3 * x * x)


@dataclass(frozen=True)
class Ridges(Still):
    """F3: x^2 with two ridges: slopes 2x, 1, -7/8, 7/8, -1, 2x between -0.5, -0.4, 0, 0.4 and 0.5. Its least value is at 0."""

    best: ClassVar[float] = 0.0
    well: ClassVar[tuple[float, float]] = (-0.4, 0.4)

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        """x^2 outside, 0.75 - |x| on the ridges' outer sides, 7 |x| / 8 inside."""
        size = x.abs()
        return torch.where(size > 0.5, x * x, torch.where(size > 0.4, 0.75 - size, 0.875 * size)).sum(-1)

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        """Its derivative; at 0 that of the left side, as in the notebook."""
        size, side = x.abs(), torch.where(x <= 0, -1.0, 1.0).to(x.dtype)
        return torch.where(size > 0.5, 2 * x, torch.where(size > 0.4, -side, 0.875 * side))


Toy = TwoBowls | Waves | Ridges
TOYS: dict[str, Toy] = {"F1": TwoBowls(), "F2": Waves(), "F3": Ridges()}
ENDS = {
    "F1": {"diffGrad": -0.300, "Adam": 0.200},
    "F2": {"diffGrad": -0.812, "Adam": 0.000},
    "F3": {"diffGrad": 0.008, "Adam": 0.002},
}
"""Last x by toy and method."""
WIDTH, POINTS = 1.1, 441  # of the drawing of a cost: from -1.1 to 1.1


def ways(store: Store, data: Path | None, say: Say) -> Results:
    """For each toy: the cost at some points, and x along the rounds of both methods."""
    asked = {"lr": LR, "rounds": ROUNDS, "methods": METHODS}
    return [store.get(f"diffgrad-toys-{name}", asked, partial(_way, name)) for name in TOYS]


def _way(name: str) -> dict[str, Any]:
    toy = TOYS[name]
    at = torch.linspace(-WIDTH, WIDTH, POINTS, dtype=torch.float64).reshape(-1, 1, 1)
    cost = toy.loss(at, at)
    runs = {
        method: paths(toy, f"dgd:lr={LR},direction={rule}", ROUNDS, x0=START)[0] for method, rule in METHODS.items()
    }
    return {
        "toy": name,
        "best": toy.best,
        "at": at.reshape(-1).tolist(),
        "cost": cost.reshape(-1).tolist(),
        "x": {method: x[0, :, 0].tolist() for method, x in runs.items()},
    }


def ways_numbers(results: Results) -> list[Number]:
    """The ends at the step size of the notebook."""
    found = []
    setup = f"lr = {LR}, b1 = 0.95, b2 = 0.999, from {START:g}, {ROUNDS} rounds"
    claims = {
        "F1": "diffGrad ends in the well of the global minimum of F1 and of F2, Adam in that of a local one",
        "F2": "diffGrad ends in the well of the global minimum of F1 and of F2, Adam in that of a local one",
        "F3": "Both end in the well of the global minimum of F3",
    }
    for each in results:
        name = each["toy"]
        for method, expected in ENDS[name].items():
            end, within = each["x"][method][-1], 0.001
            what = f"{name}: last x of {method}"
            found.append(near(claims[name], setup, what, expected=expected, measured=end, within=within, source=LOOP))
    return found


def rates(store: Store, data: Path | None, say: Say) -> Results:
    """For each toy and method: the last x of each step size."""
    asked = {"lrs": LRS, "rounds": LONG, "methods": METHODS}
    return [store.get(f"diffgrad-rates-{name}", asked, partial(_rates, name)) for name in TOYS]


def _rates(name: str) -> dict[str, Any]:
    lrs = ",".join(map(str, LRS))
    ends = {
        method: [float(x[0, -1, 0]) for x in paths(TOYS[name], f"dgd:lr=[{lrs}],direction={rule}", LONG, x0=START)]
        for method, rule in METHODS.items()
    }
    return {"toy": name, "best": TOYS[name].best, "well": TOYS[name].well, "lrs": LRS, "ends": ends}


def rates_numbers(results: Results) -> list[Number]:
    """Whether the ends are the same at other step sizes."""
    found = []
    setup = f"{len(LRS)} step sizes from {min(LRS)} to {max(LRS)}, from {START:g}, {LONG:,} rounds"
    for each in results:
        name, (low, high) = each["toy"], each["well"]
        if name == "F3":
            claim = "On F3 both end in the well of the global minimum, at other step sizes too (our question)"
        else:
            claim = f"On {name} diffGrad ends in the well of the global minimum and Adam does not, at other step sizes too (our question)"
        for method, ends in each["ends"].items():
            expected = 0 if method == "Adam" and name != "F3" else len(LRS)
            count = sum(low < end < high for end in ends)
            what = f"step sizes at which {method} ends there"
            found.append(near(claim, setup, what, expected=expected, measured=count, within=0))
    return found


PARTS = {
    "toys": part(
        ways, ways_numbers, "figures_of_rules:toys", "diffGrad ends at global minima where Adam ends at local ones"
    ),
    "step-sizes": part(
        rates,
        rates_numbers,
        "figures_of_rules:step_sizes",
        "whether that is a matter of the step size: diffGrad's friction is a factor of 0.5 to 1, so it is a shorter step",
    ),
}
