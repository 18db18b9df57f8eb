"""The shapes that algorithms, directions, compressors, channels, scenarios and topologies have.

A class inherits nothing from here: it only has the methods. All tensors are ``[..., n, d]``: trials first, the block's
agents at -2, coordinates at -1; scenario data carries one more axis, rounds, in front.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from distopt.random import Key

S = TypeVar("S")
D = TypeVar("D")
M = TypeVar("M")
B = TypeVar("B")

Mix = Callable[[str, Tensor], Tensor]
"""``mix("x", x)`` is W x [R, n, d], sent through the channel called "x"."""

Payload = Any
"""Packed tensors [..., n, *] of a compressed message (any nesting of tuples)."""


@runtime_checkable
class Algorithm(Protocol[S]):
    """A distributed recursion. Its fields are the paper's constants.

    ``channels`` names the values it sends. ``init(x)`` makes the state for x [R, n, d]; ``update(g, state, x, mix)`` takes
    the local gradients g_i = grad f_{i,t}(x_{i,t}) and returns (x_{t+1}, state). Every leaf of the state is [R, n, *].
    A state with leaves ``s`` (tracker) and ``g`` (last gradient) has its invariant mean s = mean g checked.

    Optional attribute ``weights``: what W must be, "row" (row-stochastic), "doubly" (the default) or "symmetric".
    """

    channels: ClassVar[tuple[str, ...]]

    def init(self, x: Tensor) -> S: ...
    def update(self, g: Tensor, state: S, x: Tensor, mix: Mix) -> tuple[Tensor, S]: ...


@runtime_checkable
class Direction(Protocol[D]):
    """A local rule that turns the (tracked) gradient into a step direction: what Adam is."""

    def init(self, x: Tensor) -> D: ...
    def __call__(self, s: Tensor, state: D) -> tuple[Tensor, D]: ...


@runtime_checkable
class Compressor(Protocol):
    """A pure row-wise map with a packed payload; ``bits(d)`` is the size of that payload."""

    def encode(self, z: Tensor, key: Key) -> Payload: ...
    def decode(self, payload: Payload, d: int) -> Tensor: ...
    def bits(self, d: int) -> int: ...


class Wire(Protocol):
    """What a channel may do with the network in one round."""

    def mix(self, z: Tensor) -> Tensor:
        """The weighted sum over neighbours, sum_j w_ij z_j [R, n, d], self term included."""


@runtime_checkable
class Channel(Protocol[M]):
    """How a value crosses the graph; its memory is part of the run's state."""

    def init(self, z: Tensor) -> M: ...
    def __call__(self, z: Tensor, memory: M, wire: Wire) -> tuple[Tensor, M]: ...
    def bits(self, d: int, itemsize: int) -> int:
        """Bits of one agent's message of a row of d numbers of ``itemsize`` bytes."""


@runtime_checkable
class Scenario(Protocol[B]):
    """Time-varying costs f_{i,t}: a pure function of (rounds, agents, trials), with random access in t.

    ``batch(t, key)`` takes rounds t, int64 [K, 1, 1, 1], and returns any nesting of tuples of tensors whose leaves are
    [K|1, R|1, n|1, ...]. ``loss`` and ``grad`` take points x [R, n, d] and one round's slice of it (leaves [R|1, n|1, ...])
    and return [R, n] and [R, n, d].

    Optional: ``optimum(b)``, the minimiser x*_t [K|1, R|1, d] of sum_i f_{i,t} from the batch of ALL agents, or None (then
    it is found by Newton's method); ``hessian(x, b)`` [R, d, d], the sum over agents of the Hessians at x_i, to speed that
    up; ``guess(b)`` [K|1, R|1, d], where Newton starts (needed where f is not convex); ``accuracy(x, b)`` [R, n], the
    fraction of each agent's newly arrived samples that the model x_i classifies correctly (nan where none arrived);
    ``persistence(b)`` [R, n], the same for the no-change prediction; ``length(agents)``, how many rounds the data last for so
    many agents (None: without end), or the attribute ``rounds`` where that does not depend on the agents.
    """

    dim: int

    def batch(self, t: Tensor, key: Key) -> B: ...
    def loss(self, x: Tensor, b: B) -> Tensor: ...
    def grad(self, x: Tensor, b: B) -> Tensor: ...
