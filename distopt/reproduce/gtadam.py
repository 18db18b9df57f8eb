"""The experiments of "GTAdam: gradient tracking with adaptive momentum for distributed online optimization" [carnevale2023], in OUR set-ups."""

from __future__ import annotations

from functools import partial

from distopt.reproduce import Part, contest, static

REFERENCE = (
    "Carnevale, Farina, Notarnicola, Notarstefano: GTAdam: Gradient Tracking with Adaptive Momentum for Distributed Online Optimization, "
    "IEEE Transactions on Control of Network Systems, 2023"
)
NOTE = (
    "The kinds of experiments are the paper's. All constants are ours: agents, graph, data, noise, rounds, grids and trials. "
    "Every method is tuned on the same grid with the same number of gradients; the trials that are compared are others than those of the tuning."
)

LOGISTIC = " on time-varying logistic regression where the agents' data"

PARTS = {
    "classification": Part(
        partial(contest.measure, ("different", "alike")),
        contest.rows,
        "classification",
        "GTAdam against gradient tracking, with and without momentum, and against DGD and DAdam on a classification problem that changes",
        partial(
            contest.verdicts,
            {
                "different": f"{LOGISTIC} differ much",
                "alike": f"{LOGISTIC} are alike",
            },
        ),
        contest.folders,
    ),
    "static": Part(
        static.measure,
        static.rows,
        "static",
        "GTAdam converges at a linear rate where the costs stand still",
        static.verdicts,
    ),
    "localization": Part(
        partial(contest.measure, ("still", "moving")),
        contest.rows,
        "localization",
        "GTAdam against the same methods where a network locates a target",
        partial(
            contest.verdicts,
            {"still": " when it locates a target that stands still", "moving": " when it locates a moving target"},
        ),
        contest.folders,
    ),
    "images": Part(
        partial(contest.measure, ("digits",)),
        contest.rows,
        "digits",
        "GTAdam against the same methods where a small neural network learns to classify pictures",
        partial(contest.verdicts, {"digits": " on pictures of digits"}),
        contest.folders,
    ),
}
