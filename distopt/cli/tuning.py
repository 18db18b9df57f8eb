"""``distopt tune``: run the tuning, print its progress, the verdict, and the command that runs the winners."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distopt.cli import asking, reporting
from distopt.cli.commands import said_warnings
from distopt.cli.progress import progress
from distopt.cli.streams import say, width

if TYPE_CHECKING:
    from distopt.runs.execution import Asked
    from distopt.runs.tuned import Tuned
    from distopt.runs.tuning import Tuning


def tune(
    topology: str,
    algorithms: tuple[str, ...],
    given: dict[str, Any],
    grid: str | None,
    over: tuple[str, ...],
    report_trials: int | None,
    how: Asked,
    out: Path | None,
    page: bool,
) -> None:
    """Tune the algorithms, show the verdict, and exit with 1 if one has no winner."""
    from distopt.experiment import settings, titled
    from distopt.runs import tuning
    from distopt.runs.candidates import USUAL

    told = topology.endswith(".toml") and "trials" in settings(Path(topology))
    usual = {} if told else {"trials": tuning.TRIALS}
    question = tuning.asked(
        asking.each(topology, algorithms, {**usual, **given}),
        report_trials=tuning.REPORT_TRIALS if report_trials is None else report_trials,
        steps=USUAL if grid is None else grid,
        over=list(over),
        how=how,
    ).placed(out)
    what = question.first.experiment
    say(
        f"{titled(what.topology)}, {question.first.agents} agents; {titled(what.scenario)}, {question.first.rounds:,} rounds; "
        f"tuning: {_trials(question.trials)}, seed {question.seed}; report: {_trials(question.report_trials)}, seed {question.report_seed}"
    )
    if question.points:
        say(f"{len(question.points)} points finished before")
    try:
        with progress() as watch, said_warnings():
            tuned = question.run(watch.reporting, say)
    except KeyboardInterrupt:
        say(
            f"distopt: interrupted; finished points are kept in {question.path}; re-run the command to resume", err=True
        )
        raise SystemExit(question.stop.code) from None
    _verdict(question, tuned)
    if page and tuned.path is not None:
        reporting.write([tuned.path], tuned.path)
    for command in _again(topology, given, question, tuned):
        say(command)
    failed = [run for run in map(tuned.runs.get, tuned.winners.values()) if run and run.status == "diverged"]
    if failed or len(tuned.winners) < len(tuned.algorithms):
        raise SystemExit(1)


def _trials(count: int) -> str:
    return f"{count} {'trials' if count > 1 else 'trial'}"


def _verdict(question: Tuning, tuned: Tuned) -> None:
    """What was found of each algorithm, the table of the report, what to be warned of, and where all is."""
    from distopt.experiment import titled
    from distopt.report import tables
    from distopt.report.summary import columns, divergence
    from distopt.runs.tuning import REPORT
    from distopt.runs.tuning_files import FIGURE, NOTE, POINTS, VERDICT

    click.echo()
    for name, each in tuned.algorithms.items():
        if each.winner is not None and each.stable is not None:
            low, high = each.stable
            stable = f"stable from {low:g} to {high:g}" if low < high else "no other lr is within a factor of 2 of it"
            same = ", as without tuning" if each.same else ""
            many = f"{100 * each.diverging:.0f} % of {len(each.points)} points diverge"
            say(f"{titled(name)}: {titled(each.tuned)}{same}; {stable}; {many}")
    shown = [{**row, "algorithm": f"{titled(row['algorithm'])} ({row['row']})"} for row in tuned.rows()]
    wide = width() if sys.stdout.isatty() else None
    first, *rest = columns(tuned.runs.values())
    median = tables.Column("median", ("median", first.head[-1] if tuned.figure == first.key else "cost"))
    lines = tables.text(shown, wide, shown=[first, median, *rest]).splitlines()
    click.echo()
    for k, line in enumerate(lines):
        click.echo(click.style(line, bold=True) if k < tables.HEAD_LINES else line)
    click.echo()
    for run in tuned.runs.values():
        if run.status == "diverged":
            say(f"distopt: {divergence(run)} (report)", err=True)
    for doubt in question.doubts:
        say(f"distopt: warning: {doubt}", err=True)
    assert tuned.path is not None
    say(f"written: {tuned.path}")
    for file in (VERDICT, POINTS, NOTE, FIGURE, REPORT):
        if (tuned.path / file).exists():
            say(f"         {tuned.path / file}")


def _again(topology: str, given: dict[str, Any], question: Tuning, tuned: Tuned) -> list[str]:
    """The commands that run the winners as they were reported: one for all that have as many rounds."""
    from distopt.catalog.places import looking_in
    from distopt.catalog.spec_files import rebased

    words = ["distopt", "simulate", topology]
    for key, value in given.items():
        if key not in ("rounds", "trials", "seed"):
            option = {"metrics": "--metric"}.get(key, f"--{key.replace('_', '-')}")
            words += [
                word for each in (value if isinstance(value, tuple) else (value,)) for word in (option, str(each))
            ]
    words += ["--trials", str(question.report_trials), "--seed", str(question.report_seed)]
    together: dict[int, list[str]] = {}
    with looking_in(question.experiments[0].folder):
        for spec in dict.fromkeys(tuned.winners.values()):
            named = rebased(spec, os.getcwd())
            together.setdefault(int(tuned.runs[spec].info["rounds"]), []).extend(["--algorithm", named])
    return [
        f"run the winners with: {shlex.join([*words, '--rounds', str(rounds), *algorithms])}"
        for rounds, algorithms in together.items()
    ]
