"""The Python API: ``simulate`` and ``load``."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distopt import checkpoint, engines, grid, limits, room, runner, surroundings
from distopt.checkpoint import Checkpoint
from distopt.comparator import Comparator
from distopt.data import Blocks, default_dtype
from distopt.engines import local
from distopt.errors import InputError, RunError
from distopt.experiment import Experiment
from distopt.loading import load, stored
from distopt.manifest import MANIFEST, Status, read_manifest
from distopt.problem import Problem, build
from distopt.recording import Recording
from distopt.results import Run
from distopt.stop import Stop

__all__ = ["Comparison", "execute", "load", "simulate"]

CERTIFIED = 1e-6
"""A larger relative gradient norm at the comparator deserves a warning."""

MakeEngine = Callable[[Problem, Blocks, local.Mode], runner.Engine]

Progress = Callable[[str, int, int], None]
"""Called with (phase, rounds done, rounds in all)."""


@dataclass(frozen=True)
class Comparison:
    """A scenario's data and comparator, made once and shared by all algorithms compared on it."""

    problem: Problem
    blocks: Blocks
    comparator: Comparator

    @classmethod
    @surroundings.set_aside()
    def of(cls, problem: Problem) -> Comparison:
        """The comparison of a built problem."""
        blocks = Blocks(problem.scenario, problem.key, problem.rounds)
        return cls(problem, blocks, Comparator(blocks))


@surroundings.set_aside()
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
    engine: str | MakeEngine = "local",
) -> Run | Any:
    """Simulate one algorithm, or a grid of its parameters, on one scenario over one network.

    Args:
        topology: a spec string (``distopt list topologies``), the path of a graph file, a networkx graph, or an [N, N] weight matrix.
        agents: N; may be left out where the topology fixes it.
        scenario, algorithm: a spec string, or any object with the Protocol's methods (``distopt.protocols``). Lists in the
            algorithm's spec, as in ``"gtadam:lr=[0.01,0.02],b1=[0.5,0.9]"``, are a grid: all combinations run in one batch.
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
        engine: where the rounds run, such as "threads:workers=3", or what makes an engine of (problem, blocks, mode); no engine
            changes a number.

    Returns:
        The run. ``run.status`` is "done", or "diverged" with everything up to that round kept. For a grid a dict of the
        runs by label ("gtadam:lr=0.01,b1=0.5", ...), each with the bits that it has alone; one that diverges stops no other.

    Raises:
        InputError: what was asked cannot be done; the message says what to change.

    >>> run = simulate("ring", agents=8, scenario="moving_target", algorithm="gtadam:lr=0.05", rounds=50)
    >>> run["dynamic_regret"].shape
    (1, 50)
    >>> list(simulate("ring", agents=8, scenario="moving_target", algorithm="gtadam:lr=[0.05,0.1]", rounds=50))
    ['gtadam:lr=0.05', 'gtadam:lr=0.1']
    """
    experiment = Experiment(
        topology, agents, scenario, algorithm, channel, weights, drop_links, rounds, trials, seed, dtype, every, x0, record  # type: ignore[arg-type]  # a string is split there
    )
    points = experiment.points()
    first = build(points[0])
    problems = [first, *(build(point, first) for point in points[1:])]
    for note in first.mixing.notes:
        warnings.warn(note, stacklevel=2)
    comparison = Comparison.of(first)
    runs: dict[int, Run] = {}
    for batch in grid.batches(problems):
        together = [problems[k] for k in batch]
        done = execute_together(together, comparison, folders=[None] * len(batch), agentwise=agentwise, mode=mode, engine=engine)
        runs.update(zip(batch, done, strict=True))
    if (doubt := weakness(comparison.comparator.certificate())) is not None:
        warnings.warn(doubt, stacklevel=3)
    for run in runs.values():
        if (left := drift(run)) is not None:
            warnings.warn(left, stacklevel=3)
    return runs[0] if points[0] is experiment else {runs[k].label: runs[k] for k in range(len(points))}


def weakness(certificate: float) -> str | None:
    """What to say of a comparator whose relative gradient norm is ``certificate``; None where it is small enough."""
    if certificate <= CERTIFIED:
        return None
    return f"the comparator's relative gradient norm is {certificate:.1e}, above {CERTIFIED:g}: regrets are that inexact"


LEFT = {"float64": 1e-6, "float32": 1e-2}
"""A larger distance of the trackers' mean from the gradients' mean is no rounding."""


def drift(run: Run) -> str | None:
    """What to say of a run whose trackers have left the gradients; None where their means agree, it diverged, or there are no trackers."""
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


@surroundings.set_aside()
def execute(
    experiment: Experiment,
    *,
    folder: Path | None = None,
    comparison: Comparison | None = None,
    progress: Progress | None = None,
    agentwise: bool | None = None,
    problem: Problem | None = None,
    mode: local.Mode = "auto",
    engine: str | MakeEngine = "local",
    checkpoint_every: int | None = None,
    resume: bool = False,
) -> Run:
    """Run an experiment, writing it to ``folder`` as it goes where one is given.

    ``comparison`` shares data and comparator with earlier algorithms on the same scenario. An interruption (Ctrl-C) leaves a
    loadable run of status "interrupted" and is raised again with the run in ``error.runs``. ``problem`` is the experiment's,
    where it has been built already. ``mode`` forces "eager" or "compiled" rounds; ``engine`` says where they run.

    Every ``checkpoint_every`` rounds the run writes a checkpoint to its folder. With ``resume`` the run that is there goes on from
    it, on any engine, in the mode in which it ran, and has the bits of a run that nothing disturbed; without a checkpoint it begins
    anew, and a finished one is read.
    """
    problem = problem or build(experiment, comparison.problem if comparison else None)
    comparison = comparison or Comparison.of(problem)
    found = whereabouts(folder, problem) if resume and folder is not None else None
    if isinstance(found, Run):
        return _whole(found)
    starts = None if found is None else [found]
    run = execute_together(
        [problem], comparison, folders=[folder], progress=progress, agentwise=agentwise, mode=mode, engine=engine,
        checkpoint_every=checkpoint_every, starts=starts,
    )[0]
    return _whole(run)


def _whole(run: Run) -> Run:
    """The run with its arrays in memory."""
    return replace(run, metrics=dict(run.metrics), trajectories=dict(run.trajectories))


def whereabouts(folder: Path, problem: Problem, force: bool = False) -> Run | Checkpoint | None:
    """How far the run of ``problem`` in ``folder`` has come: itself where it is finished, its checkpoint, or None where there is neither.

    Raises:
        InputError: the folder holds something else, or a checkpoint that is damaged or foreign (see ``checkpoint.load``).
    """
    if not (folder / MANIFEST).exists():
        return None
    content = read_manifest(folder)
    if content.get("fingerprint") != problem.experiment.fingerprint() and not force:
        raise InputError(
            f"{folder} holds another experiment: a file that it names or the version has changed (fingerprint {content.get('fingerprint')}, "
            f"now {problem.experiment.fingerprint()}); --force goes on all the same, with other bits"
        )
    if content.get("status") in ("done", "diverged"):
        return stored(folder)
    return checkpoint.load(folder, problem, str(content.get("id")), force)


@surroundings.set_aside()
def execute_together(
    problems: Sequence[Problem],
    comparison: Comparison,
    *,
    folders: Sequence[Path | None],
    progress: Progress | None = None,
    agentwise: bool | None = None,
    mode: local.Mode = "auto",
    engine: str | MakeEngine = "local",
    checkpoint_every: int | None = None,
    starts: Sequence[Checkpoint] | None = None,
    stop: Stop | None = None,
    mine: bool = False,
) -> list[Run]:
    """Run problems that ``distopt.grid.batches`` puts together as one batch; each comes out with the bits it has alone.

    The choice between eager and compiled rounds is therefore that of one problem, not of the batch. ``seconds`` are what the
    batch took until the problem's last round. See ``execute`` for the rest; ``error.runs`` of an interruption holds the run of every problem.

    ``starts`` are the problems' checkpoints, all of one round, in the mode of which the rounds go on. When ``stop`` is asked, the
    run ends with its stretch of rounds, and writes a checkpoint first. ``mine`` says that the caller has locked the folders
    (``distopt.files.locked``). The arrays of a run that has a folder are read from there when they are asked for.
    """
    if checkpoint_every is not None and (checkpoint_every < 1 or None in folders):
        raise InputError(f"checkpoint_every={checkpoint_every}: must be at least 1, for a run that has a folder")
    local.check(mode, engine, agentwise)
    stop = stop or Stop()
    stop.patient = False
    asked = {"mode": mode, "engine": engine if isinstance(engine, str) else "local", "checkpoint_every": checkpoint_every}
    if starts:
        mode, agentwise = "compiled" if starts[0].about.compiled else "eager", "agents" in starts[0].carry.totals
    if not mine:
        limits.rounds(problems, comparison.blocks, folders[0])
    recordings = []
    status: Status = "done"
    interrupted: KeyboardInterrupt | None = None
    began = time.perf_counter()
    where: Any = None
    try:
        for g, (problem, folder) in enumerate(zip(problems, folders, strict=True)):
            recordings.append(Recording(problem, label(problem.experiment), folder, began, asked, starts[g] if starts else None, mine))
        with default_dtype(torch.float64):
            make = engine if callable(engine) else partial(engines.make, engine)
            where = make(grid.stack(problems), comparison.blocks, mode)
            total = problems[0].rounds
            if progress:
                progress("comparator", 0, total)
            comparison.comparator.prepare(lambda k, n: progress("comparator", k, n) if progress else None)
            if progress:
                progress("rounds", recordings[0].done, total)
            began = time.perf_counter()
            carries = [start.carry for start in starts] if starts else None
            for chunks in runner.together(
                problems, comparison.comparator, comparison.blocks, where, carries, agentwise, checkpoint_every
            ):
                stop.patient = True
                for g, chunk in chunks.items():
                    recordings[g].take(chunk)
                done = max(chunk.carry.t for chunk in chunks.values())
                if done < total and (stop.signal is not None or (checkpoint_every and done % checkpoint_every == 0)):
                    for g, chunk in chunks.items():
                        if chunk.diverged is None:
                            recordings[g].save(chunk.carry, where, began)
                if progress:
                    progress("rounds", max(recording.done for recording in recordings), total)
                if done < total and stop.signal is not None:
                    raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        status, interrupted = "interrupted", error
    except Exception as error:
        for recording in recordings:
            recording.give_up()
        if room.exhausted(error):
            raise RunError(room.NO_MEMORY) from error
        raise
    finally:
        if hasattr(where, "close"):
            where.close()
    runs = [recording.finish(status, recording.ended - began, comparison.comparator.certificate()) for recording in recordings]
    if interrupted is not None:
        interrupted.runs = runs  # type: ignore[attr-defined]  # for whoever reports the interruption
        raise interrupted
    return runs


def label(experiment: Experiment) -> str:
    """The name of an experiment's run: its algorithm's spec, or the type of its object."""
    what = experiment.algorithm
    return what if isinstance(what, str) else type(what).__name__.lower()


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
