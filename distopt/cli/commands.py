"""What ``distopt simulate``, ``resume`` and ``sweep`` do: the folders of the runs, what is batched, and the closing table.

As in ``distopt.cli.main``, what takes long to import is imported inside the function that needs it.
"""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from distopt.cli.streams import say, width
from distopt.errors import InputError, RunError, printable

if TYPE_CHECKING:
    from distopt.engines.local import Mode
    from distopt.experiment import Experiment
    from distopt.runs.execution import Asked
    from distopt.runs.folder import Folder
    from distopt.runs.results import Run
    from distopt.runs.sweep import Sweep


def simulate(
    experiments: Sequence[Experiment],
    out: Path | None,
    asked: Asked,
    resume: bool = False,
    live: bool = False,
    tensorboard: Path | None = None,
    page: bool = False,
) -> None:
    """Run the experiments that are not finished, in as few batches as they fit into, and report on all; with ``page`` on a page, too."""
    from distopt.runs.folder import opened

    if tensorboard is not None:
        from distopt.report import exporting

        exporting.ready(tensorboard)
    with opened(experiments, out, asked, resume=resume) as folder:
        _go_on(folder, live, tensorboard, page)


def resume(path: Path, engine: str | None, checkpoint_every: int | None, force: bool) -> None:
    """Continue the runs of a folder with their old settings, except for those given here."""
    from distopt.runs import sweep as sweeps
    from distopt.runs.folder import reopened

    if sweeps.there(path):
        _run_sweep(sweeps.reopened(path, engine is not None or checkpoint_every is not None or force))
        return
    with reopened(path, engine=engine, checkpoint_every=checkpoint_every, force=force) as folder:
        _go_on(folder)


def _go_on(folder: Folder, live: bool = False, tensorboard: Path | None = None, page: bool = False) -> None:
    """Run the unfinished experiments of a folder, show the results, and exit with 1 if a run diverged."""
    if folder.resumed and folder.finished:
        say(f"nothing to resume: {folder.path} is finished")
        return
    run(folder, live)
    if tensorboard is not None:
        from distopt.report import exporting, study

        exporting.events(study.groups([run for run in folder.runs.values() if run.rounds.size]), tensorboard)
        say(f"         {tensorboard} (tensorboard --logdir {shlex.quote(str(tensorboard))})")
    if page:
        from distopt.cli import reporting

        reporting.write(list(folder.labelled.values()), folder.path)
    if any(run.status == "diverged" for run in folder.runs.values()):
        raise SystemExit(1)


def run(folder: Folder, live: bool = False) -> None:
    """Run what is left in a folder, and show all of it; ``live`` draws curves while the rounds run."""
    from distopt.cli.progress import progress

    _begin(folder)
    stopped: KeyboardInterrupt | InputError | RunError | None = None
    with progress(live) as watch, said_warnings():
        try:
            folder.run(watch.reporting, watch.seen)
        except (KeyboardInterrupt, InputError, RunError) as error:
            stopped = error
    try:
        if folder.runs:
            report(folder)
    except RunError:  # on a full disk the report fails, too
        if stopped is None:
            raise
    go_on = f"go on with: distopt resume {shlex.quote(str(folder.path))}"
    if isinstance(stopped, KeyboardInterrupt):
        say(f"distopt: interrupted; everything before is kept in {folder.path}; {go_on}", err=True)
        raise SystemExit(folder.stop.code)
    if isinstance(stopped, RunError) and folder.begun:
        raise RunError(f"{stopped}; {go_on}") from stopped
    if stopped is not None:
        raise stopped


def _begin(folder: Folder) -> None:
    """Print what will run, and the round from which each run continues."""
    from distopt.experiment import label, titled

    first, what = folder.problems[0], folder.problems[0].experiment
    say(
        f"{titled(what.topology)}, {first.agents} agents; {titled(what.scenario)}, {first.rounds:,} rounds, "
        f"{what.trials} {'trials' if what.trials > 1 else 'trial'}, seed {what.seed}"
    )
    for note in first.network.notes:
        say(f"distopt: note: {note}", err=True)
    for doubt in folder.doubts:
        say(f"distopt: warning: {doubt}", err=True)
    if folder.resumed:
        for k, experiment in enumerate(folder.experiments):
            start = folder.starts.get(k)
            how = f"goes on from round {start.carry.t:,}" if start else "has no checkpoint: it begins at round 0"
            say(f"{titled(label(experiment))} {'is finished' if k in folder.runs else how}")


@contextmanager
def said_warnings() -> Iterator[None]:
    """Inside this context each warning is printed as a line, every time."""
    from distopt.codegen.folder import CompileWarning
    from distopt.engines.workers.group import LossWarning

    with warnings.catch_warnings():
        for each in (CompileWarning, LossWarning):
            warnings.simplefilter("always", each)
        warnings.showwarning = lambda message, *_, **__: say(
            f"distopt: warning: {' '.join(str(message).split())}", err=True
        )
        yield


def report(folder: Folder) -> None:
    """Show the closing table and warnings, and write the table and the figure."""
    from distopt.experiment import titled
    from distopt.report import tables
    from distopt.report.summary import columns, cure, divergence, drift, summary, weakness

    runs = folder.labelled
    shown = [{**row, "algorithm": titled(row["algorithm"])} for row in map(summary, runs.values())]
    wide = width() if sys.stdout.isatty() else None
    lines = tables.text(shown, wide, shown=columns(runs.values())).splitlines()
    click.echo()
    for k, line in enumerate(lines):
        click.echo(click.style(line, bold=True) if k < tables.HEAD_LINES else line)
    click.echo()
    for run in runs.values():
        if run.status == "diverged":
            where = run.path or folder.path
            say(f"distopt: {divergence(run)}; everything before is kept in {where}; {cure(run)}", err=True)
    left = {name: (run.about(name), why) for run in runs.values() for name, why in run.info["left_out"].items()}
    for reason in dict.fromkeys(why for _, why in left.values()):
        named = [metric.announced for metric, why in left.values() if why == reason and metric.announced]
        if named:
            say(f"left out: {', '.join(named)}: {reason.split(';')[0]}")
    for doubt in (weakness(folder.certificate), *map(drift, runs.values())):
        if doubt is not None:
            say(f"distopt: warning: {doubt}", err=True)
    files, failures = folder.report()
    for failure in failures:
        say(f"distopt: warning: {failure}", err=True)
    say(f"written: {folder.path}")
    for path in files:
        say(f"         {path}")


def sweep(
    file: Path, settings: Sequence[str], engine: str, workers: int | None, address: str | None, mode: Mode, folder: Path
) -> None:
    """Run the experiments of a sweep side by side, and show a table of all."""
    from distopt.experiment import settings as read
    from distopt.runs import sweep as sweeps

    _run_sweep(sweeps.asked(read(file), settings, str(file), folder, mode, engine, workers, address))


def _run_sweep(sweep: Sweep) -> None:
    from distopt.runs.signals import stopping

    count = len(sweep.points)
    say(f"{count} experiments")
    with stopping() as stop:
        try:
            runs, failed = sweep.run(lambda done, what: say(f"{done} of {count}: {what}", err=True))
        except KeyboardInterrupt:
            say(
                f"distopt: interrupted; finished runs are kept in {sweep.folder}; re-run the command to resume",
                err=True,
            )
            raise SystemExit(stop.code) from None
        stop.patient = True  # the table is written in a moment
        _close(sweep, runs, failed)


def _close(sweep: Sweep, runs: dict[int, Run], failed: dict[int, str]) -> None:
    """The closing table of a sweep, and what went wrong."""
    from distopt.report import tables
    from distopt.report.summary import columns, divergence
    from distopt.runs.sweep import TABLE

    points = sweep.points
    rows = sweep.table(runs)
    if rows:
        shown = [{**row, "algorithm": printable(row["run"])} for row in rows]
        wide = width() if sys.stdout.isatty() else None
        click.echo("\n" + tables.text(shown, wide, "run", columns(runs.values()), baselines=False) + "\n")
        say(f"written: {sweep.folder / TABLE} and a folder for each run beside it")
    for k, reason in failed.items():
        say(f"distopt: {points[k].name} failed: {reason}", err=True)
    for k, run in runs.items():
        if run.status == "diverged":
            say(f"distopt: {divergence(run, points[k].name)}", err=True)
    if failed or any(run.status == "diverged" for run in runs.values()):
        raise SystemExit(1)
