"""Ranks as the command line and torchrun start them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import needs
from helpers.ranks import torchrun

import distopt

pytestmark = [needs.forks, pytest.mark.usefixtures("nothing_stays")]

ASK = ["simulate", "ring", "--agents", "5", "--scenario", "moving_target", "--rounds", "20"]


def test_the_command_runs_on_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from distopt.cli.main import cli

    monkeypatch.chdir(tmp_path)
    for words in (
        ["--out", "a"],
        ["--out", "b", "--engine", "ranks", "--workers", "3"],
        ["--out", "c", "--engine", "threads", "--workers", "2"],
    ):
        result = CliRunner().invoke(cli, [*ASK, *words])
        assert result.exit_code == 0, result.output
    alone = distopt.load("a")
    for where in ("b", "c"):
        run = distopt.load(where)
        assert isinstance(run, distopt.Run) and isinstance(alone, distopt.Run)
        assert [name for name in run if not np.array_equal(run[name], alone[name], equal_nan=True)] == []
        assert run.info["fingerprint"] == alone.info["fingerprint"]
    for words, message in (
        (
            ["--engine", "ranks", "--workers", "6"],
            "distopt: 5 agents cannot be shared among 6 workers: give each worker at least one agent",
        ),
        (
            ["--workers", "2"],
            "distopt: --workers needs an engine that has workers; add --engine threads, ranks or ray",
        ),
    ):
        result = CliRunner().invoke(cli, [*ASK, "--out", "d", *words])
        assert (result.exit_code, result.stderr.strip()) == (2, message)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = CliRunner().invoke(cli, [*ASK, "--out", "d"])
    assert (result.exit_code, "add --engine ranks" in result.stderr) == (2, True)
    assert not Path("d").exists()


@pytest.mark.slow
def test_torchrun_shares_a_comparison_among_its_ranks(tmp_path: Path) -> None:
    words = ["--algorithm", "gtadam:lr=[0.01,0.02]", "--algorithm", "dgd:lr=0.1", "--record", "x"]
    done = torchrun(tmp_path, "-m", "distopt", *ASK, *words, "--engine", "ranks", "--out", "shared")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written: shared") == 1
    shared = distopt.load(tmp_path / "shared")
    assert isinstance(shared, dict) and list(shared) == ["gtadam:lr=0.01", "gtadam:lr=0.02", "dgd:lr=0.1"]
    for label, run in shared.items():
        alone = distopt.simulate("ring", agents=5, scenario="moving_target", algorithm=label, rounds=20, record="x")
        assert [name for name in alone if not np.array_equal(run[name], alone[name], equal_nan=True)] == []


RESTARTED = """
import os, signal
import distopt
from distopt.engines import ranks

with ranks.torchrun_group(timeout=30) as leads:
    if leads:
        problem = dict(agents=5, scenario="moving_target", algorithm="gtadam", rounds=20, engine="ranks")
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            distopt.simulate("ring", **problem)
            os.kill(os.getpid(), signal.SIGKILL)
        print("regret", distopt.simulate("ring", **problem)["dynamic_regret"][0, -1].hex())
"""


@pytest.mark.slow
def test_torchrun_restarts_after_rank_0_was_killed(tmp_path: Path) -> None:
    (tmp_path / "again.py").write_text(RESTARTED)
    done = torchrun(tmp_path, "--max-restarts", "1", "again.py")
    assert done.returncode == 0, done.stderr
    alone = distopt.simulate("ring", agents=5, scenario="moving_target", algorithm="gtadam", rounds=20)
    assert f"regret {alone['dynamic_regret'][0, -1].hex()}" in done.stdout
