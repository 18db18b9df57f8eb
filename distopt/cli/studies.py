"""The commands that run many experiments: what can be typed after ``distopt sweep`` and ``distopt tune``.

As in ``distopt.cli.main``, what takes long to import is imported inside the command that needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from distopt.cli import asking, commands, completing
from distopt.cli.options import ADDRESS, CHECKPOINT, COUNT, HOW, TRACEBACK, WHAT, WHERE, WHOLE
from distopt.cli.polite import polite


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.toml")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=A,B",
    help="A setting and its values, such as seed=1,2 or algorithm.lr=0.01,0.02. Repeat the option for more settings.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    help="Local processes, or tasks of a Ray cluster.  [default: local]",
)
@click.option("--workers", type=WHOLE, metavar="N", help=COUNT)
@ADDRESS
@click.option("--eager", is_flag=True, help="Run rounds one by one in Python: slower, for debugging.")
@click.option("--compiled", is_flag=True, help="Fail if the rounds cannot be compiled.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write to.  [default: runs/sweep-FILE]"
)
@TRACEBACK
def sweep(
    file: Path,
    settings: tuple[str, ...],
    *,
    engine: str,
    workers: int | None,
    address: str | None,
    eager: bool,
    compiled: bool,
    out: Path | None,
    traceback: bool,
) -> None:
    """Run many experiments in parallel: FILE.toml with every combination of values.

    \b
    distopt sweep experiment.toml --set algorithm.lr=0.01,0.02 --set seed=1,2,3
    distopt sweep experiment.toml --set scenario=sea,moving_target --engine ray --address auto

    KEY is a setting of FILE.toml, or a parameter of its topology, scenario, algorithm or channel. Put a value that contains
    commas in quotes. Each experiment has its own folder; sweep.csv holds the table of all. To resume, re-run the
    command or use `distopt resume DIR`. An experiment that fails does not stop the others.
    """
    mode = asking.mode(eager, compiled)
    if workers is not None and workers < 1:
        raise click.UsageError("--workers must be at least 1")
    if address is not None and engine != "ray":
        raise click.UsageError("--address names a Ray cluster; add --engine ray")
    if address is not None and workers is not None:
        raise click.UsageError(
            "a running cluster (--address) runs as many experiments as it has room for; leave --workers out"
        )
    with polite(traceback):
        folder = out or Path("runs") / f"sweep-{file.stem}"
        commands.sweep(file, settings, engine, workers, address, mode, folder)


@click.command()
@click.argument("topology", metavar="TOPOLOGY|FILE.toml", shell_complete=completing.part("topologies", ".toml", ".py"))
@WHAT
@click.option(
    "--grid",
    metavar="lr=LOW..HIGH,N",
    help="Step sizes to try: N per decade, or a list such as lr=0.01,0.03.  [default: lr=1e-4..1,3]",
)
@click.option(
    "--over",
    multiple=True,
    metavar="NAME=A,B",
    help="Values of another parameter, tried with every step size, for the algorithms that have it. May be repeated.",
)
@click.option(
    "--trials", type=WHOLE, metavar="R", help="Number of trials on which step sizes are compared.  [default: 5]"
)
@click.option(
    "--report-trials",
    type=WHOLE,
    metavar="R",
    help="Number of other trials on which the winners are compared.  [default: 30]",
)
@HOW
@WHERE
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write to.  [default: runs/tune-...]"
)
@click.option("--report", is_flag=True, help="Also write a report into the folder (see distopt report).")
@CHECKPOINT
@TRACEBACK
def tune(
    topology: str,
    algorithm: tuple[str, ...],
    *,
    grid: str | None,
    over: tuple[str, ...],
    report_trials: int | None,
    eager: bool,
    compiled: bool,
    device: str,
    engine: str,
    workers: int | None,
    partition: str | None,
    backend: str | None,
    address: str | None,
    out: Path | None,
    report: bool,
    checkpoint_every: int | None,
    traceback: bool,
    **given: Any,
) -> None:
    """Choose the step size lr of each algorithm on a grid, then compare the winners on other random seeds.

    \b
    distopt tune ring --agents 16 --scenario moving_target --algorithm gtadam --algorithm gt --rounds 500
    distopt tune FILE.toml --trials 5 --report-trials 30 --out runs/tuned

    All algorithms get the same grid, the same trials and the same number of gradients. An algorithm that takes k times
    as many gradients in a round runs T / k rounds. The winner has the smallest median of the final average dynamic
    regret over the trials with seed K. If the minimisers are unknown, the mean cost counts instead. A trial that
    diverges counts as +inf. If the winner is at an end of the grid, the grid is extended by a decade, at most three
    times.

    The winners and the algorithms without tuning then run on trials with seed K + 1000. A list in a spec replaces the
    grid: "gtadam:lr=[0.01,0.03]". For a schedule, such as "gtadam:lr=inverse_sqrt(0.1)", the scale is tuned.

    The folder holds the runs (in its folder report), the verdict (tuned.csv), every point that was tried (tuning.csv,
    tuning.json) and a picture (sensitivity.png). Ctrl-C keeps finished points; re-run the command to continue.
    """
    mode = asking.mode(eager, compiled)
    settings = {key: value for key, value in given.items() if value not in (None, ())}
    where = asking.engine_spec(engine, device, workers, partition, backend, address)
    with polite(traceback), asking.leading(engine, workers, address) as leads:
        if leads:
            from distopt.cli import tuning
            from distopt.runs.execution import Asked

            asked = Asked(mode, where, checkpoint_every)
            tuning.tune(topology, algorithm, settings, grid, over, report_trials, asked, out, report)
