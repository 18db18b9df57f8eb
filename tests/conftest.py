"""How the tests are shared among the processes of pytest-xdist, and where they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One by one, but those that share a Ray cluster together: there is one for all of them."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", maxsplit=1)[0]
            return file if file.endswith("test_ray.py") else nodeid

    return Scheduling(config, log)


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs in a folder of its own, and errors are told as a user sees them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISTOPT_TRACEBACK", raising=False)
