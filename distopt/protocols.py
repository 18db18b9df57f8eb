"""The shapes that algorithms, directions, compressors, channels, scenarios, topologies and probes have.

A class inherits nothing from here: it only has the methods. ``distopt.optional`` lists optional attributes.
All tensors are ``[..., n, d]``: trials first, the block's agents at -2, coordinates at -1; scenario data carries one more axis, rounds, in front.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from distopt.numerics.random import Key

S = TypeVar("S")
D_co = TypeVar("D_co", covariant=True)
M = TypeVar("M")
B = TypeVar("B")


class Mix(Protocol):
    """One round of the network and of the costs, as an algorithm sees it. ``mix("x", x)`` is W_t x."""

    @property
    def t(self) -> Tensor:
        """The round, from 0: an integer tensor without axes, in compiled rounds too."""

    @property
    def x(self) -> Tensor:
        """x_t [R, n, d], where the gradients g of the round were taken."""

    def __call__(self, name: str, z: Tensor) -> Tensor:
        """W_t z [R, n, *], sent through the channel called ``name``: each channel once in a round. Channels may have weights of their own."""

    def grad(self, y: Tensor, rows: Tensor | None = None, *, ago: int = 0) -> Tensor:
        """The gradients [R, n, d] of this round's costs, on the same data, at other points y [R, n, d]. As many times in every round.

        With ``rows`` [R, n, B], whole numbers from 0 to m - 1 in x's precision, it is the mean gradient of these rows of each agent's data. The
        mean over all m rows is the gradient of the whole cost. Only algorithms with ``for_rows`` may use this.

        With ``ago=1`` they are those of the costs of the round before; in round 0 they are those of round 0. Only the simulator
        has them: in training with ``distopt.optim`` they are refused.
        """

    @property
    def coin(self) -> Tensor:
        """Whether agents exchange anything in this round, bool [R, 1, 1]: one coin for all agents of a trial, on every engine.

        An algorithm has it with the attribute ``coin``, the probability of True (see ``distopt.optional.AlgorithmDefaults``).
        """

    def loss(self, y: Tensor) -> Tensor:
        """The values [R, n, 1] of this round's costs at points y [R, n, d]. As many times in every round. Only the simulator has them."""

    def project(self, y: Tensor) -> Tensor:
        """The allowed points that are nearest to y [R, n, d]: y itself, unless the scenario restricts the points."""

    def lmo(self, s: Tensor, radius: Any = None) -> Tensor:
        """The allowed points v [R, n, d] that minimise <s, v>. If all points are allowed, those of the Euclidean ball of ``radius`` about 0."""

    def prox(self, y: Tensor, lr: Any) -> Tensor:
        """The points z [R, n, d] that minimise h(z) + |z - y|^2 / (2 lr), where h is the part of the scenario's costs that has no gradient.

        lr is a tensor [R|1, n|1, 1] of y's precision. Without such a part it is y itself.
        """

    def uniform(self, words: int) -> Tensor:
        """Uniform numbers in (0, 1) [R, n, words] of x's dtype, addressed by trial, round and agent: the same on every engine.

        A further call in a round gives the numbers that follow. All rounds must draw as many.
        """


class DirectionRound(Mix, Protocol):
    """One round as a direction rule sees it, if its ``__call__`` takes a third parameter: a ``Mix``, and the step that will be taken.

    Here ``x`` [R, n, d] is the point that will be moved: x_t, or the point between two exchanges of an algorithm with several local steps.
    """

    @property
    def lr(self) -> Any:
        """The step size that will multiply the direction in this round: for arithmetic with tensors, and with a value of its own per trial.

        It is a number, a tensor without axes or [R, 1, 1], or a number of a grid. For a function of it, such as its root, make a
        tensor first: ``torch.sqrt(lr * torch.ones_like(s[..., :1]))``.
        """


Payload = Any
"""What travels: packed tensors [R, n, *], one row per agent (a tensor, or any nesting of tuples of them)."""


@runtime_checkable
class Algorithm(Protocol[S]):
    """A distributed recursion. Its fields are the paper's constants.

    ``channels`` names the values it sends. ``init(x)`` makes the state for x [R, n, d]; ``update(g, state, x, mix)`` takes
    the local gradients g_i = grad f_{i,t}(x_{i,t}) and returns (x_{t+1}, state). Every leaf of the state is [R, n, *]. ``mix`` is
    the round (see ``Mix``).

    Optional attributes: ``distopt.optional.AlgorithmDefaults``.
    """

    channels: ClassVar[tuple[str, ...]]

    def init(self, x: Tensor) -> S: ...
    def update(self, g: Tensor, state: S, x: Tensor, mix: Mix) -> tuple[Tensor, S]: ...


@runtime_checkable
class Schedule(Protocol):
    """A step size that changes: given in the place of an algorithm's ``lr``.

    ``__call__(t)`` takes the round, an integer tensor without axes, and returns lr_t, a number or float64 without axes (for a grid,
    [R, 1, 1]). It must be built of operations of torch, so that it can be compiled.
    """

    def __call__(self, t: Tensor) -> Tensor | float: ...


@runtime_checkable
class Direction(Protocol[D_co]):
    """A local rule that turns the (tracked) gradient into a step direction: what Adam is.

    ``__call__(s, state)`` takes s_t [R, n, d] and what the rule remembers, and returns (d_t [R, n, d], what it remembers then). Optional: a third
    parameter for the round (see ``DirectionRound``): its number, the step size, the point, a second gradient, uniform numbers; and a method
    ``preconditioner`` (see ``Preconditioned``).
    """

    def init(self, x: Tensor) -> D_co: ...
    def __call__(self, s: Tensor, state: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, D_co]: ...


@runtime_checkable
class Compressor(Protocol):
    """A pure row-wise map with a packed payload. Its fields are its constants.

    ``encode`` takes z [..., n, d] and uniforms u, float64 [..., n, words(d)] in [0, 1), or None where it draws none; ``decode`` makes
    [..., n, d] of ``dtype`` from a payload. ``bits`` is the size of the payload of one row of d numbers of ``itemsize`` bytes.
    ``delta`` is the largest known contraction, E|C(z) - z|^2 <= (1 - delta) |z|^2, or None; ``omega`` the least known variance of an
    unbiased map, E C(z) = z and E|C(z) - z|^2 <= omega |z|^2, or None.

    Optional attributes: ``distopt.optional.CompressorDefaults``.
    """

    def encode(self, z: Tensor, u: Tensor | None = None, warm: Tensor | None = None) -> Payload: ...
    def decode(self, payload: Payload, d: int, dtype: torch.dtype, u: Tensor | None = None) -> Tensor: ...
    def bits(self, d: int, itemsize: int) -> int: ...
    def delta(self, d: int) -> float | None: ...
    def omega(self, d: int) -> float | None: ...


class Slots(NamedTuple):
    """The links of the block's agents, a slot each.
    Every agent has as many slots as the largest degree E; unused slots are empty.

    Attributes:
        index: int64 [n, E], where the slot of the link's other end lies among all h E slots of the heard agents; an empty slot's is its own.
        weight: float64 [n, E], w_ij; 0 where the slot is empty.
        side: float64 [R|1, n, E], 1 where the agent's id is lower than the neighbour's, -1 where it is higher, 0 where the slot is empty, or the
            neighbour's message does not arrive.
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody asks for
    weight: Tensor
    side: Tensor


class Arrived(NamedTuple):
    """The messages that arrive at the block's agents on a fixed graph. Every agent has D places, the largest number of senders.

    Attributes:
        rows: [R, n, D, d], each sender's row; any number where there is no sender, or where its message has not arrived.
        weight: float64 [R|1, n, D], w_ij; 0 there.
        own: float64 [R|1, n, 1], w_ii.
    """

    rows: Tensor
    weight: Tensor
    own: Tensor


class Wire(Protocol):
    """What a channel may do with the network in one round.

    The HEARD agents are those of the block and all their senders by W_t, h in number, in ascending global id.
    """

    @property
    def own(self) -> Tensor | slice:
        """The place of the block's agents among the heard ones: an index of axis -2."""

    def heard(self, payload: Payload) -> Payload:
        """Send the payload of the block's agents, rows [R, n, *], and return that of the heard agents, rows [R, h, *]."""

    def weigh(self, rows: Tensor) -> Tensor:
        """sum_j w_ij z_j [R, n, d] over the heard agents' rows z [R, h, d], self term included."""

    @property
    def slots(self) -> Slots:
        """The own agents' links, for a channel that has ``for_degree``; others have none (E = 0)."""

    def arrived(self, payload: Tensor) -> Arrived:
        """Send the block's rows [R, n, d], and return those that arrive, sender by sender, for a channel with ``for_senders``."""


@runtime_checkable
class Channel(Protocol[M]):
    """How a value crosses the graph; its memory is part of the run's state and holds own agents only, leaves [R, n, *].

    ``init(like)`` makes the memory before the first round, for values of the shape [R, n, d], precision and device of ``like``. The
    numbers in ``like`` mean nothing.

    ``encode`` makes what travels, and the call what arrives of it. Between the two lies the time a message takes: an engine may
    encode and send at the beginning of a round, and call when the algorithm asks.

    A value may be as wide as it likes, as long as all rounds send the same width d; it need not be x's.

    Optional attributes: ``distopt.optional.ChannelDefaults``.
    """

    def init(self, like: Tensor) -> M: ...
    def encode(self, z: Tensor, memory: M, u: Tensor | None) -> Payload: ...
    def __call__(
        self, z: Tensor, payload: Payload, memory: M, wire: Wire, u: Tensor | None = None
    ) -> tuple[Tensor, M]: ...
    def bits(self, d: int, itemsize: int) -> int:
        """Bits of one agent's message of a row of d numbers of ``itemsize`` bytes."""


@runtime_checkable
class Scenario(Protocol[B]):
    """Time-varying costs f_{i,t}: a pure function of (rounds, agents, trials), with random access in t.

    ``batch(t, key)`` takes rounds t, int64 [K, 1, 1, 1], and returns any nesting of tuples of tensors whose leaves are
    [K|1, R|1, n|1, ...]. ``loss`` and ``grad`` take points x [R, n, d] and one round's slice of it (leaves [R|1, n|1, ...])
    and return [R, n] and [R, n, d].

    Optional attributes: ``distopt.optional.ScenarioDefaults``.
    """

    dim: int

    def batch(self, t: Tensor, key: Key) -> B: ...
    def loss(self, x: Tensor, b: B) -> Tensor: ...
    def grad(self, x: Tensor, b: B) -> Tensor: ...


class Snapshot(Protocol):
    """One trial of a run before round t, as a probe sees it. All floats are float64, and nothing of it may be changed.

    Attributes:
        t: the round, from 0.
        scenario, algorithm: the run's.
        x: x_t of all agents [N, d]; ``mean`` [d] is their average, and ``start`` [d] that of x_0.
        state: the algorithm's state as round t - 1 has left it, leaves [N, *]; before round 0 as ``init`` makes it.
        data: the data of round t, as ``scenario.loss`` takes them at points [1, N, d].
        memory: what the probe keeps until it measures this trial again. A resumed run begins with an empty one, so it
            can only hold what ``measure`` can make again.
    """

    @property
    def t(self) -> int: ...
    @property
    def scenario(self) -> Any: ...
    @property
    def algorithm(self) -> Any: ...
    @property
    def x(self) -> Tensor: ...
    @property
    def mean(self) -> Tensor: ...
    @property
    def start(self) -> Tensor: ...
    @property
    def state(self) -> Any: ...
    @property
    def data(self) -> Any: ...
    @property
    def memory(self) -> dict[str, Any]: ...

    def cost(self, y: Tensor, t: int | None = None) -> Tensor:
        """F_t(y), the mean of all agents' costs at y [d], without axes; of another round up to t where one is given."""

    def grad(self, y: Tensor, t: int | None = None) -> Tensor:
        """Its gradient [d]."""

    def curvature(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        """What multiplies a vector [d] by the Hessian of F_t at y."""

    def with_data(self, data: Any) -> Snapshot:
        """The same agents with other data, in every round: those of some of the samples, say."""

    def normal(self, number: int = 0) -> Tensor:
        """Standard normal numbers [d], the same in all rounds and on every engine. Each ``number`` and each trial has its own."""


@runtime_checkable
class Probe(Protocol):
    """What is measured every E rounds, between two segments of rounds: what costs too much for every round, or is no sum over agents.

    ``every`` is E: like metrics that are recorded every E rounds, it is measured before the rounds E - 1, 2 E - 1, ..., and before the last
    one. ``measure`` gives a number, or as many as there are ``columns``.

    Optional attributes: ``distopt.optional.ProbeDefaults``.
    """

    @property
    def every(self) -> int:
        """E."""

    def measure(self, seen: Snapshot) -> float | tuple[float, ...]: ...


@runtime_checkable
class Preconditioned(Protocol):
    """A direction that divides: d = m / P, coordinate by coordinate. It is optional for a direction to say what P is."""

    def preconditioner(self, state: Any) -> Tensor:
        """P [..., n, d] of the direction that was given last, from the rule's state after it. It is nan before the first one."""
