"""``distopt compare``."""

from pathlib import Path

import pytest
from helpers.asking import ASK, TOML, call

pytestmark = pytest.mark.usefixtures("own_folder")
METHODS = ["--algorithm", "gt:lr=0.02", "--algorithm", "dgd:lr=0.02"]


def test_a_folder_is_compared() -> None:
    assert call(*ASK, *METHODS, "--trials", "3", "--out", "mine").exit_code == 0
    done = call("compare", "mine", "--out", "tables")
    assert done.exit_code == 0 and "cannot be significant: 3 trials" in done.stdout
    assert "moving_target, 4 agents, ring: Average dynamic regret, at the end" in done.stdout
    assert "written: tables/comparison.csv" in done.stdout and Path("tables/differences.png").stat().st_size > 10_000
    against = call("compare", "mine", "--baseline", "dgd", "--metric", "consensus_error", "--level", "0.8")
    assert "minus dgd:lr=0.02 [80 %]" in against.stdout and "Consensus error" in against.stdout


def test_a_file_is_run_once() -> None:
    Path("e.toml").write_text(TOML.replace("rounds", 'algorithm = ["gt", "dgd"]\ntrials = 2\nrounds'))
    first = call("compare", "e.toml")
    assert first.exit_code == 0 and "written: runs/" in first.stdout and "begins at round" not in first.stdout
    again = call("compare", "e.toml", *map(str, Path("runs").iterdir()))
    assert again.exit_code == 0 and again.stdout == first.stdout[first.stdout.index("moving_target, 4 agents, ring:") :]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], "holds no runs"),
        (["e.toml"], "e.toml: No such file"),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_compared(words: list[str], said: str) -> None:
    done = call("compare", *words)
    assert done.exit_code == 2 and said in done.output


def test_a_wrong_level_or_method_is_named() -> None:
    assert call(*ASK, *METHODS, "--out", "mine").exit_code == 0
    assert "--level 2.0: must lie between 0 and 1" in call("compare", "mine", "--level", "2").output
    assert "no method is called 'xx'; methods: gt:lr=0.02" in call("compare", "mine", "--baseline", "xx").output
