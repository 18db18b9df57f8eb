"""A small run's report, file by file: what is in the folder, and the tables to the last character."""

import re
import shutil
from pathlib import Path

from helpers.asking import call

from distopt.report.paper import TEX
from distopt.report.tables import number

GOLDEN = Path(__file__).parent / "golden"
"""What was written once, and looked at. The numbers are a promise: results have the same bits on every machine."""

NAME = "moving-target-dim-2-4-agents-ring"
METHODS = ("gtadam:lr=0.1", "gt:lr=0.02", "dgd:lr=0.02")
FIGURES = (f"{NAME}-average-dynamic-regret", "differences", "ecdf")


def rounded(text: str) -> str:
    """Long numbers to 10 digits: torch's roots and NumPy's statistics have other last bits on other processors."""
    return re.sub(r"\d+\.\d{9,}(e-?\d+)?", lambda found: f"{float(found[0]):.10g}", text)


def test_the_report_of_a_small_run_is_as_it_was(tmp_path: Path) -> None:
    words = "simulate ring --agents 4 --scenario moving_target:dim=2 --rounds 60 --trials 8"
    methods = [word for each in METHODS for word in ("--algorithm", each)]
    call(*words.split(), *methods, "--out", str(tmp_path / "run"))
    call("report", str(tmp_path / "run"), "--out", str(tmp_path / "report"))
    found = {str(path.relative_to(tmp_path / "report")) for path in (tmp_path / "report").rglob("*") if path.is_file()}
    formats = ("pdf", "svg", "png", *(["pgf"] if any(map(shutil.which, TEX)) else []))
    figures = {f"figures/{name}{wide}.{kind}" for name in FIGURES for wide in ("", "-wide") for kind in formats}
    tables = {f"tables/{NAME}.{kind}" for kind in ("csv", "md", "tex")}
    assert found == {"report.html", "captions.txt", "bibliography.bib", *figures, *tables}
    for name in (*tables, "captions.txt"):
        found, golden = (place.read_text() for place in (tmp_path / "report" / name, GOLDEN / Path(name).name))
        assert (rounded(found) == rounded(golden)) if name.endswith(".csv") else (found == golden), name
    cited = re.findall(r"@\w+{(\w+),", (tmp_path / "report" / "bibliography.bib").read_text())
    assert {"carnevale2023", "nedic2017", "nedic2009", "wilcoxon1945", "hodges1963", "holm1979"} <= set(cited)
    page = (tmp_path / "report" / "report.html").read_text()
    for line in (GOLDEN / f"{NAME}.csv").read_text().splitlines()[1:]:
        method, _, _, median, low, high = re.split(r",(?! )", line)[2:8]
        row = page[page.index(f"<bdi>{method}</bdi>") :].partition("</tr>")[0]
        assert f"{number(float(median))} [{number(float(low))}, {number(float(high))}]" in row, method
