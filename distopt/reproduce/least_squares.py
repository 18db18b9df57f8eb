"""Over-parametrised least squares: which of its many solutions an algorithm finds, and how well that one predicts [karimireddy2019]."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distopt.algorithms.dgd import DGD
from distopt.algorithms.ef_sgd import EFSGD
from distopt.algorithms.ef_signsgd import ef_signsgd
from distopt.algorithms.signsgd import SignSGD
from distopt.algorithms.signum import signum
from distopt.api import simulate
from distopt.compressors._packed import flags, signs
from distopt.compressors.sign import Sign
from distopt.compressors.unscaled_sign import UnscaledSign
from distopt.directions.momentum import MomentumState
from distopt.numerics.random import Key
from distopt.protocols import Compressor
from distopt.reproduce import Results, Say
from distopt.reproduce.store import Store

SAMPLES = 100  # to train on, and as many to test on
BLOCK = 5  # columns of a sample's own
DIM = 6 * 2 * SAMPLES
EPOCHS, SEEDS = 80, 20
FITS, LEAVES, FAILS = 0.05, 1.0, 0.7
"""Train loss below which data are fitted; distance to the span above which it is left; the test loss that signs stay above, by the paper."""


class Problems(NamedTuple):
    """Draws of the data: rows to train on and their labels, rows to test on and theirs; [R, n, DIM] and [R, n]."""

    X: Tensor
    y: Tensor
    X_test: Tensor
    y_test: Tensor


@dataclass(frozen=True)
class LeastSquares:
    """|X w - y|^2 / (2 n) over data that no classifier needs more than one column of (after Wilson et al. 2017).

    Labels y are -1 or 1 with probability 1/2. Column 0 of a row is y, columns 1 and 2 are 1, and sample i alone has entries in the
    columns 3 + 5 i .. 7 + 5 i: the first is 1 where y = 1, all five are where y = -1. A random half of the samples is for training, and a
    round is an epoch over all of these. In about 700 of the 1200 columns none of these has an entry.
    """

    seeds: range = range(SEEDS)
    dim: int = DIM

    def draw(self, key: Key) -> Problems:
        """The data of each trial of ``key``."""
        n = 2 * SAMPLES
        y = torch.where(key.uniform("least-squares/labels", n)[0, :, 0] < 0.5, -1.0, 1.0).to(torch.float64)
        X = torch.zeros(len(y), n, self.dim, dtype=torch.float64)
        X[..., 0], X[..., 1:3] = y, 1.0
        i = torch.arange(n)
        for k in range(BLOCK):
            X[:, i, 3 + BLOCK * i + k] = 1.0 if k == 0 else torch.where(y < 0, 1.0, 0.0).to(torch.float64)
        order = key.uniform("least-squares/split", n)[0, :, 0].argsort(-1)
        X, y = torch.gather(X, 1, order[..., None].expand_as(X)), torch.gather(y, 1, order)
        return Problems(X[:, :SAMPLES], y[:, :SAMPLES], X[:, SAMPLES:], y[:, SAMPLES:])

    def batch(self, t: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        """See ``distopt.protocols.Scenario``: the rows to train on [1, R, 1, n, d] and their labels, in every round the same."""
        data = self.drawn
        return data.X[None, :, None], data.y[None, :, None]

    @functools.cached_property
    def drawn(self) -> Problems:
        """The data of each seed."""
        return self.draw(Key(0, range(1), self.seeds, 1))

    def loss(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        """Half the mean square of what is left."""
        X, y = b
        return ((X @ x[..., None])[..., 0] - y).square().mean(-1) / 2

    def grad(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        """X'(X w - y) / n."""
        X, y = b
        left: Tensor = (X @ x[..., None])[..., 0] - y
        return (X.mT @ left[..., None])[..., 0] / y.shape[-1]

    def optimum(self, b: tuple[Tensor, Tensor]) -> Tensor:
        """The shortest of the many that fit the data: X'(X X')^-1 y."""
        X, y = (each[:, :, 0] for each in b)
        shortest: Tensor = (X.mT @ torch.linalg.solve(X @ X.mT, y[..., None]))[..., 0]
        return shortest


@dataclass(frozen=True)
class Undecayed:
    """The momentum of the authors' script for this experiment: m += mu g, which never forgets (Signum's does)."""

    mu: float = 0.1

    def init(self, x: Tensor) -> MomentumState:
        """Nothing accumulated."""
        return MomentumState(torch.zeros_like(x))

    def __call__(self, s: Tensor, state: MomentumState) -> tuple[Tensor, MomentumState]:
        """All gradients so far, times mu."""
        m = state.m + self.mu * s
        return m, MomentumState(m)


@dataclass(frozen=True)
class ZeroKept:
    """One of distopt's compressors with zeros that stay zeros, as with torch's sign(0) = 0: a second bit a number marks them."""

    inner: Any

    def encode(self, z: Tensor, u: Tensor | None = None, warm: Tensor | None = None) -> tuple[Any, Tensor]:
        """What ``inner`` sends, and where z is not 0."""
        return self.inner.encode(z), flags(z != 0)

    def decode(self, payload: tuple[Any, Tensor], d: int, dtype: torch.dtype, u: Tensor | None = None) -> Tensor:
        """What ``inner`` makes of it, but 0 where z was."""
        inner, there = payload
        decoded: Tensor = self.inner.decode(inner, d, dtype)
        return torch.where(signs(there, d, torch.ones((), dtype=dtype)) > 0, decoded, 0.0)

    def bits(self, d: int, itemsize: int) -> int:
        """Those of ``inner`` and one a number."""
        return int(self.inner.bits(d, itemsize)) + 8 * -(-d // 8)

    def delta(self, d: int) -> float | None:
        """That of ``inner``: keeping a 0 only makes the error smaller."""
        found: float | None = self.inner.delta(d)
        return found

    def omega(self, d: int) -> None:
        """Biased."""
        return None


def methods(zero: bool) -> dict[str, Any]:
    """The algorithms, at the step sizes of the authors' script; ``zero`` for sign(0) = 0, else signs are one bit and sign(0) = 1."""
    scaled: Compressor = ZeroKept(Sign()) if zero else Sign()
    unscaled: Compressor = ZeroKept(UnscaledSign()) if zero else UnscaledSign()
    return {
        "SGD": DGD(0.5),
        "scaled sign": SignSGD(10.0, compressor=scaled),
        "sign, momentum": SignSGD(0.05, compressor=unscaled, direction=Undecayed(0.1)),
        "Signum": SignSGD(0.05, compressor=unscaled, direction=signum(b=0.9).direction),
        "EF-sign": EFSGD(10.0, scaled) if zero else ef_signsgd(10.0),
    }


class Outcome(NamedTuple):
    """Distance to the span of the rows trained on, train loss and test loss; [R] each."""

    distance: Tensor
    train: Tensor
    test: Tensor


def outcome(w: Tensor, data: Problems, basis: Tensor) -> Outcome:
    """Of the points w [R, d]; the rows of ``basis`` [R, n, d] are an orthonormal basis of the span."""

    def loss(X: Tensor, y: Tensor) -> Tensor:
        return ((X @ w[..., None])[..., 0] - y).square().mean(-1)

    distance = (w - (basis.mT @ (basis @ w[..., None]))[..., 0]).norm(dim=-1)
    return Outcome(distance, loss(data.X, data.y), loss(data.X_test, data.y_test))


def measure(store: Store, data: Path | None, say: Say) -> Results:
    """For each rule for sign(0) and each method: the three figures of each seed after every epoch [epochs + 1, R], at x and at x - e."""
    asked = {"samples": SAMPLES, "epochs": EPOCHS, "seeds": SEEDS}

    def make(zero: bool) -> Any:
        say(f"least-squares: {SEEDS} seeds, sign(0) = {int(not zero)}")
        return run(zero, range(SEEDS))

    return {
        rule: store.get(f"least-squares-{rule}", asked, functools.partial(make, zero))
        for rule, zero in (("zero", True), ("one", False))
    }


def run(zero: bool, seeds: range) -> dict[str, dict[str, list[Any]]]:
    """The three figures of each method after every epoch; those that have a memory also at x - e, as "... at x - e"."""
    scenario = LeastSquares(seeds)
    data = scenario.drawn
    basis = torch.linalg.svd(data.X, full_matrices=False)[2]  # the rows are independent: each has columns of its own
    found: dict[str, list[Outcome]] = {}
    for name, algorithm in methods(zero).items():
        remembers = isinstance(algorithm, EFSGD)
        run = simulate(
            "ring",
            agents=1,
            scenario=scenario,
            algorithm=algorithm,
            rounds=EPOCHS,
            trials=len(seeds),
            record=("x", "memory.step.e") if remembers else "x",
            mode="eager",
            agentwise=False,
        )
        x = torch.from_numpy(run["x"])[:, :, 0]  # [R, T + 1, d]
        found[name] = [outcome(w, data, basis) for w in x.unbind(1)]
        if remembers:
            e = torch.from_numpy(run["memory.step.e"])[:, :, 0]
            after = [outcome(w, data, basis) for w in (x[:, 1:] - e).unbind(1)]
            found[f"{name} at x - e"] = found[name][:1] + after
    return {
        name: {field: torch.stack([getattr(each, field) for each in outcomes]).tolist() for field in Outcome._fields}
        for name, outcomes in found.items()
    }


CLAIMS = {
    "SGD": "in the span, train and test loss ~0",
    "scaled sign": "leaves the span, train ~0, test > 0.7",
    "sign, momentum": "leaves the span, train ~0, test > 0.7",
    "EF-sign": "back in the span, train and test loss ~0",
}


def rows(results: Results) -> list[dict[str, Any]]:
    """A row for each method and rule for sign(0): the last epoch over the seeds, and in how many the paper's picture shows."""
    out = []
    for rule, runs in results.items():
        for name, each in runs.items():
            if rule == "one" and name == "SGD":
                continue  # it knows no signs
            last = {field: torch.tensor(each[field][-1], dtype=torch.float64) for field in Outcome._fields}
            distance, train, test = last["distance"], last["train"], last["test"]
            if name in ("SGD", "EF-sign"):
                so = (distance < LEAVES) & (train < FITS) & (test < FITS)
            else:
                so = (distance > LEAVES) & (train < FITS) & (test > FAILS)
            claim = CLAIMS.get(name, "")
            spread = {
                f"{what} {word}": float(value)
                for what, values in (("distance", distance), ("train", train), ("test", test))
                for word, value in (("mean", values.mean()), ("sd", values.std(correction=min(1, len(values) - 1))))
            }
            out.append(
                {
                    "sign(0)": "" if name == "SGD" else "0" if rule == "zero" else "1",
                    "method": name,
                    **spread,
                    "claim": claim,
                    "seeds": f"{int(so.sum())} of {len(so)}" if claim else "",
                }
            )
    return out
