"""The command line: what can be typed after ``distopt``. What the longer commands do is in ``distopt.cli.commands``.

torch, networkx and matplotlib take seconds to import: whatever needs them is imported inside the command that does.
Exit codes: 0 done, 1 failed (a run that diverged counts), 2 asked for something that cannot be done,
130 and 143 ended by Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distopt._version import __version__
from distopt.catalog.spec import real, whole
from distopt.cli import commands
from distopt.cli.streams import lasting_streams
from distopt.errors import InputError, printable

if TYPE_CHECKING:
    from distopt.experiment import Experiment
from distopt.cli.polite import polite


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
@click.option("--record", metavar="x,s", help="Trajectories to record: x, and fields of the algorithm's state.")
@click.option(
    "--metric", "metrics", multiple=True, metavar="FILE.py", help="Metric of your own to measure too; may be repeated."
)
@click.option(
    "--dtype",
    metavar="float64",
    help="Precision of the iterates: float64 or float32. Metrics are float64.  [default: float64]",
)
@click.option("--eager", is_flag=True, help="Never compile rounds (for debugging, or without a C++ compiler).")
@click.option("--compiled", is_flag=True, help="Always compile rounds.  [default: compile where that saves time]")
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
    if eager and compiled:
        raise click.UsageError("--eager and --compiled exclude each other")
    mode = "eager" if eager else "compiled" if compiled else "auto"
    settings = {key: value for key, value in given.items() if value not in (None, ())}
    where = _where(engine, device, workers, partition, backend, address)
    with polite(traceback), _leading(engine, workers, address) as leads:
        if leads:
            again = (
                bool(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))
                and out is not None
                and checkpoint_every is not None
            )
            commands.simulate(
                _experiments(topology, algorithm, settings), out, mode, where, checkpoint_every, resume=again
            )


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

    RUN is the folder that `distopt simulate` wrote. The run continues from its last checkpoint, on any engine and any number
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
    with polite(traceback), _leading(engine or "local", workers, address) as leads:
        if leads:
            commands.resume(
                run, engine and _where(engine, device, workers, partition, backend, address), checkpoint_every, force
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
@click.option("--eager", is_flag=True, help="Never compile rounds.")
@click.option("--compiled", is_flag=True, help="Always compile rounds.")
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
    commas in quotes. Each experiment is a run in a folder of its own; sweep.csv holds the table. Re-run the command to resume.
    An experiment that fails does not stop the others.
    """
    if eager and compiled:
        raise click.UsageError("--eager and --compiled exclude each other")
    if workers is not None and workers < 1:
        raise click.UsageError("--workers must be at least 1")
    if address is not None and engine != "ray":
        raise click.UsageError("--address is that of a Ray cluster; add --engine ray")
    if address is not None and workers is not None:
        raise click.UsageError("a running cluster takes as many experiments as it has room for; leave --workers out")
    with polite(traceback):
        mode = "eager" if eager else "compiled" if compiled else "auto"
        folder = out or Path("runs") / f"sweep-{file.stem}"
        commands.sweep(file, settings, engine, workers or len(os.sched_getaffinity(0)), address or "", mode, folder)


@cli.command("list")
@click.argument(
    "kind",
    required=False,
    metavar="[topologies|scenarios|algorithms|directions|schedules|channels|compressors|metrics|engines]",
)
@_TRACEBACK
def list_(kind: str | None, traceback: bool) -> None:
    """List all topologies, scenarios, algorithms and other parts."""
    from distopt.catalog import registry

    with polite(traceback):
        for number, each in enumerate(registry.KINDS if kind is None else (kind,)):
            names = registry.names(each)
            click.echo(("\n" if number else "") + click.style(each, bold=True))
            if not names:
                click.echo(f"  (this version has no {each})")
            for name in names:
                _entry(name, *registry.describe(each, name))


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
        from distopt.experiment import Experiment
        from distopt.report import network
        from distopt.runs.results import folder_name
        from distopt.simulation.problem import build_topology

        Experiment(topology, agents, "", "", seed=seed, drop_links=drop_links)  # checks the numbers
        graph = build_topology(topology, agents, seed)
        what = network.portrait(graph, weights, seed, drop_links)
        title = f"{commands.short(topology)}, {what.agents} agents"
        path = out or Path(f"{folder_name(commands.short(topology))}-{what.agents}.png")
        network.save(network.figure(what, title), path)
        seen = f"over {what.rounds} rounds"
        fading = bool((what.presence < 1).any())
        low, mean, high = what.degrees
        many = "not computed: too many agents"
        rows = {
            "agents": f"{what.agents:,}",
            "links": f"{len(what.links):,}{f' different ones {seen}' if fading else ''}",
            "degree": f"{low}" if low == high else f"{low} to {high}, mean {mean:.3g}",
            "diameter": f"{what.diameter}{f' (of all links {seen})' if fading else ''}",
            "weights": "given by the topology" if what.own_weights else weights,
            "time-varying": "no"
            if what.rounds == 1
            else "yes"
            if what.gap is None
            else f"yes; W below is the mean {seen}",
            "second largest |eigenvalue| of W": many if what.second is None else f"{what.second:.6g}",
            "spectral gap": many if what.gap is None else f"{what.gap:.6g}",
        }
        click.echo(click.style(title, bold=True))
        for name, value in rows.items():
            click.echo(f"  {name:<34}{value}")
        for note in getattr(graph, "notes", ()):
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


# ---------------------------------------------------------------------------------------------------------------- simulate


@contextmanager
def _leading(engine: str, workers: int | None, address: str | None) -> Iterator[bool]:
    """Whether this process runs the command. Among the ranks of torchrun only the first does; the others serve it here."""
    if engine == "local" and workers is not None:
        raise InputError("--workers says how many share the agents; choose who with --engine threads, ranks or ray")
    if engine != "ray" and address is not None:
        raise InputError("--address is that of a Ray cluster; add --engine ray")
    started = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 0
    if started > 1 and engine != "ranks":
        raise InputError(
            f"torchrun started {started} ranks, each of which would run everything; add --engine ranks, and they share the agents"
        )
    if engine == "ray":
        from distopt.engines.ray import cluster

        with cluster.cluster(address or "", workers or 2):  # for all algorithms
            yield True
        return
    if engine != "ranks" or not started:
        yield True
        return
    from distopt.engines import ranks

    with ranks.torchrun_group() as leads:
        yield leads


def _where(
    engine: str, device: str, workers: int | None, partition: str | None, backend: str | None, address: str | None
) -> str:
    """The spec of the engine asked for."""
    if device != "cpu" and engine != "local":
        raise click.UsageError("--device belongs to the local engine; leave out one of --device and --engine")
    asked = [f"device={device}"] if device != "cpu" else []
    if partition is not None and engine == "local":
        raise click.UsageError(
            "--partition says how workers share the agents; choose who with --engine threads, ranks or ray"
        )
    if backend is not None and engine != "ranks":
        raise click.UsageError("--backend says what carries the rows of ranks; add --engine ranks")
    asked += [] if workers is None else [f"workers={workers}"]
    asked += [] if partition is None else [f"partition={partition}"]
    asked += [] if backend is None else [f"backend={backend}"]
    asked += [] if address is None else [f"address={address}"]
    return f"{engine}:{','.join(asked)}" if asked else engine


def _experiments(topology: str, algorithms: tuple[str, ...], given: dict[str, Any]) -> list[Experiment]:
    """The experiments asked for: from options, or from a file with the options laid over it."""
    from distopt.catalog.spec import rebased
    from distopt.experiment import Experiment, label, repeated, settings, start

    values: dict[str, Any]
    if topology.endswith(".toml"):
        values, where = settings(Path(topology)), topology
        if "x0" in given:
            given["x0"] = start(given["x0"])
        # paths typed here are relative to this folder; those of the TOML file to its own
        given = {
            key: rebased(value, values["folder"])
            if key in ("scenario", "channel", "x0") and isinstance(value, str)
            else value
            for key, value in given.items()
        }
        if "metrics" in given:
            given["metrics"] = [rebased(each, values["folder"]) for each in given["metrics"]]
        algorithms = tuple(rebased(each, values["folder"]) for each in algorithms)
    else:
        values, where = {"topology": topology}, "the command line"
    values |= given
    named = list(algorithms) or values.get("algorithm")
    named = named if isinstance(named, list) else [named]
    if not named:
        raise InputError(f'{where}: algorithm is an empty list; write algorithm = ["gtadam", "dgd"]')
    named = [name.strip() if isinstance(name, str) else name for name in named]
    asked = [
        Experiment.from_mapping({**values, **({} if name is None else {"algorithm": name})}, where) for name in named
    ]
    experiments = [point for experiment in asked for point in experiment.points()]
    labels = [label(experiment) for experiment in experiments]
    if (twice := repeated(labels)) is not None:
        each = labels[twice]
        raise InputError(
            f"algorithm {each} is given twice; to run it with different parameters, write {each}:key=value"
        )
    return experiments


# ---------------------------------------------------------------------------------------------------------------- terminal


def _entry(name: str, signature: str, sentence: str) -> None:
    """One line of ``distopt list`` on a pipe, its spec first; on a terminal the sentence, and the parameters below it."""
    signature = signature.replace("'", "")  # as it is typed
    if not sys.stdout.isatty():
        spec = f"{name}:{signature.replace(', ', ',')}" if signature else name
        click.echo(f"  {spec}\t{sentence}")
        return
    import textwrap

    room = max(24, commands.width() - 24)
    lines = textwrap.wrap(sentence, room) or [""]
    parameters = textwrap.wrap(signature, room)
    head = (
        click.style(f"  {name:<20}", fg="cyan") if len(name) <= 20 else click.style(f"  {name}\n", fg="cyan") + " " * 22
    )
    click.echo(f"{head}  {lines[0]}")
    for line in lines[1:]:
        click.echo(" " * 24 + line)
    for line in parameters:
        click.echo(" " * 24 + click.style(line, dim=True))
