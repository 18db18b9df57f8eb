"""A folder of runs: one run lies in the folder itself, several lie inside it, one folder each, beside their table and figure.

``opened`` takes experiments and a place for them, ``reopened`` takes an existing folder. Both return a ``Folder``, which
finds the finished runs, runs the rest, and reports on all.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distopt import engines
from distopt.catalog.toml_writer import toml_text
from distopt.errors import InputError, RunError, either
from distopt.experiment import Experiment, label, read_toml, titled
from distopt.report import tables
from distopt.report.summary import summary
from distopt.runs import reading
from distopt.runs.checkpoint import Checkpoint, forced
from distopt.runs.execution import Asked, Comparisons, MakeEngine, Progress, Seen, execute_together, whereabouts
from distopt.runs.files import locked, write_text, written
from distopt.runs.manifest import EXPERIMENT, FORMAT, MANIFEST, manifest_text, read_manifest
from distopt.runs.results import Run, folder_name
from distopt.runs.signals import Stop, stopping
from distopt.runs.tuning_files import NOTE
from distopt.runs.writing import above, adopt, claim
from distopt.simulation import grid, limits
from distopt.simulation.problem import Problem, build, doubts

TABLE, FIGURE, COST_FIGURE, RADIUS_FIGURE = "summary.csv", "regret.png", "cost.png", "radius.png"


@contextmanager
def opened(
    experiments: Sequence[Experiment],
    path: Path | None,
    asked: Asked,
    *,
    agentwise: bool | None = None,
    resume: bool = False,
    force: bool = False,
) -> Iterator[Folder]:
    """A folder for experiments on the same data.
    Inside this context the folder is locked, and signals end the runs at a checkpoint.

    Args:
        experiments: at least one; errors in any of them are raised before any runs.
        path: the folder, or None for one in ``runs`` that is named after the experiments.
        asked: how they are to run.
        agentwise: as in ``distopt.simulate``.
        resume: continue from the results in the folder, if any.
        force: continue even if those results come from other files, another version or another device.

    Raises:
        InputError: an experiment cannot be run, or the folder holds something else or is being written.
    """
    first = build(experiments[0])
    problems = [first, *(build(each, first) for each in experiments[1:])]
    if isinstance(asked.engine, str):
        engines.check(asked.engine, first.agents)
    path = path or default_path(experiments, first.agents)
    for each in experiments:
        each.to_toml(path)  # raises InputError for Python objects, which a TOML file cannot hold
    comparisons = Comparisons()
    resume = resume and (path / MANIFEST).exists()
    if not resume:
        limits.rounds(problems, comparisons.of(first).blocks, path)
    claim(path, fingerprint(experiments))
    with locked(path, above(path)), stopping() as stop:
        yield Folder(path, problems, asked, stop, comparisons, agentwise, resume, force)


@contextmanager
def reopened(
    path: Path,
    *,
    engine: str | MakeEngine | None = None,
    checkpoint_every: int | None = None,
    force: bool = False,
) -> Iterator[Folder]:
    """The folder ``path`` of runs that were interrupted or killed.
    They continue with their old settings, except for those given here.

    Raises:
        InputError: the folder holds no runs, or of other files or another version, and there is no ``force``.
    """
    if (path / NOTE).is_file():
        again = either("re-run the command that began it", "repeat the call that began it")
        raise InputError(
            f"{path}: holds a tuning; to continue it, {again}; its report is a folder of runs, {path / 'report'}"
        )
    content = read_manifest(path)
    if not (path / EXPERIMENT).exists():
        raise InputError(
            f"{path}: holds no {EXPERIMENT}, so the experiment is not known; give the folder that "
            f"{either('distopt simulate', 'simulate(..., out=folder)')} wrote"
        )
    reading.text(path / EXPERIMENT)  # checks that it is a regular file: a pipe or a device would never end
    experiments, before = read_toml(path / EXPERIMENT), content.get("asked", {})
    changed = content.get("fingerprint") != fingerprint(experiments)
    if changed or force:
        for each in experiments:
            try:
                build(each)  # the error names a missing file and its full path
            except InputError as fault:
                raise InputError(f"{path / EXPERIMENT}: {fault}") from fault
    if force:
        adopt(path, fingerprint(experiments))
    elif changed:
        raise InputError(f"{path}: a file of the experiment or the version of distopt has changed; {forced()}")
    asked = Asked(
        before.get("mode", "auto"),
        before.get("engine", "local") if engine is None else engine,
        before.get("checkpoint_every") if checkpoint_every is None else checkpoint_every,
    )
    with opened(experiments, path, asked, resume=True, force=force) as folder:
        yield folder


class Folder:
    """A folder of runs, locked for this process. ``opened`` and ``reopened`` make it.

    Attributes:
        path: the folder.
        problems: what is to be run, one problem for each experiment, all on the same data.
        stop: set by Ctrl-C and SIGTERM; the running rounds then end with a checkpoint.
        resumed: whether earlier results in the folder count.
        runs: the runs that have ended, by place in ``problems``; their arrays are read from the disk on first use.
        starts: the checkpoints of the other runs, by place.
    """

    def __init__(
        self,
        path: Path,
        problems: Sequence[Problem],
        asked: Asked,
        stop: Stop,
        comparisons: Comparisons,
        agentwise: bool | None,
        resume: bool,
        force: bool,
    ) -> None:
        self.path, self.problems, self.stop, self.resumed = path, problems, stop, resume
        self.runs: dict[int, Run] = {}
        self.starts: dict[int, Checkpoint] = {}
        self._asked, self._comparisons, self._agentwise = asked, comparisons, agentwise
        self._places = self._lay_out()
        if resume:
            self._look(force)

    @property
    def experiments(self) -> list[Experiment]:
        """The experiments of the folder."""
        return [problem.experiment for problem in self.problems]

    @property
    def doubts(self) -> list[str]:
        """Warnings before the rounds run, about the algorithms on their network, a line each."""
        return doubts(self.problems)

    @property
    def labelled(self) -> dict[str, Run]:
        """The runs that have ended by label, in the order of the experiments."""
        return {self.runs[k].label: self.runs[k] for k in sorted(self.runs)}

    @property
    def finished(self) -> bool:
        """Whether all runs have ended, and the table and the figure are up to date."""
        return len(self.runs) == len(self.problems) and self._reported()

    @property
    def begun(self) -> bool:
        """Whether there are results on the disk to continue from."""
        return all((each / MANIFEST).exists() for each in (self.path, *self._places[:1]))

    @property
    def certificate(self) -> float:
        """The largest relative gradient norm at a point of the comparator."""
        made = self._comparisons.certificate()
        return max(float(run.info["certificate"]) for run in self.runs.values()) if made is None else made

    def run(self, reporting: Callable[[str], Progress] | None = None, seen: Seen | None = None) -> None:
        """Run the experiments that have not ended, in as few batches as possible.
        ``reporting`` gives the progress function of a batch by its name.

        ``seen`` receives the recorded rounds of each run (see ``execute_together``).

        Raises:
            KeyboardInterrupt: by a signal; the interrupted runs are saved and are in ``runs``.
            RunError: they cannot go on, as on a full disk; what was written before stays.
        """
        try:
            for batch in self._batches():
                if self.stop.signal is not None:  # the signal came during the last rounds of the batch before
                    raise KeyboardInterrupt
                self._run(batch, reporting, seen)
        finally:
            self.stop.patient = True  # the table and the figure are soon written

    def _run(self, batch: list[int], reporting: Callable[[str], Progress] | None, seen: Seen | None) -> None:
        name = label(self.problems[batch[0]].experiment) if len(batch) == 1 else f"{len(batch)} runs"
        done: list[Run] = []
        try:
            done = execute_together(
                [self.problems[k] for k in batch],
                self._comparisons.of(self.problems[batch[0]]),
                folders=[self._places[k] for k in batch],
                progress=reporting(name) if reporting else None,
                agentwise=self._agentwise,
                mode=self._asked.mode,
                engine=self._asked.engine,
                checkpoint_every=self._asked.checkpoint_every,
                starts=[self.starts[k] for k in batch] if batch[0] in self.starts else None,
                stop=self.stop,
                seen=seen,
                mine=True,
            )
        except (KeyboardInterrupt, InputError, RunError) as error:
            done = getattr(error, "runs", [])
            raise
        finally:
            self.runs.update(zip(batch, done, strict=False))

    def report(self) -> tuple[list[Path], list[str]]:
        """Write the table and the figures of the runs that have ended. A figure that cannot be drawn is no error.

        Returns:
            The files, and what to say of figures that could not be drawn.

        Raises:
            RunError: the table cannot be written.
        """
        runs, failures = self.labelled, []
        summaries = [summary(run) for run in runs.values()]
        write_text(self.path / TABLE, tables.to_csv(summaries))
        files = [self.path / TABLE]
        for name, series in _pictures(runs.values()).items():
            try:
                from distopt.report.curves import figure

                drawn = figure(runs, series)
                with written(self.path / name) as file:
                    drawn.savefig(file, format="png", metadata={"Comment": _mark(summaries)})
                files.append(self.path / name)
            except Exception as error:
                failures.append(f"{name} could not be drawn: {' '.join(f'{type(error).__name__}: {error}'.split())}")
        return files, failures

    def _reported(self) -> bool:
        """Whether the table and the figures exist, belong to these runs, and are not older than the runs."""
        runs = self.labelled.values()
        summaries, table = [summary(run) for run in runs], self.path / TABLE
        figures = [self.path / name for name in _pictures(runs)]
        try:
            ended = max((each / MANIFEST).stat().st_mtime_ns for each in self._places)
            current = (
                all(each.stat().st_mtime_ns >= ended for each in (table, *figures))
                and table.read_bytes() == tables.to_csv(summaries).encode()
            )
            return current and all(_mark(summaries).encode() in each.read_bytes() for each in figures)
        except OSError:
            return False

    def _lay_out(self) -> list[Path]:
        """A folder for each run: this one for one, one by label inside it for several, named in its manifest."""
        experiments = self.experiments
        if len(experiments) == 1:
            return [self.path]
        names: list[str] = []
        for experiment in experiments:
            base = folder_name(label(experiment))[:100]
            taken = {name.lower() for name in names}  # some file systems ignore case
            candidates = (base if k == 1 else f"{base}-{k}" for k in range(1, len(experiments) + 2))
            names.append(next(name for name in candidates if name.lower() not in taken))
        each = [tomllib.loads(experiment.to_toml(self.path)) for experiment in experiments]
        all_of_them = {key: value for one in each for key, value in one.items()} | {
            "algorithm": [experiment.algorithm for experiment in experiments]
        }
        if len({experiment.rounds for experiment in experiments}) > 1:
            all_of_them["rounds"] = [problem.rounds for problem in self.problems]
        write_text(self.path / EXPERIMENT, toml_text(all_of_them))
        content = {
            "format": FORMAT,
            "label": ", ".join(map(label, experiments)),
            "runs": names,
            "fingerprint": fingerprint(experiments),
            "asked": self._asked.recorded(),
        }
        write_text(self.path / MANIFEST, manifest_text(content))
        return [self.path / name for name in names]

    def _look(self, force: bool) -> None:
        """Find the runs that have ended, and the checkpoints of others."""
        engine = self._asked.engine
        now = engines.device(engine)
        for k, (problem, folder) in enumerate(zip(self.problems, self._places, strict=True)):
            found = whereabouts(folder, problem, force)
            if isinstance(found, Run):
                self.runs[k] = found
            elif found is not None:
                before = found.about.device
                if before != now and not force:
                    there = (
                        either("leave out --device and --backend", 'resume with engine="local"')
                        if before == "cpu"
                        else either(
                            "add --device, or --engine ranks --backend nccl",
                            'resume with engine="local:device=cuda" or "ranks:backend=nccl"',
                        )
                    )
                    raise InputError(
                        f"{folder} ran on {before}, whose bits differ from those of {now}; {there}, or {either('--force', 'force=True')}"
                    )
                self.starts[k] = found
            if force:
                adopt(folder, problem.experiment.fingerprint())

    def _batches(self) -> list[list[int]]:
        """Groups of unfinished runs that continue as one batch, by place: same round, same mode, compatible problems."""
        standing: dict[tuple[int, bool], list[int]] = {}
        for k in range(len(self.problems)):
            if k not in self.runs:
                start = self.starts.get(k)
                at = (start.carry.t, start.about.compiled) if start else (0, False)
                standing.setdefault(at, []).append(k)
        return [
            [places[j] for j in batch]
            for places in standing.values()
            for batch in grid.batches([self.problems[k] for k in places])
        ]


def fingerprint(experiments: Sequence[Experiment]) -> str:
    """The fingerprint of one experiment, or of several one that depends on all."""
    each = [experiment.fingerprint() for experiment in experiments]
    return each[0] if len(each) == 1 else hashlib.sha256(" ".join(each).encode()).hexdigest()[:16]


def default_path(experiments: Sequence[Experiment], agents: int) -> Path:
    """The default folder of runs."""
    what = experiments[0]
    name = f"{titled(what.topology)}-{agents}-{titled(what.scenario)}"
    return Path("runs") / f"{folder_name(name)[:120]}-{fingerprint(experiments)[:8]}"


def _pictures(runs: Iterable[Run]) -> dict[str, str]:
    """The figures beside the table by file name: the regret, the cost or the radius, and each of the user's metrics."""
    there = [run for run in runs if run.rounds.size]
    added = dict.fromkeys(name for run in there for name in run.info.get("metrics", {}) if name in run.metrics)
    names = {"cost": COST_FIGURE, "radius": RADIUS_FIGURE}
    ranking = {names.get(run.leading, FIGURE): run.leading for run in there}
    return {**ranking, **{f"metric-{name}.png": name for name in added}}


def _mark(summaries: Sequence[dict[str, Any]]) -> str:
    """A figure's hidden comment that identifies its runs: a digest of their table without the measured speed."""
    rows = [{key: value for key, value in row.items() if key != "rounds_per_second"} for row in summaries]
    return f"of runs {hashlib.sha256(tables.to_csv(rows).encode()).hexdigest()}"
