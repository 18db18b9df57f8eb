"""Operations of torch whose places are numbers themselves: gathering, scattering, and the largest numbers.

Places that come as data are looked at when they are handed over; places that the rounds compute are kept inside the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from distopt.codegen.expressions import BYTES, FLOATS, Expr, Index, Pool, Type
from distopt.codegen.loops import Block, If, Lazy, Loop, Store
from distopt.codegen.record import Array, Operation, Unsupported
from distopt.codegen.translate import Handler, Translation, type_of


def _inside(self: Translation, place: Expr, n: int) -> Expr:
    """A place among n: negative ones count from the end. One that is data is used as it stands, and looked at when data are handed over."""
    place = place.to("i64")
    if self.given(place):
        self.places[place.value.name] = min(n, self.places.get(place.value.name, n))
        return place
    place = (place < 0).where(place + n, place)
    place = (place < 0).where(place.pool.constant("i64", 0), place)
    return (place >= n).where(place.pool.constant("i64", n - 1), place)


def _anywhere(self: Translation, operation: Operation) -> Lazy:
    """The first argument, whose numbers are at hand at any place."""
    source = self.lazy(operation.args[0])
    return source if source.anywhere else self.nests.realised(source)


def _index(self: Translation, operation: Operation) -> list[Lazy]:
    (result,), given = operation.results, operation.args[1]
    source = _anywhere(self, operation)
    axes = [axis for axis, each in enumerate(given) if each is not None]
    if any(b - a != 1 for a, b in pairwise(axes)):
        raise Unsupported("indices of axes that do not follow one another")
    if any(type_of(given[axis].dtype) == "b1" for axis in axes):
        raise Unsupported("a mask, whose result has a length of its own")
    first, rank = axes[0], len(result.shape) - (len(source.shape) - len(axes))
    shape = result.shape[first : first + rank]
    places = [self.spread(given[axis], shape, "i64") for axis in axes]

    def number(ix: Index) -> Expr:
        at = ix[first : first + rank]
        inner = [_inside(self, place(at), source.shape[axis]) for axis, place in zip(axes, places, strict=True)]
        return source.at((*ix[:first], *inner, *ix[first + rank :]))

    return [Lazy(result.shape, source.type, number, 2)]


def _index_select(self: Translation, operation: Operation) -> list[Lazy]:
    (result,), (_, axis, _) = operation.results, operation.args
    source, places = _anywhere(self, operation), self.lazy(operation.args[2])
    axis %= len(source.shape)

    def number(ix: Index) -> Expr:
        place = places.at((ix[axis],) if places.shape else ())
        return source.at((*ix[:axis], _inside(self, place, source.shape[axis]), *ix[axis + 1 :]))

    return [Lazy(result.shape, source.type, number, 2)]


def _gather(self: Translation, operation: Operation) -> list[Lazy]:
    (result,), axis = operation.results, operation.args[1]
    source, places = self.nests.realised(self.lazy(operation.args[0])), self.lazy(operation.args[2])
    if not source.shape:
        return [source]
    axis %= len(source.shape)

    def number(ix: Index) -> Expr:
        return source.at((*ix[:axis], _inside(self, places.at(ix), source.shape[axis]), *ix[axis + 1 :]))

    return [Lazy(result.shape, source.type, number, 2)]


def _put(
    self: Translation,
    base: Lazy,
    shape: tuple[int, ...],
    place: Callable[[Index], Index],
    value: Callable[[Index], Expr],
    adds: bool = False,
) -> Lazy:
    """A copy of ``base`` with the numbers of a tensor of ``shape`` put at their places, or added there, from the first to the last."""
    whole, ix, at = self.nests.buffer(base.shape, base.type), self.nests.index(shape), self.nests.index(base.shape)
    copied = self.nests.over(base.shape, [Block((Store(whole, at, base.at(at)),))])
    number = value(ix).to(base.type)
    if adds:
        number = self.pool.load(whole, place(ix)) + number
    put = self.nests.over(shape, [Block((Store(whole, place(ix), number),))], kind="order")
    self.nests.separate([*copied, *put], [whole])
    return self.nests.held(whole)


def _scatter(adds: bool) -> Handler:
    def handler(self: Translation, operation: Operation) -> list[Lazy]:
        base, axis, value = self.lazy(operation.args[0]), operation.args[1], operation.args[3]
        places = self.lazy(operation.args[2])
        axis %= len(base.shape)
        if "reduce" in operation.options or len(operation.args) > 4:
            raise Unsupported("a reduction")
        numbers = self.lazy(value) if isinstance(value, Array) else self.filled(places.shape, base.type, value)

        def place(ix: Index) -> Index:
            return (*ix[:axis], _inside(self, places.at(ix), base.shape[axis]), *ix[axis + 1 :])

        return [_put(self, base, places.shape, place, numbers.at, adds)]

    return handler


def _index_put(adds: bool) -> Handler:
    """``index_copy`` and ``index_add``: rows of an axis."""

    def handler(self: Translation, operation: Operation) -> list[Lazy]:
        base, axis = self.lazy(operation.args[0]), operation.args[1]
        places, numbers = self.lazy(operation.args[2]), self.lazy(operation.args[3])
        axis %= len(base.shape)
        if operation.options.get("alpha", 1) != 1:
            raise Unsupported("a factor")

        def place(ix: Index) -> Index:
            at = places.at((ix[axis],) if places.shape else ())
            return (*ix[:axis], _inside(self, at, base.shape[axis]), *ix[axis + 1 :])

        return [_put(self, base, numbers.shape, place, numbers.at, adds)]

    return handler


def _before(larger: bool, a: Expr, i: Expr, b: Expr, j: Expr) -> Expr:
    """Whether number a at place i comes before b at j: a NaN is the largest of all, and of equal numbers the one that stands first comes first."""
    more = a > b if larger else a < b
    equal = a.same(b)
    if a.type in FLOATS:
        a_nan, b_nan = a.differs(a), b.differs(b)
        more = more | ((a_nan & ~b_nan) if larger else (b_nan & ~a_nan))
        equal = equal | (a_nan & b_nan)
    return more | (equal & (i < j))


def _last(pool: Pool, type: Type, larger: bool) -> Expr:
    """A number that comes after all others of equal places."""
    if type in FLOATS:
        return pool.constant(type, -math.inf if larger else math.nan)
    if type in ("b1", "u8"):
        return pool.constant(type, 0 if larger else 255)
    half = 2 ** (8 * BYTES[type] - 1)
    return pool.constant(type, -half if larger else half - 1)


def first_numbers(self: Translation, source: Lazy, axis: int, k: int, larger: bool) -> tuple[Lazy, Lazy]:
    """The first k numbers of each row in order, and their places: every further one that belongs among them is put into its place."""
    nests, pool = self.nests, self.pool
    source = nests.realised(source)
    shape, n = (*source.shape[:axis], k, *source.shape[axis + 1 :]), source.shape[axis]
    values, places = nests.buffer(shape, source.type), nests.buffer(shape, "i64")
    number, where = nests.buffer((1,), source.type, "local"), nests.buffer((1,), "i64", "local")
    ix, zero = nests.index((*shape[:axis], 1, *shape[axis + 1 :])), nests.constant(0)
    p, q, r = (nests.variable() for _ in range(3))

    def at(i: Expr) -> Index:
        return (*ix[:axis], i, *ix[axis + 1 :])

    # places n, n + 1, ... mark those that are still empty: whatever comes is before them
    empty = Block((Store(values, at(q), _last(pool, source.type, larger)), Store(places, at(q), q + n)))
    last = at(nests.constant(k - 1))
    better = _before(larger, source.at(at(p)), p, pool.load(values, last), pool.load(places, last))
    take = Block((Store(number, (zero,), source.at(at(p))), Store(where, (zero,), p)))
    carried, own, stands, there = (
        pool.load(number, (zero,)),
        pool.load(where, (zero,)),
        pool.load(values, at(r)),
        pool.load(places, at(r)),
    )
    ahead = _before(larger, carried, own, stands, there)
    turn = Block(
        (
            Store(values, at(r), ahead.where(carried, stands)),
            Store(places, at(r), ahead.where(own, there)),
            Store(number, (zero,), ahead.where(stands, carried)),
            Store(where, (zero,), ahead.where(there, own)),
        )
    )
    row = [
        Loop(q, 0, k, (empty,), "order"),
        Loop(p, 0, n, (If(better, (take, Loop(r, 0, k, (turn,), "order"))),), "order"),
    ]
    nests.separate(nests.over((*shape[:axis], 1, *shape[axis + 1 :]), row, kind="order"), [values, places])
    return nests.held(values), nests.held(places)


def _topk(self: Translation, operation: Operation) -> list[Lazy]:
    source, k = self.lazy(operation.args[0]), operation.args[1]
    axis = operation.args[2] if len(operation.args) > 2 else operation.options.get("dim", -1)
    larger = operation.args[3] if len(operation.args) > 3 else operation.options.get("largest", True)
    if not source.shape or not k:
        raise Unsupported("of one number, or none of them")
    return list(first_numbers(self, source, axis % len(source.shape), k, bool(larger)))


def _sort(self: Translation, operation: Operation) -> list[Lazy]:
    source, name = self.lazy(operation.args[0]), operation.name
    given = [each for each in operation.args[1:] if not isinstance(each, Array)]
    if "stable" in name:
        given = given[1:] if given and isinstance(given[0], bool | None) else given
    axis = operation.options.get("dim", given[0] if given else -1)
    falling = operation.options.get("descending", given[1] if len(given) > 1 else False)
    if not source.shape:
        raise Unsupported("of one number")
    axis %= len(source.shape)
    values, places = first_numbers(self, source, axis, source.shape[axis], bool(falling))
    return [places] if name.startswith("argsort") else [values, places]


HANDLERS: dict[str, Handler] = {
    "index.Tensor": _index,
    "index_select": _index_select,
    "gather": _gather,
    "scatter": _scatter(False),
    "scatter_add": _scatter(True),
    "index_copy": _index_put(False),
    "index_add": _index_put(True),
    "topk": _topk,
    "sort": _sort,
    "argsort": _sort,
}
"""By name."""
