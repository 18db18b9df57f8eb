"""Agents that leave and join, in runs that are written: they go on to the bit, and TOML, sweeps and reports tell the setting."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.asking import TOML, call, one
from helpers.surviving import ASK, same_folders, short, struck

from distopt.report.page.setup import commands
from distopt.report.study import groups

pytestmark = pytest.mark.usefixtures("own_folder")


def test_a_resumed_run_has_the_bits_of_an_undisturbed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--rounds", "40", "--algorithm", "gt:lr=0.02", "--record", "x,s", "--churn", "leave=0.2,join=0.3"]
    assert call(*ASK, *words, "--out", "a").exit_code == 0
    short(monkeypatch)
    with struck(18):
        assert call(*ASK, *words, "--out", "b", "--checkpoint-every", "5").exit_code == 143
    last = call("resume", "b")
    assert last.exit_code == 0 and "goes on from round" in last.stdout, last.output
    same_folders("a", "b")


def test_a_toml_file_a_sweep_and_the_command_of_a_report_have_the_setting() -> None:
    Path("e.toml").write_text(f'{TOML}algorithm = "gt:lr=0.05"\nchurn = "join=0.3, leave=0.2"\n')
    assert call("simulate", "e.toml", "--out", "o").exit_code == 0
    run = one("o")
    assert run.info["experiment"]["churn"] == "leave=0.2,join=0.3"
    (command,) = commands(next(iter(groups([run]))))
    assert "--churn leave=0.2,join=0.3" in command
    swept = call("sweep", "e.toml", "--set", 'churn="leave=0.1,until=5",0.25', "--workers", "1", "--out", "s")
    assert swept.exit_code == 0, swept.output
    settings = {one(each).info["experiment"]["churn"] for each in Path("s").iterdir() if each.is_dir()}
    assert settings == {"leave=0.1,join=0.0,until=5", "leave=0.25,join=0.25"}
