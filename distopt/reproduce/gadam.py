"""Averaging the iterates of AdamW and of its partially adaptive form [granziol2020], in OUR set-ups."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distopt.reproduce import Results, Say
from distopt.reproduce.claimed import Number, above, below, near, part
from distopt.reproduce.datasets import digits
from distopt.reproduce.smooth import Bowl, Floats, Waves, curve, points, run, with_unreached
from distopt.reproduce.store import Store
from distopt.scenarios.network import Network

REFERENCE = (
    "Granziol, Wan, Albanie, Roberts: Iterative Averaging in the Quest for Best Test Error, arXiv 2003.01247, 2020"
)
NOTE = (
    "Gadam is AdamW with an average of the iterates, GadamX the same with Padam (p = 1/8 and AMSGrad's maximum, as in the authors' code). "
    "The title of the paper differs between its versions. All problems and constants are ours, apart from these. What is expected was found "
    "beforehand in a loop in numpy, or derived, as said each time."
)

LR = 0.05
DIM, NOISE, ROUNDS, TRIALS = 50, 2.0, 6000, 16
OFTEN = (1, 10, 100)
"""Rounds from one averaged iterate to the next."""
METHODS = {
    "SGD": ("sgd", 39.0),
    "AdamW": ("adamw(decay=0)", 18.0),
    "Padam": ("padam(decay=0)", 30.0),
}
"""The direction, and f(last) / f(mean) in one run of a loop in numpy that was written beforehand."""
CLOSE = 0.35
"""The largest relative difference of a ratio from that of a single run."""

ROWS, WRONG, BATCH, EPOCHS, SEEDS = 600, 0.3, 30, 30, 6
TRAINED: dict[str, tuple[str, float | None]] = {
    "AdamW, lr 0.003": ("dgd(lr=0.003,direction=adamw(decay=0))", 0.031),
    "AdamW, lr 0.03, decay 0.1": ("dgd(lr=0.03,direction=adamw(decay=0.1))", 0.045),
    "SGDM, lr 0.1": ("dgd(lr=0.1,direction=momentum)", 0.037),
    "Padam, lr 0.3": ("dgd(lr=0.3,direction=padam(decay=0))", None),
    "Padam, lr 0.03": ("dgd(lr=0.03,direction=padam(decay=0))", None),
}
"""The algorithm, and what averaging gained in test accuracy in a loop that was written beforehand, with another network."""
EARLY = "Padam, lr 0.03"
"""The step size among these that still learns fast when the mean begins."""

SHORT, SHORT_LR = 300, 0.015


def averaged(algorithm: str, start: int, every: int) -> str:
    """An algorithm with the mean of its iterates, as ``simulate`` takes it."""
    return f"averaged:algorithm={algorithm},start={start},every={every}"


# -------------------------------------------------------------------------------------------------------- noisy quadratic


def quadratic(store: Store, data: Path | None, say: Say) -> Results:
    """For each method: f at the last iterate and at the means, along the rounds."""
    asked = {"lr": LR, "dim": DIM, "noise": NOISE, "rounds": ROUNDS, "trials": TRIALS, "often": OFTEN}
    found = {}
    for name, (rule, _) in METHODS.items():
        found[name] = store.get(f"gadam-quadratic-{name}", {**asked, "rule": rule}, partial(_quadratic, rule))
        say(f"gadam: {name} on a noisy quadratic: {TRIALS} trials of {ROUNDS:,} rounds")
    return found


def bowl() -> Bowl:
    """The noisy quadratic."""
    return Bowl(dim=DIM, low=0.1, high=10.0, noise=NOISE, at=1.0)


def _quadratic(rule: str) -> dict[str, Any]:
    means, last = {}, np.zeros(0)
    for every in OFTEN:
        spec = averaged(f"dgd(lr={LR},direction={rule})", ROUNDS // 2, every)
        found = run(
            bowl(), spec, ROUNDS + 1, trials=TRIALS, record=("x", "output")
        )  # one more: outputs stand before a round
        last = bowl().objective(points(found)[:, : ROUNDS + 1]).mean(0)
        means[every] = bowl().objective(points(found, "output")).mean(0)
    return {
        "last": float(last[-ROUNDS // 10 :].mean()),  # of many iterates: a single one varies by a fifth
        "means": [float(values[-1]) for values in means.values()],
        "curves": {"last iterate": curve(last), **{f"mean, every {k}": curve(values) for k, values in means.items()}},
    }


def floor() -> float:
    """f at the iterates of SGD at rest: sum_k lr noise^2 / (2 (2 - lr c_k)).

    >>> round(floor(), 3)
    2.66
    """
    return float((LR * NOISE**2 / (2 * (2 - LR * bowl().curvatures))).sum())


def quadratic_numbers(results: Results) -> list[Number]:
    """What averaging gains, and what is lost where it is done less often."""
    setup = f"{DIM} curvatures from 0.1 to 10, gradient noise {NOISE:g}, lr = {LR:g}, {ROUNDS:,} rounds, mean of the second half, {TRIALS} trials"
    claim = "the mean of the iterates is far better than the last one where gradients are noisy"
    found = [
        near(
            claim,
            setup,
            "f at the iterates of SGD",
            expected=floor(),
            measured=results["SGD"]["last"],
            within=0.1,
            source="derived",
        )
    ]
    for name, (_, ratio) in METHODS.items():
        measured = results[name]["last"] / results[name]["means"][0]
        what = f"f at the iterates over f at their mean, {name}"
        source = "a single run in numpy"
        found.append(near(claim, setup, what, expected=ratio, measured=measured, within=CLOSE * ratio, source=source))
    claim = "averaging less often is nearly free"
    for name in METHODS:
        means = results[name]["means"]
        for every, value in zip(OFTEN[1:], means[1:], strict=True):
            what = f"f at the mean of every {every}th iterate over that of all, {name}"
            found.append(
                below(
                    claim, setup, what, bound=2, measured=value / means[0], source="1.3 to 1.9 for 100 in a single run"
                )
            )
    return found


# ------------------------------------------------------------------------------------------------- pictures, wrong labels


def trained(store: Store, data: Path | None, say: Say) -> Results:
    """For each method and seed: the test accuracy of the iterate and of the mean after each epoch."""
    asked = {"rows": ROWS, "wrong": WRONG, "batch": BATCH, "epochs": EPOCHS}
    found: dict[str, list[Any]] = {}
    for name, (algorithm, _) in TRAINED.items():
        found[name] = []
        for seed in range(SEEDS):
            settings = {**asked, "algorithm": algorithm, "seed": seed}
            key = f"gadam-digits-{list(TRAINED).index(name)}-{seed}"
            found[name].append(store.get(key, settings, partial(_trained, algorithm, seed)))
        say(f"gadam: {name} on digits: {SEEDS} seeds")
    return found


def mislabelled(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Digits to train on, some with wrong labels, and digits to test on, all with correct labels."""
    samples, generator = digits(), np.random.default_rng(seed)
    chosen = torch.from_numpy(generator.permutation(len(samples.y))[:ROWS])
    y = samples.y[chosen].clone()
    wrong = torch.from_numpy(generator.permutation(ROWS)[: round(WRONG * ROWS)])
    y[wrong] = (y[wrong] + torch.from_numpy(generator.integers(1, 10, len(wrong)))) % 10
    return samples.x[chosen], y, samples.x_test, samples.y_test


def _trained(algorithm: str, seed: int) -> dict[str, list[float]]:
    network = Network(data=mislabelled(seed), alpha=math.inf, batch_size=BATCH, init=seed)
    epoch = ROWS // BATCH
    spec = averaged(algorithm, EPOCHS // 2 * epoch, epoch)
    found = run(network, spec, EPOCHS * epoch + 1, seed=seed, record=("x", "output"), dtype="float32")
    return {name: _accuracy(network, points(found, name)[0, : EPOCHS * epoch + 1 : epoch]) for name in ("x", "output")}


def _accuracy(network: Network, rows: Floats) -> list[float]:
    return [network.test_accuracy(torch.from_numpy(row).to(torch.float32)) for row in rows]


def gains(runs: list[dict[str, list[float]]]) -> Floats:
    """By how much the mean classifies better than the last iterate, for each seed."""
    return np.array([each["output"][-1] - each["x"][-1] for each in runs])


def trained_numbers(results: Results) -> list[Number]:
    """What averaging gains in test accuracy."""
    setup = (
        f"{ROWS} digits, {WRONG:.0%} of them with wrong labels, a perceptron with 64 hidden units, batches of {BATCH}, {EPOCHS} epochs, mean of the "
        f"ends of the later half of them, {SEEDS} seeds"
    )
    claim = "the mean of the iterates generalises better than the last one"
    found = []
    for name, (_, before) in TRAINED.items():
        gained = gains(results[name])
        measured, error = float(gained.mean()), float(gained.std(ddof=1) / len(gained) ** 0.5)
        ends = [float(np.mean([each[key][-1] for each in results[name]])) for key in ("x", "output")]
        what = f"gain in test accuracy, {name} ({ends[0]:.3f} to {ends[1]:.3f})"
        source = "two standard errors" + (
            "" if before is None else f"; {before:g} in an earlier loop, with another network"
        )
        if name == EARLY:
            early = "not where it begins before the iterates have come to rest"
            found.append(below(early, setup, what, bound=-2 * error, measured=measured, source=source))
        else:
            found.append(above(claim, setup, what, bound=2 * error, measured=measured, source=source))
    return found


# ---------------------------------------------------------------------------------------------------------- short, exact


def short(store: Store, data: Path | None, say: Say) -> Results:
    """f - f* of AdamW's iterates and of their mean, on a short run without noise."""
    return store.get("gadam-short", {"rounds": SHORT, "lr": SHORT_LR}, _short)


def _short() -> dict[str, Any]:
    waves = Waves()
    spec = averaged(f"dgd(lr={SHORT_LR},direction=adamw(decay=0))", SHORT // 2, 1)
    found = run(waves, spec, SHORT + 1, record=("x", "output"))
    gaps = {name: waves.objective(points(found, name)[0, : SHORT + 1]) for name in ("x", "output")}
    return {name: {"end": float(gap[-1]), "values": gap.tolist()} for name, gap in gaps.items()}


def short_numbers(results: Results) -> list[Number]:
    """Whether the mean is worse there."""
    return [
        above(
            "averaging hurts before the noisy, stationary phase",
            f"a strongly convex function of 10 coordinates without noise, lr = {SHORT_LR:g}, {SHORT} rounds, mean of the second half",
            f"f - f* at the mean over that at the last iterate ({results['output']['end']:.3g} over {results['x']['end']:.3g})",
            bound=1,
            measured=results["output"]["end"] / results["x"]["end"],
            source="0.45 over 0.15 in a loop with other constants",
        )
    ]


PARTS = {
    "quadratic": part(
        quadratic,
        quadratic_numbers,
        "figures_of_methods:gadam_quadratic",
        "the mean of the iterates is far nearer to the minimiser than the last one, and may be taken rarely (the paper's theory)",
    ),
    "digits": with_unreached(
        part(
            trained,
            trained_numbers,
            "figures_of_methods:gadam_digits",
            "the mean of the iterates has the smaller test error (the paper: VGG and ResNets on CIFAR-100; here a small network with wrong labels)",
        ),
        {
            "GadamX has the best test errors on CIFAR-100, ImageNet 32 x 32 and Penn Treebank": (
                "the data cannot be shipped, and the networks need large machines"
            )
        },
    ),
    "short": part(
        short,
        short_numbers,
        "figures_of_methods:gadam_short",
        "averaging hurts before the noisy, stationary phase (why the authors start it late)",
    ),
}
