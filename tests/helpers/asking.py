"""The command line, as tests call it."""

from __future__ import annotations

from pathlib import Path

import click.testing

import distopt
from distopt.cli.main import cli
from distopt.runs.results import Run

ASK = ["simulate", "ring", "--agents", "4", "--scenario", "moving_target", "--rounds", "20"]
TOML = 'topology = "ring"\nagents = 4\nscenario = "moving_target"\nrounds = 20\n'


def call(*words: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli, list(words))


def one(path: str | Path) -> Run:
    run = distopt.load(path)
    assert isinstance(run, Run)
    return run


def many(path: str | Path) -> dict[str, Run]:
    runs = distopt.load(path)
    assert isinstance(runs, dict)
    return runs
