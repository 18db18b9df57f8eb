"""The summary of a run for its closing table, and warnings."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt.runs.results import Run

CERTIFIED = 1e-6
"""A larger relative gradient norm at the comparator deserves a warning."""


def weakness(certificate: float) -> str | None:
    """The warning for a comparator whose relative gradient norm is ``certificate``; None if that is small enough."""
    if certificate <= CERTIFIED:
        return None
    return (
        f"the comparator's relative gradient norm is {certificate:.1e}, above {CERTIFIED:g}: regrets are that inexact"
    )


LEFT = {"float64": 1e-6, "float32": 1e-2}
"""A larger distance of the trackers' mean from the gradients' mean is no rounding."""


def drift(run: Run) -> str | None:
    """The warning for a run whose trackers have left the gradients; None if their means agree, it diverged, or has no trackers."""
    if run.status == "diverged":
        return None
    violation = run["tracker_invariant"].max(0) if "tracker_invariant" in run.metrics else np.zeros(0)
    bad = np.nonzero(violation > LEFT[run.info["experiment"]["dtype"]])[0]
    if not len(bad):
        return None
    return (
        f"{run.label}: the trackers have left the mean of the gradients by {violation[bad[0]]:.1e} in round {run.rounds[bad[0]]}: a channel that "
        "changes means, or a lost message; choco keeps means, and its resync=K heals losses"
    )


def summary(run: Run) -> dict[str, Any]:
    """The figures of the closing table: final average dynamic regret with its spread over trials, and what goes with it."""
    last = {name: run[name][:, -1] for name in run.metrics if run[name].shape[1]}
    average = run["average_dynamic_regret"][:, -1] if last else np.full(1, np.nan)
    with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges may end near the largest number
        middle, spread = float(average.mean()), float(average.std(ddof=1)) if len(average) > 1 else float("nan")
    row: dict[str, Any] = {
        "algorithm": run.label,
        "status": run.status,
        "rounds": int(run.info.get("completed", 0)),
        "average_dynamic_regret": middle,
        "spread": spread,
        "consensus_error": float(last["consensus_error"].mean()) if last else float("nan"),
        "tracker_invariant": float(run["tracker_invariant"].max())
        if "tracker_invariant" in run.metrics and last
        else float("nan"),
        "bits_per_agent": float(last["bits"].max()) if last else float("nan"),
        "rounds_per_second": float(run.info.get("rounds_per_second", float("nan"))),
    }
    for name in ("accuracy", "accuracy_best_fixed", "accuracy_no_change"):
        if name in run.metrics and run.metrics[name].size:
            row[name] = float(np.nanmean(run.metrics[name]))
    for name in ("regret_best_fixed", "regret_no_change"):
        if name in last:
            row[f"average_{name}"] = float(run[f"average_{name}"][:, -1].mean())
    return row
