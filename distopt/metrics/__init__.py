"""Metrics: what is measured in every round, one file each, found by file name. Formulas: docs/metrics.md.

A metric defines how it is measured and how it is shown. Engines only sum columns over the agents. The loop over rounds, tables,
figures and docs read a metric's attributes. F_t = sum_i f_{i,t}; xbar_t is the network average; x*_t minimises F_t.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from distopt.catalog import registry
from distopt.errors import InputError, either
from distopt.optional import completed

if TYPE_CHECKING:
    from torch import Tensor

AGENTWISE_LIMIT = 10**6
"""Agent-wise regrets evaluate N^2 costs of d coordinates a round: by default they are kept while N^2 d is at most this."""

RENAMED = {"regret_no_change": "regret_previous_optimum", "accuracy_no_change": "accuracy_last_label"}
"""What runs and checkpoints of earlier versions call some metrics."""

SOURCES = ("term", "round_term", "value")
"""The ways to measure: a metric has exactly one of these methods."""


class Missing(LookupError):
    """Raised if something that a metric needs is missing, so that the run does not have the metric."""


class View(NamedTuple):
    """Some agents in one round, or in several that are folded into the trials axis. All numbers are float64.

    ``x`` [R, n, d] are their points, ``mean`` [R, 1, d] the network average, ``best`` [R|1, 1, d] the minimiser of the round's cost, and
    ``data`` what the scenario's ``loss(x, data)`` takes. Where no comparator is sought ``best`` is nan.
    """

    scenario: Any
    x: Tensor
    mean: Tensor
    data: Any
    best: Tensor


class Seen(Protocol):
    """K rounds of a run with R trials. A missing attribute raises ``Missing``.

    ``reference`` is what the scenario alone decides, [K, R] each (see ``distopt.costs.comparator.Reference``). Without a comparator it only
    has ``persistence``. ``fixed_cost`` and ``fixed_accuracy`` [K, R] are those of the best fixed point. In each round an agent broadcasts
    ``bits`` bits and evaluates ``gradients`` gradients; ``messages`` [K, R] are what it sends, the mean over the agents. ``exchanges`` [K,
    R] is 1 in rounds with an exchange, and 0 in rounds without messages and bits (see ``distopt.optional.AlgorithmDefaults.coin``).
    ``points`` [K, R, N, d] are all agents' points and ``data`` the data, in float64.
    """

    @property
    def scenario(self) -> Any:
        """What gives the costs."""

    @property
    def agents(self) -> int:
        """N."""

    @property
    def bits(self) -> int:
        """Of an agent's messages in a round with an exchange."""

    @property
    def exchanges(self) -> Tensor:
        """1 in rounds in which agents exchange anything, and 0 in others [K, R]."""

    @property
    def gradients(self) -> float:
        """How many an agent evaluates in a round, in the mean."""

    @property
    def messages(self) -> Tensor:
        """That an agent sends in each round, the mean over the agents [K, R]."""

    @property
    def seconds(self) -> Tensor:
        """That each round would last by the experiment's clock [K, R]."""

    @property
    def reference(self) -> Any:
        """What the scenario alone decides, [K, R] each."""

    @property
    def fixed_cost(self) -> Tensor:
        """F_t at the best fixed point, [K, R]."""

    @property
    def fixed_accuracy(self) -> Tensor:
        """That of the best fixed point, [K, R]."""

    @property
    def points(self) -> Tensor:
        """All agents' points [K, R, N, d]."""

    @property
    def data(self) -> Any:
        """The data of all agents."""

    def everywhere(self, name: str, f: Callable[[Tensor, Any], Tensor]) -> Tensor:
        """f [R] of points [R, N, d] and a round's data, where all agents stand at the point of one of them, for each of them: [K, R, N].
        ``name`` is f's alone."""

    def __getitem__(self, name: str) -> Tensor:
        """Another metric of the same rounds, [K, R]."""

    def same(self, value: float) -> Tensor:
        """A number as [K, R]."""


class Metric:
    """The defaults of a metric's attributes. A user's class need not inherit from it.

    A metric has exactly one of three methods. ``term(view)`` gives what each agent of a ``View`` adds, [R, n] or [R, n, columns(d)].
    ``round_term(algorithm, state, g)`` gives the same from the algorithm's state after a round and the gradients [R, n, d] of that
    round. Both are summed over all agents, and ``finish(sums, agents)`` makes [K, R] of the sums [K, R, columns(d)]; by default it takes
    the mean over the agents. ``value(seen)`` gives [K, R] from values of the whole network (see ``Seen``).

    Attributes:
        title: what figures and tables call it. By default the name, which is that of its file.
        unit: "" (a plain number), "cost", "bits", "messages", "evaluations", "seconds" or "fraction".
        cumulative: whether its values are summed over all rounds so far.
        averaged: whether a run also offers it divided by t + 1, as ``average_NAME``. Its closing figure is then that.
        smoothed: whether figures draw its mean over the rounds so far, as single rounds hold too few samples.
        signed: whether values below zero are meaningful.
        rises: whether larger values are better.
        compares: whether it compares with minimisers. Runs of scenarios without them (``comparator = False``) do not
            have it.
        needs_points: whether it reads ``seen.points``, which costs N^2 evaluations; large runs leave it out by default.
        stored: whether a run keeps it. Other metrics can read one that is not stored.
        optional: whether a checkpoint may lack its sum, because the run does not have the metric.
        diverges: whether a value that is not finite means that the run has diverged.
        baselines: the metrics that are drawn beside it.
        label: what it is called as a baseline.
        head: the two lines over its column in the closing table; without them the table leaves it out.
        column: the place of that column, from the left.
        take: its closing figure, "last", "largest" or "mean" over the rounds, or "" for none.
        key: what its closing figure is called in ``summary.csv``; by default its name.
        announced: its name in the terminal if a run leaves it out; "" for no message.
        measured_every: rounds from one measurement to the next; it is nan in the others. Metrics are measured in every
            round, and the series of probes (see ``distopt.probes``) in fewer.
    """

    title: str = ""
    unit: str = ""
    cumulative: bool = False
    averaged: bool = False
    smoothed: bool = False
    signed: bool = False
    rises: bool = False
    compares: bool = False
    needs_points: bool = False
    stored: bool = True
    optional: bool = False
    diverges: bool = False
    baselines: tuple[str, ...] = ()
    label: str = ""
    head: tuple[str, ...] = ()
    column: int = 9
    take: str = ""
    key: str = ""
    announced: str = ""
    measured_every: int = 1

    term: Any = None
    round_term: Any = None
    value: Any = None

    def applies(self, scenario: Any, algorithm: Any) -> bool:
        """Whether these can have such a metric at all."""
        return True

    def kept(self, scenario: Any) -> bool:
        """Whether a run of the scenario keeps it."""
        return self.stored

    def absence(self, agents: int, dim: int) -> str:
        """Why a run of N agents in dimension d does not have it."""
        return "the scenario or the algorithm has no such thing"

    def columns(self, dim: int) -> int:
        """How many numbers an agent adds, in dimension d."""
        return 1

    def finish(self, sums: Tensor, agents: int) -> Tensor:
        """The metric [K, R] from the sums over all agents [K, R, columns]."""
        return sums[..., 0] / agents


SAID = tuple(
    name for name, value in vars(Metric).items() if isinstance(value, bool | int | str | tuple) and name[0] != "_"
)
"""The attributes for the display of a metric: plain values, which a run's manifest can hold."""


@cache
def catalogue() -> Mapping[str, Metric]:
    """The metrics that every run has where they apply, by name.

    >>> catalogue()["bits"].unit
    'bits'
    """
    return {name: registry.make("metrics", name) for name in registry.names("metrics")}


def added(specs: Sequence[Any], record: Sequence[str] = ()) -> dict[str, Metric]:
    """A user's metrics by name: paths of Python files, or objects. A metric is called as its file, or as its class.

    Raises:
        InputError: one that measures nothing, or whose name is taken.
    """
    found: dict[str, Metric] = {}
    for spec in specs:
        own = registry.make("metrics", spec) if isinstance(spec, str) else spec
        name = Path(registry.Spec.parse(spec).name).stem if isinstance(spec, str) else type(own).__name__.lower()
        if isinstance(own, type):
            raise InputError(
                f"metric {own.__name__} was given as a class; give an object of it, as in {own.__name__}()"
            )
        has = [each for each in SOURCES if callable(getattr(own, each, None))]
        if len(has) != 1:
            raise InputError(
                f"metric {name}: it must have one of the methods {', '.join(SOURCES)}; it has {' and '.join(has) or 'none'}"
            )
        if isinstance(spec, str) and spec == name and name in catalogue():
            how = either("distopt compare --metric ", "distopt.compare and metric=") + name
            raise InputError(
                f"metric {name}: it is measured wherever the scenario has it; leave it out, and rank by it with {how}"
            )
        if name in catalogue() or name in found or name in ("x", *record) or name.startswith("average_"):
            raise InputError(f"metric {name}: a run already has a series of this name; give the file another name")
        metric: Metric = completed(Metric, own)
        for each in SAID:
            said, default = getattr(metric, each), getattr(Metric, each)
            if type(said) is not type(default) and not (isinstance(said, list) and isinstance(default, tuple)):
                raise InputError(f"metric {name}: {each} must be of the type {type(default).__name__}")
        found[name] = metric
    return found


def said(metric: Metric) -> dict[str, Any]:
    """The attributes that a metric sets for its display, as plain values without defaults."""
    values = {name: getattr(metric, name) for name in SAID}
    return {name: value for name, value in values.items() if value != getattr(Metric, name)}


def about(name: str, users: Mapping[str, Mapping[str, Any]] | None = None) -> Metric:
    """How a metric is shown, by the name of its series.
    ``users`` holds the attributes of the user's metrics, from the
    run's manifest.

    >>> about("tracking_error").title, about("something").title
    ('Tracking error', 'Something')
    """
    if name in catalogue():
        return catalogue()[name]
    found = Metric()
    found.title = name.replace("_", " ").capitalize()
    found.take = "last"
    for key, value in (users or {}).get(name, {}).items():
        setattr(found, key, tuple(value) if isinstance(value, list) else value)
    if users and name in users and not found.head:
        first, _, rest = name.rpartition("_")
        found.head = (first.replace("_", " "), rest)
    return found
