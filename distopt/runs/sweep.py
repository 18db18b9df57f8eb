"""Sweeps: many experiments that differ in some settings, side by side, each a run in a folder of its own.

What is finished is found again by its fingerprint, so a sweep that was interrupted goes on where it was. One that fails is
reported and stops no other.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import multiprocessing
import multiprocessing.connection
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distopt.catalog import registry
from distopt.catalog.places import here, looking_in, place, rooted
from distopt.catalog.spec import MOST_POINTS, Spec, real, whole
from distopt.catalog.spec import values as listed_values
from distopt.catalog.spec_files import rebased
from distopt.engines import local
from distopt.errors import InputError, RunError
from distopt.experiment import Experiment, label, repeated
from distopt.report.summary import summary
from distopt.runs.execution import Comparison, execute
from distopt.runs.loading import stored
from distopt.runs.manifest import MANIFEST
from distopt.runs.results import Run, folder_name
from distopt.runs.signals import follow, held
from distopt.simulation import surroundings
from distopt.simulation.problem import build

PARTS = ("topology", "scenario", "algorithm", "channel")
NUMBERS: dict[str, Callable[[str], Any]] = {
    "agents": whole,
    "rounds": whole,
    "trials": whole,
    "seed": whole,
    "every": whole,
    "drop_links": real,
    "x0": real,
}
FIELDS = [field.name for field in dataclasses.fields(Experiment) if field.name != "folder"]
KINDS = dict(zip(PARTS, ("topologies", "scenarios", "algorithms", "channels"), strict=True))


@dataclass(frozen=True)
class Point:
    """One experiment of a sweep: what was set in it, by key, and its place."""

    experiment: Experiment
    chosen: tuple[tuple[str, str], ...]
    several: bool = False  # whether the algorithm too tells it from others

    @property
    def name(self) -> str:
        """What tells it from the others."""
        if not self.several and self.chosen:
            return " ".join(f"{key}={value}" for key, value in self.chosen)
        return " ".join(
            [
                label(self.experiment),
                *(f"{key}={value}" for key, value in self.chosen if not key.startswith("algorithm")),
            ]
        )

    @property
    def folder(self) -> str:
        """Its folder's name: the name, and the fingerprint that makes it the only one."""
        return f"{folder_name(self.name)[:80]}-{self.experiment.fingerprint()[:8]}"


def points(values: Mapping[str, Any], settings: Sequence[str], where: str) -> list[Point]:
    """All experiments of a sweep: every choice from the lists of values, for every algorithm that ``values`` names.

    ``settings`` are such as ``"seed=1,2,3"``, ``"algorithm.lr=0.01,0.02"`` or ``"scenario=sea,'moving_target:dim=3,kappa=2'"``:
    a field of the experiment, or a parameter of its topology, scenario, algorithm or channel. The first varies slowest.

    >>> [point.name for point in points({"topology": "ring", "algorithm": "gt"}, ["algorithm.lr=0.1,0.2", "seed=1,2"], "here")]
    ['algorithm.lr=0.1 seed=1', 'algorithm.lr=0.1 seed=2', 'algorithm.lr=0.2 seed=1', 'algorithm.lr=0.2 seed=2']

    Raises:
        InputError: a key that is none, a value that cannot be one, or an experiment that is there twice.
    """
    lists = [_choices(text) for text in settings]
    keys = [key for key, _ in lists]
    if (twice := repeated(keys)) is not None:
        raise InputError(f"--set {keys[twice]} is given twice; write all its values in one list")
    if (count := math.prod(len(each) for _, each in lists)) > MOST_POINTS:
        raise InputError(f"a sweep of {count:,} experiments; at most {MOST_POINTS:,} can be run, so split it")
    named = values.get("algorithm")
    algorithms = [named] if "algorithm" in keys or not isinstance(named, list) else named
    found = []
    for algorithm in algorithms:
        start = {**values, **({} if algorithm is None or "algorithm" in keys else {"algorithm": algorithm})}
        for chosen in itertools.product(*([(key, value) for value in each] for key, each in lists)):
            settled = dict(start)
            for key, value in sorted(chosen, key=lambda pair: "." in pair[0]):  # a part before its parameters
                _set(settled, key, value, where)
            grid = Experiment.from_mapping(settled, where).points()
            found += [Point(each, tuple(chosen), len(algorithms) > 1 or len(grid) > 1) for each in grid]
    if (twice := repeated([_meaning(point.experiment) for point in found])) is not None:
        raise InputError(f"{found[twice].name}: this experiment is in the sweep twice")
    return found


def _choices(text: str) -> tuple[str, list[str]]:
    """A key and its values."""
    key, equals, listed = text.partition("=")
    key = key.strip()
    part, dot, parameter = key.partition(".")
    if not equals or (dot and (part not in PARTS or not parameter.isidentifier())) or (not dot and key not in FIELDS):
        known = ", ".join([*FIELDS, *(f"{part}.PARAMETER" for part in PARTS)])
        raise InputError(f"--set {text}: no setting {key!r}; write KEY=VALUE,VALUE with a KEY among {known}")
    found = listed_values(listed)
    if not found:
        raise InputError(f"--set {text}: no values; write {key}=VALUE,VALUE")
    return key, found


def _set(values: dict[str, Any], key: str, value: str, where: str) -> None:
    part, dot, parameter = key.partition(".")
    if dot:
        spec = getattr(Experiment.from_mapping(values, where), part)
        if not isinstance(spec, str):
            raise InputError(f"--set {key}: {where} names no single {part} as text")
        with looking_in(values.get("folder")):
            parsed = Spec.parse(spec)
            names = registry.free(KINDS[part], parsed.name) if parsed.args else ()
            values[part] = str(parsed.replace(parameter, _typed(value, values), names))
        return
    try:
        values[key] = NUMBERS[key](value) if key in NUMBERS else _typed(value, values) if key in PARTS else value
    except ValueError as error:
        raise InputError(f"--set {key}: {value!r} {error}") from None


def _typed(value: str, values: Mapping[str, Any]) -> str:
    """A value of the command line, whose files are of where the process is, among ``values`` of another folder."""
    folder = values.get("folder")
    if folder is None or Path(folder) == here():
        return value
    with looking_in(None):
        return os.path.relpath(value, folder) if place(value) and not rooted(value) else rebased(value, folder)


def _meaning(experiment: Experiment) -> str:
    """The fingerprint of an experiment, whichever way the parameters of its parts are spelled."""
    spelled: dict[str, Any] = {}
    with looking_in(experiment.folder):
        for part, kind in KINDS.items():
            spec = getattr(experiment, part)
            if isinstance(spec, str):
                with suppress(InputError):  # it fails when it is run, and stops no other
                    spelled[part] = str(registry.normal(kind, spec))
        return dataclasses.replace(experiment, **spelled).fingerprint()


@dataclass(frozen=True)
class Job:
    """An experiment as another process is told it; ``place`` is the folder that relative paths in it are of."""

    experiment: Experiment
    mode: local.Mode
    place: str


def work(job: Job) -> Run | Exception:
    """Run an experiment in this process."""
    import torch

    torch.set_num_threads(1)  # the experiments are the parallelism
    if Path(job.place).is_dir():
        os.chdir(job.place)
    try:
        problem = build(job.experiment)
        return execute(job.experiment, comparison=Comparison.of(problem), problem=problem, mode=job.mode)
    except (InputError, RunError) as error:
        return error
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return RunError(f"{type(error).__name__}: {lines[0]}")


def _live(parent: int, job: Job, reply: Any) -> None:
    """The main function of a process that does one job."""
    follow(parent)
    try:
        reply.send(work(job))
    finally:
        reply.close()
        sys.stderr.flush()
        os._exit(0)  # without tidying what it inherited


def processes(jobs: Sequence[Job], workers: int) -> Iterator[tuple[int, Run | Exception]]:
    """The results of the jobs, in order of completion. Each runs in a process of its own, ``workers`` at a time."""
    surroundings.may_start_processes("a sweep")
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    waiting = list(range(len(jobs)))[::-1]
    running: dict[Any, tuple[int, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                k = waiting.pop()
                answer, reply = context.Pipe(duplex=False)
                process = context.Process(target=_live, args=(os.getpid(), jobs[k], reply), daemon=True)
                with held():
                    process.start()
                reply.close()
                running[answer] = (k, process)
            ready: list[Any] = multiprocessing.connection.wait(list(running))
            for answer in ready:
                k, process = running.pop(answer)
                try:
                    result = answer.recv()
                except (EOFError, OSError):
                    process.join()
                    result = RunError(f"its process ended with exit code {process.exitcode}")
                process.join()
                yield k, result
    finally:
        for _, process in running.values():
            process.kill()
        for _, process in running.values():
            process.join()


def sweep(
    chosen: Sequence[Point],
    folder: Path,
    do: Callable[[Sequence[Job]], Iterator[tuple[int, Run | Exception]]],
    mode: local.Mode = "auto",
    report: Callable[[int, str], object] = lambda done, what: None,
) -> tuple[dict[int, Run], dict[int, str]]:
    """Run what is not finished yet, each into a folder inside ``folder``: the runs and what went wrong, by place in ``chosen``.

    ``do`` runs jobs, such as ``processes``; ``report`` is told how many are done and what has just been.

    Raises:
        InputError: ``folder`` cannot be written or is that of a run.
        KeyboardInterrupt: interrupted; what was finished is there.
    """
    if (folder / MANIFEST).exists():
        raise InputError(f"{folder} holds a run; choose another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; choose another folder with --out") from error
    runs = {
        k: run
        for k, point in enumerate(chosen)
        if (run := finished(folder / point.folder, point.experiment)) is not None
    }
    failed: dict[int, str] = {}
    if runs:
        report(len(runs), f"{len(runs)} finished before")
    left = [k for k in range(len(chosen)) if k not in runs]
    for which, result in do([Job(chosen[k].experiment, mode, os.getcwd()) for k in left]) if left else ():
        k = left[which]
        if isinstance(result, Run):
            where = folder / chosen[k].folder
            result.save(where, chosen[k].experiment.to_toml(where))
            runs[k] = stored(where)
        else:
            failed[k] = str(result)
        told = (
            failed[k]
            if k in failed
            else f"{result.status}, {result.info['seconds']:.1f} s"
            if isinstance(result, Run)
            else ""
        )
        report(len(runs) + len(failed), f"{chosen[k].name}: {told}")
    return dict(sorted(runs.items())), dict(sorted(failed.items()))


def finished(folder: Path, experiment: Experiment) -> Run | None:
    """The run of an experiment that was finished in a folder, if there is one."""
    if not (folder / MANIFEST).exists():
        return None
    run = stored(folder)
    return (
        run if run.info.get("fingerprint") == experiment.fingerprint() and run.status in ("done", "diverged") else None
    )


def rows(chosen: Sequence[Point], runs: Mapping[int, Run]) -> list[dict[str, Any]]:
    """A row of figures for each run: what was set, what ``api.summary`` says, and its folder."""
    return [
        {"run": chosen[k].name, **dict(chosen[k].chosen), **summary(run), "folder": run.path.name if run.path else ""}
        for k, run in runs.items()
    ]
