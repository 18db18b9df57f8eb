"""The tables of docs/quick-start.md are what its commands print, and what it says of them holds."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.asking import one
from test_readme import PAGES, PYTHON, ROOT, say

from distopt.report.tables import HEAD_LINES

PAGE = PAGES["docs/quick-start.md"]
LINES = re.findall(r"^distopt .*$", PAGE, re.M)
TABLES = [
    (commands.splitlines()[0], table)
    for commands, table in re.findall(r"```sh\n([^`]*)```\n[^`]*```text\n(.*?)```", PAGE, re.S)
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder beside the examples, as the page's reader has it."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(table: str) -> list[str]:
    """The lines of a closing table without its speeds, which are those of the machine."""
    lines = table.splitlines()
    names = next(k for k, line in enumerate(lines) if line.startswith("algorithm "))
    begin, end = lines[names].index("agent") + len("agent"), lines[names].index("per s") + len("per s")
    body = [line for line in lines[names - HEAD_LINES + 1 :] if line]
    return [f"{line[:begin]}{line[end:]}".rstrip() for line in body]


def test_each_table_follows_its_command() -> None:
    assert len(TABLES) == PAGE.count("```text") == 7


@pytest.mark.slow
@pytest.mark.parametrize(("command", "table"), TABLES, ids=[f"table {k + 1}" for k in range(len(TABLES))])
def test_a_command_prints_its_table(command: str, table: str, place: Path) -> None:
    printed = say(command, place).partition("\nwritten: ")[0]
    assert rows(printed) == rows(table)


@pytest.mark.slow
def test_eight_trials_do_not_tell_the_two_methods_apart(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin, compare, _ = (line for line in LINES if line.endswith(" runs/first"))
    say(begin, place)
    assert "not distinguishable from the best" in say(compare, place)
    exec(PYTHON["docs/quick-start.md"][0], {})
    numbers, shape = capsys.readouterr().out.strip().rsplit("\n", 1)
    assert shape == "(1, 500)" and (place / "mine.png").stat().st_size > 10_000
    regrets = [float(each) for each in numbers.strip("[]").split()]
    assert len(regrets) == 8 and [round(min(regrets), 2), round(max(regrets), 2)] == [0.43, 1.45]


@pytest.mark.slow
def test_the_long_run_is_interrupted_and_goes_on(place: Path) -> None:
    begin, resume = (line for line in LINES if line.endswith(" runs/patient"))
    started = subprocess.Popen(
        [sys.executable, "-m", *begin.split()], cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert started.stderr is not None
    for line in started.stderr:
        if line.startswith("gt:lr=0.02: round "):
            started.send_signal(signal.SIGINT)
            break
    said = started.stderr.read()
    started.stderr.close()
    assert started.wait() == 128 + signal.SIGINT, said
    assert "interrupted; everything before is kept" in said
    assert 0 < one(place / "runs" / "patient").rounds.size < 1_000_000
    done = subprocess.run(
        [sys.executable, "-m", *resume.split()], cwd=place, capture_output=True, text=True, check=True
    )
    assert "goes on from round" in done.stdout
    assert one(place / "runs" / "patient").rounds.size == 1_000_000
