"""Loops: computations at each place of a tensor, fused into as few passes over memory as possible.

A tensor is first a ``Lazy``: the expression of its number at any index. Indexing, adding and transposing make further lazy tensors, and
nothing is stored. Where a tensor is read in many places, it is ``realised``: a loop writes it into a buffer. It joins the first loop
over the same indices after all that it reads. A reader in that loop at the same index uses the number directly. If there are no other
readers, the tensor is never stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from distopt.codegen.expressions import Buffer, Expr, Index, Pool, Type, loads

LIMIT = 24  # numbers that go into an expression before it is realised


class Lazy:
    """A tensor as a function of the index. ``cost`` counts the numbers read for one of its own.

    ``anywhere``: it can be read at a place that is itself a number, as in ``held`` tensors.
    """

    __slots__ = ("_made", "_make", "anywhere", "cost", "held", "shape", "stored", "type")

    def __init__(
        self, shape: Sequence[int], type: Type, make: Callable[[Index], Expr], cost: int = 1, held: Buffer | None = None
    ) -> None:
        self.shape, self.type, self._make, self.cost, self.held = tuple(shape), type, make, cost, held
        self.anywhere = held is not None
        self.stored: Lazy | None = None  # the same in memory, once it is there
        self._made: dict[Index, Expr] = {}

    def at(self, ix: Index) -> Expr:
        """The number at an index."""
        found = self._made.get(ix)
        if found is None:
            found = self._made[ix] = self._make(ix)
        return found


@dataclass(frozen=True)
class Store:
    """``buffer[ix] = value``. ``kept`` is false where the number is only used in the same loop body."""

    buffer: Buffer
    ix: Index
    value: Expr
    kept: bool = True


@dataclass(frozen=True)
class Block:
    """Stores of one loop body: all values are computed first, then stored. If they are ``chained``, a value may read an earlier one."""

    stores: tuple[Store, ...]
    chained: bool = False


@dataclass(frozen=True)
class Loop:
    """``for (variable = start; variable < stop; variable += step) body``.

    ``kind``: turns are independent of each other ("each"), also but for small memory that each turn fills anew ("rows"), the eight turns that
    fill the lanes of a sum ("lanes"), or one must follow the other ("order"). A turn of a loop with a step does so many numbers or rows.
    """

    variable: Expr
    start: int
    stop: int
    body: tuple[Statement, ...]
    kind: Literal["each", "rows", "lanes", "order"] = "each"
    step: int = 1


@dataclass(frozen=True)
class If:
    """``body`` where the condition holds."""

    condition: Expr
    body: tuple[Statement, ...]


Statement = Block | Loop | If


def work(statement: Statement) -> int:
    """How many numbers a statement computes, about."""
    if isinstance(statement, Block):
        return len(statement.stores)
    turns = (statement.stop - statement.start) // statement.step if isinstance(statement, Loop) else 1
    return turns * sum(map(work, statement.body))


def shared(a: Sequence[Statement], b: Sequence[Statement]) -> tuple[Statement, ...] | None:
    """Two computations in the same loops; None if they have other ones."""
    found: list[Statement] = []
    for one, other in zip(a, b, strict=False):
        if isinstance(one, Block) and isinstance(other, Block) and one.chained == other.chained:
            found.append(Block((*one.stores, *other.stores), one.chained))
            continue
        if not isinstance(one, Loop) or not isinstance(other, Loop) or replace(one, body=()) != replace(other, body=()):
            return None
        body = shared(one.body, other.body)
        if body is None:
            return None
        found.append(replace(one, body=body))
    return tuple(found) if len(a) == len(b) else None


@dataclass
class Nest:
    """A loop over the indices of ``shape``. Its body is ``stores``, or it is some other loop (``body``) and nothing may join it.

    ``reads`` are the loads it needs, ``writes`` the buffers it fills.
    """

    shape: tuple[int, ...]
    stores: list[Store] = field(default_factory=list)
    body: tuple[Statement, ...] = ()
    reads: list[Expr] = field(default_factory=list)
    writes: list[Buffer] = field(default_factory=list)


class Nests:
    """The loops of one function, in order, while they are being made."""

    def __init__(self) -> None:
        self.pool = Pool()
        self.nests: list[Nest] = []
        self.buffers: list[Buffer] = []
        self._filled: dict[int, int] = {}
        self._variables = 0

    def constant(self, n: int) -> Expr:
        """A place that is known."""
        return self.pool.constant("i64", n)

    def variable(self) -> Expr:
        """A new counter."""
        self._variables += 1
        return self.pool.variable(f"r{self._variables}")

    def index(self, shape: Sequence[int]) -> Index:
        """The counters of a loop over the indices of a tensor, by axis; an axis of length 1 needs none."""
        return tuple(self.constant(0) if n == 1 else self.pool.variable(f"i{axis}") for axis, n in enumerate(shape))

    def over(
        self, shape: Sequence[int], body: Sequence[Statement], first: int = 0, kind: Literal["each", "order"] = "each"
    ) -> tuple[Statement, ...]:
        """Loops around a body, one for each axis from ``first`` on that has more than one place."""
        inside = tuple(body)
        for axis in reversed(range(len(shape))):
            if axis >= first and shape[axis] != 1:
                inside = (Loop(self.pool.variable(f"i{axis}"), 0, shape[axis], inside, kind),)
        return inside

    def buffer(
        self, shape: Sequence[int], type: Type, kind: Literal["input", "output", "temporary", "local"] = "temporary"
    ) -> Buffer:
        """Memory for a tensor."""
        name = {"input": "in", "local": "own"}.get(kind, "b")
        made = Buffer(f"{name}{len(self.buffers)}", tuple(shape), type, kind)
        self.buffers.append(made)
        return made

    def held(self, buffer: Buffer) -> Lazy:
        """The tensor in a buffer."""
        return Lazy(buffer.shape, buffer.type, lambda ix: self.pool.load(buffer, ix), 1, buffer)

    def realised(self, lazy: Lazy, again: bool = False) -> Lazy:
        """The tensor in memory, computed once for all readers. ``again`` makes a copy of what is in memory already."""
        there = lazy if lazy.held is not None else lazy.stored
        if there is not None and not again:
            return there
        buffer, ix = self.buffer(lazy.shape, lazy.type), self.index(lazy.shape)
        value = lazy.at(ix)
        reads = loads([value])
        first = 0
        for read in reads:
            at = self._filled.get(id(read.value))
            if at is not None:
                nest = self.nests[at]
                beside = not nest.body and nest.shape == lazy.shape and read.args == ix
                first = max(first, at if beside else at + 1)
        place = next(
            (k for k in range(first, len(self.nests)) if self.nests[k].shape == lazy.shape and not self.nests[k].body),
            None,
        )
        if place is None:
            place = len(self.nests)
            self.nests.append(Nest(lazy.shape))
        nest = self.nests[place]
        nest.stores.append(Store(buffer, ix, value))
        nest.reads += reads
        nest.writes.append(buffer)
        self._filled[id(buffer)] = place
        lazy.stored = self.held(buffer)
        return lazy.stored

    def separate(self, body: Sequence[Statement], writes: Sequence[Buffer]) -> None:
        """A loop of its own, after all others."""
        for each in writes:
            self._filled[id(each)] = len(self.nests)
        self.nests.append(Nest((), [], tuple(body), _reads(body), list(writes)))


def _reads(body: Sequence[Statement]) -> list[Expr]:
    """The loads of statements."""
    found: list[Expr] = []
    for each in body:
        if isinstance(each, Block):
            found += loads([store.value for store in each.stores] + [i for store in each.stores for i in store.ix])
        else:
            found += _reads(each.body)
            if isinstance(each, If):
                found += loads([each.condition])
    return found
