"""Recording the runs of a batch while they go: on disk if they have folders, else in memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distopt import probes
from distopt.costs.comparator import Comparator
from distopt.errors import RunError
from distopt.metrics import catalogue, said
from distopt.metrics._reasons import AWAY, NO_COMPARATOR, too_large
from distopt.runs import checkpoint
from distopt.runs.checkpoint import Checkpoint
from distopt.runs.clock import tick
from distopt.runs.kept import Kept
from distopt.runs.loading import stored
from distopt.runs.manifest import Status, read_manifest
from distopt.runs.results import Array, Part, Run
from distopt.runs.writing import Writer, manifest_info
from distopt.simulation import runner
from distopt.simulation.problem import Problem


class Recording:
    """The recording of one run: written to ``folder`` as it goes, or kept in memory if there is none."""

    def __init__(
        self,
        problem: Problem,
        label: str,
        folder: Path | None,
        began: float,
        asked: dict[str, Any],
        start: Checkpoint | None,
        mine: bool,
    ) -> None:
        experiment = problem.experiment
        self.problem, self.folder, self.label = problem, folder, label
        self.info: dict[str, Any] = {
            **manifest_info(experiment, problem.rounds),
            "agents": problem.agents,
            "asked": asked,
        }
        users = {name: said(each) for name, each in problem.metrics.items() if name not in catalogue()}
        for name, probe in problem.probes.items():
            users |= {series: said(each) for series, each in probes.series(name, probe).items()}
        self.info |= {"metrics": users} if users else {}
        self.names: set[str] = set()  # names of the metrics
        self.begun: frozenset[str] | None = None  # those with which an earlier process began the run
        self.x_last: Array | None = None
        self.done, self.began, self.ended, self.seconds = 0, began, began, 0.0
        self.over = False  # all trials have diverged
        self.clock: list[list[float]] = []
        self.info["clock"] = self.clock
        self.writer: Writer | None = None
        self.kept: Kept | None = None
        if folder is None:
            self.kept = Kept(-(-problem.rounds // experiment.every), problem.rounds)
            return
        self.writer = Writer(
            folder, self.label, self.info, experiment.to_toml(folder), start.about.run if start else None, mine
        )
        if start is not None:
            self.done, self.seconds = start.carry.t, start.about.seconds
            self._note(start.carry.diverged)
            self._wind(folder)
            earlier = self.writer.keep(self.done, experiment.every)
            self.names = set(earlier.metrics) if earlier else set()
            self.begun = frozenset(self.names) if earlier else None
            self.x_last = start.carry.x.numpy() if "x" in experiment.record else None

    def _wind(self, folder: Path) -> None:
        """Go on with the clock of the rounds before the checkpoint."""
        for round, seconds in read_manifest(folder).get("clock", ()):
            if round < self.done - 1 and seconds <= self.seconds:
                tick(self.clock, round, seconds)
        tick(self.clock, self.done - 1, self.seconds)

    def take(self, chunk: runner.Chunk) -> None:
        """Record a segment of rounds."""
        # before the chunk is kept: an interruption in between must not leave it with an older end
        self.done, self.ended = chunk.stop, time.perf_counter()
        self.x_last = None if chunk.over else chunk.last
        if chunk.stop > chunk.start:
            tick(self.clock, chunk.stop - 1, self.seconds + max(self.ended - self.began, 0.0))
        metrics = {name: each for name, each in chunk.metrics.items() if self.begun is None or name in self.begun}
        self.names = set(metrics)
        store = self.writer or self.kept
        assert store is not None
        store.add(Part(chunk.rounds, metrics, chunk.trajectories))
        self.over = chunk.over
        self._note(chunk.diverged)

    def _note(self, diverged: Mapping[int, int]) -> None:
        """Write down the trials that have diverged so far, with their rounds."""
        if diverged:
            self.info["diverged_at"] = min(diverged.values())
            self.info["diverged_trials"] = {f"{trial}": diverged[trial] for trial in sorted(diverged)}

    def save(self, carry: runner.Carry, engine: Any, began: float) -> None:
        """Write a checkpoint, after the results before it."""
        if self.writer is None or self.folder is None:
            return
        self.writer.flush()
        seconds = self.seconds + max(self.ended - began, 0.0)
        about = checkpoint.About(
            str(self.info["fingerprint"]),
            self.writer.id,
            engine.compiled,
            str(getattr(engine, "device", "cpu")),
            seconds,
            checkpoint.versions(engine.compiled),
        )
        checkpoint.save(self.folder, self.problem, carry, about)

    def give_up(self) -> None:
        """Release the folder after a failure."""
        if self.writer is not None:
            with suppress(RunError):  # it may be the disk that fails
                self.writer.flush()  # computed rounds stay readable
            self.writer.close()

    def finish(self, status: Status, seconds: float, comparator: Comparator) -> Run:
        """The run, whole in its folder or in memory."""
        seconds = self.seconds + max(seconds, 0.0)  # interrupted before the first round
        if self.over or (status == "done" and "diverged_at" in self.info):
            status = "diverged"
        self.info |= {
            "completed": self.done,
            "seconds": seconds,
            "rounds_per_second": self.done / seconds if seconds > 0 else 0.0,
            "certificate": comparator.certificate(),
            "left_out": left_out(self.names, self.problem),
        }
        constants = comparator.constants()
        scenario = self.problem.scenario
        if (
            constants and scenario.project is None and scenario.prox is None
        ):  # they serve bounds for smooth costs on all points
            self.info["constants"] = constants
        if self.kept is not None:
            return Run(self.label, status, *self.kept.all(self.x_last), self.info)
        assert self.writer is not None and self.folder is not None
        if not self.writer.finish(status, self.info, self.x_last):
            return Run(self.label, status, np.empty(0, dtype=np.int64), {}, {}, self.info, self.folder)
        return replace(stored(self.folder), info=self.info)


def left_out(have: set[str], problem: Problem) -> dict[str, str]:
    """The reasons why metrics are left out, by name."""
    n, d = problem.agents, problem.x0.shape[-1]
    missing = {name: each for name, each in problem.metrics.items() if each.stored and name not in have}
    sought = problem.scenario.comparator
    reasons = {
        name: NO_COMPARATOR if each.compares and not sought else each.absence(n, d) for name, each in missing.items()
    }
    if problem.experiment.churn:
        reasons = {name: AWAY if why == too_large(n, d) else why for name, why in reasons.items()}
    return reasons if have else {}
