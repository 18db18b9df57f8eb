"""Adan, Nesterov's momentum without a look-ahead point [xie2024]: where it comes from, and Adan against AdamW, in OUR set-ups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distopt.algorithms.dgd import DGD
from distopt.report.statistics import differences, paired, signed_rank
from distopt.report.tables import number
from distopt.reproduce import Results, Say
from distopt.reproduce.claimed import Number, above, below, part
from distopt.reproduce.smooth import Floats, Waves, points, run, runs, with_unreached
from distopt.reproduce.store import Store
from distopt.scenarios.network import Network

REFERENCE = (
    "Xie, Zhou, Li, Lin, Yan: Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models, "
    "IEEE Transactions on Pattern Analysis and Machine Intelligence, 2024"
)
NOTE = (
    "The method and its constants 0.98, 0.92 and 0.99 are those of the authors' code. All problems are ours. Both methods have the same grid of step "
    "sizes and as many gradients; the trials that are compared are others than those of the tuning."
)

B, LR, ROUNDS = 0.9, 0.02, 300
ADAN_LR = 0.01
"""Of the comparison of two ways to start Adan."""
RULES = {"Adan": "adan", "AdamW": "adamw(decay=0)"}
STEPS = (1.0, 2.0, 5.0)
RATES = {"waves": (-3, 0), "digits": (-4, -1)}
"""The powers of ten whose multiples by ``STEPS`` are the step sizes tried."""
TRIALS = {"waves": (10, 20), "digits": (2, 10)}
"""Trials to tune on, and to compare on."""
LENGTH = {"waves": 300, "digits": 450}
SEEDS = (1000, 0)
BATCH = 32
WORDS = {
    "waves": "a strongly convex function of 10 coordinates, gradient noise 1, 300 rounds, {} trials",
    "digits": "digits, a perceptron with 64 hidden units, batches of 32, 450 rounds (10 epochs), {} trials",
}
FIGURE = {"waves": "f - f*, mean of all rounds", "digits": "training loss, mean of all rounds"}
ALPHA = 0.05


# -------------------------------------------------------------------------------------------------------------- Nesterov


class DifferencesState(NamedTuple):
    """The momentum m and the last gradient [..., n, d], and whether there was one [..., n, 1]."""

    m: Tensor
    s: Tensor
    begun: Tensor


@dataclass(frozen=True)
class Differences:
    """Nesterov's momentum from differences of gradients: m_t = b m_{t-1} + s_t + b (s_t - s_{t-1}), d_t = m_t.

    The first difference is s_1 - 0, or, with ``none_first``, 0.
    """

    b: float
    none_first: bool = False

    def init(self, x: Tensor) -> DifferencesState:
        """Zeros."""
        return DifferencesState(torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x[..., :1]))

    def __call__(self, s: Tensor, state: DifferencesState) -> tuple[Tensor, DifferencesState]:
        """d_t."""
        change = s - state.s
        if self.none_first:
            change = change * state.begun
        m = self.b * state.m + s + self.b * change
        return m, DifferencesState(m, s.clone(), torch.ones_like(state.begun))


class PrintedState(NamedTuple):
    """The moments and the last gradient [..., n, d], and whether there was one [..., n, 1]."""

    m: Tensor
    v: Tensor
    n: Tensor
    s: Tensor
    begun: Tensor


@dataclass(frozen=True)
class Printed:
    """Adan with the start that the paper prints, m_1 = s_1, v_1 = 0 and n_1 = s_1^2, and so without correction of the bias."""

    b1: float = 0.98
    b2: float = 0.92
    b3: float = 0.99
    eps: float = 1e-8

    def init(self, x: Tensor) -> PrintedState:
        """Zeros."""
        zero = torch.zeros_like(x)
        return PrintedState(zero, zero.clone(), zero.clone(), zero.clone(), torch.zeros_like(x[..., :1]))

    def __call__(self, s: Tensor, state: PrintedState) -> tuple[Tensor, PrintedState]:
        """d_t."""
        begun = state.begun > 0
        change = state.begun * (s - state.s)
        ahead = s + self.b2 * change
        m = torch.where(begun, self.b1 * state.m + (1 - self.b1) * s, s)
        v = self.b2 * state.v + (1 - self.b2) * change
        n = torch.where(begun, self.b3 * state.n + (1 - self.b3) * ahead * ahead, s * s)
        d = (m + self.b2 * v) / (torch.sqrt(n) + self.eps)
        return d, PrintedState(m, v, n, s.clone(), torch.ones_like(state.begun))


def nesterov(store: Store, data: Path | None, say: Say) -> Results:
    """How far the ways to write Nesterov's method lie apart, and those to start Adan, along the rounds."""
    return store.get("adan-nesterov", {"b": B, "lr": LR, "rounds": ROUNDS, "adan": ADAN_LR}, _nesterov)


def _nesterov() -> dict[str, list[float]]:
    waves = Waves()
    nesterov = points(run(waves, f"dgd:lr={LR},direction=nesterov(b={B})", ROUNDS))[0]
    adan = points(run(waves, f"dgd:lr={ADAN_LR},direction=adan", ROUNDS))[0]
    others = {
        "differences": (DGD(LR, direction=Differences(B)), nesterov),
        "none first": (DGD(LR, direction=Differences(B, none_first=True)), nesterov),
        "printed": (DGD(ADAN_LR, direction=Printed()), adan),
    }
    return {
        name: np.abs(points(run(waves, algorithm, ROUNDS))[0] - reference).max(-1).tolist()
        for name, (algorithm, reference) in others.items()
    }


def nesterov_numbers(results: Results) -> list[Number]:
    """The largest distances."""
    setup = f"a strongly convex function of 10 coordinates without noise, {ROUNDS} rounds"
    identity = "m_t = b m_{t-1} + g_t + b (g_t - g_{t-1}) is Nesterov's method without its look-ahead point"
    start = "how it starts matters"
    far = {name: max(values) for name, values in results.items()}
    nest, adan = f"b = {B:g}, lr = {LR:g}", f"lr = {ADAN_LR:g}"
    return [
        below(
            identity,
            setup,
            f"largest distance from Nesterov's method, g_0 = 0, {nest}",
            bound=1e-12,
            measured=far["differences"],
            source="rounding",
        ),
        above(
            start,
            setup,
            f"the same with g_0 = g_1, as in the authors' code, {nest}",
            bound=0.01,
            measured=far["none first"],
            source="0.32 in a loop with other constants",
        ),
        above(
            start,
            setup,
            f"largest distance of Adan with the printed start from Adan, {adan}",
            bound=0.01,
            measured=far["printed"],
            source="1.2 in a loop with other constants",
        ),
    ]


# --------------------------------------------------------------------------------------------------------------- contest


def grid(kind: str) -> list[float]:
    """The step sizes that are tried.

    >>> grid("digits")[:4]
    [0.0001, 0.0002, 0.0005, 0.001]
    """
    low, high = RATES[kind]
    return [float(f"{step * 10.0**power:g}") for power in range(low, high) for step in STEPS] + [10.0**high]


def contest(store: Store, data: Path | None, say: Say) -> Results:
    """For each problem and method: the figures of all step sizes on some trials, and the figures of the best step size on other trials."""
    found: dict[str, Any] = {}
    for kind, rounds in LENGTH.items():
        found[kind] = {}
        for name, rule in RULES.items():
            asked = {"rule": rule, "grid": grid(kind), "trials": TRIALS[kind], "rounds": rounds, "seeds": SEEDS}
            found[kind][name] = store.get(f"adan-{kind}-{name}", asked, partial(_contest, kind, rule))
            say(f"adan: {name} on {kind}: best step size {found[kind][name]['lr']:g}")
    return found


def _contest(kind: str, rule: str) -> dict[str, Any]:
    tuned = [float(np.median(values.mean(-1))) for values in _costs(kind, rule, grid(kind), *_which(kind, 0))[0]]
    best = grid(kind)[int(np.nanargmin(np.where(np.isfinite(tuned), tuned, np.inf)))]
    (values,), ends = _costs(kind, rule, [best], *_which(kind, 1))
    return {
        "lr": best,
        "rates": grid(kind),
        "tuned": tuned,
        "figures": values.mean(-1).tolist(),
        "accuracy": ends,
        "median": np.median(values, 0).tolist(),
        "low": values.min(0).tolist(),
        "high": values.max(0).tolist(),
    }


def _which(kind: str, place: int) -> tuple[int, int]:
    return TRIALS[kind][place], SEEDS[place]


def _costs(kind: str, rule: str, rates: Sequence[float], trials: int, seed: int) -> tuple[list[Floats], list[float]]:
    """For each step size f - f* or the loss of the round's batch in all trials and rounds [R, T]; the last test accuracies of the last one."""
    network = kind == "digits"
    scenario: Any = Network(alpha=float("inf"), batch_size=BATCH) if network else Waves(noise=1.0)
    found = runs(
        scenario,
        [f"dgd:lr={lr},direction={rule}" for lr in rates],
        LENGTH[kind],
        trials=trials,
        seed=seed,
        dtype="float32" if network else "float64",
        record=("x",) if not network or len(rates) == 1 else (),
    )
    if not network:
        return [_filled(scenario.objective(points(each)[:, :-1])) for each in found], []
    costs = [_filled(np.asarray(each["cost"], dtype=np.float64), LENGTH[kind]) for each in found]
    rows: Any = found[0]["x"][:, -1, 0] if len(rates) == 1 else []
    return costs, [scenario.test_accuracy(torch.from_numpy(row.copy())) for row in rows]


def _filled(values: Floats, rounds: int | None = None) -> Floats:
    """A series in which everything that is not finite, or missing since the run diverged, is infinite."""
    missing = 0 if rounds is None else rounds - values.shape[1]
    whole = np.concatenate([values, np.full((len(values), missing), np.inf)], 1)
    return np.where(np.isfinite(whole), whole, np.inf)


def contest_numbers(results: Results) -> list[Number]:
    """Whether Adan is better, and at how much larger steps."""
    found = []
    for kind, methods in results.items():
        setup = WORDS[kind].format(len(methods["Adan"]["figures"]))
        ours, other = (methods[name] for name in RULES)
        found.append(
            better("Adan makes faster progress than AdamW", setup, FIGURE[kind], ours["figures"], other["figures"])
        )
        if kind == "digits":
            wrong = [[1 - value for value in each["accuracy"]] for each in (ours, other)]
            found.append(better("it generalises as well or better", setup, "test error at the end", *wrong, tied=True))
    for kind, methods in results.items():
        ratio = methods["Adan"]["lr"] / methods["AdamW"]["lr"]
        what = f"best step size of Adan ({methods['Adan']['lr']:g}) over that of AdamW ({methods['AdamW']['lr']:g})"
        expected = "5 to 10 (the authors' advice)"
        claim, setup = "its best step sizes are 5 to 10 times those of AdamW", WORDS[kind].format(TRIALS[kind][0])
        found.append(Number(claim, setup, what, expected, ratio, 4.9 <= ratio <= 10.1))
    return found


def better(
    claim: str, setup: str, what: str, ours: Sequence[float], other: Sequence[float], *, tied: bool = False
) -> Number:
    """Whether figures are significantly smaller (smaller is better) than another method's in the same trials.

    With ``tied`` it is enough if they are not significantly larger.

    >>> better("a", "b", "c", [1.0] * 6, [2.0, 2.1, 2.2, 2.3, 2.4, 2.5]).good
    True
    """
    middle, against = float(np.median(ours)), float(np.median(other))
    unequal = differences(ours, other)
    unequal = unequal[unequal != 0]
    p = signed_rank(unequal) if len(unequal) else 1.0
    shift = paired(ours, other).difference.value
    words = f"{what}, Adan over AdamW ({number(middle)} over {number(against)}, medians, p = {p:.2g})"
    good = not (shift > 0 and p < ALPHA) if tied else shift < 0 and p < ALPHA
    expected = "not significantly above 1" if tied else "< 1, p < 0.05 (signed ranks)"
    return Number(claim, setup, words, expected, middle / against, good)


PARTS = {
    "nesterov": part(
        nesterov,
        nesterov_numbers,
        "figures_of_methods:adan_nesterov",
        "Adan's momentum is Nesterov's without a gradient at a second point (the paper's reformulation)",
    ),
    "contest": with_unreached(
        part(
            contest,
            contest_numbers,
            "figures_of_methods:adan_contest",
            "Adan makes faster progress than AdamW (the paper: vision and language models; here a noisy function and a small network)",
        ),
        {
            "it trains ViT, ResNet, MAE and Transformer-XL better than AdamW, in half the epochs": (
                "ImageNet and the other data cannot be shipped, and the networks need large machines"
            )
        },
    ),
}
