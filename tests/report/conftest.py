"""A page in a headless browser, for the tests that drive it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.browser import Tab, browser
from helpers.drawn import NAMES, ROUNDS, TRIALS, made_up

from distopt.report import page
from distopt.runs.results import Run


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    rng = np.random.default_rng(0)
    return {name: made_up(name, TRIALS, ROUNDS, rng, 1.0 + k) for k, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def file(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page.write(list(runs.values()), tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def window() -> Iterator[Tab]:
    with browser() as tab:
        yield tab


@pytest.fixture
def tab(window: Tab, file: Path) -> Iterator[Tab]:
    """The page as it opens; in the end nothing was asked for, and nothing complained."""
    window.console(), window.requests()
    window.open(file)
    yield window
    assert window.requests() == [] and window.console() == []
