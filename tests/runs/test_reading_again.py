"""A stored run is read array by array: its check sums are computed once, and what changes on the disk is noticed."""

from pathlib import Path

import numpy as np
import pytest

from distopt.errors import InputError
from distopt.runs import loading, reading, writing
from distopt.runs.loading import stored
from distopt.runs.results import Part, Run


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


@pytest.mark.parametrize("small", [0, 2**23])
@pytest.mark.parametrize("chunk", [0, 2**23])
def test_some_rounds_are_those_of_the_whole(
    small: int, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "LARGE_CHUNK", chunk)
    monkeypatch.setattr(writing, "SMALL_CHUNK", 0)
    monkeypatch.setattr(loading, "SMALL", small)
    values = np.random.default_rng(0).random((2, 40))
    info = {"experiment": {"dtype": "float64"}, "left_out": {}}
    writer = writing.Writer(tmp_path / "run", "gt", info)
    for k in range(0, 40, 8):
        writer.add(Part(np.arange(k, k + 8), {"dynamic_regret": values[:, k : k + 8]}, {}))
    writer.finish("done", info)
    run = stored(tmp_path / "run")
    assert len([*(tmp_path / "run").glob("chunk-*")]) == (1 if chunk else 5)
    memory = Run("gt", "done", run.rounds, {"dynamic_regret": values}, info=info)
    assert run.trials == 2 and np.array_equal(run["dynamic_regret"], values)
    for places in ([], [0], [39], [7, 8, 9, 31], [*range(40)]):
        chosen = np.array(places, dtype=np.intp)
        for name in ("dynamic_regret", "average_dynamic_regret"):
            for each in (run, memory):
                assert np.array_equal(each.some(name, chosen), memory[name][:, chosen])


def test_to_ask_whether_a_run_has_something_reads_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stored(folder)
    monkeypatch.setattr(reading, "arrays", lambda *_: pytest.fail("read"))
    there = ["dynamic_regret", "average_dynamic_regret", "x", "average_consensus_error"]
    assert [name in run for name in there] == [True, True, False, False]
    assert "dynamic_regret" in run.metrics and "x" not in run.metrics
