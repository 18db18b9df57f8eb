"""``distopt report``: runs become one HTML page, with figures and tables for a paper beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from distopt.cli.commands import said_warnings
from distopt.cli.options import TRACEBACK
from distopt.cli.polite import polite
from distopt.cli.streams import say

if TYPE_CHECKING:
    from distopt.runs.results import Run

FOLDER = "report"
"""Where a report is written inside the folder of the first run, if no other place is named."""


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR|FILE.html",
    help="Folder or page to write.  [default: the folder report in the first RUN]",
)
@click.option("--page-only", is_flag=True, help="Write the page alone, without figures and tables for a paper.")
@TRACEBACK
def report(runs: tuple[Path, ...], *, out: Path | None, page_only: bool, traceback: bool) -> None:
    """Write a report of runs: one HTML page, report.html, that works offline.

    \b
    distopt report runs/ring-16-flights-1a2b3c4d
    distopt report runs/one runs/two --out report

    RUN is a folder that `distopt simulate`, `sweep` or `tune` wrote, or any folder that holds such folders. Runs on the
    same problem share a section: the verdict first, then curves with switches, the network, warnings, and the commands
    that repeat the runs. Unfinished runs are shown, too.

    Files for a paper are written beside the page: figures (pdf, svg, png, pgf), tables (tex, csv, md), captions and a
    bibliography.
    """
    with polite(traceback), said_warnings():
        write(runs, out or runs[0] / FOLDER, page_only)


def write(runs: Sequence[Run | Path], out: Path, page_only: bool = False) -> None:
    """Write the page of some runs, then what a paper takes, and say where each file is."""
    from distopt.report import page, paper, study

    path = page.write(runs, out)
    say(f"written: {path}")
    if page_only:
        return
    found = paper.write(study.groups(study.gathered(runs)), path.parent)
    beside = path.parent
    for each in dict.fromkeys(file if file.parent == beside else file.parent for file in found.files):
        say(f"         {each}")
    for note in found.notes:
        say(f"distopt: note: {note}", err=True)
