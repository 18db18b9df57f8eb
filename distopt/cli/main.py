"""The command line: what can be typed after ``distopt``. What the longer commands do is in ``distopt.cli.commands``.

torch, networkx and matplotlib take seconds to import, so each command imports what it needs inside its function.
Exit codes: 0 success, 1 failure (a run that diverged counts), 2 invalid request, 130 ended by Ctrl-C, 143 ended by
SIGTERM.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from distopt._version import __version__
from distopt.cli import asking, commands, comparing, completing, doctor, installing, reporting, studies
from distopt.cli.options import (
    ADDRESS,
    BACKEND,
    CHECKPOINT,
    ENGINES,
    HOW,
    PARTITION,
    REAL,
    TRACEBACK,
    WHAT,
    WHERE,
    WHOLE,
)
from distopt.cli.polite import polite
from distopt.cli.streams import lasting_streams


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="distopt %(version)s")
@installing.INSTALL
@installing.SHOW
def cli() -> None:
    """Simulate decentralised online optimisation: agents on a graph, costs that change over time, no coordinator.

    \b
    distopt simulate ring --agents 16
    distopt simulate grid --agents 25 --scenario moving_target --algorithm gtadam:lr=0.02 --algorithm dgd
    distopt tune ring --agents 16 --scenario moving_target --algorithm gtadam --algorithm gt
    distopt list algorithms
    distopt show erdos_renyi --agents 30
    """


@cli.command()
@click.argument("topology", metavar="TOPOLOGY|FILE.toml", shell_complete=completing.part("topologies", ".toml", ".py"))
@WHAT
@click.option("--trials", type=WHOLE, metavar="R", help="Number of independent repetitions.  [default: 1]")
@HOW
@click.option(
    "--keep-code", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write compiled functions to, as C."
)
@WHERE
@click.option("--live", is_flag=True, help="Draw the regret in the terminal while the rounds run.")
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to write event files for TensorBoard to.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write to.  [default: runs/...]")
@CHECKPOINT
@click.option("--report", is_flag=True, help="Also write a report into the folder (see distopt report).")
@TRACEBACK
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
    live: bool,
    tensorboard: Path | None,
    report: bool,
    traceback: bool,
    **given: Any,
) -> None:
    """Simulate one or several algorithms and compare them.

    TOPOLOGY, S, A and C are specs: name:key=value,key=value. `distopt list` shows all names and parameters. The path of your
    own .py file works in place of a name. A list of values is a grid: "gtadam:lr=[0.01,0.03],b1=[0.5,0.9]" runs all four
    combinations in one batch. Quote it, or the shell reads the brackets. FILE.toml holds the same settings as keys (algorithm
    may be a list there). Options on the command line override it.

    If you name no scenario, no algorithm and no channel, the command compares gtadam, gt and dgd on the flights.
    `distopt tune` found their step sizes.

    The engine does not change the results: they are bitwise identical. With "ranks", processes share the agents.
    distopt starts them, or uses those of torchrun, on one machine or several:

    \b
    torchrun --nproc-per-node 4 -m distopt simulate ring --agents 16 --engine ranks

    With "ray", actors of a Ray cluster share the agents. Both engines replace workers that die. With --backend nccl
    each rank uses its own GPU; results then equal those of CPUs up to rounding.

    The run, a figure (regret.png) and a table (summary.csv) are written to the folder. A star marks the smallest average
    regret. Ctrl-C and SIGTERM save the run and end it; `distopt resume` continues it. After a kill it continues from
    the last checkpoint, if you gave --checkpoint-every. Under torchrun --max-restarts the run resumes automatically, if
    you gave --out and --checkpoint-every.
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
                wanted = asking.experiments(topology, algorithm, settings)
                commands.simulate(wanted, out, asked, again, live, tensorboard, page=report)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--engine", type=ENGINES, help="Where the rounds run.  [default: where the run ran before]")
@click.option("--device", default="cpu", metavar="D", help="Device of the local engine: cpu or cuda.  [default: cpu]")
@click.option("--workers", type=WHOLE, metavar="N", help="Number of workers (threads, ranks or actors).")
@PARTITION
@BACKEND
@ADDRESS
@CHECKPOINT
@click.option(
    "--force",
    is_flag=True,
    help="Resume even if files, versions or the device have changed. The results may then differ.",
)
@TRACEBACK
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

    RUN is the folder that `distopt simulate` or `distopt sweep` wrote. In a sweep, the unfinished experiments run. Any
    other run continues from its last checkpoint, on any engine and with any number of workers. Its results, figure and
    table are bitwise identical to those of a run that nothing interrupted.
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


@cli.command("list")
@click.argument("what", required=False, metavar="[KIND|NAME|FILE.py]", shell_complete=completing.named())
@TRACEBACK
def list_(what: str | None, traceback: bool) -> None:
    """List topologies, scenarios, algorithms and other parts, or explain one of them.

    \b
    distopt list                all names, by kind
    distopt list algorithms     one kind, with parameters and their defaults
    distopt list gtadam         what it computes, its parameters and papers, an example
    distopt list mine.py        the same for your own class
    """
    with polite(traceback):
        from distopt.catalog.registry import KINDS
        from distopt.cli import listing

        if what is None or what in KINDS:
            listing.shown(what)
        else:
            listing.explained(what)


@cli.command()
@click.argument("topology", shell_complete=completing.part("topologies", ".py"))
@click.option("--agents", type=WHOLE, metavar="N", help="Number of agents, unless the topology fixes it.")
@click.option(
    "--weights",
    default="metropolis",
    metavar="W",
    shell_complete=completing.words(*completing.WEIGHTS),
    help="Rule for the mixing weights.  [default: metropolis]",
)
@click.option("--drop-links", type=REAL, default=0.0, metavar="P", help="Probability that a link fails.  [default: 0]")
@click.option(
    "--drop-messages", type=REAL, default=0.0, metavar="P", help="Probability that a message is lost.  [default: 0]"
)
@click.option("--seed", type=WHOLE, default=0, metavar="K", help="Seed of random topologies.  [default: 0]")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE.png", help="Picture to write.  [default: TOPOLOGY-N.png]"
)
@TRACEBACK
def show(
    topology: str,
    *,
    agents: int | None,
    weights: str,
    drop_links: float,
    drop_messages: float,
    seed: int,
    out: Path | None,
    traceback: bool,
) -> None:
    """Show a network: degrees, diameter, spectral gap, and a picture."""
    with polite(traceback):
        from distopt.cli import listing

        listing.pictured(topology, agents, weights, drop_links, seed, out, drop_messages)


@cli.command()
@click.argument("paper", metavar="PAPER|all", shell_complete=completing.papers())
@click.option("--only", metavar="PART", help="One part of a paper's experiments, named above.  [default: all parts]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to write to.  [default: runs/reproduce-...]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder with CIFAR-10 or CIFAR-100 (binary version), to classify its pictures, too (takes hours).",
)
@TRACEBACK
def reproduce(paper: str, *, only: str | None, out: Path | None, data: Path | None, traceback: bool) -> None:
    """Repeat the experiments of a paper, or of all papers, and check each claim of the paper.

    ef-signsgd: Karimireddy, Rebjock, Stich, Jaggi, "Error feedback fixes SignSGD and other gradient compression schemes", 2019. Parts:
    counterexamples, least-squares, images, density.

    gtadam: Carnevale, Farina, Notarnicola, Notarstefano, "GTAdam: gradient tracking with adaptive momentum for distributed online
    optimization", 2023. Parts: classification, static, localization, images.

    amsgrad: Reddi, Kale, Kumar, "On the convergence of Adam and beyond", 2018. Parts: online, theorem, stochastic.

    acprop: Zhuang and others, "Momentum centering and asynchronous update for adaptive gradient methods", 2021. Parts: family, sparse.

    theopoula: Lim, Sabanis, "Polygonal unadjusted Langevin algorithms", 2021. Parts: toys.

    diffgrad: Dubey and others, "diffGrad: an optimization method for convolutional neural networks", 2020. Parts: toys, step-sizes.

    losing-momentum: Jin, Latz, Liu, Scagliotti, "Losing momentum in continuous-time stochastic optimisation", 2025. Parts: rates, well,
    finite-sum.

    aida: Zhang, Niwa, Kleijn, "Extending AdamW by leveraging its second moment and magnitude", 2021. Parts: stability.

    superadam: Huang, Li, Huang, "SUPER-ADAM: faster and universal framework of adaptive gradients", 2021. Parts: estimators.

    gadam: Granziol, Wan, Albanie, Roberts, "Iterative averaging in the quest for best test error", 2020. Parts: quadratic, digits, short.

    adan: Xie and others, "Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models", 2024. Parts: nesterov, contest.

    inna: Castera, Bolte, Févotte, Pauwels, "An inertial Newton algorithm for deep learning", 2021, and Castera, "Inertial Newton
    algorithms avoiding strict saddle points", 2021. Parts: spirals, saddle.

    quadratics: what theory says of gradient descent, heavy ball and Nesterov on quadratics. Parts: rates, limits, floors.

    glm: Gerbelot, Abbara, Krzakala, "Asymptotic errors for teacher-student convex generalized linear models", 2020. Parts: ridge, logistic,
    lasso.

    edge-of-stability: Cohen and others, "Gradient descent on neural networks typically occurs at the edge of stability", 2021. Parts: digits.

    adaptive-edge: Cohen and others, "Adaptive gradient methods at the edge of stability", 2022. Parts: digits, quadratic, network.

    spherical-sharpness: Lyu, Li, Arora, "Understanding the generalization benefit of normalization layers", 2022. Parts: digits.

    flow: Elkabetz, Cohen, "Continuous vs. discrete optimization of deep neural networks", 2021. Parts: order, valleys.

    random-matrix: Granziol, Zohren, Roberts, "Learning rates as a function of batch size", 2022. Parts: field, steps, network, learner, floor.

    dirac-gan: Mescheder, Geiger, Nowozin, "Which training methods for GANs do actually converge?", 2018. Parts: forms, agents.

    weight-normalisation: Wu and others, "Implicit regularization and convergence for weight normalization", 2020. Parts: ends, agents.

    The page of all claims and verdicts is index.html in the folder. Re-run the command to resume.
    """
    with polite(traceback):
        from distopt import reproduce as papers

        papers.run(paper, only, out, data, lambda text: click.echo(text, err=True), click.echo)


for each in (studies.sweep, studies.tune, comparing.compare, comparing.export, reporting.report, doctor.doctor):
    cli.add_command(each)


def main() -> None:
    """The entry point of the ``distopt`` command."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # a second thread that spins between small operations doubles the CPU time
    lasting_streams()
    completing.register()
    cli(prog_name="distopt")
