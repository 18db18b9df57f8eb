"""What ``distopt simulate``, ``resume`` and ``sweep`` do: the folders of the runs, what is batched, and the closing table.

As in ``distopt.cli.main``, what takes long to import is imported inside the function that needs it.
"""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distopt.errors import InputError, RunError, printable

TABLE, FIGURE = "summary.csv", "regret.png"

if TYPE_CHECKING:
    from distopt.experiment import Experiment
    from distopt.runs.checkpoint import Checkpoint
    from distopt.runs.execution import Comparison
    from distopt.runs.results import Run
    from distopt.runs.signals import Stop
    from distopt.runs.sweep import Point
    from distopt.simulation.problem import Problem


def resume(folder: Path, engine: str | None, checkpoint_every: int | None, force: bool) -> None:
    """Go on with what ``folder`` holds, as it was asked for, but for what is given."""
    from distopt.experiment import read_toml
    from distopt.runs import reading
    from distopt.runs.manifest import EXPERIMENT, read_manifest
    from distopt.runs.writing import adopt
    from distopt.simulation.problem import build

    content = read_manifest(folder)
    if not (folder / EXPERIMENT).exists():
        raise InputError(
            f"{folder}: holds no {EXPERIMENT}, so nobody knows what was simulated; give the folder that distopt simulate wrote"
        )
    reading.text(folder / EXPERIMENT)  # a pipe or a device would never end
    experiments, asked = read_toml(folder / EXPERIMENT), content.get("asked", {})
    changed = content.get("fingerprint") != _fingerprint(experiments)
    if changed or force:
        for each in experiments:
            try:
                build(each)  # names a missing file, and where it was looked for
            except InputError as fault:
                raise InputError(f"{folder / EXPERIMENT}: {fault}") from fault
    if force:
        adopt(folder, _fingerprint(experiments))
    elif changed:
        raise InputError(
            f"{folder}: a file that the experiment names has changed, or the program; --force goes on all the same, with other bits"
        )
    simulate(
        experiments,
        folder,
        asked.get("mode", "auto"),
        engine or asked.get("engine", "local"),
        checkpoint_every or asked.get("checkpoint_every"),
        resume=True,
        force=force,
    )


def simulate(
    experiments: Sequence[Experiment],
    out: Path | None,
    mode: Any,
    engine: str,
    checkpoint_every: int | None,
    resume: bool = False,
    force: bool = False,
) -> None:
    """Run the experiments that are not finished, in as few batches as they fit into, and report on all."""
    from distopt.engines import check
    from distopt.runs.execution import Comparison
    from distopt.runs.files import locked
    from distopt.runs.signals import stopping
    from distopt.runs.writing import above, claim
    from distopt.simulation import limits
    from distopt.simulation.problem import build

    first = build(experiments[0])
    problems = [first, *(build(each, first) for each in experiments[1:])]  # a mistake in any stops all, before any runs
    check(engine, first.agents)
    folder = out or _default_folder(experiments, first.agents)
    comparison = None
    if not resume:
        comparison = Comparison.of(first)
        limits.rounds(problems, comparison.blocks, folder)
    claim(folder, _fingerprint(experiments))
    with locked(folder, above(folder)), stopping() as stop:
        _simulate(experiments, problems, comparison, folder, mode, engine, checkpoint_every, resume, force, stop)


def _simulate(
    experiments: Sequence[Experiment],
    problems: Sequence[Problem],
    comparison: Comparison | None,
    folder: Path,
    mode: Any,
    engine: str,
    checkpoint_every: int | None,
    resume: bool,
    force: bool,
    stop: Stop,
) -> None:
    """``simulate`` in a folder that is ours, asked to end by ``stop``; ``comparison`` is the problems', where it has been made."""
    from distopt.cli.progress import progress
    from distopt.engines.local.compiler import CompileWarning
    from distopt.engines.workers import group
    from distopt.experiment import label
    from distopt.runs.execution import Comparison, execute_together
    from distopt.runs.manifest import MANIFEST

    first = problems[0]
    folders = _lay_out(folder, experiments, {"mode": mode, "engine": engine, "checkpoint_every": checkpoint_every})
    runs, starts = _found(problems, folders, engine, force) if resume else ({}, {})
    if len(runs) == len(problems) and _reported(folder, folders, [runs[k] for k in range(len(problems))]):
        say(f"nothing to resume: {folder} is finished")
        return
    what, rounds, trials = experiments[0], first.rounds, experiments[0].trials
    say(
        f"{short(what.topology)}, {first.agents} agents; {short(what.scenario)}, {rounds:,} rounds, "
        f"{trials} {'trials' if trials > 1 else 'trial'}, seed {what.seed}"
    )
    for note in first.mixing.notes:
        say(f"distopt: note: {note}", err=True)
    if resume:
        for k, problem in enumerate(problems):
            how = (
                f"goes on from round {starts[k].carry.t:,}"
                if k in starts
                else "has no checkpoint: it begins at round 0"
            )
            say(f"{short(label(problem.experiment))} {'is finished' if k in runs else how}")

    stopped: KeyboardInterrupt | InputError | RunError | None = None
    with progress() as reporting, warnings.catch_warnings():
        for each in (CompileWarning, group.LossWarning):
            warnings.simplefilter("always", each)
        warnings.showwarning = lambda message, *_, **__: say(
            f"distopt: warning: {' '.join(str(message).split())}", err=True
        )
        for batch in _batches(problems, runs, starts):
            if stop.signal is not None:  # it came with the last rounds of the batch before
                stopped = KeyboardInterrupt()
                break
            name = label(experiments[batch[0]]) if len(batch) == 1 else f"{len(batch)} runs"
            together, places = [problems[k] for k in batch], [folders[k] for k in batch]
            try:
                comparison = comparison or Comparison.of(first)
                done = execute_together(
                    together,
                    comparison,
                    folders=places,
                    progress=reporting(name),
                    mode=mode,
                    engine=engine,
                    checkpoint_every=checkpoint_every,
                    starts=[starts[k] for k in batch] if batch[0] in starts else None,
                    stop=stop,
                    mine=True,
                )
            except (KeyboardInterrupt, InputError, RunError) as error:
                stopped, done = error, getattr(error, "runs", [])
            runs.update(zip(batch, done, strict=False))
            if stopped is not None:
                break
    stop.patient = True  # the table and the figure are soon written
    ordered = {runs[k].label: runs[k] for k in sorted(runs)}
    try:
        if ordered:
            certificate = (
                comparison.comparator.certificate()
                if comparison
                else max(run.info["certificate"] for run in ordered.values())
            )
            report(ordered, folder, certificate)
    except RunError:  # a disk that is full is full for the report, too
        if stopped is None:
            raise
    go_on = f"go on with: distopt resume {shlex.quote(str(folder))}"
    if isinstance(stopped, KeyboardInterrupt):
        say(f"distopt: interrupted; everything before is kept in {folder}; {go_on}", err=True)
        raise SystemExit(stop.code)
    if isinstance(stopped, RunError) and all((each / MANIFEST).exists() for each in (folder, *folders[:1])):
        raise RunError(f"{stopped}; {go_on}") from stopped
    if stopped is not None:
        raise stopped
    if any(run.status == "diverged" for run in ordered.values()):
        raise SystemExit(1)


def sweep(
    file: Path, settings: Sequence[str], engine: str, workers: int, address: str, mode: Any, folder: Path
) -> None:
    """Run the experiments of a sweep side by side, and show a table of all."""
    from distopt.experiment import settings as read
    from distopt.runs import sweep as sweeps
    from distopt.runs.signals import stopping

    points = sweeps.points(read(file), settings, str(file))
    say(f"{len(points)} experiments")

    def report(done: int, what: str) -> None:
        say(f"{done} of {len(points)}: {what}", err=True)

    with stopping() as stop:
        try:
            if engine == "ray":
                from distopt.engines import ray
                from distopt.engines.ray import cluster

                with cluster.cluster(address, workers):
                    runs, failed = sweeps.sweep(points, folder, lambda jobs: ray.each(sweeps.work, jobs), mode, report)
            else:
                runs, failed = sweeps.sweep(points, folder, lambda jobs: sweeps.processes(jobs, workers), mode, report)
        except KeyboardInterrupt:
            say(
                f"distopt: interrupted; finished runs are kept in {folder}; re-run the command to resume",
                err=True,
            )
            raise SystemExit(stop.code) from None
        stop.patient = True  # the table is soon written
        _close(points, runs, failed, folder)


def _close(points: Sequence[Point], runs: dict[int, Run], failed: dict[int, str], folder: Path) -> None:
    """The closing table of a sweep, and what went wrong."""
    from distopt.report import tables
    from distopt.report.summary import columns
    from distopt.runs import sweep as sweeps
    from distopt.runs.files import write_text

    rows = sweeps.rows(points, runs)
    if rows:
        shown = [{**row, "algorithm": printable(row["run"])} for row in rows]
        wide = width() if sys.stdout.isatty() else None
        click.echo("\n" + tables.text(shown, wide, "run", columns(runs.values()), baselines=False) + "\n")
        write_text(folder / "sweep.csv", tables.to_csv(rows))
        say(f"written: {folder / 'sweep.csv'} and a folder for each run beside it")
    for k, reason in failed.items():
        say(f"distopt: {points[k].name} failed: {reason}", err=True)
    for k, run in runs.items():
        if run.status == "diverged":
            say(f"distopt: {points[k].name} diverged at round {run.info['diverged_at']}", err=True)
    if failed or any(run.status == "diverged" for run in runs.values()):
        raise SystemExit(1)


def _found(
    problems: Sequence[Problem], folders: Sequence[Path], engine: str, force: bool
) -> tuple[dict[int, Run], dict[int, Checkpoint]]:
    """The finished runs, and the checkpoints of others, by place."""
    from distopt.engines import device
    from distopt.runs.execution import whereabouts
    from distopt.runs.results import Run
    from distopt.runs.writing import adopt

    runs, starts = {}, {}
    for k, (problem, folder) in enumerate(zip(problems, folders, strict=True)):
        found = whereabouts(folder, problem, force)
        if isinstance(found, Run):
            runs[k] = found
        elif found is not None:
            before, now = found.about.device, device(engine)
            if before != now and not force:
                there = (
                    "leave out --device and --backend"
                    if before == "cpu"
                    else "add --device, or --engine ranks --backend nccl"
                )
                raise InputError(
                    f"{folder} ran on {before}, whose bits differ from those of {now}; {there}, or --force"
                )
            starts[k] = found
        if force:
            adopt(folder, problem.experiment.fingerprint())
    return runs, starts


def _batches(problems: Sequence[Problem], runs: dict[int, Run], starts: dict[int, Checkpoint]) -> list[list[int]]:
    """Which of the unfinished runs go on as one, by place: those that stand before the same round, in the same mode, and fit together."""
    from distopt.simulation.grid import batches

    standing: dict[tuple[int, bool], list[int]] = {}
    for k in range(len(problems)):
        if k not in runs:
            at = (starts[k].carry.t, starts[k].about.compiled) if k in starts else (0, False)
            standing.setdefault(at, []).append(k)
    return [
        [places[j] for j in batch] for places in standing.values() for batch in batches([problems[k] for k in places])
    ]


def _reported(folder: Path, folders: Sequence[Path], runs: Sequence[Run]) -> bool:
    """Whether the table and the figure are there, are those of these runs, and are no older than they are."""
    from distopt.report import tables
    from distopt.report.summary import summary
    from distopt.runs.manifest import MANIFEST

    summaries, table = [summary(run) for run in runs], folder / TABLE
    figures = [folder / name for name in _pictures(runs)]
    try:
        ended = max((each / MANIFEST).stat().st_mtime_ns for each in folders)
        current = (
            all(each.stat().st_mtime_ns >= ended for each in (table, *figures))
            and table.read_bytes() == tables.to_csv(summaries).encode()
        )
        return current and all(_mark(summaries).encode() in each.read_bytes() for each in figures)
    except OSError:
        return False


def _pictures(runs: Iterable[Run]) -> dict[str, str]:
    """The figures beside the table, and what they show: the regret, and each metric that a user has added."""
    there = [run for run in runs if run.rounds.size]
    added = dict.fromkeys(name for run in there for name in run.info.get("metrics", {}) if name in run.metrics)
    return {FIGURE: "average_dynamic_regret", **{f"metric-{name}.png": name for name in added}} if there else {}


def _mark(summaries: Sequence[dict[str, Any]]) -> str:
    """What a figure says of the runs that it shows, where no reader sees it: a digest of their table without the measured speed."""
    import hashlib

    from distopt.report import tables

    rows = [{key: value for key, value in row.items() if key != "rounds_per_second"} for row in summaries]
    return f"of runs {hashlib.sha256(tables.to_csv(rows).encode()).hexdigest()}"


def _fingerprint(experiments: Sequence[Experiment]) -> str:
    """Of one experiment its own, of several one that depends on all."""
    import hashlib

    each = [experiment.fingerprint() for experiment in experiments]
    return each[0] if len(each) == 1 else hashlib.sha256(" ".join(each).encode()).hexdigest()[:16]


def _default_folder(experiments: Sequence[Experiment], agents: int) -> Path:
    from distopt.runs.results import folder_name

    what = experiments[0]
    name = f"{short(what.topology)}-{agents}-{short(what.scenario)}"
    return Path("runs") / f"{folder_name(name)[:120]}-{_fingerprint(experiments)[:8]}"


def _lay_out(folder: Path, experiments: Sequence[Experiment], asked: dict[str, Any]) -> list[Path]:
    """A folder for each run: the given one for one, one by label inside it for several, named in its manifest."""
    import tomllib

    import tomli_w

    from distopt.experiment import label
    from distopt.runs.files import write_text
    from distopt.runs.manifest import EXPERIMENT, FORMAT, MANIFEST, manifest_text
    from distopt.runs.results import folder_name

    if len(experiments) == 1:
        return [folder]
    names: list[str] = []
    for experiment in experiments:
        base = folder_name(label(experiment))[:100]
        taken = {name.lower() for name in names}  # some file systems do not tell capitals apart
        candidates = (base if k == 1 else f"{base}-{k}" for k in range(1, len(experiments) + 2))
        names.append(next(name for name in candidates if name.lower() not in taken))
    each = [tomllib.loads(experiment.to_toml(folder)) for experiment in experiments]
    all_of_them = {key: value for one in each for key, value in one.items()} | {
        "algorithm": [experiment.algorithm for experiment in experiments]
    }
    write_text(folder / EXPERIMENT, tomli_w.dumps(all_of_them))
    content = {
        "format": FORMAT,
        "label": ", ".join(map(label, experiments)),
        "runs": names,
        "fingerprint": _fingerprint(experiments),
        "asked": asked,
    }
    write_text(folder / MANIFEST, manifest_text(content))
    return [folder / name for name in names]


def report(runs: dict[str, Run], folder: Path, certificate: float) -> None:
    """The closing table, the warnings, and the files; what cannot be drawn does not cost the run."""
    from distopt.report import tables
    from distopt.report.summary import columns, drift, summary, weakness
    from distopt.runs.files import write_text, written

    summaries = [summary(run) for run in runs.values()]
    shown = [{**row, "algorithm": short(row["algorithm"])} for row in summaries]
    wide = sys.stdout.isatty()
    lines = tables.text(shown, width() if wide else None, shown=columns(runs.values())).splitlines()
    click.echo()
    for k, line in enumerate(lines):
        click.echo(click.style(line, bold=True) if k < tables.HEAD_LINES else line)
    click.echo()
    for run in runs.values():
        if run.status == "diverged":
            where = run.path or folder
            message = f"{run.label} diverged at round {run.info['diverged_at']}; everything before is kept in {where}; lower lr"
            say(f"distopt: {message}", err=True)
    left = {name: (run.about(name), why) for run in runs.values() for name, why in run.info["left_out"].items()}
    for metric, why in left.values():
        if metric.announced:
            say(f"left out: {metric.announced}: {why.split(';')[0]}")
    if (doubt := weakness(certificate)) is not None:
        say(f"distopt: warning: {doubt}", err=True)
    for run in runs.values():
        if (said := drift(run)) is not None:
            say(f"distopt: warning: {said}", err=True)
    write_text(folder / TABLE, tables.to_csv(summaries))
    there = [folder, folder / TABLE]
    for name, series in _pictures(runs.values()).items():
        try:
            from distopt.report.curves import figure

            drawn = figure(runs, series)
            with written(folder / name) as file:
                drawn.savefig(file, format="png", metadata={"Comment": _mark(summaries)})
            there.append(folder / name)
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            say(f"distopt: warning: {name} could not be drawn: {what}", err=True)
    for k, path in enumerate(there):
        say(("written: " if k == 0 else "         ") + str(path))


def short(spec: Any) -> str:
    """A spec for a title; objects by their type."""
    from distopt.catalog.registry import brief

    if not isinstance(spec, str):
        return "matrix" if isinstance(spec, list) else type(spec).__name__.lower()
    return brief(spec)


def say(text: str, err: bool = False) -> None:
    """Print a line for the user, with control characters made harmless."""
    click.echo(printable(text), err=err)


def width() -> int:
    """Columns of the terminal."""
    import shutil

    return max(40, shutil.get_terminal_size().columns)
