"""``distopt report``: runs become one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from distopt.cli.options import TRACEBACK
from distopt.cli.polite import polite
from distopt.cli.streams import say

FOLDER = "report"
"""Where a report is written inside the folder of the first run, if no other place is named."""


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR|FILE.html",
    help="Where to write.  [default: the folder report in the first RUN]",
)
@click.option(
    "--paper", is_flag=True, help="Write figures, tables, captions and a bibliography for a paper beside the page, too."
)
@TRACEBACK
def report(runs: tuple[Path, ...], *, out: Path | None, paper: bool, traceback: bool) -> None:
    """Write a report of runs: one HTML page, report.html, that needs no network.

    \b
    distopt report runs/ring-16-flights-1a2b3c4d
    distopt report runs/one runs/two --out report --paper

    RUN is a folder that `distopt simulate`, `sweep` or `tune` wrote, or any folder that holds such folders. Runs on the same
    problem stand together: the verdict first, then curves with switches, the network, warnings, and how to repeat them. Runs
    that are not finished are shown as they stand.
    """
    with polite(traceback):
        from distopt.report import page, study
        from distopt.report.paper import write

        path = page.write(runs, out or runs[0] / FOLDER)
        say(f"written: {path}")
        if paper:
            written = write(study.groups(study.read(runs)), path.parent)
            for each in written.files:
                say(f"         {each}")
            for note in written.notes:
                say(f"distopt: note: {note}", err=True)
