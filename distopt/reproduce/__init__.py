"""The experiments of papers, run with the algorithms and compressors of distopt: each with a figure and a table beside the paper's results.

Imports nothing heavy before an experiment runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from distopt.errors import InputError, either

if TYPE_CHECKING:
    from distopt.reproduce.store import Store

PAPERS = {"ef-signsgd": "ef_signsgd"}
"""Names on the command line, and the modules here that hold their ``PARTS``."""

Say = Callable[[str], None]
Results = Any
"""What a part keeps on disk: nested lists and dicts of numbers and strings."""


class Measure(Protocol):
    """The experiment: computes its results, or takes what an earlier, interrupted run has left in the store."""

    def __call__(self, store: Store, data: Path | None, say: Say) -> Results:
        """The results; ``data`` is the user's folder, ``say`` takes progress."""


class Part(NamedTuple):
    """One experiment of a paper.

    Attributes:
        measure: makes the results.
        rows: the table, a mapping for each row, from the results.
        figure: the name of the function in ``distopt.report.reproduce`` that draws them.
        claim: what the paper says, and where that stands.
    """

    measure: Measure
    rows: Callable[[Results], list[dict[str, Any]]]
    figure: str
    claim: str


def run(paper: str, only: str | None, out: Path | None, data: Path | None, say: Say, show: Say) -> None:
    """Run the parts of a paper, or ``only`` one: for each a table (shown, and written as CSV) and a figure in the folder ``out``.

    What has been computed lies in ``out``/results; a run that was interrupted goes on with what is missing there. ``say`` takes
    progress, ``show`` tables.

    Raises:
        InputError: no such paper or part.
        RunError: a file cannot be written.
    """
    if paper not in PAPERS:
        raise InputError(f"no experiments of {paper!r} here; there are those of: {', '.join(PAPERS)}")
    parts: Mapping[str, Part] = importlib.import_module(f"distopt.reproduce.{PAPERS[paper]}").PARTS
    if only is not None and only not in parts:
        raise InputError(f"{either('--only', 'only')} {only}: {paper} has no such part; its parts: {', '.join(parts)}")
    if data is not None and not data.is_dir():
        raise InputError(
            f"{either('--data', 'data')} {data}: no such folder; give the one that holds CIFAR's binary files"
        )
    from distopt.reproduce.store import Store

    folder = out or Path("runs") / f"reproduce-{paper}"
    store = Store(folder / "results")
    try:
        for name, part in parts.items():
            if only in (None, name):
                say(f"{name} ...")
                _report(folder, name, part, part.measure(store, data, say), show)
    except KeyboardInterrupt:
        say(f"finished results are kept in {folder}; re-run the command to resume")
        raise


def _report(folder: Path, name: str, part: Part, results: Results, show: Say) -> None:
    """A part's table on the terminal and as CSV, and its figure."""
    from distopt.report import tables
    from distopt.runs.files import write_text, written

    rows = part.rows(results)
    show(f"\n{name}: {part.claim}\n\n{tables.columns(rows)}\n")
    write_text(folder / f"{name}.csv", tables.to_csv(rows))
    drawn = getattr(importlib.import_module("distopt.report.reproduce"), part.figure)(results)
    with written(folder / f"{name}.png") as file:
        drawn.savefig(file, format="png")
    show(f"written: {folder / name}.csv and .png")
