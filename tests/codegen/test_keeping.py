"""Compiled functions may be kept as C: what a person reads computes what runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.asking import ASK, call

import distopt
from distopt.errors import RunError


def names(folder: Path) -> set[str]:
    return {file.name.rpartition("-")[0] for file in folder.iterdir()}


def test_the_command_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(*ASK, "--keep-code", "code/of/this")
    assert done.exit_code == 0, done.output
    (file,) = Path("code/of/this").iterdir()
    assert file.name.startswith("rounds-") and file.suffix == ".c"
    assert "void run(int64_t k0, int64_t k1, void **pointers, const int64_t *strides)" in file.read_text()


def test_workers_write_their_pieces(tmp_path: Path) -> None:
    for engine, expected in (("threads:workers=2", {"piece-0", "piece-1", "measurements"}), ("local", {"rounds"})):
        folder = tmp_path / engine.partition(":")[0]
        distopt.simulate(
            "ring", agents=4, scenario="moving_target", algorithm="gt", rounds=5, engine=engine, keep_code=folder
        )
        assert names(folder) >= expected
        before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
        distopt.simulate("ring", agents=4, scenario="moving_target", algorithm="gt", rounds=5, engine=engine)
        assert before == {file: file.stat().st_mtime_ns for file in folder.iterdir()}, "no longer asked for"


def test_a_folder_that_cannot_be_made_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file: .*; name another folder for the code"):
        distopt.simulate(
            "ring", agents=4, scenario="moving_target", algorithm="gt", rounds=5, keep_code=tmp_path / "file"
        )
