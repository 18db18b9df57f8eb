"""``distopt doctor``: what works here, and failures that are provoked."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.asking import call

from distopt.cli import findings, trying
from distopt.cli.findings import Finding
from distopt.codegen import folder
from distopt.engines.transports import meeting
from distopt.errors import RunError
from distopt.numerics import room


def asked(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distopt", "doctor", *words]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )


def told(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    return {each["name"]: each for each in json.loads(done.stdout)["findings"]}


@pytest.mark.slow
def test_all_that_the_core_needs_works_here(tmp_path: Path) -> None:
    done = asked("--json", XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["works"]
    found = told(done)
    assert {name for name, each in found.items() if each["status"] == "ok"} >= {
        "Python",
        "distopt",
        "cache",
        "torch",
        "rounds",
        "processes",
    }
    assert found["processes"]["value"].startswith("two processes added their numbers by gloo")
    assert list((tmp_path / "cache" / "distopt").rglob("*.o")) == []  # its own rounds are not kept


def test_a_line_each_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    some = [
        Finding("one", "ok", "2"),
        Finding("\x1b[31mtwo", "note", "3", "turn it off"),
        Finding("three", "none", "-"),
    ]
    monkeypatch.setattr(findings, "seen", lambda: iter(some[:2]))
    monkeypatch.setattr(trying, "tried", lambda names: iter(some[2:]))
    done = call("doctor")
    assert done.exit_code == 0
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines == ["ok one 2", "note \\x1b[31mtwo 3 -> turn it off", "none three -", "", "distopt works here"]
    monkeypatch.setattr(trying, "tried", lambda names: iter([Finding("four", "fail", "broken")]))
    done = call("doctor")
    assert done.exit_code == 1 and done.stdout.endswith("distopt cannot run here: see four\n")


def test_ray_is_started_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def tried(names: list[str]) -> Any:
        started.append(names)
        return iter(())

    monkeypatch.setattr(trying, "tried", tried)
    monkeypatch.setattr(findings, "seen", lambda: iter([Finding("extra ray", "ok", "ray 2")]))
    assert call("doctor").exit_code == call("doctor", "--ray").exit_code == 0
    assert ["Ray" in names for names in started] == [False, True]
    missing = Finding("extra ray", "none", "ray is not installed", "pip install 'distopt[ray]'")
    monkeypatch.setattr(findings, "seen", lambda: iter([missing]))
    assert call("doctor").exit_code == 0
    done = call("doctor", "--ray")
    assert done.exit_code == 1 and done.stdout.endswith("\nRay does not start here: see extra ray\n")
    assert done.stdout.count("pip install") == 1 and not any("Ray" in names for names in started[-2:])
    monkeypatch.setattr(findings, "seen", lambda: iter(()))
    monkeypatch.setattr(trying, "tried", lambda names: iter([Finding("Ray", "note", "no port")]))
    done = call("doctor", "--ray")
    assert done.exit_code == 1 and done.stdout.endswith("distopt works here\nRay does not start here: see Ray\n")


# ------------------------------------------------------------------------------------------------------ failures


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("raise ImportError('no libtorch.so')", "ImportError: no libtorch.so"),
        ("import os; os._exit(3)", "the process ended with code 3: it said nothing"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the process ended by SIGSEGV: it said nothing"),
    ],
)
def test_a_torch_that_is_broken_fails_the_core(broken: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(broken)
    done = asked("--json", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and not json.loads(done.stdout)["works"]
    found = told(done)
    assert (found["torch"]["status"], found["torch"]["value"]) == ("fail", why)
    assert found["torch"]["advice"] and found["rounds"]["status"] == "fail"
    assert found["processes"]["status"] == "note"  # is not of the core
    assert found["Python"]["status"] == "ok"


@pytest.mark.slow
def test_what_hangs_is_ended_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text(
        "import os, pathlib, time\npathlib.Path(__file__).with_name('pid').write_text(str(os.getpid()))\ntime.sleep(600)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    begun = time.monotonic()
    (found,) = trying.tried(["torch"], limit=5)
    assert time.monotonic() - begun < 60
    assert (found.status, found.value) == ("fail", "no answer within 5 s")
    assert found.advice.startswith("try again when the machine is idle")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_what_was_found_before_the_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    code = 'print(\'finding: \' + \'{"name": "LaTeX", "status": "none", "value": "v", "advice": ""}\', flush=True); raise SystemExit(4)'
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **rest: real([sys.executable, "-c", code], **rest))
    first, second = trying.tried(["LaTeX", "processes"])
    assert first == Finding("LaTeX", "none", "v")
    assert second.status == "note" and second.value.startswith("the process ended with code 4")


def test_a_machine_on_which_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: Any, **named: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refused)
    first, second = trying.tried(["torch", "LaTeX"])
    assert (first.status, second.status) == ("fail", "note")
    assert first.value == "no process can be started (Resource temporarily unavailable)"


def test_gloo_whose_other_process_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "_second", lambda *given: os._exit(1))
    with pytest.raises(RunError):
        meeting.meet(1)
    monkeypatch.setattr(trying, "GLOO_LIMIT", 1)
    look, core, advice = trying.TRIALS["processes"]
    found = findings.watched("processes", look, core, advice)
    assert found.status == "note" and "RunError" in found.value and "--engine threads" in found.advice


def test_rounds_that_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    from distopt.codegen import objects

    monkeypatch.setattr(objects, "fault", lambda: "no llvmlite")
    found = trying.rounds()
    assert found.status == "note" and "no llvmlite" in found.value


def test_an_extra_that_is_missing_or_old(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"torch": "2.0.1+cpu", "ray": None, "pyarrow": "26.0.1", "xarray": None}

    def version(name: str) -> str:
        there = known.get(name, "1000")
        if there is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return there

    (lowest,) = (each for each in importlib.metadata.requires("distopt") or () if each.startswith("torch>="))
    monkeypatch.setattr(importlib.metadata, "version", version)
    assert findings.packages().status == "fail"
    assert findings.packages().value.endswith(f"torch 2.0.1+cpu is older than {lowest.removeprefix('torch>=')}")
    assert findings.packages().advice == f"pip install '{lowest}'"
    found = {extra: findings.optional(extra, needs) for extra, needs in findings.extras().items()}
    assert found["ray"] == Finding(
        "extra ray", "none", "ray is not installed, for --engine ray", "pip install 'distopt[ray]'"
    )
    assert found["export"].value.startswith("xarray is not installed") and found["topohub"].status == "ok"
    assert findings.DEVELOPING[0] not in found and set(found) >= set(findings.FOR)


def test_a_package_that_was_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    monkeypatch.setattr(importlib.metadata, "metadata", missing)
    found = list(findings.seen())
    assert [each.name for each in found] == ["Python", "distopt", "cores", "memory", "cache", "runs"]
    assert found[1].status == "fail" and "pip install ." in found[1].advice


def test_a_python_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "LEAST_PYTHON", (99, 1))
    assert findings.python().status == "fail" and "99.1" in findings.python().advice


def test_a_cache_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = findings.cache()
    assert found.status == "note" and "cannot be made" in found.value and "XDG_CACHE_HOME" in found.advice
    shared = tmp_path / "shared"
    (shared / "distopt" / "functions").mkdir(parents=True)
    shared.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared))
    assert "can be written by others" in findings.cache().value
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "fine"))
    assert findings.cache().status == "ok"
    assert folder.found("functions") == (tmp_path / "fine" / "distopt" / "functions", None)


def test_a_folder_for_runs_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert findings.runs().status == "ok" and list(tmp_path.iterdir()) == []

    def refused(dir: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "runs").write_text("")
    assert findings.runs().status == "note" and "is a file, not a folder" in findings.runs().value
    (tmp_path / "runs").unlink()
    monkeypatch.setattr(findings.tempfile, "TemporaryFile", refused)
    found = findings.runs()
    assert found.status == "note" and "Permission denied" in found.value and "--out" in found.advice
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    found = findings.watched("runs", findings.runs, core=False)
    assert found.status == "note" and "FileNotFoundError" in found.value


def test_little_memory_little_disk_and_a_busy_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "available", lambda: 10**8)
    monkeypatch.setattr(room, "whole", lambda: (8 * 10**9, 2 * 10**9))
    assert findings.memory().status == "note"
    assert findings.memory().value == ("100.0 MB free of 2 GB, the limit of its control group (the machine has 8 GB)")
    monkeypatch.setattr(findings, "LEAST_DISK", 10**30)
    assert findings.stored("runs", tmp_path, "here").status == "note"
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 0.0, 0.0))
    assert findings.cores().status == "note" and "load 1000.0" in findings.cores().value
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert findings.cores().status == "ok"


@pytest.mark.parametrize(("text", "share"), [("150000 100000\n", 1.5), ("max 100000\n", None), (None, None)])
def test_the_share_of_a_control_group(text: str | None, share: float | None, tmp_path: Path) -> None:
    file = tmp_path / "cpu.max"
    if text is not None:
        file.write_text(text)
    assert findings.quota(file) == share


def test_the_memory_of_the_machine_and_of_its_group() -> None:
    machine, limit = room.whole()
    assert machine > 10**8 and (limit is None or limit < machine)
    assert room.available() <= (limit or machine)
