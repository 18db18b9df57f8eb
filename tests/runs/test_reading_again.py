"""A stored run is read array by array: its check sums are computed once, and what changes on the disk is noticed."""

from pathlib import Path

import numpy as np
import pytest

from distopt.errors import InputError
from distopt.runs import reading
from distopt.runs.loading import stored
from distopt.runs.results import Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    metrics = {name: np.random.default_rng(0).random((3, 50)) for name in ("dynamic_regret", "consensus_error")}
    info = {"experiment": {"dtype": "float64"}, "left_out": {}}
    return Run("gt", "done", np.arange(50), metrics, info=info).save(tmp_path / "run")


def test_a_check_sum_is_computed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    digest = reading.digest
    monkeypatch.setattr(reading, "digest", lambda file, size: counted.append(size) or digest(file, size))
    run = stored(folder)
    for _ in range(3):
        assert run["dynamic_regret"].shape == (3, 50) and run["consensus_error"].shape == (3, 50)
    assert len(counted) == 1


def test_a_file_that_changes_under_a_run_is_noticed(folder: Path) -> None:
    run = stored(folder)
    (chunk,) = folder.glob("chunk-*.npz")
    whole = bytearray(chunk.read_bytes())
    whole[len(whole) // 2] ^= 1
    chunk.unlink()
    chunk.write_bytes(whole)
    with pytest.raises(InputError, match="checksum"):
        run["dynamic_regret"]


def test_to_ask_whether_a_run_has_something_reads_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stored(folder)
    monkeypatch.setattr(reading, "arrays", lambda *_: pytest.fail("read"))
    there = ["dynamic_regret", "average_dynamic_regret", "x", "average_consensus_error"]
    assert [name in run for name in there] == [True, True, False, False]
    assert "dynamic_regret" in run.metrics and "x" not in run.metrics
