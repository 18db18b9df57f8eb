"""What can be typed after ``distopt doctor``."""

from __future__ import annotations

import dataclasses
import json
import textwrap

import click

from distopt._version import __version__
from distopt.cli import findings, trying
from distopt.cli.findings import Finding
from distopt.cli.options import TRACEBACK
from distopt.cli.polite import polite
from distopt.cli.streams import width
from distopt.errors import printable

COLOURS = {"ok": "green", "none": "blue", "note": "yellow", "fail": "red"}
PAGE = 120
"""Columns of text beyond which lines are hard to read."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for scripts.")
@click.option("--ray", "with_ray", is_flag=True, help="Start a Ray cluster, too, and stop it.")
@TRACEBACK
def doctor(as_json: bool, with_ray: bool, traceback: bool) -> None:
    """Say what works on this machine.

    A line each, with what to do about what does not work:

    \b
    ok    it works
    none  optional, and not installed: only what its line names needs it
    note  distopt works, but slower, with less room, or without something optional that fails here
    fail  distopt cannot run

    It compiles and runs a tiny experiment, and lets two processes talk. It writes nothing but the cache folder, if that is not there.
    The exit code is 1 if anything fails, or if --ray is given and Ray does not start, and else 0.
    """
    with polite(traceback):
        found = []
        for finding in findings.seen():
            found.append(finding)
            if not as_json:
                shown(finding)
        missing = any(each.name == "extra ray" and each.status == "none" for each in found)
        names = [name for name in trying.TRIALS if name != "Ray" or (with_ray and not missing)]
        for finding in trying.tried(names):
            found.append(finding)
            if not as_json:
                shown(finding)
        failed = [each.name for each in found if each.status == "fail"]
        without = with_ray and (missing or any(each.name == "Ray" and each.status == "note" for each in found))
        if as_json:
            told = {
                "distopt": __version__,
                "works": not failed,
                "findings": [dataclasses.asdict(each) for each in found],
            }
            click.echo(json.dumps(told, indent=2))
        else:
            click.echo(f"\ndistopt cannot run here: see {', '.join(failed)}" if failed else "\ndistopt works here")
            if without:
                click.echo(f"Ray does not start here: see {'extra ray' if missing else 'Ray'}")
        if failed or without:
            raise SystemExit(1)


def shown(finding: Finding) -> None:
    """Print a finding as a line, and what to do below it."""
    head = f"{finding.status:<4}  {printable(finding.name):<17} "
    text = finding.value + (f" -> {finding.advice}" if finding.advice else "")
    lines = textwrap.wrap(text, max(40, min(width(), PAGE) - len(head)), break_on_hyphens=False, break_long_words=False)
    mark = click.style(f"{finding.status:<4}", fg=COLOURS[finding.status])
    for k, line in enumerate(lines):
        click.echo((mark + head[4:] if k == 0 else " " * len(head)) + printable(line))
