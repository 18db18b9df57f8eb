"""The Python API: ``simulate`` and ``load``."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distopt import metrics, runner
from distopt.comparator import Comparator
from distopt.data import Blocks, default_dtype
from distopt.engines import local
from distopt.experiment import Experiment, Problem, build
from distopt.results import Array, Run, Status, Writer, collect, load, manifest_info

__all__ = ["Comparison", "execute", "load", "simulate"]

CERTIFIED = 1e-6
"""A larger relative gradient norm at the comparator deserves a warning."""

Progress = Callable[[str, int, int], None]
"""Called with (phase, rounds done, rounds in all)."""


@dataclass(frozen=True)
class Comparison:
    """A scenario's data and comparator, made once and shared by all algorithms compared on it."""

    problem: Problem
    blocks: Blocks
    comparator: Comparator

    @classmethod
    def of(cls, problem: Problem) -> Comparison:
        """The comparison of a built problem."""
        blocks = Blocks(problem.scenario, problem.key, problem.rounds)
        return cls(problem, blocks, Comparator(blocks))


def simulate(
    topology: Any,
    *,
    agents: int | None = None,
    scenario: Any,
    algorithm: Any,
    channel: Any = "exact",
    weights: str = "metropolis",
    rounds: int | None = None,
    trials: int = 1,
    seed: int = 0,
    dtype: str = "float64",
    every: int = 1,
    x0: Any = None,
    record: str | Sequence[str] = (),
    drop_links: float = 0.0,
    agentwise: bool | None = None,
    mode: local.Mode = "auto",
) -> Run:
    """Simulate one algorithm on one scenario over one network.

    Args:
        topology: a spec string (``distopt list topologies``), a networkx graph, or an [N, N] weight matrix.
        agents: N; may be left out where the topology fixes it.
        scenario, algorithm: a spec string, or any object with the Protocol's methods (``distopt.protocols``).
        channel: how values cross the graph.
        weights: metropolis, lazy_metropolis, max_degree, best_constant or fastest.
        rounds: T; None for 1000, or as many as the data last.
        trials: independent repetitions (seeds), batched.
        seed: of all randomness.
        dtype: "float64" or "float32" for the iterates; metrics are float64.
        every: record every so many rounds; the last round is always recorded.
        x0: None (zeros), a number, [d] or [N, d].
        record: trajectories to keep, of "x" and the leaves of the algorithm's state, such as "s".
        drop_links: probability with which a link fails in a round.
        agentwise: keep the regrets at each agent's own point; None keeps them while N^2 d <= 10^6.
        mode: "eager" or "compiled" rounds; "auto" compiles where that is sooner done (see ``distopt.engines.local``).

    Returns:
        The run. ``run.status`` is "done", or "diverged" with everything up to that round kept.

    Raises:
        InputError: what was asked cannot be done; the message says what to change.

    >>> run = simulate("ring", agents=8, scenario="moving_target", algorithm="gtadam:lr=0.05", rounds=50)
    >>> run["dynamic_regret"].shape
    (1, 50)
    """
    experiment = Experiment(
        topology, agents, scenario, algorithm, channel, weights, drop_links, rounds, trials, seed, dtype, every, x0, record  # type: ignore[arg-type]  # a string is split there
    )
    run = execute(experiment, agentwise=agentwise, mode=mode)
    if (doubt := weakness(run.info["certificate"])) is not None:
        warnings.warn(doubt, stacklevel=2)
    return run


def weakness(certificate: float) -> str | None:
    """What to say of a comparator whose relative gradient norm is ``certificate``; None where it is small enough."""
    if certificate <= CERTIFIED:
        return None
    return f"the comparator's relative gradient norm is {certificate:.1e}, above {CERTIFIED:g}: regrets are that inexact"


def execute(
    experiment: Experiment,
    *,
    folder: Path | None = None,
    comparison: Comparison | None = None,
    progress: Progress | None = None,
    label: str | None = None,
    agentwise: bool | None = None,
    problem: Problem | None = None,
    mode: local.Mode = "auto",
) -> Run:
    """Run an experiment, writing it to ``folder`` as it goes where one is given.

    ``comparison`` shares data and comparator with earlier algorithms on the same scenario. An interruption (Ctrl-C) leaves a
    loadable run of status "interrupted" and is raised again with the run in ``error.run``. ``problem`` is the experiment's,
    where it has been built already. ``mode`` forces "eager" or "compiled" rounds.
    """
    problem = problem or build(experiment, comparison.problem if comparison else None)
    comparison = comparison or Comparison.of(problem)
    spec = experiment.algorithm
    label = label or (spec if isinstance(spec, str) else type(spec).__name__.lower())
    info = {**manifest_info(experiment, problem.rounds), "agents": problem.agents}
    toml = experiment.to_toml() if folder is not None else None
    writer = Writer(folder, label, info, toml) if folder is not None else None
    parts: list[tuple[Any, dict[str, Array], dict[str, Array]]] = []
    status: Status = "running"
    x_last: Array | None = None
    began, done = time.perf_counter(), 0
    interrupted: KeyboardInterrupt | None = None
    try:
        with default_dtype(torch.float64):
            engine = local.engine(problem, comparison.blocks, mode)
            if progress:
                progress("comparator", 0, problem.rounds)
            comparison.comparator.prepare(lambda k, n: progress("comparator", k, n) if progress else None)
            if progress:
                progress("rounds", 0, problem.rounds)
            began = time.perf_counter()
            for chunk in runner.run(problem, comparison.comparator, comparison.blocks, engine, agentwise=agentwise):
                done = chunk.stop  # before the chunk is kept: an interruption in between must not leave it with an older end
                x_last = chunk.carry.x.numpy() if "x" in experiment.record else None
                parts.append((chunk.rounds, chunk.metrics, chunk.trajectories))
                if writer is not None:
                    writer.add(*parts[-1])
                if progress:
                    progress("rounds", done, problem.rounds)
                if chunk.diverged is not None:
                    status, x_last = "diverged", None
                    info["diverged_at"] = chunk.diverged
        status = "done" if status == "running" else status
    except KeyboardInterrupt as error:
        status, interrupted = "interrupted", error
    except Exception:
        if writer is not None:
            writer.flush()  # what was computed stays readable
            writer.close()
        raise
    seconds = time.perf_counter() - began
    info |= {
        "completed": done,
        "seconds": seconds,
        "rounds_per_second": done / seconds if seconds > 0 else 0.0,
        "certificate": comparison.comparator.certificate(),
        "left_out": _left_out(parts, problem),
    }
    rounds, values, trajectories = collect(parts, x_last)
    run = Run(label, status, rounds, values, trajectories, info, folder)
    if writer is not None:
        writer.finish(status, info, x_last)
    if interrupted is not None:
        interrupted.run = run  # type: ignore[attr-defined]  # for whoever reports the interruption
        raise interrupted
    return run


def _left_out(parts: list[tuple[Any, dict[str, Array], dict[str, Array]]], problem: Problem) -> dict[str, str]:
    have = parts[0][1] if parts else {}
    out = {}
    if have and "dynamic_regret_worst" not in have:
        n, d = problem.agents, problem.x0.shape[-1]
        reason = f"it evaluates {n}^2 costs of {d} coordinates a round, over the limit of {metrics.AGENTWISE_LIMIT:,}; ask with agentwise=True"
        out = {"dynamic_regret_worst": reason, "dynamic_regret_agents": reason}
    if have and "tracker_invariant" not in have:
        out["tracker_invariant"] = "the algorithm has no tracker"
    if have and "static_regret" not in have:
        reason = "no best fixed point could be certified (the costs are not smooth, or their sum has no minimiser)"
        out |= dict.fromkeys(("static_regret", "regret_best_fixed", "accuracy_best_fixed"), reason)
    if have and "accuracy" not in have:
        out["accuracy"] = "the scenario is no classification"
    return out


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
        "tracker_invariant": float(run["tracker_invariant"].max()) if "tracker_invariant" in run.metrics and last else float("nan"),
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
