"""An experiment becomes a run, in memory or in a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distopt import engines
from distopt.costs.comparator import Comparator
from distopt.costs.data import Blocks
from distopt.engines import local
from distopt.errors import InputError, RunError, either
from distopt.experiment import Experiment, label
from distopt.numerics import room
from distopt.numerics.trees import default_dtype
from distopt.runs import checkpoint
from distopt.runs.checkpoint import Checkpoint
from distopt.runs.loading import stored
from distopt.runs.manifest import MANIFEST, Status, read_manifest
from distopt.runs.recording import Recording
from distopt.runs.results import Array, Run
from distopt.runs.signals import Stop
from distopt.simulation import grid, limits, runner, surroundings
from distopt.simulation.problem import Problem, build

MakeEngine = Callable[[Problem, Blocks, local.Mode], runner.Engine]


Progress = Callable[[str, int, int], None]
"""Called with (phase, rounds done, rounds in all)."""

Seen = Callable[[str, Array, Mapping[str, Array]], None]
"""Called with a run's label and what it has just recorded: rounds [k], and metrics [R, k] by name. Nothing of it may be changed."""


@dataclass(frozen=True)
class Asked:
    """How runs are to run: mode, engine and checkpoints. Only the mode affects results: compiled and eager rounds agree up to rounding."""

    mode: local.Mode = "auto"
    engine: str | MakeEngine = "local"
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        if self.checkpoint_every is not None and self.checkpoint_every < 1:
            raise InputError(f"checkpoint_every={self.checkpoint_every}: must be at least 1")

    def recorded(self) -> dict[str, Any]:
        """These settings as plain values, for the manifest."""
        return {
            "mode": self.mode,
            "engine": self.engine if isinstance(self.engine, str) else "local",
            "checkpoint_every": self.checkpoint_every,
        }


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


class Comparisons:
    """The comparisons of problems on the same scenario, one for each number of rounds that they have."""

    def __init__(self) -> None:
        self._made: dict[int, Comparison] = {}

    def of(self, problem: Problem) -> Comparison:
        """The comparison of a problem, made at its first use."""
        if problem.rounds not in self._made:
            self._made[problem.rounds] = Comparison.of(problem)
        return self._made[problem.rounds]

    def certificate(self) -> float | None:
        """The largest relative gradient norm at the minimisers of these comparisons; None before any was made."""
        return max((each.comparator.certificate() for each in self._made.values()), default=None)


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
    """Run an experiment. With ``folder``, results are written there while it runs.

    ``comparison`` shares data and comparator with earlier algorithms on the same scenario. An interruption (Ctrl-C) leaves a
    loadable run of status "interrupted" and is raised again with the run in ``error.runs``. ``problem`` is the experiment's,
    where it has been built already. ``mode`` forces "eager" or "compiled" rounds; ``engine`` says where they run.

    Every ``checkpoint_every`` rounds the run writes a checkpoint to its folder. With ``resume`` the run in the folder
    continues from its checkpoint, on any engine, in the mode in which it ran. Its bits are those of a run without
    interruption. Without a checkpoint it begins again; a finished run is read.
    """
    problem = problem or build(experiment, comparison.problem if comparison else None)
    comparison = comparison or Comparison.of(problem)
    found = whereabouts(folder, problem) if resume and folder is not None else None
    if isinstance(found, Run):
        return whole(found)
    starts = None if found is None else [found]
    run = execute_together(
        [problem],
        comparison,
        folders=[folder],
        progress=progress,
        agentwise=agentwise,
        mode=mode,
        engine=engine,
        checkpoint_every=checkpoint_every,
        starts=starts,
    )[0]
    return whole(run)


def batched(
    problems: Sequence[Problem],
    comparisons: Comparisons,
    asked: Asked,
    *,
    agentwise: bool | None = None,
    reporting: Callable[[str], Progress] | None = None,
    stop: Stop | None = None,
) -> Iterator[tuple[list[int], list[Run]]]:
    """Run problems in memory, in as few batches as they fit into: the places and the runs of each batch (see ``execute_together``).

    ``reporting`` gives the progress function of a batch by its name.
    """
    for batch in grid.batches(problems):
        together = [problems[k] for k in batch]
        name = label(together[0].experiment) if len(batch) == 1 else f"{len(batch)} runs"
        yield (
            batch,
            execute_together(
                together,
                comparisons.of(together[0]),
                folders=[None] * len(batch),
                progress=reporting(name) if reporting else None,
                agentwise=agentwise,
                mode=asked.mode,
                engine=asked.engine,
                checkpoint_every=asked.checkpoint_every,
                stop=stop,
            ),
        )


def whole(run: Run) -> Run:
    """The run with its arrays in memory."""
    return replace(run, metrics=dict(run.metrics), trajectories=dict(run.trajectories))


def whereabouts(folder: Path, problem: Problem, force: bool = False) -> Run | Checkpoint | None:
    """The state of the run of ``problem`` in ``folder``: the run if it is finished, else its checkpoint, or None.

    Raises:
        InputError: the folder holds something else, or a checkpoint that is damaged or foreign (see ``checkpoint.load``).
    """
    if not (folder / MANIFEST).exists():
        return None
    content = read_manifest(folder)
    if content.get("fingerprint") != problem.experiment.fingerprint() and not force:
        raise InputError(
            f"{folder} holds another experiment: one of its files or the version of distopt has changed (fingerprint {content.get('fingerprint')}, "
            f"now {problem.experiment.fingerprint()}); {checkpoint.forced()}"
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
    seen: Seen | None = None,
    mine: bool = False,
) -> list[Run]:
    """Run problems that ``distopt.simulation.grid.batches`` puts together as one batch; each comes out with the bits it has alone.

    ``seconds`` are what the batch took until the problem's last round. See ``execute`` for the rest; ``error.runs`` of an
    interruption holds the run of every problem.

    ``starts`` are the problems' checkpoints, all of one round. The rounds continue in the mode of the checkpoints. When
    ``stop`` is set, the run ends after its segment, and writes a checkpoint first. ``seen`` receives the recorded
    rounds of each run, segment by segment. ``mine``: the caller has locked the folders (``distopt.runs.files.locked``).
    The arrays of a run with a folder are read from there on first use.
    """
    asked = Asked(mode, engine, checkpoint_every).recorded()
    if checkpoint_every is not None and None in folders:
        raise InputError(
            f"checkpoint_every={checkpoint_every}: a checkpoint needs a folder; add {either('--out', 'out=')}"
        )
    local.check(mode, engine, agentwise)
    if agentwise and problems[0].experiment.churn:
        raise InputError(
            "agentwise=True needs all agents in every round, but with churn some are away; leave agentwise or churn out"
        )
    stop = stop or Stop()
    stop.patient = False
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
            recordings.append(
                Recording(problem, label(problem.experiment), folder, began, asked, starts[g] if starts else None, mine)
            )
        with default_dtype(torch.float64):
            make = engine if callable(engine) else partial(engines.make, engine)
            where = make(grid.stack(problems), comparison.blocks, mode)
            total = problems[0].rounds
            if progress and comparison.problem.scenario.comparator:
                progress("comparator", 0, total)
            comparison.comparator.prepare(lambda k, n: progress("comparator", k, n) if progress else None)
            if progress:
                progress("rounds", recordings[0].done, total)
            began = time.perf_counter()
            for recording in recordings:
                recording.began = began
            carries = [start.carry for start in starts] if starts else None
            for chunks in runner.together(
                problems, comparison.comparator, comparison.blocks, where, carries, agentwise, checkpoint_every
            ):
                stop.patient = True
                for g, chunk in chunks.items():
                    recordings[g].take(chunk)
                    if seen:
                        seen(recordings[g].label, chunk.rounds, chunk.metrics)
                done = max(chunk.t for chunk in chunks.values())
                due = checkpoint_every and done % checkpoint_every == 0
                saved = done < total and bool(stop.signal is not None or due)
                if saved:
                    held = where.fetch()
                    for g, chunk in chunks.items():
                        if not chunk.over:
                            own = runner.of_point(held, g, len(problems), len(problems[g].x0))
                            recordings[g].save(chunk.carry(own), where, began)
                if progress:
                    progress("rounds", max(recording.done for recording in recordings), total)
                if (
                    saved and stop.signal is not None
                ):  # one that came after a checkpoint was due waits for the next rounds
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
    runs = [recording.finish(status, recording.ended - began, comparison.comparator) for recording in recordings]
    room.trim()  # what the rounds took
    if interrupted is not None:
        interrupted.runs = runs  # type: ignore[attr-defined]  # so that the caller can report the interruption
        raise interrupted
    return runs
