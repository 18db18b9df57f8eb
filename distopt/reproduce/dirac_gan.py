"""Dirac-GAN [mescheder2018]: which ways to train a generative adversarial network converge, on two numbers; and with agents, which is ours."""

from __future__ import annotations

import cmath
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distopt.api import simulate
from distopt.numerics.random import Key
from distopt.reproduce import Results, Say
from distopt.reproduce.claimed import Number, above, below, near, part
from distopt.reproduce.one_agent import DERIVED, LOOP, LOOPS
from distopt.reproduce.smooth import Floats, curve, with_unreached
from distopt.reproduce.store import Store
from distopt.scenarios.dirac_gan import DiracGAN

REFERENCE = "Mescheder, Geiger, Nowozin: Which Training Methods for GANs do actually Converge?, ICML 2018"
NOTE = (
    "The game, h = 0.2, the start (1, 1), 500 steps, the strengths 0.3 and 1 of R1 and the noise of 0.7 are those of the authors' notebook; the "
    f"clip at 1 and the constants of WGAN-GP are ours. {LOOPS} The agents on graphs are not in the paper."
)

H, ROUNDS = 0.2, 500
WAYS = {
    "together": f"dgd:lr={H}",
    "in turn": f"alternating:lr={H}",
    "five critic steps": f"alternating:lr={H},critic=5",
}
FORMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "no regulariser": ("gan,none", (3.10, 1.42, 1.85)),
    "non-saturating": ("nsgan,none", (0.64, 0.28, 0.14)),
    "WGAN, clipped": ("wgan,none,clip=1", (1.00, 1.02, 0.92)),
    "WGAN-GP": ("wgan,gp,gamma=0.7,target=1", (1.80, 1.22, 0.72)),
    "R1, 0.3": ("gan,r1,gamma=0.3", (2.6e-6, 2.3e-7, 9e-34)),
    "R1, 1": ("gan,r1,gamma=1", (9.5e-22, 7e-17, 5e-12)),
    "instance noise": ("gan,noise,sigma=0.7", (5.7e-5, 4e-6, 7e-17)),
    "consensus, 1": ("gan,consensus,gamma=1", (2.6e-10, 1.7e-11, 11)),
}
"""The scenario, and the end radii of earlier loops for each of the ways."""
SHARE = 0.08
"""Earlier radii were noted with one or two digits."""
CIRCLING = ("no regulariser", "non-saturating", "WGAN, clipped", "WGAN-GP")
LINEAR = {
    "no regulariser": (0.0, 0.25),
    "R1, 0.3": (0.3, 0.25),
    "R1, 1": (1.0, 0.25),
    "R1, 2": (2.0, 0.25),
    "instance noise": (0.7**2 / 2, 0.25),
}
"""The linearised game has the eigenvalues z with z^2 + a z + b = 0: (a, b)."""
NEAR, SHORT = (1e-5, -5e-6), 40
"""Start and rounds of the runs from which eigenvalues are estimated."""
SAMPLED, SAMPLES = "gan,sampled_noise,sigma=0.7,draws=1000", 1000
AGENTS, LONG, RATES = 8, 1000, (0.2, 0.05)
SPREAD = 1.0
SEED = 0


def _paths(
    spec: str, methods: dict[str, str], rounds: int, start: tuple[float, float] | None = None
) -> dict[str, Floats]:
    """The path of one machine by each method, [T + 1, 2]."""
    runs = simulate(
        "ring",
        agents=1,
        scenario=f"dirac_gan:{spec}",
        algorithm=list(methods.values()),
        rounds=rounds,
        record="x",
        x0=start,
    )
    return {name: np.array(run["x"][0, :, 0]) for name, run in zip(methods, runs.values(), strict=True)}


# ------------------------------------------------------------------------------------------------------------------ forms


def forms(store: Store, data: Path | None, say: Say) -> Results:
    """For each form the paths in all ways, and the eigenvalues of a step near the equilibrium."""
    asked = {"forms": {name: spec for name, (spec, _) in FORMS.items()}, "rounds": ROUNDS, "h": H, "near": NEAR}
    return store.get("dirac-gan-forms", asked, lambda: _forms(say))


def _forms(say: Say) -> dict[str, Any]:
    found: dict[str, Any] = {"ends": {}, "paths": {}, "radii": {}, "linear": {}}
    for name, (spec, _) in FORMS.items():
        paths = _paths(spec, WAYS, ROUNDS)
        found["ends"][name] = {way: float(np.hypot(*x[-1])) for way, x in paths.items()}
        found["paths"][name] = {way: x.tolist() for way, x in list(paths.items())[:2]}
        found["radii"][name] = {way: curve(np.hypot(*x.T)) for way, x in paths.items()}
        found["ends"][name]["least, late"] = float(np.hypot(*paths["together"][ROUNDS // 2 :].T).min())
        say(f"dirac-gan: {name}")
    for name in LINEAR:
        spec = FORMS[name][0] if name in FORMS else "gan,r1,gamma=2"
        (x,) = _paths(spec, {"": WAYS["together"]}, SHORT, NEAR).values()
        step, *_ = np.linalg.lstsq(x[:-1], x[1:], rcond=None)
        found["linear"][name] = {"trace": float(np.trace(step)), "det": float(np.linalg.det(step))}
    (x,) = _paths(SAMPLED, {"": WAYS["together"]}, ROUNDS).values()
    found["floor"] = float(np.sqrt((x[-ROUNDS // 5 :] ** 2).sum(1).mean()))
    return found


def factor(a: float, b: float) -> float:
    """The larger |1 + h z| of the roots of z^2 + a z + b.

    >>> round(factor(0.3, 0.25), 4), round(factor(0.0, 0.25), 4)
    (0.9747, 1.005)
    """
    root = cmath.sqrt(a * a / 4 - b)
    return max(abs(1 + H * (-a / 2 + sign * root)) for sign in (1, -1))


def form_numbers(results: Results) -> list[Number]:
    """Radii at the end, and the eigenvalues of a step."""
    setup = f"Dirac-GAN from (1, 1), h = {H:g}, {ROUNDS} steps"
    claims = {
        **dict.fromkeys(
            CIRCLING[:1],
            "without a regulariser training does not converge: it circles, in ever larger circles if both players step together",
        ),
        CIRCLING[1]: "the non-saturating form converges, if at all, slowly: its eigenvalues are imaginary, too",
        **dict.fromkeys(CIRCLING[2:], "WGAN and WGAN-GP do not converge, with any fixed number of critic steps"),
        "R1, 0.3": "a zero-centred gradient penalty makes it converge, at a linear rate",
        "R1, 1": "a zero-centred gradient penalty makes it converge, at a linear rate",
        "instance noise": "instance noise makes it converge",
        "consensus, 1": "consensus optimisation converges; with five critic steps a strength of 1 is too much here (ours)",
    }
    found = []
    for name, (_, known) in FORMS.items():
        for way, expected in zip(WAYS, known, strict=True):
            measured = results["ends"][name][way]
            words = f"end radius, {name}, {way}"
            found.append(
                near(
                    claims[name],
                    setup,
                    words,
                    expected=expected,
                    measured=measured,
                    within=SHARE * expected,
                    source=LOOP,
                )
            )
    for name in CIRCLING[2:]:
        least = results["ends"][name]["least, late"]
        found.append(
            above(
                claims[name],
                setup,
                f"least radius of the second half, {name}, together",
                bound=0.5,
                measured=least,
                source=LOOP,
            )
        )
    found.append(
        near(
            "instance noise makes it converge",
            f"the same, {SAMPLES} draws of the noise in each step",
            "root mean square radius of the last fifth: sampled noise has a floor",
            expected=1e-2,
            measured=results["floor"],
            within=0.9e-2,
            source=f"{LOOP}, of the order of",
        )
    )
    for name, (a, b) in LINEAR.items():
        claim = "the eigenvalues of the linearised game decide: +-i/2 without a regulariser, -gamma/2 +- sqrt(gamma²/4 - 1/4) with R1"
        near_zero, each = f"start at ({NEAR[0]:g}, {NEAR[1]:g}), players together", results["linear"][name]
        for what, expected in (("trace", 2 - H * a), ("det", 1 - H * a + H * H * b)):
            words = f"{'trace' if what == 'trace' else 'determinant'} of the map of a step, {name}"
            found.append(
                near(claim, near_zero, words, expected=expected, measured=each[what], within=1e-6, source=DERIVED)
            )
        spread = cmath.sqrt(each["trace"] ** 2 / 4 - each["det"])
        largest = max(abs(each["trace"] / 2 + sign * spread) for sign in (1, -1))
        found.append(
            near(
                claim,
                near_zero,
                f"largest |eigenvalue| of a step, {name}",
                expected=factor(a, b),
                measured=largest,
                within=1e-3,
                source=f"{DERIVED}: |1 + h z|",
            )
        )
    rate = factor(*LINEAR["R1, 0.3"]) ** ROUNDS
    found.append(
        near(
            claims["R1, 0.3"],
            setup,
            "end radius, R1, 0.3, together, against |1 + h z|^500",
            expected=rate,
            measured=results["ends"]["R1, 0.3"]["together"],
            within=0.2 * rate,
            source=DERIVED,
        )
    )
    return found


# ----------------------------------------------------------------------------------------------------------------- agents


def agents(store: Store, data: Path | None, say: Say) -> Results:
    """Games of agents with data points of their own, on a ring, beside the game with all data in one place."""
    asked = {"agents": AGENTS, "rounds": LONG, "rates": RATES, "spread": SPREAD, "seed": SEED}
    return store.get("dirac-gan-agents", asked, lambda: _agents(say))


def _agents(say: Say) -> dict[str, Any]:
    found: dict[str, Any] = {"games": [], "variance": variance()}
    for regulariser in ("none", "r1,gamma=0.3"):
        for lr in RATES:
            spec = f"dirac_gan:gan,{regulariser},spread={SPREAD:g}"
            whole = _means(spec, [f"dgd:lr={lr},form=atc"], "complete")[0]["mean"]
            methods = [f"dgd:lr={lr}", f"gt:lr={lr}", f"alternating:lr={lr}"]
            each = _means(spec, methods, "ring")
            for name, run in zip(("dgd", "gt", "alternating"), each, strict=True):
                found["games"].append(
                    {
                        "regulariser": regulariser.partition(",")[0],
                        "lr": lr,
                        "method": name,
                        "apart": float(np.abs(run["mean"] - whole).max()),
                        "radius": run["radius"],
                        "consensus": run["consensus"],
                        "mean": run["mean"].tolist(),
                        "whole": whole.tolist(),
                        "whole radius": float(np.hypot(*whole[-1])),
                    }
                )
            say(f"dirac-gan: agents, {regulariser}, lr = {lr:g}")
    (alike,) = _means("dirac_gan", [f"gt:lr={H}"], "ring")
    found["alike"] = alike["radius"]
    return found


def _means(spec: str, methods: list[str], network: str) -> list[dict[str, Any]]:
    """The path of the agents' mean [T + 1, 2] by each method, and how far the agents are from the equilibrium and from each other at the end."""
    runs = simulate(network, agents=AGENTS, scenario=spec, algorithm=methods, rounds=LONG, seed=SEED, record="x")
    return [
        {
            "mean": np.array(run["x"][0]).mean(1),
            "radius": float(run["radius"][0, -1]),
            "consensus": float(run["consensus_error"][0, -1]),
        }
        for run in runs.values()
    ]


def variance() -> float:
    """The mean of the agents' squared data points."""
    b = DiracGAN(spread=SPREAD).batch(
        torch.zeros(1, 1, 1, 1, dtype=torch.int64), Key(SEED, range(AGENTS), range(1), AGENTS)
    )
    return float(b.c.square().mean())


def agent_numbers(results: Results) -> list[Number]:
    """How far the mean of the agents is from the game with all data in one place, and from the equilibrium."""
    setup = f"{AGENTS} agents on a ring with data points of variance {results['variance']:.2f}, {LONG:,} rounds"
    follows = "agents who exchange their points play the game on all of their data (ours): their mean follows it"
    reaches = "gradient tracking reaches the equilibrium of the game on all data, gradient descent a distance that falls with the step (ours)"
    damps = "data that differ damp the game without a regulariser (ours)"
    found = []
    games = {(each["regulariser"], each["lr"], each["method"]): each for each in results["games"]}
    for (regulariser, lr, method), each in games.items():
        case = f"{method}, {'R1 of 0.3' if regulariser == 'r1' else 'no regulariser'}, lr = {lr:g}"
        bound = 0.015 if method == "gt" else 0.1
        found.append(
            below(
                follows,
                setup,
                f"largest distance of the mean from that game, {case}",
                bound=bound,
                measured=each["apart"],
            )
        )
        if method == "gt":
            ratio = each["radius"] / each["whole radius"]
            if each["whole radius"] > 1e-12:
                found.append(
                    near(
                        reaches,
                        setup,
                        f"end radius over that of the game on all data, {case}",
                        expected=1,
                        measured=ratio,
                        within=0.5,
                    )
                )
            found.append(
                below(reaches, setup, f"end distance from each other, {case}", bound=1e-4, measured=each["consensus"])
            )
        elif method == "dgd" and lr == RATES[0]:
            smaller = games[regulariser, RATES[1], method]["consensus"]
            case = case.partition(", lr")[0]
            found.append(
                near(
                    reaches,
                    setup,
                    f"distance from each other at lr = {lr:g} over that at {RATES[1]:g}, {case}",
                    expected=lr / RATES[1],
                    measured=each["consensus"] / smaller,
                    within=1.5,
                    source="of order lr",
                )
            )
    root = games["none", H, "gt"]
    rate = factor(results["variance"] / 4, 0.25) ** LONG
    found.append(
        near(
            damps,
            setup,
            "log10 of the end radius, no regulariser",
            expected=math.log10(rate),
            measured=math.log10(root["whole radius"]),
            within=1,
            source=f"{DERIVED}: |1 + h z|^{LONG}, z² + v z/4 + 1/4 = 0",
        )
    )
    found.append(
        above(
            damps,
            "the same with equal data",
            "end radius, no regulariser",
            bound=math.sqrt(2),
            measured=results["alike"],
            source="it circles",
        )
    )
    return found


PARTS = {
    "forms": with_unreached(
        part(
            forms,
            form_numbers,
            "figures_of_games:dirac_forms",
            "Zero-centred gradient penalties and instance noise make training converge; without them, and with WGAN or WGAN-GP, it circles",
        ),
        {
            "with R1 large networks learn pictures of 256 and 1,024 pixels": "the data cannot be shipped, and the networks need large machines"
        },
    ),
    "agents": part(
        agents,
        agent_numbers,
        "figures_of_games:dirac_agents",
        "Agents with data of their own play the game on all data (our question)",
    ),
}
