"""Where the (p, q) family of AdamW is stable [zhang2021]: the claims of its abstract, in OUR set-ups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from distopt.reproduce import Results, Say
from distopt.reproduce.claimed import Number, above, below, near, part
from distopt.reproduce.smooth import Bowl, Floats, Waves, curve, points, run, with_unreached
from distopt.reproduce.store import Store

REFERENCE = "Zhang, Niwa, Kleijn: Extending AdamW by Leveraging Its Second Moment and Magnitude, arXiv 2112.06125, 2021"
NOTE = (
    "The claims are those of the abstract. All constants are ours, apart from the usual b1 = 0.9, b2 = 0.999 and eps = 1e-8. The bias is "
    "corrected as AdamW does it, which the abstract does not say. Another method of the same authors is called Aida, too "
    "(arXiv 2203.13273); it is not this one."
)

CURVATURE, START = 10.0, 0.01
ROUNDS, LONG = 4000, 60_000
WINDOW = 20  # rounds of which the largest |x| is drawn
LAST = 500  # rounds at the end over which a factor is measured
PAIRS = ((1.0, 2.0), (2.0, 2.0), (3.0, 2.0), (1.5, 1.5))
RATES = ((0.1, 0.1), (1.0, 0.1))
"""Pairs (lr, weight decay)."""
CYCLES = ((1.0, 0.0, 1e-8, False, 3.7e-3), (1.0, 0.0, 1e-2, True, 0.29), (0.1, 0.1, 1e-8, False, 3.4e-2))
"""Of AdamW: lr, weight decay, eps, whether it stands inside the root, and the largest |x| of the last rounds in an earlier loop in numpy."""
ADAMW, ADAMW_ROUNDS = (0.01, 0.1), 300
"""lr and weight decay of the comparison with torch."""

SETUP = f"f = {CURVATURE:g} x²/2 from x = {START:g}"


def spec(p: float, q: float, lr: float, decay: float, eps: float = 1e-8, inside: bool = True) -> str:
    """The method as ``simulate`` takes it."""
    return f"dgd:lr={lr},direction=aida(p={p},q={q},eps={eps},eps_inside={str(inside).lower()},decay={decay})"


def measure(store: Store, data: Path | None, say: Say) -> Results:
    """The sizes of x along the rounds for all pairs, and how far (2, 1) is from torch's AdamW."""
    asked = {"curvature": CURVATURE, "start": START, "rounds": ROUNDS, "long": LONG, "last": LAST, "pairs": PAIRS}
    asked |= {"rates": RATES, "cycles": [each[:4] for each in CYCLES], "adamw": [*ADAMW, ADAMW_ROUNDS]}
    return store.get("aida-stability", asked, lambda: _measured(say))


def _measured(say: Say) -> dict[str, Any]:
    without = [_one(p, q, 0.1, 0.0, LONG) for p, q in PAIRS]
    say(f"aida: {len(without)} pairs (p, q) without weight decay")
    decayed = [_one(p, q, lr, decay, ROUNDS) for lr, decay in RATES for p, q in PAIRS]
    say(f"aida: {len(decayed)} runs with weight decay")
    cycles = [_one(2.0, 1.0, lr, decay, ROUNDS, eps, inside) for lr, decay, eps, inside, _ in CYCLES]
    return {"without": without, "decayed": decayed, "cycles": cycles, "adamw": _adamw()}


def _one(
    p: float, q: float, lr: float, decay: float, rounds: int, eps: float = 1e-8, inside: bool = True
) -> dict[str, Any]:
    bowl = Bowl(low=CURVATURE, high=CURVATURE, at=START)
    size = np.abs(points(run(bowl, spec(p, q, lr, decay, eps, inside), rounds))[0, :, 0])
    half = rounds // 2
    return {
        "p": p,
        "q": q,
        "lr": lr,
        "decay": decay,
        "eps": eps,
        "inside": inside,
        "at": float(size[min(ROUNDS, rounds)]),
        "end": float(size[-1]),
        "cycle": float(size[-LAST:].max()),
        "burst": float(size[half:].max()),
        "factor": float((size[-1] / size[-1 - LAST]) ** (1 / LAST)),
        "power": float(np.log(size[-1] / size[half]) / np.log(rounds / half)),
        # the largest value from here on: no dips where x changes its sign
        "curve": curve(np.maximum.accumulate(size[::-1])[::-1]),
        "course": size[: len(size) // WINDOW * WINDOW].reshape(-1, WINDOW).max(1).tolist(),
    }


def _adamw() -> float:
    """The largest distance of (2, 1) from ``torch.optim.AdamW`` along its path."""
    lr, decay = ADAMW
    problem = Waves()
    ours = points(run(problem, spec(2.0, 1.0, lr, decay, inside=False), ADAMW_ROUNDS))[0]
    x = torch.nn.Parameter(torch.ones(problem.dim, dtype=torch.float64))
    optimiser = torch.optim.AdamW([x], lr=lr, weight_decay=decay, eps=1e-8)
    path: list[Floats] = [x.detach().numpy().copy()]
    for _ in range(ADAMW_ROUNDS):
        x.grad = torch.from_numpy(problem.slope(x.detach().numpy()))
        optimiser.step()
        path.append(x.detach().numpy().copy())
    return float(np.abs(ours - np.stack(path)).max())


def numbers(results: Results) -> list[Number]:
    """What bears on each claim."""
    found = [
        below(
            "the family contains AdamW: (p, q) = (2, 1)",
            f"a strongly convex function of 10 coordinates, lr = {ADAMW[0]:g}, weight decay {ADAMW[1]:g}, {ADAMW_ROUNDS} rounds",
            "largest distance from torch.optim.AdamW",
            bound=1e-13,
            measured=results["adamw"],
            source="rounding",
        )
    ]
    claim = "with q > 1 (the abstract: p > 1, too) and weight decay the minimiser attracts, by the factor 1 - lr decay a round"
    for each in results["decayed"]:
        rate = 1 - each["lr"] * each["decay"]
        what = f"factor of |x| a round, (p, q) = {_pair(each)}, lr = {each['lr']:g}, decay {each['decay']:g}"
        found.append(
            near(
                claim, SETUP, what, expected=rate, measured=each["factor"], within=1e-5, source="1 - lr decay, derived"
            )
        )
    claim = "without weight decay they have no linear rate"
    for each in results["without"]:
        what = f"factor of |x| a round at the end of {LONG:,} rounds, (p, q) = {_pair(each)}, lr = {each['lr']:g}"
        found.append(
            near(
                claim,
                SETUP,
                what,
                expected=1,
                measured=each["factor"],
                within=1e-4,
                source="derived: |m|^q is flat at 0",
            )
        )
    claim = "AdamW itself does not come to rest at the minimiser, with or without weight decay"
    for each, (*_, size) in zip(results["cycles"], CYCLES, strict=True):
        case = f"lr = {each['lr']:g}, decay {each['decay']:g}, eps = {each['eps']:g} {'inside' if each['inside'] else 'outside'} the root"
        what = f"largest |x| of the last {LAST} of {ROUNDS:,} rounds, {case}"
        source = "a loop in numpy"
        found.append(near(claim, SETUP, what, expected=size, measured=each["cycle"], within=0.02 * size, source=source))
        what = f"largest |x| of the second half of them, {case}"
        found.append(above(claim, SETUP, what, bound=START, measured=each["burst"], source="the start"))
    return found


def _pair(each: dict[str, Any]) -> str:
    return f"({each['p']:g}, {each['q']:g})"


PARTS = {
    "stability": with_unreached(
        part(
            measure,
            numbers,
            "figures_of_methods:aida_stability",
            "near a minimiser, (p, q) with q > 1 is stable with weight decay and only then converges at a linear rate (the abstract)",
        ),
        {
            "the best (p, q) beat AdamW on ten toy problems, a Transformer and a Swin-Transformer": (
                "the problems and the winning pairs stand in the paper's text, which was not at hand, and the networks need large machines"
            )
        },
    )
}
