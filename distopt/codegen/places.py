"""Operations of torch whose places are numbers themselves: gathering, scattering, and the largest numbers.

Places that come as data are looked at when they are handed over; places that the rounds compute are kept inside the tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from distopt.codegen.expressions import Expr, Index
from distopt.codegen.loops import Block, Lazy, Store
from distopt.codegen.recording import Array, Operation, Unsupported
from distopt.codegen.selection import first_numbers
from distopt.codegen.translate import Handler, Translation, type_of


def _inside(self: Translation, place: Expr, n: int) -> Expr:
    """A place among n: negative ones count from the end. A place that is data is used unchanged, and checked when the data are given."""
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


def _topk(self: Translation, operation: Operation) -> list[Lazy]:
    source, k = self.lazy(operation.args[0]), operation.args[1]
    axis = operation.args[2] if len(operation.args) > 2 else operation.options.get("dim", -1)
    larger = operation.args[3] if len(operation.args) > 3 else operation.options.get("largest", True)
    if not source.shape or not k:
        raise Unsupported("of one number, or none of them")
    return list(first_numbers(self.nests, source, axis % len(source.shape), k, bool(larger)))


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
    values, places = first_numbers(self.nests, source, axis, source.shape[axis], bool(falling))
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
