"""The command line: what can be typed after ``distopt``. What the longer commands do is in ``distopt.cli.commands``.

torch, networkx and matplotlib take seconds to import: whatever needs them is imported inside the command that does.
Exit codes: 0 done, 1 failed (a run that diverged counts), 2 asked for something that cannot be done,
130 and 143 ended by Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from distopt._version import __version__
from distopt.catalog.spec import real, whole
from distopt.cli import asking, commands
from distopt.cli.polite import polite
from distopt.cli.streams import lasting_streams
from distopt.errors import printable


class _Number(click.ParamType[Any]):
    """A number as specs and TOML files have it (see ``distopt.catalog.spec``), not as Python reads it."""

    def __init__(self, name: str, read: Callable[[str], Any], least: int | None = None) -> None:
        self.name, self.read, self.least = name, read, least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):  # a default
            return value
        try:
            number = self.read(value)
        except ValueError as error:
            self.fail(f"{printable(value)!r} {error}", param, ctx)
        if self.least is not None and number < self.least:
            self.fail(f"{value}: must be at least {self.least}", param, ctx)
        return number


_WHOLE, _REAL = _Number("whole number", whole), _Number("number", real)
_TRACEBACK = click.option(
    "--traceback", is_flag=True, envvar="DISTOPT_TRACEBACK", help="Show the Python traceback of an error."
)
_CHECKPOINT = click.option(
    "--checkpoint-every",
    type=_Number("whole number", whole, 1),
    metavar="K",
    help="Write a checkpoint every K rounds.",
)
_COUNT = "Number of experiments at a time.  [default: one per core, or as many as the cluster has room for]"
_ENGINES = click.Choice(["local", "threads", "ranks", "ray"])
_WAYS = click.Choice(["contiguous", "cut"])
_PARTITION = click.option(
    "--partition",
    type=_WAYS,
    help="Blocks of contiguous ids, or blocks between which few links run.  [default: contiguous]",
)
_BACKEND = click.option(
    "--backend",
    type=click.Choice(["gloo", "nccl"]),
    help="How ranks send rows: gloo on CPUs, or nccl with a GPU for each rank.  [default: gloo]",
)
_ADDRESS = click.option(
    "--address", metavar="auto|HOST:PORT", help="Address of a running Ray cluster.  [default: start one]"
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="distopt %(version)s")
def cli() -> None:
    """Simulate agents on a graph that minimise changing costs together, without a coordinator.

    \b
    distopt simulate ring --agents 16
    distopt simulate grid --agents 25 --scenario moving_target --algorithm gtadam:lr=0.02 --algorithm dgd
    distopt list algorithms
    distopt show erdos_renyi --agents 30
    """


@cli.command()
@click.argument("topology", metavar="TOPOLOGY|FILE.toml")
@click.option("--agents", type=_WHOLE, metavar="N", help="Number of agents, unless the topology fixes it.")
@click.option("--scenario", metavar="S", help="Scenario: the costs and their data.  [default: flights]")
@click.option(
    "--algorithm",
    multiple=True,
    metavar="A",
    help="Algorithm; repeat the option to compare several. Lists of values are a grid.  [default: gtadam]",
)
@click.option("--channel", metavar="C", help="Channel: how values are sent, for example compressed.  [default: exact]")
@click.option("--rounds", type=_WHOLE, metavar="T", help="Number of rounds.  [default: 1000, or fewer if the data end]")
@click.option("--trials", type=_WHOLE, metavar="R", help="Number of independent repetitions.  [default: 1]")
@click.option("--seed", type=_WHOLE, metavar="K", help="Random seed.  [default: 0]")
@click.option("--weights", metavar="W", help="Rule for the mixing weights.  [default: metropolis]")
@click.option("--drop-links", type=_REAL, metavar="P", help="Probability that a link fails in a round.  [default: 0]")
@click.option("--x0", metavar="NUMBER|FILE.npy", help="Where agents start.  [default: the scenario's start, or 0]")
@click.option("--every", type=_WHOLE, metavar="E", help="Record metrics every E rounds.  [default: 1]")
@click.option(
    "--record",
    metavar="x,s",
    help="Trajectories to record: x, fields of the algorithm's state, and memory.x.e of channels.",
)
@click.option(
    "--metric", "metrics", multiple=True, metavar="FILE.py", help="Metric of your own to measure too; may be repeated."
)
@click.option(
    "--dtype",
    metavar="float64",
    help="Precision of the iterates: float64 or float32. Metrics are float64.  [default: float64]",
)
@click.option("--eager", is_flag=True, help="Run rounds one by one in Python (for debugging); slower.")
@click.option("--compiled", is_flag=True, help="Refuse rounds that cannot be compiled.  [default: run them eagerly]")
@click.option(
    "--keep-code", type=click.Path(path_type=Path), metavar="DIR", help="Write compiled functions there as C."
)
@click.option("--device", default="cpu", metavar="D", help="Device of the local engine: cpu or cuda.  [default: cpu]")
@click.option(
    "--engine",
    type=_ENGINES,
    default="local",
    help="Where the rounds run: in this process, or on workers.  [default: local]",
)
@click.option(
    "--workers",
    type=_WHOLE,
    metavar="N",
    help="Number of workers (threads, ranks or actors).  [default: 2, or torchrun's ranks]",
)
@_PARTITION
@_BACKEND
@_ADDRESS
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write to.  [default: runs/...]")
@_CHECKPOINT
@_TRACEBACK
def simulate(
    topology: str,
    algorithm: tuple[str, ...],
    *,
    eager: bool,
    compiled: bool,
    device: str,
    engine: str,
    workers: int | None,
    partition: str | None,
    backend: str | None,
    address: str | None,
    out: Path | None,
    checkpoint_every: int | None,
    keep_code: Path | None,
    traceback: bool,
    **given: Any,
) -> None:
    """Simulate one or several algorithms and compare them.

    TOPOLOGY, S, A and C are specs: name:key=value,key=value. `distopt list` shows all names and parameters. The path of your
    own .py file works in place of a name. A list of values is a grid: "gtadam:lr=[0.01,0.03],b1=[0.5,0.9]" runs all four
    combinations in one batch. Quote it, or the shell reads the brackets. FILE.toml holds the same settings as keys (algorithm
    may be a list there). Options on the command line override it.

    The engine does not change the results: they are bitwise identical. "ranks" are processes. distopt starts them, or uses
    those of torchrun, on one machine or several:

    \b
    torchrun --nproc-per-node 4 -m distopt simulate ring --agents 16 --engine ranks

    "ray" are actors of a Ray cluster. Both replace workers that die. With --backend nccl each rank has a GPU of its own; its
    results equal those of CPUs to rounding.

    The run, a figure (regret.png) and a table (summary.csv) are written to the folder. A star marks the smallest average
    regret. Ctrl-C and SIGTERM save the run and end it; `distopt resume` continues it. After a kill it continues from the last
    checkpoint, if --checkpoint-every was given. torchrun --max-restarts resumes by itself, given --out and --checkpoint-every.
    """
    mode = asking.mode(eager, compiled)
    settings = {key: value for key, value in given.items() if value not in (None, ())}
    where = asking.engine_spec(engine, device, workers, partition, backend, address)
    with polite(traceback), asking.leading(engine, workers, address) as leads:
        if leads:
            again = (
                bool(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))
                and out is not None
                and checkpoint_every is not None
            )
            from distopt.codegen.keeping import keeping
            from distopt.runs.execution import Asked

            asked = Asked(mode, where, checkpoint_every)
            with keeping(keep_code):
                commands.simulate(asking.experiments(topology, algorithm, settings), out, asked, resume=again)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--engine", type=_ENGINES, help="Where the rounds run.  [default: where the run was]")
@click.option("--device", default="cpu", metavar="D", help="Device of the local engine: cpu or cuda.  [default: cpu]")
@click.option("--workers", type=_WHOLE, metavar="N", help="Number of workers (threads, ranks or actors).")
@_PARTITION
@_BACKEND
@_ADDRESS
@_CHECKPOINT
@click.option(
    "--force",
    is_flag=True,
    help="Resume even if files, versions or the device have changed. The results may then differ.",
)
@_TRACEBACK
def resume(
    run: Path,
    *,
    engine: str | None,
    device: str,
    workers: int | None,
    partition: str | None,
    backend: str | None,
    address: str | None,
    checkpoint_every: int | None,
    force: bool,
    traceback: bool,
) -> None:
    """Resume a simulation that was interrupted or killed.

    RUN is the folder that `distopt simulate` or `distopt sweep` wrote. A sweep runs the experiments that are not finished.
    Any other run continues from its last checkpoint, on any engine and any number
    of workers. Its results, figure and table are bitwise those of an undisturbed run.
    """
    if engine is None:
        engine = (
            "ranks"
            if "TORCHELASTIC_RUN_ID" in os.environ or backend is not None
            else "local"
            if device != "cpu"
            else None
        )
    with polite(traceback), asking.leading(engine or "local", workers, address) as leads:
        if leads:
            commands.resume(
                run,
                engine and asking.engine_spec(engine, device, workers, partition, backend, address),
                checkpoint_every,
                force,
            )


@cli.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.toml")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=A,B",
    help="A setting and its values, such as seed=1,2 or algorithm.lr=0.01,0.02. Repeat the option for more.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    help="Local processes, or tasks of a Ray cluster.  [default: local]",
)
@click.option("--workers", type=_WHOLE, metavar="N", help=_COUNT)
@_ADDRESS
@click.option("--eager", is_flag=True, help="Run rounds one by one in Python; slower.")
@click.option("--compiled", is_flag=True, help="Refuse rounds that cannot be compiled.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write to.  [default: runs/sweep-FILE]"
)
@_TRACEBACK
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
    """Run many experiments side by side: FILE.toml with every choice of values.

    \b
    distopt sweep experiment.toml --set algorithm.lr=0.01,0.02 --set seed=1,2,3
    distopt sweep experiment.toml --set scenario=sea,moving_target --engine ray --address auto

    KEY is a setting of FILE.toml, or a parameter of its topology, scenario, algorithm or channel. Put a value that contains
    commas in quotes. Each experiment is a run in a folder of its own; sweep.csv holds the table. Re-run the command to resume,
    or `distopt resume DIR`. An experiment that fails does not stop the others.
    """
    mode = asking.mode(eager, compiled)
    if workers is not None and workers < 1:
        raise click.UsageError("--workers must be at least 1")
    if address is not None and engine != "ray":
        raise click.UsageError("--address is that of a Ray cluster; add --engine ray")
    if address is not None and workers is not None:
        raise click.UsageError("a running cluster takes as many experiments as it has room for; leave --workers out")
    with polite(traceback):
        folder = out or Path("runs") / f"sweep-{file.stem}"
        commands.sweep(file, settings, engine, workers, address, mode, folder)


@cli.command("list")
@click.argument("what", required=False, metavar="[KIND|NAME|FILE.py]")
@_TRACEBACK
def list_(what: str | None, traceback: bool) -> None:
    """List all topologies, scenarios, algorithms and other parts, or explain one of them, your own included.

    \b
    distopt list                what there is
    distopt list algorithms     one kind, with parameters and their defaults
    distopt list gtadam         what it computes, its parameters, papers and an example
    distopt list mine.py        the same of your own class
    """
    with polite(traceback):
        from distopt.catalog.registry import KINDS
        from distopt.cli import listing

        if what is None or what in KINDS:
            listing.shown(what)
        else:
            listing.explained(what)


@cli.command()
@click.argument("topology")
@click.option("--agents", type=_WHOLE, metavar="N", help="Number of agents, unless the topology fixes it.")
@click.option(
    "--weights", default="metropolis", metavar="W", help="Rule for the mixing weights.  [default: metropolis]"
)
@click.option("--drop-links", type=_REAL, default=0.0, metavar="P", help="Probability that a link fails.  [default: 0]")
@click.option("--seed", type=_WHOLE, default=0, metavar="K", help="Seed of random topologies.  [default: 0]")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE.png", help="Picture to write.  [default: TOPOLOGY-N.png]"
)
@_TRACEBACK
def show(
    topology: str, *, agents: int | None, weights: str, drop_links: float, seed: int, out: Path | None, traceback: bool
) -> None:
    """Show a network: degrees, diameter, spectral gap, and a picture."""
    with polite(traceback):
        from distopt.experiment import Experiment, titled
        from distopt.network.topology import build_topology
        from distopt.report import network
        from distopt.runs.results import folder_name

        Experiment(topology, agents, "", "", seed=seed, drop_links=drop_links)  # checks the numbers
        graph = build_topology(topology, agents, seed)
        what = network.portrait(graph, weights, seed, drop_links)
        title = f"{titled(topology)}, {what.agents} agents"
        path = out or Path(f"{folder_name(titled(topology))}-{what.agents}.png")
        network.save(network.figure(what, title), path)
        click.echo(click.style(title, bold=True))
        for name, value in what.rows(weights).items():
            click.echo(f"  {name:<34}{value}")
        for note in what.notes:
            click.echo(f"distopt: note: {printable(note)}", err=True)
        click.echo(f"written: {printable(str(path))}")


@cli.command()
@click.argument("paper", metavar="ef-signsgd")
@click.option(
    "--only", metavar="PART", help="One part: counterexamples, least-squares, images or density.  [default: all]"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to write to.  [default: runs/reproduce-ef-signsgd]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder with CIFAR-10 or CIFAR-100 (binary version), to classify it too (takes hours).",
)
@_TRACEBACK
def reproduce(paper: str, *, only: str | None, out: Path | None, data: Path | None, traceback: bool) -> None:
    """Repeat a paper's experiments, and compare figures and tables with the paper's.

    ef-signsgd: Karimireddy, Rebjock, Stich, Jaggi, "Error feedback fixes SignSGD and other gradient compression schemes", 2019.
    Re-run the command to resume.
    """
    with polite(traceback):
        from distopt import reproduce as papers

        papers.run(paper, only, out, data, lambda text: click.echo(text, err=True), click.echo)


def main() -> None:
    """The entry point of the ``distopt`` command."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # a second thread that spins between small operations doubles the CPU time
    lasting_streams()
    cli(prog_name="distopt")
