"""What a class of each kind may leave out, and what holds for it then.

The attributes of a base below are optional; their values here are the defaults. The project's own classes inherit the base of their kind.
A user's class inherits nothing: ``completed`` gives its objects what they lack, once, where they come in. All other code reads plain
attributes. Directions and schedules have no optional attributes.
"""

from __future__ import annotations

import copyreg
from contextlib import suppress
from functools import cache
from types import MemberDescriptorType
from typing import Any, ClassVar


class AlgorithmDefaults:
    """What an algorithm may leave out (see ``distopt.protocols.Algorithm``).

    Attributes:
        tracks: for gradient tracking, the name of the state's leaf, such as "s", whose mean over the agents is that of the gradients after
            every round. The metric ``tracker_invariant`` checks it; without ``tracks`` there is none, whatever leaves are called.
        weights: what W must be: "row" (row-stochastic), "column" (column-stochastic), "doubly" (both), "symmetric" (and doubly stochastic),
            "average" (all entries 1/N, or a star, whose hub is then a server), or a dict of these by channel.
        output: ``output(x, state)`` [R, n, d], where the agents' answers are if not at x, such as an average of the points so far. All that is
            measured is measured there, before each round.
        channel: the ``Channel`` through which it sends, or a dict of them by name, where its paper says which.
    """

    tracks: ClassVar[Any] = None
    weights: ClassVar[Any] = "doubly"
    output: ClassVar[Any] = None
    channel: ClassVar[Any] = None


class CompressorDefaults:
    """What a compressor may leave out (see ``distopt.protocols.Compressor``).

    Attributes:
        shared: True is one draw u [..., 1, words] for the whole network. Receivers know it, too, so ``decode`` is given it.
        start: ``start(d, dtype)`` [*], what the first encoding of a row starts from. Who has it has ``warm``, too.
        warm: ``warm(payload, d)`` [..., n, *], what the next encoding starts from. ``encode`` is given either as ``warm``: whoever compresses
            a stream of values keeps it in between.
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
        shared: True says that the uniforms are [R, 1, words(d)], the same for the whole network. Only then is the call given them, too.
        constant: True says that the memory only makes sense while W_t does not change. A network whose links come and go is then refused.
        for_degree: ``for_degree(E)`` is the same channel for agents with E slots for links (``Wire.slots``), for one that tells each neighbour
            something of its own. Its payload is [R, n, E, *]. It is asked for before all else, and W must be constant and symmetric.
    """

    shared: ClassVar[Any] = False
    constant: ClassVar[Any] = False
    for_degree: ClassVar[Any] = None

    def words(self, d: int) -> int:
        """How many uniforms the encoding of a row of d numbers draws.

        ``encode`` is given them as ``u``, float64 [R, n, words(d)] in [0, 1), addressed by trial, agent and round, or None where there
        are none.
        """
        return 0


class ScenarioDefaults:
    """What a scenario may leave out (see ``distopt.protocols.Scenario``).

    Attributes:
        rounds: how many rounds the data last, where that does not depend on the agents. None: without end.
        comparator: False says that nobody knows the minimisers x*_t, as of a neural network. They are not sought, then; there are no regrets
            and no other metrics that compare with them, and the cost stands in their place.
        optimum: ``optimum(b)`` [K|1, R|1, d], the minimiser x*_t of sum_i f_{i,t} from the batch of ALL agents, or None: then Newton's method
            finds it.
        guess: ``guess(b)`` [K|1, R|1, d], where Newton's method starts. It is needed where f is not convex.
        hessian: ``hessian(x, b)`` [R, d, d], the sum over agents of the Hessians at x_i. It makes Newton's method faster.
        linear_rows: ``linear_rows(b)``, of logistic and softmax regression: features X [K|1, R|1, n|1, m, p], labels (-1.0 and 1.0, or int64
            classes) and row weights [K|1, R|1, n|1, m], and the ridge parameter. It makes it faster still (see ``distopt.costs.linear``).
        accuracy: ``accuracy(x, b)`` [R, n], the fraction of each agent's newly arrived samples that the model x_i classifies correctly (nan
            where none arrived).
        persistence: ``persistence(b)`` [R, n], the same for repeating the last label.
        project: ``project(x)`` [R, n, d], the nearest points that are allowed, each agent's by itself. It takes x to where the next round
            begins.
        start: ``start(key)`` [R|1, n|1, d], where agents start unless the experiment says so. ``key`` draws for all agents and trials.
    """

    rounds: ClassVar[Any] = None
    comparator: ClassVar[Any] = True
    optimum: ClassVar[Any] = None
    guess: ClassVar[Any] = None
    hessian: ClassVar[Any] = None
    linear_rows: ClassVar[Any] = None
    accuracy: ClassVar[Any] = None
    persistence: ClassVar[Any] = None
    project: ClassVar[Any] = None
    start: ClassVar[Any] = None

    def length(self, agents: int) -> int | None:
        """How many rounds the data last for so many agents; None: without end."""
        return None if self.rounds is None else int(self.rounds)


class TopologyDefaults:
    """What a topology that changes with the round may leave out (see ``distopt.network.graphs.Switching``).

    Attributes:
        random: False says that every trial sees the same links. They are then asked for only once.
        positions: [N, 2] for drawing.
        notes: what the user should know of how the graph was read, a line each.
    """

    random: ClassVar[Any] = True
    positions: ClassVar[Any] = None
    notes: ClassVar[Any] = ()


DEFAULTS: dict[str, type] = {
    "algorithms": AlgorithmDefaults,
    "channels": ChannelDefaults,
    "compressors": CompressorDefaults,
    "scenarios": ScenarioDefaults,
    "topologies": TopologyDefaults,
}


def completed(defaults: type, part: Any) -> Any:
    """The object, with the attributes of a class of defaults for what it lacks. One that lacks nothing is returned as it is.

    The result shares the object's fields, and is an instance of its class, too. The object and its class stay as they are.

    >>> class Mine:
    ...     weights = "row"
    >>> mine = completed(AlgorithmDefaults, Mine())
    >>> mine.weights, mine.tracks, isinstance(mine, Mine), hasattr(Mine, "tracks")
    ('row', None, True, False)
    """
    missing = tuple(name for name in vars(defaults) if name[0] != "_" and not hasattr(part, name))
    if not missing:
        return part
    own: Any = type(part)
    made = _class(own, defaults, missing)
    twin = made.__new__(made, *(part.__getnewargs__() if hasattr(part, "__getnewargs__") else ()))
    for slot in (
        value for each in own.__mro__ for value in vars(each).values() if isinstance(value, MemberDescriptorType)
    ):
        with suppress(AttributeError):  # a slot without a value
            slot.__set__(twin, slot.__get__(part))
    if hasattr(part, "__dict__"):
        try:
            object.__setattr__(twin, "__dict__", part.__dict__)  # what the object counts, both count
        except AttributeError:  # types.SimpleNamespace keeps its own
            twin.__dict__.update(part.__dict__)
    return twin


class _Completed:
    """Before the user's class among the bases: making the class tells that one nothing, and pickles do not hold it."""

    __slots__ = ()

    def __init_subclass__(cls, **arguments: Any) -> None:
        """The user's class hears of its own subclasses only."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        made = super().__reduce_ex__(protocol)
        if isinstance(made, str) or made[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]  # typeshed lacks it
            return made
        return (_blank, (*type(self)._from, *made[1][1:]), *made[2:])  # type: ignore[attr-defined]  # see ``_class``


def _blank(own: type, defaults: type, missing: tuple[str, ...], *arguments: Any) -> Any:
    """A completed object without its fields, for pickle and copy."""
    made = _class(own, defaults, missing)
    return made.__new__(made, *arguments)


@cache
def _class(own: Any, defaults: type, missing: tuple[str, ...]) -> type:
    """A user's class with the defaults that its object lacks. It has the same name, so that messages tell of the user's class."""
    told = {name: getattr(own, name) for name in ("__module__", "__qualname__", "__doc__")}
    given = {name: vars(defaults)[name] for name in missing}
    made: type = type(own)(
        own.__name__, (_Completed, own), {**told, **given, "__slots__": (), "_from": (own, defaults, missing)}
    )
    return made


def users_class(kind: type) -> type:
    """The user's own class, of the class of an object that may have been completed."""
    found: type = kind._from[0] if issubclass(kind, _Completed) else kind  # type: ignore[attr-defined]  # see ``_class``
    return found
