"""The experiments of papers, run with the algorithms and compressors of distopt: each with a figure, a table and verdicts on the paper's claims.

Imports nothing heavy before an experiment runs.
"""

from __future__ import annotations

import importlib
import json
import shlex
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from distopt.errors import InputError, either

if TYPE_CHECKING:
    from distopt.report.claims import Paper, Verdict
    from distopt.reproduce.store import Store

PAPERS = {
    "ef-signsgd": "ef_signsgd",
    "gtadam": "gtadam",
    "amsgrad": "amsgrad",
    "acprop": "acprop",
    "theopoula": "theopoula",
    "diffgrad": "diffgrad",
    "losing-momentum": "losing_momentum",
    "aida": "aida",
    "superadam": "superadam",
    "gadam": "gadam",
    "adan": "adan",
    "inna": "inna",
    "quadratics": "quadratics",
    "glm": "glm",
    "edge-of-stability": "edge_of_stability",
    "adaptive-edge": "adaptive_edge",
    "spherical-sharpness": "spherical_sharpness",
    "flow": "flow",
    "random-matrix": "random_matrix",
    "dirac-gan": "dirac_gan",
    "weight-normalisation": "weight_normalisation",
}
"""Names on the command line, and the modules here that hold their ``PARTS``, ``REFERENCE`` and ``NOTE``."""

ALL = "all"
"""Instead of a name: the experiments of all papers."""

INDEX, CLAIMS = "index.html", "claims.json"
WIDTH = 100  # of text on the terminal

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
        figure: the function that draws them: its name in ``distopt.report.reproduce``, or "module:name" in another module of ``distopt.report``.
        claim: what the paper says, and where that stands.
        verdicts: what came out of each claim, from the results.
        runs: the folders of runs, in the store, of which a report is made; none by default.
    """

    measure: Measure
    rows: Callable[[Results], list[dict[str, Any]]]
    figure: str
    claim: str
    verdicts: Callable[[Results], list[Verdict]]
    runs: Callable[[Results], Sequence[str]] = lambda results: ()


def run(paper: str, only: str | None, out: Path | None, data: Path | None, say: Say, show: Say) -> None:
    """Run the parts of a paper, or ``only`` one, or with ``all`` those of all papers, and write the page of claims and verdicts.

    For each part there are a table (shown, and written as CSV), a figure, the verdicts, and a report of its runs where it has some, in the
    folder ``out``; with ``all`` in a folder there for each paper. Computed results are in the folder ``results`` of each paper; an interrupted
    run continues with the missing ones. ``say`` takes progress, ``show`` tables and verdicts.

    Raises:
        InputError: no such paper or part.
        RunError: a file cannot be written.
    """
    if paper not in (*PAPERS, ALL):
        raise InputError(f"there are no experiments of {paper!r}; papers: {', '.join(PAPERS)}; or {ALL}")
    if only is not None and (paper == ALL or only not in parts(paper)):
        where = f"is for one paper: {', '.join(PAPERS)}" if paper == ALL else f"{paper} has no such part"
        known = "" if paper == ALL else f"; its parts: {', '.join(parts(paper))}"
        raise InputError(f"{either('--only', 'only')} {only}: {where}{known}")
    if data is not None and not data.is_dir():
        raise InputError(
            f"{either('--data', 'data')} {data}: no such folder; give the one that holds CIFAR's binary files"
        )
    folder = out or Path("runs") / f"reproduce-{paper}"
    each = {name: folder / name for name in PAPERS} if paper == ALL else {paper: folder}
    try:
        for name, place in each.items():
            _measured(name, place, only, folder, each, data, say, show)
    except KeyboardInterrupt:
        say(f"finished results are kept in {folder}; re-run the command to resume")
        raise
    show(f"\nall claims and verdicts: {folder / INDEX}")


def parts(paper: str) -> Mapping[str, Part]:
    """The experiments of a paper by name."""
    found: Mapping[str, Part] = _module(paper).PARTS
    return found


def _module(paper: str) -> Any:
    return importlib.import_module(f"distopt.reproduce.{PAPERS[paper]}")


def _measured(
    paper: str,
    place: Path,
    only: str | None,
    folder: Path,
    each: Mapping[str, Path],
    data: Path | None,
    say: Say,
    show: Say,
) -> None:
    """Run the parts of a paper; after each part the page in ``folder`` has its verdicts."""
    from distopt.reproduce.store import Store
    from distopt.runs.files import write_text

    store = Store(place / "results")
    for name, part in parts(paper).items():
        if only in (None, name):
            say(f"{name} ...")
            results = part.measure(store, data, say)
            verdicts = part.verdicts(results)
            _report(place, name, part, results, verdicts, show)
            known = {**_claims(place), name: [[*verdict] for verdict in verdicts]}
            write_text(place / CLAIMS, json.dumps(known, indent=1) + "\n")
            _index(folder, each)


def _report(folder: Path, name: str, part: Part, results: Results, verdicts: Sequence[Verdict], show: Say) -> None:
    """A part's table on the terminal and as CSV, its figure, the report of its runs, and its verdicts in words."""
    from distopt.report import page, tables
    from distopt.runs.files import write_text, written

    rows = part.rows(results)
    show(f"\n{name}: {part.claim}\n\n{tables.columns(rows)}\n")
    write_text(folder / f"{name}.csv", tables.to_csv(rows))
    module, _, drawing = part.figure.rpartition(":")
    drawn = getattr(importlib.import_module(f"distopt.report.{module or 'reproduce'}"), drawing)(results)
    with written(folder / f"{name}.png") as file:
        drawn.savefig(file, format="png")
    ends = [".csv", ".png"]
    runs = [folder / "results" / each for each in part.runs(results)]
    if runs:
        page.write(runs, folder / f"{name}.html")
        ends.append(".html")
    for verdict in verdicts:
        show(_filled("claim:    ", verdict.claim))
        show(_filled("set-up:   ", verdict.setup))
        show(_filled("verdict:  ", verdict.words) + "\n")
    show(f"written: {folder / name}{ends[0]}{''.join(f', {end}' for end in ends[1:-1])} and {ends[-1]}")


def _filled(head: str, text: str) -> str:
    return textwrap.fill(head + text, WIDTH, subsequent_indent=" " * len(head), break_long_words=False)


def _claims(place: Path) -> dict[str, Any]:
    """The verdicts of the parts that have been run in a folder, as they were written."""
    from distopt.report.claims import MARKS

    path = place / CLAIMS
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
        if not isinstance(found, dict) or not all(
            len(verdict) == 4 and all(isinstance(word, str) for word in verdict) and verdict[2] in MARKS
            for each in found.values()
            for verdict in each
        ):
            raise ValueError("no verdicts")
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not what distopt reproduce wrote ({error}); remove it") from error
    return found


def _index(folder: Path, each: Mapping[str, Path]) -> None:
    """The page of all claims and verdicts of some papers, in ``folder``."""
    from distopt.report import claims
    from distopt.runs.files import write_text

    write_text(folder / INDEX, claims.html([_shown(paper, place, folder) for paper, place in each.items()]))


def _shown(paper: str, place: Path, folder: Path) -> Paper:
    """A paper as the page in ``folder`` shows it."""
    from distopt.report.claims import Paper, Place, Shown, Verdict

    known, module = _claims(place), _module(paper)
    found = []
    for name, part in parts(paper).items():
        files = [
            Place(kind, (place / f"{name}{end}").relative_to(folder).as_posix())
            for kind, end in (("report", ".html"), ("table", ".csv"), ("figure", ".png"))
            if name in known and (place / f"{name}{end}").exists()
        ]
        figure = next((file.path for file in files if file.name == "figure"), "")
        command = f"distopt reproduce {paper} --only {name} --out {shlex.quote(str(place))}"
        found.append(
            Shown(name, part.claim, [Verdict(*verdict) for verdict in known.get(name, [])], files, figure, command)
        )
    return Paper(paper, module.REFERENCE, module.NOTE, found)
