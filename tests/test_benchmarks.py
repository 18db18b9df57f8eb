"""The benchmarks page says what the logs say."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def plots() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("plots")


def test_the_page_is_made_from_the_logs(plots: ModuleType) -> None:
    regret = (ROOT / "benchmarks" / "results" / "regret.txt").read_text()
    assert plots.page(plots.logs(), regret) == (ROOT / "docs" / "benchmarks.md").read_text(), "run python benchmarks/plots.py"


def test_another_log_makes_another_page(plots: ModuleType) -> None:
    found = plots.logs()
    regret = (ROOT / "benchmarks" / "results" / "regret.txt").read_text()
    before = plots.page(found, regret)
    found["speed"]["problems"][0]["seconds"]["bare"] *= 2
    assert plots.page(found, regret) != before


def test_figures_of_the_page_exist(plots: ModuleType) -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    named = [line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert len(named) == 3
    assert all((ROOT / "docs" / name).stat().st_size > 0 for name in named)


def test_missing_figures_of_a_log_are_dashes(plots: ModuleType) -> None:
    seconds = {"bare": 2e-6, "measured": 4e-6, "C": 1e-6, "tight C": 5e-7, "NumPy": 6e-6}
    row = plots.speed_table({"problems": [{"title": "a", "seconds": seconds}]}).splitlines()[-1]
    assert row == "| a | 2.00 | 4.00 | 1.00 | 0.500 | 6.00 | - | 2.00 | 4.00 | 3.00 |"
