"""Figures, tables, captions and bibliographies for papers."""

import re
import shutil
import subprocess
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distopt.catalog import entries
from distopt.report import latex, panels, paper, statistics
from distopt.report.study import Group, groups
from distopt.report.verdict import compared
from distopt.runs.results import Run

SYSTEM = next((each for each in paper.TEX if shutil.which(each)), None)
NASTY = r"my_rule{1}.py:lr=50%,path='a&b#c~d^e\f$g',name=\input{x}--<|>"


def known_to_tex(file: str) -> bool:
    finder = shutil.which("kpsewhich")
    return finder is not None and not subprocess.run([finder, file], capture_output=True, check=False).returncode


def run(label: str, ends: list[float], scenario: str = "sea", channel: str = "exact") -> Run:
    average = np.array([np.linspace(8.0, end, 30) if np.isfinite(end) else [8.0] * 29 + [end] for end in ends])
    experiment = {"scenario": scenario, "algorithm": label, "topology": "ring", "seed": 0, "channel": channel}
    info = {"experiment": experiment, "agents": 4, "rounds": 30}
    return Run(label, "done", np.arange(30), {"dynamic_regret": average * np.arange(1, 31)}, info=info)


def problem(*more: Run, scenario: str = "sea") -> list[Group]:
    ends = list(np.linspace(1, 2, 8))
    return groups([run("gtadam:lr=0.1", ends, scenario), run("dgd", [3.0] * 7 + [inf], scenario), *more])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, paper.Written]:
    out = tmp_path_factory.mktemp("paper")
    return out, paper.write(problem(run(NASTY, [4.0] * 8)), out)


@pytest.mark.slow
def test_every_figure_is_there_in_every_format_and_width(written: tuple[Path, paper.Written]) -> None:
    out, done = written
    formats = [each for each in paper.FORMATS if each != "pgf" or SYSTEM]
    names = ["sea-4-agents-ring-average-dynamic-regret", "differences", "ecdf"]
    expected = {f"{name}{more}.{kind}" for name in names for more in ("", "-wide") for kind in formats}
    assert {path.name for path in (out / "figures").iterdir()} == expected
    assert {path for path in done.files if path.parent.name == "figures"} == set((out / "figures").iterdir())
    assert any("no performance profile: it takes 5 problems, and these are 1" in note for note in done.notes)
    assert SYSTEM is not None or any("pgf figures left out: they need one of pdflatex" in note for note in done.notes)


@pytest.mark.slow
@pytest.mark.parametrize(("more", "inches"), [("", 3.5), ("-wide", 7.16)])
def test_figures_are_as_wide_as_a_column_or_a_page(
    written: tuple[Path, paper.Written], more: str, inches: float
) -> None:
    text = (written[0] / "figures" / f"ecdf{more}.pdf").read_bytes()
    (box,) = set(re.findall(rb"/MediaBox \[ ?0 0 ([\d.]+) ", text))
    assert float(box) == pytest.approx(72 * inches, abs=0.01)
    assert b"/Type3" not in text and b"/FontFile2" in text  # letters are TrueType


@pytest.mark.slow
def test_equal_figures_are_equal_files(written: tuple[Path, paper.Written], tmp_path: Path) -> None:
    paper.write(problem(run(NASTY, [4.0] * 8)), tmp_path)
    for kind in ("pdf", "svg", "png"):
        name = Path("figures") / f"ecdf.{kind}"
        assert (tmp_path / name).read_bytes() == (written[0] / name).read_bytes(), kind


@pytest.mark.slow
def test_pgf_is_left_out_with_a_reason_where_no_tex_system_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    done = paper.write(problem(), tmp_path)
    assert not list(tmp_path.rglob("*.pgf")) and "install TeX Live" in " ".join(done.notes)


@pytest.mark.skipif(
    not (shutil.which("dvipng") and all(map(known_to_tex, ("type1cm.sty", "type1ec.sty")))),
    reason="no latex with dvipng, cm-super and type1cm",
)
def test_latex_sets_the_texts_on_request(tmp_path: Path) -> None:
    done = paper.write(problem(run(NASTY, [4.0] * 8)), tmp_path / "tex", usetex=True)
    assert not [note for note in done.notes if "left out" in note and "pgf" not in note]
    fonts = re.findall(rb"/FontName /(?:\w+\+)?(\w+)", (tmp_path / "tex" / "figures" / "differences.pdf").read_bytes())
    assert fonts and b"STIXGeneral" not in b" ".join(fonts)


def test_lines_are_told_apart_without_colour() -> None:
    many = {f"m{k}": run(f"m{k}", [float(k + 1)]) for k in range(4)}
    axes = panels.trend(many, "average_dynamic_regret").axes[0]
    drawn = [line for line in axes.lines if len(line.get_xdata()) == 30]
    assert len({str(line._unscaled_dash_pattern) for line in drawn}) == 4
    found = {name: np.array([k + 1.0, inf]) for k, name in enumerate(many)}
    assert len({str(line._unscaled_dash_pattern) for line in panels.shares(found).axes[0].lines}) == 4


def test_the_share_of_targets_is_drawn_as_it_is() -> None:
    axes = panels.shares({"gt": np.array([1.0, 4.0, inf, inf]), "dgd": np.array([2.0, 8.0, 8.0, 8.0])}).axes[0]
    one, other = ((line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines)
    assert one == ([1.0, 1.0, 4.0, 8.0], [0.0, 0.25, 0.5, 0.5]) and other[1][-1] == 1.0


def test_diverged_differences_stand_as_crosses_at_the_edge() -> None:
    verdict = compared(problem())
    axes = panels.differences(verdict).axes[0]
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert sum(len(line.get_xdata()) for line in crosses) == 1
    finite = np.concatenate([row.differences[np.isfinite(row.differences)] for row in verdict.rows])
    assert max(line.get_xdata().max(initial=0) for line in crosses) > finite.max()


def test_the_profile_needs_figures_above_zero(tmp_path: Path) -> None:
    five = [
        group
        for k in range(5)
        for group in groups([run("gt", [1.0] * 6, f"s{k}"), run("dgd", [0.0 if k == 4 else 2.0] * 6, f"s{k}")])
    ]
    assert paper._profiles(compared(five))[1].startswith("no performance profile: it needs figures above zero")
    found, _ = paper._profiles(compared([*five[:4], *problem(run("gt", [1.0] * 8, "s9"), scenario="s9")]))
    assert found is not None and list(found) == ["gt", "dgd"] and found["gt"].score == 1.0


# ------------------------------------------------------------------------------------------------------------- tables


def cells(text: str) -> list[list[str]]:
    """The rows of a tabular, cell by cell."""
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    return [line.removesuffix(r" \\").split(" & ") for line in body.splitlines() if line.endswith(r"\\")]


def test_the_table_is_well_formed(written: tuple[Path, paper.Written]) -> None:
    out, _ = written
    text = (out / "tables" / "sea-4-agents-ring.tex").read_text()
    head, *rows = cells(text)
    assert len(rows) == 3 and {len(row) for row in rows} == {9}
    assert sum(int(each) for each in re.findall(r"\\multicolumn\{(\d)\}", " ".join(head))) + 5 == 9
    plain = re.sub(r"\\[{}%&#$_]|\\text\w+\{\}", "", text)
    assert plain.count("{") == plain.count("}") and text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    assert rows[0][:2] == [r"\textbf{gtadam:lr=0.1}", r"\bfseries 1.5"] and rows[0][4:8] == ["{}"] * 4
    assert rows[1][0] == "dgd" and rows[1][6] == r"{$\infty$}" and rows[1][8] == "1/8"
    number = re.compile(r"(\\bfseries )?-?\d+(\.\d+)?(e-?\d+)?|\{.*\}")
    assert all(number.fullmatch(cell) for row in rows for cell in row[1:8])


def test_texts_of_users_cannot_break_a_table() -> None:
    text = latex.escaped(NASTY)
    assert latex.escaped("a\x1b[1mb") == r"a\textbackslash{}x1b[1mb"
    assert r"my\_rule\{1\}.py:lr=50\%" in text and r"a\&b\#c\textasciitilde{}d\textasciicircum{}e" in text
    assert r"\textbackslash{}input\{x\}-{}-{}\textless{}\textbar{}\textgreater{}" in text
    assert "\\input" not in text


def test_a_table_of_several_problems_says_what_each_was_compared_with() -> None:
    gt, dgd = [1.0] * 8, [2.0] * 8
    two = [*groups([run("gt:lr=1", gt), run("dgd", dgd)]), *groups([run("gt:lr=2", gt, "s"), run("dgd", dgd, "s")])]
    verdict = compared(two, baseline="gt")
    names = [group.title for group in verdict.groups]
    assert [verdict.reference(name) for name in names] == ["gt:lr=1", "gt:lr=2"]
    assert verdict.reference(*names) == "the baseline" and "{Minus the baseline}" in latex.table(verdict, names)
    third = groups([run("dgd", dgd, "t"), run("extra", gt, "t")])
    assert compared([*two, *third], baseline="gt").reference(*names, third[0].title) == "the baseline or the best"


def test_a_small_p_value_is_not_printed_as_zero() -> None:
    many = [float(k + 1) for k in range(30)]
    verdict = compared(groups([run("gt", many), run("dgd", [2 * each for each in many])]))
    (text,) = (row[7] for row in cells(latex.table(verdict, [verdict.groups[0].title])) if row[0] == "dgd")
    assert float(text) == pytest.approx(2.0**-29, rel=0.05)


def test_markdown_has_a_cell_for_every_column() -> None:
    verdict = compared(problem(run("a|b", [4.0] * 8)))
    lines = latex.markdown(verdict, [verdict.groups[0].title]).splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {8} and "**gtadam:lr=0.1**" in lines[2]


@pytest.mark.skipif(SYSTEM is None or not known_to_tex("siunitx.sty"), reason="no TeX system with siunitx")
def test_tables_and_pgf_figures_compile(written: tuple[Path, paper.Written], tmp_path: Path) -> None:
    out, _ = written
    assert SYSTEM is not None
    caption = next(line for line in (out / "captions.txt").read_text().splitlines() if line.startswith("tables/"))
    text = "\n".join(
        [
            r"\documentclass{article}\usepackage{booktabs,siunitx,pgf}\begin{document}",
            rf"\input{{{out}/tables/sea-4-agents-ring.tex}}",
            rf"\input{{{out}/figures/ecdf.pgf}}",
            caption.partition(": ")[2],
            rf"\bibliographystyle{{plain}}\bibliography{{{out}/bibliography}}\end{{document}}",
        ]
    )
    (tmp_path / "a.tex").write_text(text)
    for command in (
        [SYSTEM, "-interaction=nonstopmode", "-halt-on-error", "a.tex"],
        ["bibtex", "a"],
        [SYSTEM, "-interaction=nonstopmode", "-halt-on-error", "a.tex"],
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


# ---------------------------------------------------------------------------------------------------------- literature


def test_the_bibliography_holds_what_the_captions_and_the_methods_cite(written: tuple[Path, paper.Written]) -> None:
    out, _ = written
    captions, text = (out / "captions.txt").read_text(), (out / "bibliography.bib").read_text()
    keys = re.findall(r"^@\w+\{(\w+),", text, re.M)
    assert set(re.findall(r"\\cite\{(\w+)\}", captions)) <= set(keys) and len(keys) == len(set(keys))
    assert {"carnevale2023", "nedic2009", "street2001", "wilcoxon1945"} <= set(keys) and "dolan2002" not in keys
    assert text.count("{") == text.count("}")
    assert all(entries.bibliography()[key] in text for key in keys)


def test_parts_inside_parts_are_cited() -> None:
    own = run("gt:lr=inverse_sqrt(0.1),direction=adam(b1=0.5)", [1.0], channel="choco:compressor=sign,gamma=0.2")
    assert {"nedic2017", "kingma2015", "koloskova2019", "karimireddy2019", "street2001"} <= set(paper.cited(own))
    assert paper.cited(run("gone/away.py:lr=1", [1.0])) == ["street2001"]


def test_captions_say_what_was_done(written: tuple[Path, paper.Written]) -> None:
    text = (written[0] / "captions.txt").read_text()
    assert r"medians over 8 trials with 90 \% bootstrap intervals~\cite{efron1993}" in text
    assert "figures/ecdf: Share of targets reached" in text and f"{statistics.TARGETS} levels" in text
    assert not re.search(r"(?<!\\)[%_&#]", re.sub(r"\S*/\S*:|\\cite\{\w+\}", "", text))


@pytest.mark.parametrize("value", [0.1, 1e-9, 2e30, -3.5, inf, -inf, nan, 0.0, 12345.6])
def test_numbers_are_ones_that_siunitx_reads(value: float) -> None:
    (cell,) = latex.figures([value])
    assert re.fullmatch(r"-?\d+(\.\d+)?(e-?[1-9]\d*)?|\{(\$-?\\infty\$)?\}", cell), cell


def test_the_wide_figure_of_many_methods_is_drawn() -> None:
    many: dict[str, Any] = {f"gt:lr={k}": run(f"gt:lr={k}", [float(k + 1)]) for k in range(12)}
    fig = panels.trend(many, "average_dynamic_regret", panels.PAGE)
    assert fig.get_figwidth() == panels.PAGE and len(fig.legends[0].get_texts()) == 12
