"""Step sizes and batch sizes by the theory of random matrices [granziol2022]."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from distopt.api import simulate
from distopt.numerics.random import Key
from distopt.probes.mini_batch_edge import MiniBatchEdge
from distopt.reproduce import Results, Say
from distopt.reproduce.claimed import Number, below, near, part
from distopt.reproduce.landscape import Floats, HessianSpread
from distopt.reproduce.sgd_steps import features, mean_square, stable
from distopt.reproduce.smooth import Bowl, points, runs, with_unreached
from distopt.reproduce.store import Store

REFERENCE = (
    "Granziol, Zohren, Roberts: Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to Neural Network Training, "
    "JMLR 23, 2022, arXiv 2006.09092"
)
NOTE = (
    "The paper's networks (VGG, WideResNet on CIFAR-100 and ImageNet) are not run. Its theory takes the Hessian of a batch for that of all samples "
    "plus a matrix of independent elements. The first part draws such matrices; the others look at digits, whose Hessians are of another kind."
)

SIZE, SIGMA, SPIKES = 200, 2.0, (2.0, 5.0, 10.0)
FIELD_BATCHES = (1, 4, 8, 16, 64, 256)
DRAWS = 10
STEP_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
STEPS_RANGE, STEP_RATIO, STEP_ROUNDS, STEP_TRIALS = (0.03, 1.2), 1.05, 1500, 2
POWERS = 100
"""Rounds of the power method."""
NETWORK_ROWS, NETWORK_BATCHES, NETWORK_LR, NETWORK_ROUNDS = 400, (4, 8, 16, 32, 64, 128, 256), 0.2, 200
FLOOR, FLOOR_BATCHES = 0.02, (4, 16, 64, 256)
FLOOR_ROUNDS, FLOOR_TRIALS, FLOOR_RATIO = 10_000, 4, 1.2
EARLIER_FLOORS = {"Adam": (0.0031, 0.0056, 0.0109, 0.0224), "SGD": (0.0029, 0.0106, 0.041, 0.134)}
"""The largest step sizes in an earlier loop, for each batch size."""
LEARNERS: dict[str, tuple[str, int, int]] = {
    "lanczos_rate, k = 5": ("lanczos_rate:steps=5,lr=0.1", 1000, 3),
    "lanczos_rate, k = 10": ("lanczos_rate:steps=10,lr=0.1", 1000, 3),
    "lanczos_rate, k = 20": ("lanczos_rate:steps=20,lr=0.1", 1000, 3),
    "heavy ball, lr = 0.1, rho = 0.9": ("dgd:lr=0.1,direction=momentum(b=0.9)", 3000, 1),
    "gradient descent, lr = 0.2": ("dgd:lr=0.2", 3000, 1),
}
"""The method, its rounds, and its gradients in a round. 0.2 is about 1 / lam1."""
EARLIER_LEARNER = "5.2e-4 against 0.0039 and 0.028 in an earlier loop"
RULES = {"Adam": "adam(b2=0.99,eps_inside=false,cap=none,bias_correction=true)", "SGD": "sgd"}


# ------------------------------------------------------------------------------------------------------------------ field


def largest(top: float, size: float, sigma: float, batch: float) -> float:
    """lam1(B): the largest eigenvalue of a matrix with the largest eigenvalue ``top``, plus a symmetric matrix [P, P] of independent elements
    of variance sigma^2 / B.

        top + P sigma^2 / (B top)   where top > sigma sqrt(P / B),   else   2 sigma sqrt(P / B)

    >>> round(largest(10.0, 200, 2.0, 16), 6), round(largest(10.0, 200, 2.0, 4), 4)
    (15.0, 28.2843)
    """
    scale = sigma * math.sqrt(size / batch)
    return top + scale**2 / top if top > scale else 2 * scale


def effective(batch: float, rows: float) -> float:
    """B' = B / (1 - B / rows), for batches without repetition.

    >>> effective(100, 400)
    133.33333333333334
    """
    return batch / (1 - batch / rows)


def field(store: Store, data: Path | None, say: Say) -> Results:
    """The largest eigenvalue of spikes in a random field, mean over draws."""
    asked = {"size": SIZE, "sigma": SIGMA, "spikes": SPIKES, "batches": FIELD_BATCHES, "draws": DRAWS}
    return store.get("random-matrix-field", asked, lambda: [_field(batch) for batch in FIELD_BATCHES])


def _field(batch: int) -> dict[str, Any]:
    mean = np.zeros((SIZE, SIZE))
    mean[np.arange(len(SPIKES)), np.arange(len(SPIKES))] = SPIKES
    key = Key(0, range(1), range(DRAWS), 1)
    drawn = key.normal(f"random matrix/{batch}", SIZE * SIZE)[0, :, 0].numpy().reshape(DRAWS, SIZE, SIZE)
    noise = (drawn + drawn.transpose(0, 2, 1)) / math.sqrt(2) * SIGMA / math.sqrt(batch)
    tops = np.linalg.eigvalsh(mean + noise)[:, -1]
    return {"batch": batch, "top": float(tops.mean()), "formula": largest(SPIKES[-1], SIZE, SIGMA, batch)}


def field_numbers(results: Results) -> list[Number]:
    """Means beside the formula."""
    setup = (
        f"P = {SIZE}, eigenvalues {', '.join(f'{each:g}' for each in SPIKES)} and 0, sigma = {SIGMA:g}, {DRAWS} draws"
    )
    claim = "noise of independent elements lifts an eigenvalue by P sigma² / (B lam), and hides it in the bulk below sigma √(P / B)"
    return [
        near(
            claim,
            setup,
            f"largest eigenvalue, B = {each['batch']}",
            expected=each["formula"],
            measured=each["top"],
            within=0.05 * each["formula"],
            source="the paper's formula",
        )
        for each in results
    ]


# ------------------------------------------------------------------------------------------------------------------ steps


def steps(store: Store, data: Path | None, say: Say) -> Results:
    """The largest stable step size of SGD on least squares for each batch size, and 2 over the largest eigenvalue."""
    asked = {"batches": STEP_BATCHES, "steps": [STEPS_RANGE, STEP_RATIO, STEP_ROUNDS, STEP_TRIALS, POWERS]}
    return store.get("random-matrix-steps", asked, lambda: _steps(say))


def _steps(say: Say) -> dict[str, Any]:
    a = features()
    low, high = STEPS_RANGE
    count = math.ceil(math.log(high / low) / math.log(STEP_RATIO))
    rates: Floats = np.asarray(low * STEP_RATIO ** np.arange(count), dtype=np.float64)
    found = [stable(a, batch, rates, STEP_ROUNDS, STEP_TRIALS) for batch in STEP_BATCHES]
    say("random-matrix: SGD on least squares")
    squares = [mean_square(a, batch, POWERS) for batch in STEP_BATCHES]
    return {"limit": float(2 / np.linalg.eigvalsh(a.T @ a / len(a))[-1]), "steps": found, "squares": squares}


def step_numbers(results: Results) -> list[Number]:
    """Ratios of the steps to those of half the batch, and where they stop growing."""
    setup = f"least squares on 1,797 digits, random rows, {STEP_ROUNDS:,} rounds, {STEP_TRIALS} trials"
    found = []
    small = list(zip(STEP_BATCHES, results["steps"], strict=True))[:4]
    for (_, before), (batch, after) in pairwise(small):
        found.append(
            near(
                "for small batches the largest stable step size is proportional to the batch size, to 15 %",
                setup,
                f"largest stable step size with B = {batch} over that with {batch // 2}",
                expected=2,
                measured=after / before,
                within=0.3,
                source="1.78 to 1.89 in an earlier loop, which asked how large a step keeps the loss below its start",
            )
        )
    for batch, path, square in zip(STEP_BATCHES, results["steps"], results["squares"], strict=True):
        found.append(
            near(
                "the step size up to which the error shrinks is close to that up to which its mean square does (ours)",
                setup,
                f"largest stable step size with B = {batch}",
                expected=square,
                measured=path,
                within=0.1 * square,
                source="derived, for the mean square",
            )
        )
    found.append(
        near(
            "for large batches it stops at 2 / lam1",
            setup,
            f"largest stable step size with B = {STEP_BATCHES[-1]}",
            expected=results["limit"],
            measured=results["steps"][-1],
            within=0.05 * results["limit"],
            source="2 / lam1",
        )
    )
    return found


# ---------------------------------------------------------------------------------------------------------------- network


def network(store: Store, data: Path | None, say: Say) -> Results:
    """The largest eigenvalue of mini-batch Hessians of the digits' network, and the spread of the Hessians of single samples."""
    asked = {"rows": NETWORK_ROWS, "batches": NETWORK_BATCHES, "run": [NETWORK_LR, NETWORK_ROUNDS], "draws": DRAWS}
    return store.get("random-matrix-network", asked, lambda: _network(say))


def _network(say: Say) -> dict[str, Any]:
    at = NETWORK_ROUNDS
    found = {}
    for batch in NETWORK_BATCHES:
        probes: list[Any] = [MiniBatchEdge(at, batch, DRAWS)]
        if batch == NETWORK_BATCHES[0]:
            probes += [f"sharpness:every={at}", HessianSpread(at)]
        run = simulate(
            "complete",
            agents=1,
            scenario=f"digits_mlp:rows={NETWORK_ROWS}",
            algorithm=f"dgd:lr={NETWORK_LR}",
            rounds=at,
            probe=probes,
        )
        found[batch] = float(run["minibatchedge"][0, -1])
        if batch == NETWORK_BATCHES[0]:
            top, spread = (float(run[name][0, -1]) for name in ("sharpness", "hessianspread"))
        say(f"random-matrix: batches of {batch}")
    return {"top": top, "spread": spread, "batches": list(found), "values": list(found.values())}


def excess(results: Results) -> list[float]:
    """(lam1(B) - lam1) B' for each batch size: a constant where the excess is inversely proportional to B'."""
    pairs = zip(results["batches"], results["values"], strict=True)
    return [(value - results["top"]) * effective(batch, NETWORK_ROWS) for batch, value in pairs]


def network_numbers(results: Results) -> list[Number]:
    """Whether the excess is constant over B', and what the formula for independent elements gives."""
    setup = f"digits_mlp with {NETWORK_ROWS} digits after {NETWORK_ROUNDS} rounds with lr = {NETWORK_LR:g}, {DRAWS} batches of each size"
    constants = excess(results)
    formula = results["spread"] / results["top"]
    return [
        below(
            "the excess of the largest eigenvalue is inversely proportional to the batch size, with a fitted constant",
            setup,
            f"largest of (lam1(B) - lam1) B' over the smallest, B = {NETWORK_BATCHES[0]} to {NETWORK_BATCHES[-1]}",
            bound=2,
            measured=max(constants) / min(constants),
            source=f"22 to 36 on another network in an earlier loop; B changes by {NETWORK_BATCHES[-1] // NETWORK_BATCHES[0]}",
        ),
        near(
            "the constant is P sigma² / lam1, as for independent elements of variance sigma²",
            setup,
            "median of (lam1(B) - lam1) B'",
            expected=formula,
            measured=float(np.median(constants)),
            within=0.2 * formula,
            source="P sigma² / lam1, sigma² measured",
        ),
    ]


# ------------------------------------------------------------------------------------------------------------------ floor


def floor(store: Store, data: Path | None, say: Say) -> Results:
    """The largest step size at which the stationary loss stays below a bound, for both rules and each batch size."""
    asked = {"floor": FLOOR, "batches": FLOOR_BATCHES, "run": [FLOOR_ROUNDS, FLOOR_TRIALS, FLOOR_RATIO], "rules": RULES}
    return store.get("random-matrix-floor", asked, lambda: {name: _floor(name, say) for name in RULES})


def _floor(name: str, say: Say) -> list[float]:
    found = []
    for batch, guess in zip(FLOOR_BATCHES, EARLIER_FLOORS[name], strict=True):
        bowl = Bowl(dim=30, low=0.1, high=10.0, noise=2 / math.sqrt(batch), at=0.0)
        rates = [guess * FLOOR_RATIO**k for k in (-2, -1, 0, 1, 2)]
        asked = [f"dgd:lr=[{','.join(map(repr, rates))}],direction={RULES[name]}"]
        losses = []
        for run in runs(bowl, asked, FLOOR_ROUNDS, trials=FLOOR_TRIALS):
            x = points(run)[:, FLOOR_ROUNDS // 2 :: 10]
            losses.append(float(bowl.objective(x).mean()))
        good = np.array(losses)
        logs = np.interp(math.log(FLOOR), np.log(good), np.log(rates))
        found.append(float(np.exp(logs)))
        say(f"random-matrix: {name}, batches of {batch}")
    return found


def floor_numbers(results: Results) -> list[Number]:
    """Step sizes, and how they grow with the batch size."""
    setup = f"quadratic, d = 30, curvatures 0.1 to 10, noise 2 / √B, stationary loss {FLOOR:g}, {FLOOR_ROUNDS:,} rounds, {FLOOR_TRIALS} trials"
    found = []
    for name, claim, power in (
        ("Adam", "for Adam the step size that keeps to a given loss grows like √B", 0.5),
        ("SGD", "for SGD it grows like B, until the edge of stability", 1.0),
    ):
        for (small, before), (large, after) in pairwise(zip(FLOOR_BATCHES, results[name], strict=True)):
            found.append(
                near(
                    claim,
                    setup,
                    f"power of B, {name}, from B = {small} to {large}",
                    expected=power,
                    measured=math.log(after / before) / math.log(large / small),
                    within=0.1 if name == "Adam" else 0.2,
                    source="1.8, 1.96, 2.05 for 4 times B in an earlier loop" if name == "Adam" else "3.7, 3.8, 3.3",
                )
            )
    return found


# ---------------------------------------------------------------------------------------------------------------- learner


def learner(store: Store, data: Path | None, say: Say) -> Results:
    """The costs of heavy ball that finds its step size, and of fixed ones, against rounds."""
    return store.get(
        "random-matrix-learner", {"learners": LEARNERS}, lambda: {name: _learner(name, say) for name in LEARNERS}
    )


def _learner(name: str, say: Say) -> dict[str, Any]:
    algorithm, rounds, gradients = LEARNERS[name]
    run = simulate("complete", agents=1, scenario="digits_mlp", algorithm=algorithm, rounds=rounds)
    say(f"random-matrix: {name}")
    cost = np.full(rounds, math.inf)
    cost[: run["cost"].shape[1]] = np.nan_to_num(run["cost"][0], nan=math.inf)
    third = cost[: rounds // 3 if gradients == 1 else rounds]
    return {
        "cost": [min(each, 1e30) for each in cost.tolist()],
        "gradients": gradients,
        "rounds": min(float(third[-1]), 1e30),
    }


def learner_numbers(results: Results) -> list[Number]:
    """Costs after as many rounds, and after as many gradients."""
    setup = "digits_mlp, one machine, 1,000 rounds with lanczos_rate"
    names = list(LEARNERS)
    found = []
    best = results[names[0]]["cost"][-1]
    for name in names[3:]:
        for what, value in (("rounds", results[name]["rounds"]), ("gradients", results[name]["cost"][-1])):
            found.append(
                below(
                    "a step size and a momentum that follow the extreme curvatures train faster than fixed ones",
                    setup,
                    f"cost with k = 5 over that of {name} after as many {what}",
                    bound=1,
                    measured=best / value,
                    source=EARLIER_LEARNER if what == "rounds" else "",
                )
            )
    for name in names[1:3]:
        found.append(
            below(
                "so they do when they are read less often",
                setup,
                f"largest cost after round 50, {name}",
                bound=results[names[0]]["cost"][0],
                measured=max(results[name]["cost"][50:]),
                source="the cost at the start",
            )
        )
    return found


PARTS = {
    "field": part(
        field,
        field_numbers,
        "figures_of_edges:random_field",
        "how noise of independent elements moves the largest eigenvalue",
    ),
    "steps": part(
        steps,
        step_numbers,
        "figures_of_edges:random_steps",
        "the largest stable step size of SGD grows with the batch size, up to 2 / lam1",
    ),
    "network": part(
        network,
        network_numbers,
        "figures_of_edges:random_network",
        "mini-batches of a network are sharper, by a constant over the batch size",
    ),
    "learner": part(
        learner,
        learner_numbers,
        "figures_of_edges:random_learner",
        "step size and momentum from extreme Ritz values",
    ),
    "floor": with_unreached(
        part(
            floor,
            floor_numbers,
            "figures_of_edges:random_floor",
            "for adaptive methods the largest step size grows like the root of the batch size",
        ),
        {
            "so it is on VGG and WideResNet": "the data cannot be shipped, and the networks need large machines",
            "the root is that of an edge of stability, set by a floor under Adam's divisor": "Adam does not diverge here: no such edge to measure",
        },
    ),
}
