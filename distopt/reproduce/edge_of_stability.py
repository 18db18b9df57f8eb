"""Gradient descent at the edge of stability [cohen2021]."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from distopt.api import simulate
from distopt.reproduce import Results, Say
from distopt.reproduce.claimed import Number, above, below, near, part
from distopt.reproduce.landscape import plateau, read
from distopt.reproduce.smooth import with_unreached
from distopt.reproduce.store import Store

REFERENCE = (
    "Cohen, Kaur, Li, Kolter, Talwalkar: Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability, "
    "ICLR 2021, arXiv 2103.00065"
)
NOTE = (
    "The network is that of the scenario digits_mlp, not one of the paper's: 2,410 parameters, 200 digits, all in every round, half the mean "
    "square. Step sizes are ours."
)

RATES = (0.5, 1.0)
"""Step sizes that reach the edge in time."""
SLOW = 0.2
ROUNDS, EVERY = 3000, 100
SLOW_ROUNDS = 5000


def digits(store: Store, data: Path | None, say: Say) -> Results:
    """Sharpness and cost along each run."""
    asked = {"rounds": [ROUNDS, SLOW_ROUNDS], "every": EVERY, "rates": [*RATES, SLOW]}
    runs = [(lr, ROUNDS) for lr in RATES] + [(SLOW, SLOW_ROUNDS)]
    return store.get("edge-of-stability-digits", asked, lambda: [_digits(lr, rounds, say) for lr, rounds in runs])


def _digits(lr: float, rounds: int, say: Say) -> dict[str, Any]:
    found = simulate(
        "complete",
        agents=1,
        scenario="digits_mlp",
        algorithm=f"dgd:lr={lr}",
        rounds=rounds,
        probe=f"sharpness:every={EVERY}",
    )
    say(f"edge-of-stability: lr = {lr:g}")
    readings = read(found, "sharpness")
    cost = found["cost"][0].tolist()
    return {
        "lr": lr,
        "rounds": rounds,
        "readings": readings,
        "ends": plateau(readings, lr),
        "first": lr * readings["values"][0],
        "cost": [cost[0], *(cost[t] for t in readings["t"])],
        "rises": sum(after > before for before, after in pairwise(cost)),
    }


def digits_numbers(results: Results) -> list[Number]:
    """Plateaus beside 2, where the runs began, and whether the cost falls."""
    setup = f"digits_mlp, one machine, a reading every {EVERY} rounds"
    found = []
    for each in results[:-1]:
        run = f"lr = {each['lr']:g}, {each['rounds']:,} rounds"
        found.append(
            near(
                "gradient descent trains where the sharpness is 2 / lr, or a little above",
                setup,
                f"lr times the sharpness, mean of the last 10 readings, {run}",
                expected=2,
                measured=each["ends"],
                within=0.1,
                source="2 / lr; 2.02 and 2.05 in an earlier loop",
            )
        )
        found.append(
            above(
                "there the cost does not fall in each round",
                setup,
                f"rounds in which the cost rises, {run}",
                bound=0.1 * each["rounds"],
                measured=each["rises"],
            )
        )
        found.append(
            below(
                "over many rounds it falls all the same",
                setup,
                f"cost at the end over that at half of the rounds, {run}",
                bound=1,
                measured=each["cost"][-1] / each["cost"][len(each["cost"]) // 2],
            )
        )
    slow = results[-1]
    found.append(
        below(
            "the sharpness rises until it gets there: with a small step size that takes longer than the run",
            setup,
            f"lr times the last sharpness, lr = {slow['lr']:g}, {slow['rounds']:,} rounds",
            bound=1.9,
            measured=slow["lr"] * slow["readings"]["values"][-1],
            source="1.65 in an earlier loop, from another start",
        )
    )
    found.append(
        above(
            "the sharpness rises until it gets there: with a small step size that takes longer than the run",
            setup,
            f"last sharpness over the first, lr = {slow['lr']:g}",
            bound=1,
            measured=slow["lr"] * slow["readings"]["values"][-1] / slow["first"],
        )
    )
    found.append(
        below(
            "before the edge the cost falls in each round",
            setup,
            f"rounds in which the cost rises, lr = {slow['lr']:g}",
            bound=1,
            measured=slow["rises"],
        )
    )
    return found


PARTS = {
    "digits": with_unreached(
        part(
            digits,
            digits_numbers,
            "figures_of_edges:gradient_descent",
            "the sharpness rises to 2 / lr and stays there, while the cost falls unevenly",
        ),
        {"networks of image classification behave alike": "the data cannot be shipped"},
    )
}
