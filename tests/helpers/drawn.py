"""Runs for reports that are made up, so that their size costs no simulation."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt.runs.results import Run

ROUNDS, TRIALS = 300, 24
NAMES = ("gtadam:lr=0.05", "gt:lr=0.02", "dgd")
"""The runs that the browser is shown."""


def made_up(
    label: str, trials: int, rounds: int, rng: np.random.Generator, scale: float = 1.0, **experiment: Any
) -> Run:
    """A run with every metric that a simulation has: noisy, decaying curves, a static regret below zero, a tracker at rounding level."""
    t = np.arange(rounds)
    noise = rng.lognormal(0.0, 0.5, (trials, rounds))
    step = scale * noise * (0.01 + 5.0 * np.exp(-t / (0.02 * rounds + 1)))
    shape = (trials, rounds)
    metrics = {
        "dynamic_regret": step.cumsum(1),
        "regret_best_fixed": np.cumsum(np.full(shape, 0.5) + 0.02 * rng.standard_normal(shape), axis=1),
        "regret_previous_optimum": np.cumsum(np.full(shape, 0.001) * rng.random(shape), axis=1),
        "tracking_error": np.sqrt(step),
        "consensus_error": 0.1 * np.sqrt(step) * rng.lognormal(0.0, 0.2, shape),
        "tracker_invariant": 1e-16 * rng.random(shape),
        "relative_cost_error": step / 3.0,
        "accuracy": 1.0 / (1.0 + 0.3 * noise),
        "bits": np.broadcast_to(640.0 * (t + 1), shape).copy(),
        "gradients": np.broadcast_to(1.0 * (t + 1), shape).copy(),
        "messages": np.broadcast_to(2.0 * (t + 1), shape).copy(),
        "simulated_seconds": np.broadcast_to(0.003 * (t + 1), shape).copy(),
        "path_length": np.broadcast_to(0.1 * t, shape).copy(),
    }
    metrics["static_regret"] = metrics["dynamic_regret"] - metrics["regret_best_fixed"]
    told = {
        "topology": "ring",
        "agents": 16,
        "scenario": "moving_target",
        "algorithm": label,
        "channel": "exact",
        "weights": "metropolis",
        "drop_links": 0.0,
        "rounds": rounds,
        "trials": trials,
        "seed": 0,
        "dtype": "float64",
        "every": 1,
        "record": [],
        **experiment,
    }
    info = {
        "experiment": told,
        "agents": told["agents"],
        "rounds": rounds,
        "completed": rounds,
        "fingerprint": "0123456789abcdef",
        "seconds": 12.5,
        "rounds_per_second": 800.0,
        "certificate": 1e-15,
        "left_out": {},
        "versions": {"distopt": "0", "python": "3"},
    }
    return Run(label, "done", t.astype(np.int64), metrics, {}, info)
