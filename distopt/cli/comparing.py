"""The commands for finished runs: ``distopt compare`` and ``distopt export``.

As in ``distopt.cli.main``, what takes long to import is imported inside the command that needs it.
"""

from __future__ import annotations

from pathlib import Path

import click

from distopt.cli import commands, completing
from distopt.cli.options import REAL, TRACEBACK
from distopt.cli.polite import polite
from distopt.cli.streams import say


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN|FILE.toml...")
@click.option(
    "--metric",
    metavar="NAME",
    shell_complete=completing.metrics(),
    help="Metric to compare.  [default: the average dynamic regret, or the cost]",
)
@click.option("--baseline", metavar="METHOD", help="Method to compare the others with.  [default: the best]")
@click.option("--level", type=REAL, default=0.9, metavar="P", help="Level of the intervals.  [default: 0.9]")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write tables and figures to.")
@TRACEBACK
def compare(
    runs: tuple[Path, ...],
    *,
    metric: str | None,
    baseline: str | None,
    level: float,
    out: Path | None,
    traceback: bool,
) -> None:
    """Compare methods on the trials that they share, and test which differences are significant.

    \b
    distopt compare runs/mine
    distopt compare runs/gt runs/gtadam --baseline gt --out compared
    distopt compare examples/experiment.toml

    RUN is the folder of a run, of several runs, or of a sweep. A FILE.toml is run first, unless its runs are finished.
    Runs with the same scenario, agents and start belong to one problem. Each problem has a table. It shows the median
    over the trials with a bootstrap interval, the number of trials that diverged, and the difference to the best method
    (Hodges-Lehmann) with its interval. The p-value is that of the exact Wilcoxon signed-rank test, corrected by Holm;
    the verdict is at 5 %. Fewer than 6 trials can show no significant difference.

    DIR then holds comparison.csv, .md and .tex, differences.png, ecdf.png and, from 5 problems on, profile.png.
    """
    with polite(traceback), commands.said_warnings():
        from distopt.report import study
        from distopt.report.verdict import compared

        found = study.read([place for each in runs for place in _there(each)])
        verdict = compared(study.groups(found), metric, baseline, level)
        click.echo(verdict.text())
        files = verdict.write(out) if out is not None else []
        for k, path in enumerate(files):
            say(f"{'written:' if not k else '        '} {path}")


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "parquet", "npz", "tensorboard"]),
    default="csv",
    help="A long table, or event files for TensorBoard.  [default: csv]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE|DIR",
    help="File to write or, for TensorBoard, a folder.  [default: NAME.FORMAT]",
)
@TRACEBACK
def export(runs: tuple[Path, ...], *, kind: str, out: Path | None, traceback: bool) -> None:
    """Export runs for other programs.

    \b
    distopt export runs/mine
    distopt export runs/gt runs/gtadam --format parquet --out both.parquet
    distopt export runs/mine --format tensorboard --out events

    RUN is the folder of a run, of several runs, or of a sweep. The table has a line for each trial and recorded round.
    Its columns are problem, algorithm, seed, trial, round, and one for each metric. Parquet needs pyarrow (pip install
    'distopt[export]'), and event files TensorBoard (pip install 'distopt[tensorboard]').
    """
    with polite(traceback), commands.said_warnings():
        from distopt.report import exporting, study

        groups = study.groups(study.read(runs))
        path = out or Path(f"{runs[0].resolve().name or 'runs'}.{kind}")
        if kind == "tensorboard":
            exporting.events(groups, path)
        else:
            exporting.write(groups, path, kind)
        say(f"written: {path}")


def _there(path: Path) -> list[Path]:
    """A folder as it is; for a TOML file, once they have been run, the folders of its runs."""
    if path.suffix != ".toml" or path.is_dir():
        return [path]
    from distopt.experiment import compared, read_toml
    from distopt.runs.execution import Asked
    from distopt.runs.folder import opened

    with opened(compared(read_toml(path)), None, Asked(), resume=True) as folder:
        if not folder.finished:
            commands.run(folder)
        return [run.path for run in folder.labelled.values() if run.path is not None]
