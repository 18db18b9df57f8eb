"""Sweeps: many experiments that differ in some settings run in parallel, each in its own folder.

Finished runs are found by their fingerprints, so an interrupted sweep continues where it was. One that fails is
reported and stops no other.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distopt.catalog import registry
from distopt.catalog.parts import of_path
from distopt.catalog.places import here, looking_in, place, rooted, whereabouts
from distopt.catalog.spec import MOST_POINTS, Spec, real, shown, whole
from distopt.catalog.spec import values as listed
from distopt.catalog.spec_files import rebased
from distopt.catalog.toml_writer import toml_text
from distopt.catalog.wrapping import WRAPPINGS, bare
from distopt.engines import local
from distopt.errors import InputError, either
from distopt.experiment import Experiment, label, moving, repeated, settings, start_there
from distopt.report import tables
from distopt.report.summary import summary
from distopt.runs.files import write_text
from distopt.runs.jobs import Job, processes, work
from distopt.runs.loading import stored
from distopt.runs.manifest import MANIFEST
from distopt.runs.results import Run, folder_name

SWEEP, TABLE = "sweep.toml", "sweep.csv"
"""The files of a sweep's folder: its settings, and the table of all runs."""
HOW = ("mode", "engine", "workers", "address")

PARTS = ("topology", "scenario", "algorithm", "channel")
NUMBERS: dict[str, Callable[[str], Any]] = {
    "agents": whole,
    "rounds": whole,
    "trials": whole,
    "seed": whole,
    "every": whole,
    "drop_links": real,
    "drop_messages": real,
    "sleep": real,
}
FILES = (*PARTS, "metrics", "probe", "x0")
"""Settings that may name files. Relative paths start from the folder in which the sweep was started."""
LABELLED = ("algorithm", "feedback")  # settings that are part of a run's label
FIELDS = [*(field.name for field in dataclasses.fields(Experiment) if field.name != "folder"), *WRAPPINGS]
KINDS = dict(zip(PARTS, ("topologies", "scenarios", "algorithms", "channels"), strict=True))


Do = Callable[[Sequence[Job]], Iterator[tuple[int, Run | Exception]]]
"""A function that runs jobs and yields each result with its place, in order of completion."""


@dataclass(frozen=True)
class Point:
    """One experiment of a sweep: what was set in it, by key, and its place."""

    experiment: Experiment
    chosen: tuple[tuple[str, str], ...]
    several: bool = False  # whether the algorithm is part of the name, too

    @property
    def name(self) -> str:
        """The settings that distinguish it from the others."""
        if not self.several and self.chosen:
            return " ".join(f"{key}={value}" for key, value in self.chosen)
        return " ".join(
            [
                label(self.experiment),
                *(f"{key}={value}" for key, value in self.chosen if not key.startswith(LABELLED)),
            ]
        )

    @property
    def folder(self) -> str:
        """Its folder's name: the name, and the fingerprint that makes it the only one."""
        return f"{folder_name(self.name)[:80]}-{self.experiment.fingerprint()[:8]}"


def points(
    values: Mapping[str, Any], asked: Sequence[str] | Mapping[str, Any], where: str, base: Path | None = None
) -> list[Point]:
    """All experiments of a sweep: every combination of the lists of values, for each algorithm in ``values``.

    Args:
        values: the settings of an experiment, as a TOML file has them.
        asked: the lists, such as ``{"seed": [1, 2, 3], "algorithm.lr": [0.01, 0.02]}``, or as words of a command, such as
            ``"scenario=sea,'moving_target:dim=3,kappa=2'"``. A key is a field of the experiment, or a parameter of its
            topology, scenario, algorithm or channel. The first varies slowest.
        where: what ``values`` are of, for messages.
        base: the folder that relative paths in ``asked`` are of; None for where the process is.

    >>> [point.name for point in points({"topology": "ring", "algorithm": "gt"}, {"algorithm.lr": [0.1, 0.2], "seed": 1}, "here")]
    ['algorithm.lr=0.1 seed=1', 'algorithm.lr=0.2 seed=1']

    Raises:
        InputError: an unknown key, a wrong value, or an experiment that is there twice.
    """
    lists = choices(asked)
    if (count := math.prod(map(len, lists.values()))) > MOST_POINTS:
        raise InputError(f"a sweep of {count:,} experiments; at most {MOST_POINTS:,} can be run, so split it")
    named = values.get("algorithm")
    algorithms = [named] if "algorithm" in lists or not isinstance(named, list) else named
    found = []
    for algorithm in algorithms:
        common = {**values, **({} if algorithm is None or "algorithm" in lists else {"algorithm": algorithm})}
        for chosen in itertools.product(*([(key, value) for value in each] for key, each in lists.items())):
            settled = dict(common)
            for key, value in sorted(chosen, key=lambda pair: "." in pair[0]):  # a part before its parameters
                _set(settled, key, value, where, base or here())
            grid = Experiment.from_mapping(settled, where).points()
            found += [Point(each, tuple(chosen), len(algorithms) > 1 or len(grid) > 1) for each in grid]
    if (twice := repeated([_meaning(point.experiment) for point in found])) is not None:
        raise InputError(f"{found[twice].name}: this experiment is in the sweep twice; leave one of them out")
    return found


def choices(asked: Sequence[str] | Mapping[str, Any]) -> dict[str, list[str]]:
    """The lists of values by key, as text (see ``points``).

    >>> choices(["algorithm.lr=0.01,0.02"]) == choices({"algorithm.lr": [0.01, 0.02]})
    True
    """
    if isinstance(asked, Mapping):
        return {key: _texts(key, values) for key, values in asked.items()}
    found: dict[str, list[str]] = {}
    for text in asked:
        key, equals, values = text.partition("=")
        key = key.strip()
        if not equals:
            raise _no_setting(f"--set {text}", key)
        _check(f"--set {text}", key)
        if key in found:
            raise InputError(f"--set {key} is given twice; write all its values in one list")
        found[key] = listed(values)
        if not found[key]:
            raise InputError(f"--set {text}: no values; write {key}=VALUE,VALUE")
    return found


def _check(what: str, key: str) -> None:
    part, dot, parameter = key.partition(".")
    named = part in (*PARTS, *WRAPPINGS) and all(map(str.isidentifier, parameter.split(".")))
    if not (named if dot else key in FIELDS):
        raise _no_setting(what, key)


def _no_setting(what: str, key: str) -> InputError:
    known = ", ".join([*FIELDS, *(f"{part}.PARAMETER" for part in PARTS)])
    how = either("write KEY=VALUE,VALUE", "write {KEY: [VALUE, VALUE]}")
    return InputError(f"{what}: no setting {key!r}; {how} with a KEY among {known}")


def _texts(key: Any, values: Any) -> list[str]:
    """The values of a key from Python, as text."""
    if not isinstance(key, str):
        raise InputError(f"values: {shown(key)}: a key must be a text such as 'algorithm.lr'")
    _check("values", key)
    values = np.atleast_1d(values) if isinstance(values, np.ndarray) else values
    several = values if isinstance(values, list | tuple | range | np.ndarray) else [values]
    if not len(several):
        raise InputError(f"values: {key} is an empty list")
    for value in several:
        if not isinstance(value, str | Path | bool | int | float | np.number):
            raise InputError(f"values: {key}={shown(value)}: must be a number, or a text such as 'gt:lr=0.1'")
    return [of_path(key, each) if isinstance(each, Path) and key in PARTS else str(each) for each in several]


def _set(values: dict[str, Any], key: str, value: str, where: str, base: Path) -> None:
    part, dot, parameter = key.partition(".")
    if dot:
        spec = values.get(part) if part in WRAPPINGS else getattr(Experiment.from_mapping(bare(values), where), part)
        if not isinstance(spec, str):
            raise InputError(f"{either('--set ', '')}{key}: {where} has no single {part} given as text")
        with looking_in(values.get("folder")):
            parsed = Spec.parse(spec)
            names = registry.free(KINDS[part], parsed.name) if parsed.args and part in KINDS else ()
            values[part] = str(parsed.replace(parameter, _typed(value, values, base), names))
        return
    try:
        found = NUMBERS[key](value) if key in NUMBERS else start_there(value, base) if key == "x0" else value
        values[key] = _typed(found, values, base) if key in FILES and isinstance(found, str) else found
    except ValueError as error:
        raise InputError(f"{either('--set ', '')}{key}: {value!r} {error}") from None


def _typed(value: str, values: Mapping[str, Any], base: Path) -> str:
    """A value whose relative paths start from ``base``, rewritten for the folder of ``values``."""
    folder = values.get("folder")
    if folder is None or Path(folder) == base:
        return value
    with looking_in(str(base)):
        there = place(value) and not rooted(value)
        return os.path.relpath(whereabouts(value), folder) if there else rebased(value, folder)


def _meaning(experiment: Experiment) -> str:
    """The fingerprint of an experiment with normal specs, so that equal parameters written differently agree."""
    spelled: dict[str, Any] = {}
    with looking_in(experiment.folder):
        for part, kind in KINDS.items():
            spec = getattr(experiment, part)
            if isinstance(spec, str):
                with suppress(InputError):  # an invalid experiment fails when it runs, and does not stop the others
                    spelled[part] = str(registry.normal(kind, spec))
        return dataclasses.replace(experiment, **spelled).fingerprint()


@dataclass(frozen=True)
class Sweep:
    """A sweep: experiments that differ in some settings, and the folder of their runs. ``asked`` and ``reopened`` make it.

    Attributes:
        points: the experiments.
        folder: where their runs are, each in a folder of its own.
        mode: as in ``distopt.simulate``.
        engine: "local" for processes, "ray" for tasks of a cluster.
        workers: how many run at once; None for one per core, or as many as the cluster has room for.
        address: of the Ray cluster; None starts a cluster for this sweep.
    """

    points: tuple[Point, ...]
    folder: Path
    mode: local.Mode = "auto"
    engine: str = "local"
    workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        local.check(self.mode)
        workers, address = self.workers, self.address
        if self.engine not in ("local", "ray"):
            raise InputError(f'engine={shown(self.engine)}: a sweep runs on "local" processes, or as tasks of "ray"')
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
            raise InputError(f"workers={shown(workers)}: must be a whole number, at least 1")
        if address is not None and (self.engine != "ray" or workers is not None or not isinstance(address, str)):
            raise InputError(f'address={shown(address)}: names a running Ray cluster; needs engine="ray", no workers')

    def run(
        self, report: Callable[[int, str], object] = lambda done, what: None
    ) -> tuple[dict[int, Run], dict[int, str]]:
        """Run the unfinished experiments. Returns the runs and the errors, by place in ``points``.

        ``report`` gets the number of finished experiments and a text about the last one.

        Raises:
            KeyboardInterrupt: interrupted; what was finished is there.
        """
        names = [self.folder / point.folder for point in self.points]
        found = (finished(name, point.experiment) for name, point in zip(names, self.points, strict=True))
        runs = {k: run for k, run in enumerate(found) if run is not None}
        failed: dict[int, str] = {}
        if runs:
            report(len(runs), f"{len(runs)} finished before")
        left = [k for k in range(len(self.points)) if k not in runs]
        with self._doing(len(left)) as do:
            for which, result in do([Job(self.points[k].experiment, self.mode, os.getcwd()) for k in left]):
                k = left[which]
                if isinstance(result, Run):
                    result.save(names[k], self.points[k].experiment.to_toml(names[k]))
                    runs[k] = stored(names[k])
                    told = f"{result.status}, {result.info['seconds']:.1f} s"
                else:
                    failed[k] = told = str(result)
                report(len(runs) + len(failed), f"{self.points[k].name}: {told}")
        return dict(sorted(runs.items())), dict(sorted(failed.items()))

    @contextmanager
    def _doing(self, count: int) -> Iterator[Do]:
        """The function that runs ``count`` jobs."""
        workers = self.workers or len(os.sched_getaffinity(0))
        if self.engine == "local" or not count:
            yield lambda jobs: processes(jobs, workers)
            return
        from distopt.engines import ray
        from distopt.engines.ray import cluster

        with cluster.cluster(self.address or "", workers):
            yield lambda jobs: ray.each(work, jobs)

    def table(self, runs: Mapping[int, Run]) -> list[dict[str, Any]]:
        """Write ``sweep.csv`` and return its rows: the settings, figures and folder of each run."""
        rows = [
            {
                "run": self.points[k].name,
                **dict(self.points[k].chosen),
                **summary(run),
                "folder": run.path.name if run.path else "",
            }
            for k, run in runs.items()
        ]
        if rows:
            write_text(self.folder / TABLE, tables.to_csv(rows))
        return rows


def asked(
    values: Mapping[str, Any],
    varied: Sequence[str] | Mapping[str, Any],
    where: str,
    folder: Path,
    mode: local.Mode = "auto",
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
) -> Sweep:
    """The sweep of these settings (see ``points`` and ``Sweep``). A note in its folder lets it be resumed.

    The note and the table belong to the last call. Runs of earlier calls stay in the folder, and are used again if they
    are needed.

    Raises:
        InputError: it cannot be run, or ``folder`` cannot be written or holds anything but sweeps.
    """
    found = points(values, varied, where)
    sweep = Sweep(tuple(found), folder, mode, engine, workers, address)
    elsewhere = f"choose another folder with {either('--out', 'out=')}"
    if (folder / MANIFEST).exists():
        raise InputError(f"{folder} holds a run; {elsewhere}")
    for point in found:
        point.experiment.to_toml(folder)  # raises InputError for Python objects, which a TOML file cannot hold
    try:
        folder.mkdir(parents=True, exist_ok=True)
        inside = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; {elsewhere}") from error
    if inside and not any(name.startswith((SWEEP, TABLE)) for name in inside):  # or a part of one, that a kill has left
        raise InputError(f"{folder} is not empty and holds no sweep; {elsewhere}")
    lists = choices(varied)
    kept = {"topology": "", **{key: value for key, value in values.items() if key not in lists}}
    normal = Experiment.from_mapping(bare(kept), where)
    how = {"mode": mode, "engine": engine, "workers": workers, "address": address}
    note = {
        **{key: _plain(key, getattr(normal, key)) for key in bare(kept) if kept[key] not in (None, "")},
        **{key: value for key, value in kept.items() if key in WRAPPINGS and value},
        "folder": moving(normal.folder, folder),
        "sweep": {
            **{key: value for key, value in how.items() if value is not None},
            "folder": moving(str(here()), folder),
            "values": lists,
        },
    }
    write_text(folder / SWEEP, toml_text(note))
    return sweep


def _plain(key: str, value: Any) -> Any:
    """A setting as TOML holds it."""
    if isinstance(value, list | tuple):
        return [_plain(key, each) for each in value]
    return of_path(key, value) if isinstance(value, Path) else value


def there(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    try:
        return (folder / SWEEP).exists()
    except (OSError, ValueError):  # a folder that may not be looked into, or a name that no file can have
        return False


def reopened(folder: Path, otherwise: bool = False) -> Sweep:
    """The sweep of a folder, with the settings of its last call. InputError if ``otherwise`` is true.

    Raises:
        InputError: the note of it is damaged, or what it names cannot be run any more.
    """
    path = folder / SWEEP
    if otherwise:
        options = either("--engine, --checkpoint-every and --force", "engine=, checkpoint_every= and force=")
        raise InputError(f"{folder} holds a sweep, which continues with its own settings; leave out {options}")
    values = settings(path)
    how = values.pop("sweep", None)
    lists = how.pop("values", None) if isinstance(how, dict) else None
    if not isinstance(how, dict) or not isinstance(lists, dict) or not {"folder"} <= how.keys() <= {*HOW, "folder"}:
        raise InputError(f"{path}: damaged, or not the file of a sweep")
    base = Path(os.path.abspath(folder / str(how.pop("folder"))))
    return Sweep(tuple(points(values, lists, str(path), base)), folder, **how)


def finished(folder: Path, experiment: Experiment) -> Run | None:
    """The run of an experiment that was finished in a folder, if there is one."""
    if not (folder / MANIFEST).exists():
        return None
    run = stored(folder)
    return (
        run if run.info.get("fingerprint") == experiment.fingerprint() and run.status in ("done", "diverged") else None
    )
