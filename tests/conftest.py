"""How the tests are shared among the processes of pytest-xdist, and where they run."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

QUICK = 4


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One by one, but those that share a Ray cluster together: there is one for all of them."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", maxsplit=1)[0]
            return "ray" if "/test_ray" in file else nodeid

    return Scheduling(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C reach the tests that send it: a shell that starts pytest in the background has it ignored.

    The quick tests compile without LLVM's passes, which take most of their time and change no bit.
    """
    from distopt.codegen import objects

    objects.OPTIMISED = "not slow" not in config.option.markexpr
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before cases are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """At most ``QUICK`` cases of each test are quick, evenly spaced in their list; the others are slow."""
    cases: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if not any(item.get_closest_marker(name) for name in ("slow", "battery")):
            cases[item.nodeid.partition("[")[0]].append(item)
    for each in cases.values():
        quick = {k * len(each) // QUICK for k in range(QUICK)}
        for k, item in enumerate(each):
            if len(each) > QUICK and k not in quick:
                item.add_marker("slow")


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs in a folder of its own, and errors are told as a user sees them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISTOPT_TRACEBACK", raising=False)


@pytest.fixture
def usual_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks have at most 256 rounds, so that a few hundred make several, however small they are."""
    monkeypatch.setattr("distopt.costs.data.LONGEST_BLOCK", 256)


@pytest.fixture
def nothing_stays() -> Iterator[None]:
    """No process that a test began is left after it."""
    yield
    assert multiprocessing.active_children() == []


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """The Ray cluster of a file of tests (see ``helpers.cluster``)."""
    import ray
    from helpers.cluster import ROOT, Nodes

    paths = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "engines"), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("OMP_NUM_THREADS", "1")
        handler = signal.getsignal(signal.SIGTERM)
        started = Nodes()
        yield started
        ray.shutdown()
        started.cluster.shutdown()
        gc.collect()  # what Ray left ends here, where its threads are: in a fork of this process it would wait for them for ever
        signal.signal(signal.SIGTERM, handler)  # Ray sets one of its own, and later tests end processes by this signal


@pytest.fixture
def cluster_is_free(nodes: Any) -> Iterator[None]:
    """After the test, nothing runs on the cluster any more."""
    import ray

    yield
    for _ in range(200):  # what was just told to end has time to
        if ray.available_resources().get("CPU", 0) == 4:
            return
        time.sleep(0.05)
    pytest.fail(f"of 4 CPUs {ray.available_resources().get('CPU', 0)} are free after the test")


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands write an empty file in the place of each figure: drawing takes most of the time of a short run."""
    from distopt.report import curves, network

    class Blank:
        def savefig(self, path: Any, **_: Any) -> None:
            path.write(b"figure") if hasattr(path, "write") else Path(path).write_bytes(b"figure")

    monkeypatch.setattr(curves, "figure", lambda *_, **__: Blank())
    monkeypatch.setattr(network, "figure", lambda *_, **__: Blank())
    monkeypatch.setattr(network, "save", lambda figure, path: figure.savefig(path))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many malformed inputs were tried, of which kinds and seeds."""
    lines = [
        str(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "fuzz" and report.when == "call"
    ]
    if lines:
        terminalreporter.section("malformed inputs")
        for line in sorted(lines):
            terminalreporter.write_line(line)
