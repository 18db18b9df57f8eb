"""The optional attributes of the classes of each kind, and their defaults.

The attributes of a base below are optional; their values here are the defaults. None means the same as leaving an attribute out. The
project's own classes inherit the base of their kind. A user's class inherits nothing: ``completed`` gives its objects what they lack, once,
where they come in. All other code reads plain attributes. Schedules have no optional attributes; ``distopt.protocols``
describes those of directions.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache, cached_property
from inspect import getattr_static
from types import BuiltinFunctionType, MemberDescriptorType
from typing import Any, ClassVar

from distopt.errors import InputError


class AlgorithmDefaults:
    """What an algorithm may leave out (see ``distopt.protocols.Algorithm``).

    Attributes:
        tracks: for gradient tracking, the name of the state's leaf, such as "s", whose mean over the agents is that of
            the gradients after every round. The metric ``tracker_invariant`` checks it. Without ``tracks`` a run does
            not have this metric, even if a leaf has that name.
        weights: what W must be: "row" (row-stochastic), "column" (column-stochastic), "doubly" (both), "symmetric" (and doubly stochastic),
            "average" (all entries 1/N, or a star, whose hub is then a server), or a dict of these by channel.
        output: ``output(x, state)`` [R, n, d], where the agents' answers are if not at x, such as an average of the points so far. All that is
            measured is measured there, before each round.
        channel: the ``Channel`` through which it sends, or a dict of them by name, if its paper prescribes one.
        coin: the probability that a round has an exchange. The algorithm reads ``mix.coin`` in every round, and ignores
            what ``mix(name, z)`` returns if it is False. Rounds without an exchange count no bits and no messages, and
            leave the channels' memories as they are. None: every round has an exchange.
        for_rows: ``for_rows(m)`` is the same algorithm for agents with m rows of data each. Algorithms that take
            gradients of single rows have it (``mix.grad(y, rows)``). Scenarios without such rows are then refused.
        full: in what part of the rounds it makes use of the gradients that it is given. The metric ``gradients`` counts only these.
        gradient_free: True if it uses no gradients, only values of the costs (``mix.loss``). The metric ``gradients``
            then counts these.
    """

    tracks: ClassVar[Any] = None
    weights: ClassVar[Any] = "doubly"
    output: ClassVar[Any] = None
    channel: ClassVar[Any] = None
    coin: ClassVar[Any] = None
    for_rows: ClassVar[Any] = None
    full: ClassVar[Any] = 1.0
    gradient_free: ClassVar[Any] = False


class CompressorDefaults:
    """What a compressor may leave out (see ``distopt.protocols.Compressor``).

    Attributes:
        shared: True means that the whole network shares one draw u [..., 1, words]. Receivers know it, too: ``decode`` is given it.
        start: ``start(d, dtype)`` [*], what the first encoding of a row starts from. A compressor with ``start`` must have ``warm``.
        warm: ``warm(payload, d)`` [..., n, *], what the next encoding starts from. ``encode`` receives either as
            ``warm``; the channel keeps it between two messages.
    """

    shared: ClassVar[Any] = False
    start: ClassVar[Any] = None
    warm: ClassVar[Any] = None

    def words(self, d: int) -> int:
        """How many uniforms a row of d numbers draws."""
        return 0


class ChannelDefaults:
    """What a channel may leave out (see ``distopt.protocols.Channel``).

    Attributes:
        shared: True if the uniforms are [R, 1, words(d)], the same for the whole network. Only then is the call given
            them, too.
        constant: True if the memory is only valid while W_t does not change. Networks whose links fail or change are
            then refused.
        for_degree: ``for_degree(E)`` is the same channel for agents with E slots for links (``Wire.slots``), for a
            channel that sends each neighbour a different message. Its payload is [R, n, E, *]. It is read first of all
            attributes, and W must be constant and symmetric.
        patient: True if such a channel works with messages that do not arrive. Their links then have the side 0.
        for_senders: ``for_senders(D)`` is the same channel for agents that hear at most D others (``Wire.arrived``),
            for a channel that keeps a memory of each sender and corrects for lost messages. It is read first of all
            attributes; the graph must be fixed.
    """

    shared: ClassVar[Any] = False
    constant: ClassVar[Any] = False
    for_degree: ClassVar[Any] = None
    patient: ClassVar[Any] = False
    for_senders: ClassVar[Any] = None

    def words(self, d: int) -> int:
        """How many uniforms the encoding of a row of d numbers draws.

        ``encode`` is given them as ``u``, float64 [R, n, words(d)] in [0, 1), addressed by trial, agent and round. If ``words`` is 0,
        ``u`` is None.
        """
        return 0


class ScenarioDefaults:
    """What a scenario may leave out (see ``distopt.protocols.Scenario``).

    Attributes:
        rounds: how many rounds the data last, where that does not depend on the agents. None: without end.
        comparator: True or False. False: the minimisers x*_t are unknown, as for a neural network. Then they are not
            sought. A run then has the cost in place of regrets and other metrics that compare with minimisers.
        optimum: ``optimum(b)`` [K|1, R|1, d], the minimiser x*_t of sum_i f_{i,t} from the batch of ALL agents, or None: then Newton's method
            finds it.
        best_fixed: ``best_fixed(rounds, key)`` [R|1, d], the best point that never moves: the minimiser of the sum of all costs of the first
            ``rounds`` rounds. ``key`` draws for all agents and trials. None: Newton's method looks for it.
        guess: ``guess(b)`` [K|1, R|1, d], where Newton's method starts. It is needed where f is not convex.
        hessian: ``hessian(x, b)`` [R, d, d], the sum over agents of the Hessians at x_i. It makes Newton's method faster.
        linear_rows: ``linear_rows(b)``, of logistic and softmax regression: features X [K|1, R|1, n|1, m, p], labels (-1.0 and 1.0, or int64
            classes) and row weights [K|1, R|1, n|1, m], and the ridge parameter. It makes it faster still (see ``distopt.costs.linear``).
        row_weights: the name of the leaf of its batches, NamedTuples, that holds the weights w [K|1, R|1, n|1, m] of samples, such as "w": costs
            are f_i = sum_r w_r loss_r(x), and what does not depend on w. A place with w = 0 is empty. Probes choose mini-batches by it. Where
            ``terms`` says m, too, algorithms may ask for gradients of some of the rows: the weights are then multiplied by numbers [R, n, m].
        modulus: ``modulus(b)`` [K|1, R|1], mu_t: F_t = sum_i f_{i,t} is mu_t-strongly convex; from the batch of ALL agents. 0 or None: unknown.
            With ``smoothness`` it certifies the regret. Where costs have ``linear_rows`` both are known already.
        smoothness: ``smoothness(b)`` [K|1, R|1], L_t: grad F_t has this Lipschitz constant. None: unknown.
        accuracy: ``accuracy(x, b)`` [R, n], the fraction of each agent's newly arrived samples that the model x_i classifies correctly (nan
            where none arrived).
        persistence: ``persistence(b)`` [R, n], the same for repeating the last label.
        project: ``project(x)`` [R, n, d], the nearest points that are allowed, each agent's by itself. It takes x to where the next round
            begins. ``optimum`` and ``best_fixed`` are then the best of the allowed points.
        lmo: ``lmo(s)`` [R, n, d], the allowed points v that minimise <s, v>, each agent's by itself.
        prox: ``prox(x, lr)`` [R, n, d] with lr [R|1, n|1, 1] in x's precision: each agent's point z that minimises
            h(z) + |z - x|^2 / (2 lr), independently of others. Every agent's cost then has the convex part h, which
            need not have a gradient: ``loss`` is f + h, and ``grad``, ``hessian``, ``modulus`` and ``smoothness`` are
            those of f alone. Only algorithms that take proximal steps (``mix.prox``) can then run. The scenario must
            give ``optimum``, and ``best_fixed`` if rounds differ; both minimise sums of ``loss``.
        eager: a text that says why its costs cannot be compiled, if that is known. They are not recorded then, and
            torch computes them round by round.
        equilibrium: ``equilibrium(b)`` [R|1, n|1, d] from one round's slice of the batch, where no player of a game
            wants to move. There the gradients of all agents sum to zero. It is the same for all of them. A scenario
            that has it is a game: coordinates belong to several players, ``grad`` holds each player's own descent
            direction, which is not the derivative of ``loss``, and ``comparator`` is False. None: it is not a game.
        start: ``start(key)`` [R|1, n|1, d], where agents start unless the experiment sets x0. ``key`` draws for all
            agents and trials.
    """

    rounds: ClassVar[Any] = None
    comparator: ClassVar[Any] = True
    optimum: ClassVar[Any] = None
    best_fixed: ClassVar[Any] = None
    guess: ClassVar[Any] = None
    hessian: ClassVar[Any] = None
    linear_rows: ClassVar[Any] = None
    row_weights: ClassVar[Any] = None
    modulus: ClassVar[Any] = None
    smoothness: ClassVar[Any] = None
    accuracy: ClassVar[Any] = None
    persistence: ClassVar[Any] = None
    project: ClassVar[Any] = None
    lmo: ClassVar[Any] = None
    prox: ClassVar[Any] = None
    eager: ClassVar[Any] = None
    equilibrium: ClassVar[Any] = None
    start: ClassVar[Any] = None

    def length(self, agents: int) -> int | None:
        """How many rounds the data last for so many agents; None: without end."""
        return None if self.rounds is None else int(self.rounds)

    def terms(self, agents: int) -> int | None:
        """m, where the costs of each of so many agents are a sum over the same m rows of data in all rounds; None: they are not.

        The weights of these rows are those that ``row_weights`` names.
        """
        return None


class TopologyDefaults:
    """What a topology that changes with the round may leave out (see ``distopt.network.graphs.Switching``).

    Attributes:
        random: False if every trial has the same links. They are then computed only once.
        positions: [N, 2] for drawing.
        notes: what the user should know about how the graph was read, a line each.
    """

    random: ClassVar[Any] = True
    positions: ClassVar[Any] = None
    notes: ClassVar[Any] = ()


class ProbeDefaults:
    """What a probe may leave out (see ``distopt.protocols.Probe``).

    Attributes:
        columns: what follows the probe's name and "_" in the names of the series that it measures, one for each number that ``measure`` gives.
            An empty one stands for the name alone.
        titles: what figures and tables call the series, one for each column. By default their names.
        unit: of all of them (see ``distopt.metrics.Metric``).
    """

    columns: ClassVar[Any] = ("",)
    titles: ClassVar[Any] = ()
    unit: ClassVar[Any] = ""

    def check(self, scenario: Any, algorithm: Any) -> None:
        """Raise InputError where these have nothing that could be measured."""


DEFAULTS: dict[str, type] = {
    "algorithms": AlgorithmDefaults,
    "channels": ChannelDefaults,
    "compressors": CompressorDefaults,
    "probes": ProbeDefaults,
    "scenarios": ScenarioDefaults,
    "topologies": TopologyDefaults,
}


ROOMS = frozenset(f"distopt.{kind}" for kind in (*DEFAULTS, "directions"))
"""Where the entries of the catalogue are, whose files have their names."""


def completed(defaults: type, part: Any) -> Any:
    """The object, with the attributes of a class of defaults for what it lacks. One that lacks nothing is returned as it is.

    The result is an instance of the object's class, too. Both share one ``__dict__``; the values of slots are copied. The object and its
    class stay as they are. The class's ``__new__``, ``__init__`` and ``__init_subclass__`` and its metaclass are not called.

    Raises:
        InputError: Python allows no subclass of the object's class, as of that of functions.
        AttributeError: one of the optional attributes is a property, and the property raised it.

    >>> class Mine:
    ...     weights = "row"
    >>> mine = completed(AlgorithmDefaults, Mine())
    >>> mine.weights, mine.tracks, isinstance(mine, Mine), hasattr(Mine, "tracks")
    ('row', None, True, False)
    """
    missing = tuple(name for name, default in vars(defaults).items() if name[0] != "_" and _lacks(part, name, default))
    if not missing:
        return part
    own: Any = type(part)
    fields = getattr(part, "__dict__", {})
    return _sharing(_class(own, defaults, missing, tuple(name for name in missing if name in fields)), part)


def _lacks(part: Any, name: str, default: Any) -> bool:
    """Whether an object needs the default of an attribute."""
    try:
        return getattr(part, name) is None and default is not None
    except AttributeError:
        if isinstance(getattr_static(part, name, None), property | cached_property):
            raise  # the property is there; it has failed
        return True


def _sharing(kind: Any, part: Any) -> Any:
    """An object of the class ``kind`` with the ``__dict__`` of another object and copies of its slots."""
    base: Any = next(each for each in kind.__mro__ if isinstance(vars(each).get("__new__"), BuiltinFunctionType))
    made = object.__new__(kind) if base is object else base.__new__(kind, part)  # of a tuple or a number: its value
    if base in (list, dict, set):
        base.__init__(made, part)
    slots = (each for own in kind.__mro__ for each in vars(own).values() if isinstance(each, MemberDescriptorType))
    for slot in slots:
        with suppress(AttributeError):  # a slot without a value
            slot.__set__(made, slot.__get__(part))
    if hasattr(part, "__dict__"):
        try:
            object.__setattr__(made, "__dict__", part.__dict__)  # what the object counts, both count
        except AttributeError:  # types.SimpleNamespace keeps its own attributes
            made.__dict__.update(part.__dict__)
    return made


class _Completed:
    """The first base of the class of a completed object: it copies and pickles the object, and keeps the user's class from hearing of it.

    A pickle holds the user's own object, which is completed again when it is read.
    """

    __slots__ = ()
    _completed_from: ClassVar[tuple[Any, type]]  # the user's class, and the class of defaults

    def __init_subclass__(cls, **arguments: Any) -> None:
        """In the place of the user's method of this name, which is for the user's own subclasses."""

    def __copy__(self) -> Any:
        own, defaults = type(self)._completed_from
        if hasattr(own, "__copy__"):
            return completed(defaults, own.__copy__(self))
        made = _sharing(type(self), self)
        if hasattr(self, "__dict__"):
            with suppress(AttributeError):  # types.SimpleNamespace has its own by now
                object.__setattr__(made, "__dict__", dict(self.__dict__))
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        own, defaults = type(self)._completed_from
        return completed, (defaults, _sharing(own, self))


class _InPlaceOfNone:
    """A default for an attribute that is None among the object's own fields, which would hide a plain default of the class."""

    def __init__(self, name: str, default: Any) -> None:
        self.name, self.default = name, default

    def __get__(self, part: Any, kind: Any = None) -> Any:
        own = None if part is None else part.__dict__.get(self.name)
        if own is not None:
            return own
        return self.default.__get__(part, kind) if callable(self.default) else self.default

    def __set__(self, part: Any, value: Any) -> None:
        part.__dict__[self.name] = value


@cache
def _class(own: Any, defaults: type, missing: tuple[str, ...], fields: tuple[str, ...]) -> type:
    """A user's class with the defaults that its object lacks; those in ``fields`` are None in the object's ``__dict__``.

    It has the same name, so that messages name the user's class.
    """
    told = {name: getattr(own, name) for name in ("__module__", "__qualname__", "__doc__")}
    given = {name: vars(defaults)[name] for name in missing}
    given |= {name: _InPlaceOfNone(name, given[name]) for name in fields}
    namespace = {**told, **given, "__slots__": (), "_completed_from": (own, defaults)}
    try:
        made: type = type.__new__(type(own), own.__name__, (_Completed, own), namespace)
    except TypeError as error:
        raise InputError(f"{own.__name__}: {error}; give an object of a class of your own") from error
    return made


def entry(part: Any) -> str:
    """What messages call an object: the name of its entry in the catalogue, with that of the part inside it; else its class.

    >>> from distopt.algorithms.averaged import Averaged
    >>> from distopt.algorithms.dgd import DGD
    >>> entry(Averaged(DGD(lr=0.5))), entry(1.5)
    ('averaged(dgd)', 'float')
    """
    kind = users_class(type(part))
    room, _, file = kind.__module__.rpartition(".")
    name = file if room in ROOMS and not file.startswith("_") else kind.__name__
    match part:
        case object(algorithm=inner) | object(scenario=inner):
            return f"{name}({entry(inner)})"
    return name


def users_class(kind: type) -> type:
    """The user's own class, of the class of an object that may have been completed."""
    found: type = kind._completed_from[0] if issubclass(kind, _Completed) else kind
    return found
