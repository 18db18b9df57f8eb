"""What a paper takes from runs: figures, tables, captions and a bibliography, each in the formats that papers are written in."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rcParams
from matplotlib.text import Text

from distopt.catalog import entries
from distopt.errors import InputError, first_line
from distopt.report import latex, panels, statistics, tables
from distopt.report.curves import lines
from distopt.report.statistics import Profile
from distopt.report.study import Group
from distopt.report.titles import heading, short, told_apart
from distopt.report.verdict import Verdict, compared
from distopt.runs.files import write_text, written
from distopt.runs.results import Run

FORMATS = ("pdf", "svg", "png", "pgf")
"""What figures are written as."""

WIDTHS = {"": panels.COLUMN, "-wide": panels.PAGE}
"""The widths of figures in inches, by what is added to their names."""

TEX = ("pdflatex", "lualatex", "xelatex")
"""TeX systems; pgf figures need one of them to measure texts."""

CITED = ("efron1993", "wilcoxon1945", "hodges1963", "holm1979")
"""The papers of the statistics in every table."""


class Written(NamedTuple):
    """The files that were written, and what was left out, in words."""

    files: list[Path]
    notes: list[str]


def write(groups: Sequence[Group], out: str | Path, *, verdict: Verdict | None = None, usetex: bool = False) -> Written:
    """Write figures, tables, captions.txt and bibliography.bib of some problems.

    ``figures/`` holds, for each problem, the curves of the ranking metric, 3.5 and 7.16 inches wide (NAME and NAME-wide) as pdf, svg,
    png and pgf. For all problems together it holds the differences, the shares of targets reached and, from 5 problems on, the
    performance profiles. ``tables/`` holds a table of each problem as tex, md and csv.

    Args:
        groups: as ``distopt.report.study.groups`` gives them.
        out: a folder, which is made where it is missing.
        verdict: what tables say; by default the comparison with the best method of each problem.
        usetex: let LaTeX set the texts of pdf, svg and png, too.

    Raises:
        RunError: a file cannot be written.
    """
    verdict = compared(groups) if verdict is None else verdict
    made = list(_figures(verdict))
    files, notes = [], [reason] if (reason := _profiles(verdict)[1]) else []
    figures = _folder(Path(out) / "figures")
    system = next((each for each in TEX if shutil.which(each)), None)
    formats = [each for each in FORMATS if each != "pgf" or system]
    if system is None:
        notes.append(
            f"pgf figures left out: they need one of {', '.join(TEX)}, which tells how wide texts are; install TeX Live"
        )
    lost: dict[str, list[str]] = {}
    for name, fig, _ in made:
        for kind in formats:
            try:
                files.append(_saved(fig, figures / f"{name}.{kind}", usetex, system))
            except (RuntimeError, ValueError, OSError) as error:
                if kind != "pgf" and not usetex:
                    raise
                lost.setdefault(_reason(error), []).append(f"{name}.{kind}")
    notes += [f"left out: {', '.join(names)}: {reason}" for reason, names in lost.items()]
    folder = _folder(Path(out) / "tables")
    captions = [f"figures/{name}: {latex.cited(caption)}" for name, _, caption in made if caption]
    for group, name in zip(verdict.groups, _names(verdict), strict=True):
        files += _tables(verdict, [group.title], folder / name)
        captions.append(f"tables/{name}: {latex.cited(_caption(verdict, group))}")
    write_text(Path(out) / "captions.txt", "\n\n".join(captions) + "\n")
    keys = dict.fromkeys([*CITED, *(key for group in groups for run in group.runs.values() for key in cited(run))])
    keys |= dict.fromkeys(["hansen2021", *(["dolan2002", "dahl2023"] if _profiles(verdict)[0] else [])])
    known = entries.bibliography()
    write_text(Path(out) / "bibliography.bib", "\n\n".join(known[key] for key in keys if key in known) + "\n")
    return Written([*files, Path(out) / "captions.txt", Path(out) / "bibliography.bib"], list(dict.fromkeys(notes)))


def comparison(verdict: Verdict, out: Path) -> list[Path]:
    """Write what ``distopt compare --out`` writes: the tables of all problems in one, and their figures."""
    _folder(out)
    files = _tables(verdict, [group.title for group in verdict.groups], out / "comparison")
    drawn = {"differences": panels.differences(verdict, 5.0)}
    if (reached := statistics.ecdf(verdict.groups, series=_metric(verdict))) and any(map(len, reached.values())):
        drawn["ecdf"] = panels.shares(reached, width=5.0)
    if (found := _profiles(verdict)[0]) is not None:
        drawn["profile"] = panels.profile(found, width=5.0)
    return [*files, *(_saved(fig, out / f"{name}.png") for name, fig in drawn.items())]


def cited(run: Run) -> list[str]:
    """The keys of the papers that a run's algorithm, channel, scenario and topology name."""
    keys = []
    for kind in ("algorithm", "channel", "scenario", "topology"):
        spec = run.info.get("experiment", {}).get(kind)
        for each in spec.values() if isinstance(spec, Mapping) and "type" not in spec else [spec]:
            if isinstance(each, str):
                with suppress(InputError):  # a user's file that is not here any more names no papers
                    keys += entries.cited("topologies" if kind == "topology" else f"{kind}s", each.split(" #")[0])
    return list(dict.fromkeys(keys))


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be a folder ({error.strerror}); choose another") from error
    return path


def _figures(verdict: Verdict) -> Iterator[tuple[str, Any, str]]:
    """The figures in both widths: name, figure, caption (empty for the second width)."""
    for group, stem in zip(verdict.groups, _names(verdict), strict=True):
        series = verdict.series[group.title]
        for more, width in WIDTHS.items():
            yield (
                f"{stem}-{series.replace('_', '-')}{more}",
                panels.trend(group.runs, series, width),
                "" if more else _trend_caption(group, series),
            )
    if any(len(row.differences) for row in verdict.rows):
        other = verdict.reference(*(group.title for group in verdict.groups))
        caption = (
            f"Differences to {other} of the figures at the end, trial by trial (dots), with the "
            f"Hodges-Lehmann estimate (diamond) and its {100 * verdict.level:g} % interval (bar) [hodges1963]. Crosses at the edge: one of "
            "the two has diverged."
        )
        for more, width in WIDTHS.items():
            yield f"differences{more}", panels.differences(verdict, width), "" if more else caption
    reached = statistics.ecdf(verdict.groups, series=_metric(verdict))
    if any(map(len, reached.values())):
        caption = (
            f"Share of targets reached by a round [hansen2021]. Targets: {statistics.TARGETS} levels from the start to the best value that any "
            "method reached, for each problem and trial. Trials that diverged reach none."
        )
        for more, width in WIDTHS.items():
            yield f"ecdf{more}", panels.shares(reached, width=width), "" if more else caption
    found = _profiles(verdict)[0]
    if found is not None:
        caption = (
            f"Performance profiles [dolan2002]: the share of {len(verdict.groups)} problems on which the median figure at the end is at most tau "
            f"times that of the best method. In brackets the area up to tau = {statistics.FARTHEST:g} [dahl2023]."
        )
        for more, width in WIDTHS.items():
            yield f"profile{more}", panels.profile(found, width=width), "" if more else caption


def _names(verdict: Verdict) -> list[str]:
    """The problems as names of files that LaTeX takes: letters, digits and dashes."""
    return told_apart(
        [re.sub(r"[^A-Za-z0-9]+", "-", group.title).strip("-")[:80] or "problem" for group in verdict.groups]
    )


def _metric(verdict: Verdict) -> str | None:
    """The metric of all problems; None where each has the one that ranks there."""
    names = set(verdict.series.values())
    return names.pop() if len(names) == 1 else None


def _profiles(verdict: Verdict) -> tuple[dict[str, Profile] | None, str]:
    """The performance profiles of the medians; or None, and why there are none."""
    problems = [group.title for group in verdict.groups]
    if len(problems) < statistics.PROBLEMS:
        return None, f"no performance profile: it takes {statistics.PROBLEMS} problems, and these are {len(problems)}"
    medians = {problem: {row.method: row.median.value for row in verdict.of(problem)} for problem in problems}
    names = [name for name in medians[problems[0]] if all(name in each for each in medians.values())]
    figures = {name: np.array([medians[problem][name] for problem in problems]) for name in names}
    if len(names) < 2:
        return None, "no performance profile: fewer than two methods were run on all problems"
    if not all((each > 0).all() for each in figures.values()) or any(
        group.runs[names[0]].about(verdict.series[group.title]).rises for group in verdict.groups
    ):
        return None, "no performance profile: it needs figures above zero, and smaller ones must be better"
    return statistics.profiles(figures), ""


def _saved(fig: Any, path: Path, usetex: bool = False, system: str | None = None) -> Path:
    """Write a figure whole; equal figures are equal files."""
    kind = path.suffix[1:]
    options: dict[str, Any] = {"metadata": {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)}
    everywhere = fig.findobj(Text) if usetex or kind == "pgf" else []
    plain = {text: text.get_text() for text in everywhere if not text.get_parse_math()}
    with panels.style(usetex), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs that the font lacks
        if kind == "pgf":
            options = {}
            rcParams.update({"pgf.texsystem": system, "pgf.rcfonts": False})
        if everywhere:
            fig.set_layout_engine("constrained")  # LaTeX's letters have other widths
        try:
            for text in everywhere:
                text.set_usetex(usetex)
                text.set_text(latex.escaped(plain[text]) if text in plain else text.get_text())
            with written(path) as file:
                fig.savefig(file, format=kind, **options)
        finally:
            fig.set_layout_engine("none")
            for text in everywhere:
                text.set_usetex(False)
                text.set_text(plain.get(text, text.get_text()))
    return path


def _reason(error: Exception) -> str:
    """The error in LaTeX's output, as one line."""
    said = re.search(r"^! (.*)", str(error), re.M)
    return f"LaTeX says: {said[1]}" if said else first_line(error)


def _tables(verdict: Verdict, problems: Sequence[str], stem: Path) -> list[Path]:
    """Write the table of some problems as csv, md and tex."""
    records = [each for each in verdict.records() if each["problem"] in problems]
    texts = {
        "csv": tables.to_csv(records),
        "md": latex.markdown(verdict, problems),
        "tex": latex.table(verdict, problems),
    }
    for kind, text in texts.items():
        write_text(stem.with_name(f"{stem.name}.{kind}"), text)
    return [stem.with_name(f"{stem.name}.{kind}") for kind in texts]


def _trend_caption(group: Group, series: str) -> str:
    _, longest, notes = lines(group.runs, series)
    names = ", ".join(short(name) for name in group.runs)
    return f"{heading(series, longest.about(series))} of {names} on {group.title}. {' '.join(notes)}".strip()


def _caption(verdict: Verdict, group: Group) -> str:
    rows = verdict.of(group.title)
    trials = sorted({row.trials for row in rows})
    percent = f"{100 * verdict.level:g} %"
    said = (
        f"{verdict.title(group.title)}, on {group.title}: medians over {' or '.join(map(str, trials))} trials with {percent} bootstrap intervals "
        f"[efron1993]. Differences to {verdict.reference(group.title)}, trial by trial: Hodges-Lehmann estimate with its {percent} interval "
        "[hodges1963]. p: Wilcoxon signed-rank test [wilcoxon1945], exact, corrected by Holm [holm1979]. "
    )
    if any(row.marked for row in rows):
        said += (
            f"Bold: the best, and methods that do not differ significantly from it at {100 * statistics.ALPHA:g} %. "
        )
    return said + "Diverged trials count as infinite."
