"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from distopt.catalog.spec import real, whole
from distopt.cli import completing
from distopt.errors import printable

Command = TypeVar("Command", bound=Callable[..., Any])


class Number(click.ParamType):  # type: ignore[type-arg]  # it takes type arguments from click 8.4 on
    """A number in the syntax of specs and TOML files (see ``distopt.catalog.spec``), which is stricter than Python's."""

    def __init__(self, name: str, read: Callable[[str], Any], least: int | None = None) -> None:
        self.name, self.read, self.least = name, read, least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number that a text is."""
        if not isinstance(value, str):  # a default
            return value
        try:
            number = self.read(value)
        except ValueError as error:
            self.fail(f"{printable(value)!r} {error}", param, ctx)
        if self.least is not None and number < self.least:
            self.fail(f"{value}: must be at least {self.least}", param, ctx)
        return number


WHOLE, REAL = Number("whole number", whole), Number("number", real)
TRACEBACK = click.option(
    "--traceback", is_flag=True, envvar="DISTOPT_TRACEBACK", help="Show the Python traceback of an error."
)
CHECKPOINT = click.option(
    "--checkpoint-every",
    type=Number("whole number", whole, 1),
    metavar="K",
    help="Write a checkpoint every K rounds.",
)
COUNT = "Number of experiments that run at once.  [default: one per core, or as many as the cluster has room for]"
ENGINES = click.Choice(["local", "threads", "ranks", "ray"])
WAYS = click.Choice(["contiguous", "cut"])
PARTITION = click.option(
    "--partition",
    type=WAYS,
    help="How workers share the agents: blocks of contiguous ids, or blocks that cut few links.  [default: contiguous]",
)
BACKEND = click.option(
    "--backend",
    type=click.Choice(["gloo", "nccl"]),
    help="How ranks exchange messages: gloo on CPUs, or nccl with a GPU for each rank.  [default: gloo]",
)
ADDRESS = click.option(
    "--address", metavar="auto|HOST:PORT", help="Address of a running Ray cluster.  [default: start one]"
)


def stacked(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Options as one decorator, in their order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


WHAT = stacked(
    click.option("--agents", type=WHOLE, metavar="N", help="Number of agents, unless the topology fixes it."),
    click.option(
        "--scenario",
        shell_complete=completing.part("scenarios", ".py"),
        metavar="S",
        help="Scenario: the costs and their data.  [default: flights]",
    ),
    click.option(
        "--algorithm",
        shell_complete=completing.part("algorithms", ".py"),
        multiple=True,
        metavar="A",
        help="Algorithm; repeat the option to compare several. Lists of values are a grid.  [default: gtadam]",
    ),
    click.option(
        "--channel",
        shell_complete=completing.part("channels", ".py"),
        metavar="C",
        help="Channel: how values are sent, for example compressed.  [default: exact]",
    ),
    click.option(
        "--rounds", type=WHOLE, metavar="T", help="Number of rounds.  [default: 1000, or fewer if the data end]"
    ),
)
"""What is computed, up to the number of rounds."""

HOW = stacked(
    click.option("--seed", type=WHOLE, metavar="K", help="Random seed.  [default: 0]"),
    click.option(
        "--weights",
        shell_complete=completing.words(*completing.WEIGHTS),
        metavar="W",
        help="Rule for the mixing weights.  [default: metropolis]",
    ),
    click.option(
        "--drop-links", type=REAL, metavar="P", help="Probability that a link fails in a round.  [default: 0]"
    ),
    click.option(
        "--drop-messages",
        type=REAL,
        metavar="P",
        help="Probability that a message is lost in a round, in one direction, independently of others.  [default: 0]",
    ),
    click.option("--sleep", type=REAL, metavar="P", help="Probability that an agent skips a round.  [default: 0]"),
    click.option(
        "--delay",
        metavar="K|J..K|length",
        help="How many rounds late messages arrive; from a range, each message draws its delay; length: from links' lengths and "
        "--clock compute=S.  [default: 0]",
    ),
    click.option(
        "--feedback",
        shell_complete=completing.setting("algorithms", "bandit"),
        metavar="F",
        help="Estimate gradients from values of the costs: two_point:delta=0.01, one_point or residual.  [default: exact gradients]",
    ),
    click.option(
        "--feasible",
        shell_complete=completing.setting("scenarios", "feasible"),
        metavar="F",
        help="Set of allowed points: ball:radius=1, box, simplex or l1.  [default: all points]",
    ),
    click.option(
        "--clock",
        metavar="KEY=VALUE,...",
        help="What computing and sending take, for the metric simulated_seconds: compute=1e-3,latency=1e-3,bandwidth=1e9, or latency=length.",
    ),
    click.option(
        "--churn",
        metavar="leave=P,join=Q",
        help="Probabilities that an agent leaves and joins in a round; until=T ends this at round T.  [default: 0]",
    ),
    click.option(
        "--x0", metavar="NUMBER|FILE.npy", help="Starting point of the agents.  [default: the scenario's start, or 0]"
    ),
    click.option("--every", type=WHOLE, metavar="E", help="Record metrics every E rounds.  [default: 1]"),
    click.option(
        "--record",
        metavar="x,s",
        help="Trajectories to record: x, fields of the algorithm's state, or a channel's memory, such as memory.x.e.",
    ),
    click.option(
        "--metric",
        "metrics",
        shell_complete=completing.part("metrics", ".py"),
        multiple=True,
        metavar="FILE.py",
        help="Your own metric, measured besides the others. May be repeated.",
    ),
    click.option(
        "--probe",
        shell_complete=completing.part("probes", ".py"),
        multiple=True,
        metavar="P",
        help="Probe: a quantity to measure once in several rounds, for example sharpness:every=100. May be repeated.",
    ),
    click.option(
        "--dtype",
        shell_complete=completing.words("float64", "float32"),
        metavar="float64",
        help="Precision of the iterates: float64 or float32. Metrics are float64.  [default: float64]",
    ),
)
"""The rest of what is computed."""

WHERE = stacked(
    click.option("--eager", is_flag=True, help="Run rounds one by one in Python: slower, for debugging."),
    click.option(
        "--compiled", is_flag=True, help="Fail if the rounds cannot be compiled.  [default: run them in Python]"
    ),
    click.option(
        "--device", default="cpu", metavar="D", help="Device of the local engine: cpu or cuda.  [default: cpu]"
    ),
    click.option(
        "--engine",
        type=ENGINES,
        default="local",
        help="Where the rounds run: in this process, or on workers.  [default: local]",
    ),
    click.option(
        "--workers",
        type=WHOLE,
        metavar="N",
        help="Number of workers (threads, ranks or actors).  [default: 2, or torchrun's ranks]",
    ),
    PARTITION,
    BACKEND,
    ADDRESS,
)
"""Where and how the rounds run."""
