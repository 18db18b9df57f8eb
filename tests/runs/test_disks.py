"""A disk that is full, or a folder that may not be written: one line, and what was written stays whole."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.surviving import ASK, call, forked, runs, same_folders, saved

import distopt
from distopt.cli.main import cli
from distopt.runs import checkpoint

pytestmark = pytest.mark.usefixtures("own_folder")


def test_a_full_disk_is_one_line_and_what_was_written_stays() -> None:
    words = [*ASK, "--rounds", "120", "--record", "x,s"]
    call(*words, "--out", "a")

    def with_little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
        cli([*words, "--out", "b", "--checkpoint-every", "10"])

    process = forked(with_little_room)
    process.join(60)
    log = Path("log").read_text().splitlines()
    assert (
        process.exitcode == 1
        and "cannot write b/chunk-" in log[-1]
        and log[-1].endswith("go on with: distopt resume b")
    ), log
    kept = runs("b")["gtadam"]
    assert kept.status == "interrupted" and 0 < len(kept.rounds) < 120 and Path("b/checkpoint").exists()
    assert not list(Path("b").glob("*.part"))
    assert "goes on from round" in call("resume", "b").stdout
    same_folders("a", "b")


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, carry, about = saved(tmp_path)
    before, fsync = (tmp_path / "checkpoint").read_bytes(), os.fsync

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(distopt.errors.RunError, match="cannot write .*checkpoint: No space left on device"):
        checkpoint.save(tmp_path, problem, carry._replace(t=9), about)
    monkeypatch.setattr(os, "fsync", fsync)
    assert (tmp_path / "checkpoint").read_bytes() == before and [path.name for path in tmp_path.iterdir()] == [
        "checkpoint"
    ]


def obey() -> None:
    """Let this process respect permissions, also where it is root's."""
    if os.geteuid() == 0:
        version_3, nobody_else, nothing = 0x20080522, 0, bytes(24)
        assert ctypes.CDLL(None).capset(struct.pack("=Ii", version_3, nobody_else), nothing) == 0


def test_a_folder_that_may_not_be_written_is_refused_before_anything_is_computed() -> None:
    Path("b").mkdir(mode=0o555)
    for place in ("b", "b/run"):

        def asking(place: str = place) -> None:
            obey()
            cli([*ASK, "--out", place])

        process = forked(asking)
        process.join(60)
        told = Path("log").read_text().splitlines()
        assert (process.exitcode, told) == (
            2,
            [f"distopt: cannot write to {place}: Permission denied; choose another folder with --out"],
        )


def fill() -> None:
    Path("b/checkpoint.part").symlink_to("/dev/full")


def close() -> None:
    obey()
    Path("b").chmod(0o555)


@pytest.mark.parametrize(("how", "says"), [(fill, "No space left on device"), (close, "Permission denied")])
def test_a_folder_that_takes_no_more_checkpoints_ends_the_run_in_one_line(how: Callable[[], None], says: str) -> None:
    words = [*ASK, "--rounds", "120", "--record", "x,s"]
    call(*words, "--out", "a")
    save = checkpoint.save

    def saving(folder: Path, problem: Any, carry: Any, about: Any) -> None:
        save(folder, problem, carry, about)
        if carry.t == 20:
            how()

    def run() -> None:
        checkpoint.save = saving
        cli([*words, "--out", "b", "--checkpoint-every", "10"])

    process = forked(run)
    process.join(60)
    log = Path("log").read_text().splitlines()
    assert process.exitcode == 1 and "Traceback" not in str(log), log
    assert "cannot write b/" in log[-1] and says in log[-1] and log[-1].endswith("go on with: distopt resume b"), log
    Path("b").chmod(0o755)
    assert "goes on from round 20" in call("resume", "b").stdout
    same_folders("a", "b")
