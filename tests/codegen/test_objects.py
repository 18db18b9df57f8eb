"""The folder of compiled functions: found again, made anew where damaged, bounded, the user's alone."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import needs
from helpers.surviving import forked
from torch import Tensor

from distopt.codegen import folder, objects
from distopt.codegen.function import compiled


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder._private.cache_clear()
    yield tmp_path / "distopt" / "functions"
    folder._private.cache_clear()


def double(factor: float = 2.0) -> float:
    """A small function, made and called."""

    def do(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return [carry[0] * factor], []

    bound = compiled(do, [torch.ones(1)], []).bound([torch.ones(1)], [], [])
    bound(0, 1)
    return bound.carry[0].item()


def files(place: Path) -> list[Path]:
    return sorted(place.iterdir())


def test_what_was_compiled_is_not_compiled_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert double() == 2
    (file,) = files(place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700 and stat.S_IMODE(file.stat().st_mode) == 0o600
    monkeypatch.setattr(objects, "compiled", lambda text: pytest.fail("it is there already"))
    assert double() == 2


def test_other_code_and_other_versions_have_files_of_their_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import llvmlite
    import llvmlite.binding as llvm

    known = {objects.key("text"), objects.key("other")}
    for owner, name, value in (
        (llvmlite, "__version__", "1.0"),
        (llvm, "llvm_version_info", (99, 0, 0)),
        (llvm, "get_host_cpu_name", lambda: "abacus"),
        (objects, "_features", lambda: "+beads"),
        (objects, "FORM", 99),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(owner, name, value)
            known.add(objects.key("text"))
    assert len(known) == 7


@pytest.mark.parametrize("damage", ["cut", "one bit", "empty", "another's", "no such function"])
def test_a_damaged_file_is_made_anew(damage: str, place: Path) -> None:
    double()
    (file,) = files(place)
    whole = file.read_bytes()
    if damage == "no such function":
        other = objects.compiled("define void @walk() {\nret void\n}\n")
        file.write_bytes(hashlib.sha256(other).digest() + other)
    elif damage == "another's":
        double(3.0)
        file.write_bytes(next(each for each in files(place) if each != file).read_bytes()[:32] + whole[32:])
    else:
        bits = bytearray(whole)
        bits[len(bits) // 2] ^= 4
        file.write_bytes({"cut": whole[:-100], "one bit": bytes(bits), "empty": b""}[damage])
    assert double() == 2
    assert file.read_bytes()[32:] and not [each for each in files(place) if each.name.startswith(".")]


def test_the_folder_is_bounded_and_keeps_what_was_used_last(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    double(2.0)
    (first,) = files(place)
    size = first.stat().st_size
    monkeypatch.setattr(objects, "ROOM", 3 * size + size // 2)
    monkeypatch.setattr(objects, "SELDOM", 1)
    for k in range(3, 8):
        os.utime(first, (2e9, 2e9))
        double(float(k))
    kept = files(place)
    assert len(kept) == 3 and first in kept


def test_few_of_those_who_write_look_through_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "ROOM", 4000)
    for k in range(640):
        objects._write(tmp_path / f"{objects.key(str(k))}.o", bytes(68))  # 100 bytes with the checksum
    assert 40 <= len(files(tmp_path)) <= 40 + 6 * objects.SELDOM
    looked = []
    monkeypatch.setattr(objects, "_tidy", looked.append)
    for k in range(640):
        objects._write(tmp_path / f"{objects.key(str(k))}.o", bytes(68))
    assert 1 <= len(looked) <= 30


def test_a_folder_that_others_may_write_is_not_used(place: Path) -> None:
    place.mkdir(parents=True)
    place.chmod(0o777)
    with pytest.warns(folder.CompileWarning, match="can be written by others"):
        assert double() == 2
    assert files(place) == []


def test_a_folder_that_is_gone_or_full_keeps_nothing(tmp_path: Path) -> None:
    run = objects.function("define void @run(i64 %a, i64 %b, ptr %c, ptr %d) {\nret void\n}\n", tmp_path / "gone")
    run(0, 0, 0, 0)


@pytest.mark.slow
def test_another_process_finds_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "OPTIMISED", True)  # as in the other process
    double()
    before = {each: each.read_bytes() for each in files(place)}
    script = (
        "import test_objects as t; from distopt.codegen import objects; objects.compiled = None; assert t.double() == 2"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": path})
    assert {each: each.read_bytes() for each in files(place)} == before


@needs.forks
@pytest.mark.usefixtures("own_folder")
def test_a_fork_beside_a_thread_that_compiles_can_compile() -> None:
    busy = threading.Event()

    def compiling() -> None:
        with objects._lock:
            busy.set()
            time.sleep(0.2)

    thread = threading.Thread(target=compiling)
    thread.start()
    assert busy.wait(30)
    child = forked(lambda: sys.exit(double(5.0) != 5))
    child.join(60)
    thread.join()
    assert child.exitcode == 0


def test_broken_code_is_an_error_and_no_crash() -> None:
    with pytest.raises(RuntimeError):
        objects.compiled("define void @run() {\nret i64 %nothing\n}\n")
