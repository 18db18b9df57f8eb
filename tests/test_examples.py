"""Every script of examples/ runs, is short, and does what it says; every file there has a line in the table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import needs
from helpers.launching import started
from PIL import Image

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
LONGEST = 60  # lines


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the checkout's examples in it."""
    (tmp_path / "examples").symlink_to(EXAMPLES)
    return tmp_path


def said(script: str, *words: str, where: Path) -> str:
    command = [sys.executable, f"examples/{script}", *words]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_table_names_every_example() -> None:
    table = (EXAMPLES / "README.md").read_text()
    listed = re.findall(r"^\| \[(\S+)\]\(\1\) \|", table, re.M)
    assert sorted(listed) == sorted(each.name for each in EXAMPLES.iterdir() if each.is_file() and each.suffix != ".md")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", table)
    assert len(links) > len(listed) and all((EXAMPLES / link).exists() for link in links)


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_the_examples_are_short_and_begin_with_what_they_are(script: Path) -> None:
    text = script.read_text()
    assert len(text.splitlines()) <= LONGEST
    assert re.match(r'"""[A-Z].*[.)](?:"""|\n)', text) or f"examples/{script.name}" in text.splitlines()[0]


@pytest.mark.slow
def test_the_researcher_checks_tunes_compares_and_reports(place: Path) -> None:
    out = said("researcher.py", where=place)
    assert re.search(r"^researcher:lr=0\.\d+ \*.* best$", out, re.M), out  # the own method is the best of the three
    assert (place / "runs/researcher/compared/comparison.tex").exists()
    assert (place / "runs/researcher/report.html").stat().st_size > 100_000


@pytest.mark.slow
@needs.forks
def test_the_engineers_ranks_learn_what_each_of_them_has_not_seen(place: Path) -> None:
    ended = started(EXAMPLES / "engineer.py", [], 2, place)
    assert [each.code for each in ended] == [0, 0], ended
    alone, together = (float(each) for each in re.findall(r"accuracy ([\d.]+)%", ended[0].said))
    sent, exact = (float(each) for each in re.findall(r"([\d.]+) MB", ended[0].said))
    assert alone < 55 and together > 90 and 20 * sent < exact
    assert ended[1].said == ""


@pytest.mark.slow
def test_the_teachers_film_shows_how_the_values_come_together(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "examples/teacher.py", "film"], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "film: an animation is written as a .gif" in done.stderr
    said("teacher.py", "class.gif", "examples/class.edges", where=place)
    assert (place / "class.gif").exists()
    said("teacher.py", "consensus.gif", where=place)
    with Image.open(place / "consensus.gif") as film:
        assert film.n_frames == 33
        first = film.convert("RGB").tobytes()
        film.seek(film.n_frames - 1)
        assert film.convert("RGB").tobytes() != first
