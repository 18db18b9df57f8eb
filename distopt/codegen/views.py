"""Operations of torch that move numbers: parts, other shapes, and tensors side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from distopt.codegen import elementwise
from distopt.codegen.expressions import Expr, Index, Type, linear
from distopt.codegen.loops import Block, Lazy, Statement, Store
from distopt.codegen.recording import Operation, Unsupported
from distopt.codegen.reductions import converted
from distopt.codegen.slices import sliced
from distopt.codegen.translate import Handler, Translation, type_of, view


def _argument(operation: Operation, k: int, name: str, default: Any) -> Any:
    return operation.args[k] if len(operation.args) > k else operation.options.get(name, default)


def _moved(source: Lazy, shape: Sequence[int], place: Callable[[Index], Index]) -> Lazy:
    """The tensor of this shape whose number at ix is the source's at ``place(ix)``."""
    return Lazy(shape, source.type, lambda ix: source.at(place(ix)), source.cost)


@view
def _select(self: Translation, operation: Operation) -> list[Lazy]:
    source, (_, axis, place) = self.operand(operation, 0), operation.args
    axis %= len(source.shape)
    at = self.nests.constant(place % source.shape[axis])
    return [_moved(source, operation.results[0].shape, lambda ix: (*ix[:axis], at, *ix[axis:]))]


@view
def _slice(self: Translation, operation: Operation) -> list[Lazy]:
    source, found = self.operand(operation, 0), sliced(operation)
    assert found is not None
    axis, places = found
    return [
        _moved(
            source,
            operation.results[0].shape,
            lambda ix: (*ix[:axis], ix[axis] * places.step + places.start, *ix[axis + 1 :]),
        )
    ]


@view
def _unsqueeze(self: Translation, operation: Operation) -> list[Lazy]:
    source, shape = self.operand(operation, 0), operation.results[0].shape
    axis = operation.args[1] % len(shape)
    return [_moved(source, shape, lambda ix: ix[:axis] + ix[axis + 1 :])]


@view
def _reshape(self: Translation, operation: Operation) -> list[Lazy]:
    source, shape = self.operand(operation, 0), operation.results[0].shape
    if source.type != type_of(operation.results[0].dtype):
        raise Unsupported("a view of another type")
    return [reshaped(self, source, shape)]


def reshaped(self: Translation, source: Lazy, shape: tuple[int, ...]) -> Lazy:
    """The same numbers in the same order, in another shape.

    Axes are matched in runs of as many numbers each, so that only what is really taken apart or put together needs arithmetic.
    """
    zero = self.nests.constant(0)
    if 0 in shape:
        return Lazy(shape, source.type, lambda ix: source.at(tuple(zero for _ in source.shape)), source.cost)
    runs, old, new = [], list(range(len(source.shape))), list(range(len(shape)))
    while old or new:
        mine, theirs = [old.pop(0)] if old else [], [new.pop(0)] if new else []
        while (a := math.prod(source.shape[k] for k in mine)) != (b := math.prod(shape[k] for k in theirs)):
            if a < b:
                mine.append(old.pop(0))
            else:
                theirs.append(new.pop(0))
        runs.append((mine, theirs))

    def place(ix: Index) -> Index:
        found: list[Expr] = [zero] * len(source.shape)
        for mine, theirs in runs:
            longer = [k for k in mine if source.shape[k] != 1]
            at = linear(tuple(shape[k] for k in theirs), tuple(ix[k] for k in theirs), self.pool)
            for k in reversed(longer):
                found[k] = at % source.shape[k] if k != longer[0] else at
                at = at // source.shape[k] if k != longer[0] else at
        return tuple(found)

    return _moved(source, shape, place)


@view
def _squeeze(self: Translation, operation: Operation) -> list[Lazy]:
    return [reshaped(self, self.operand(operation, 0), operation.results[0].shape)]


@view
def _expand(self: Translation, operation: Operation) -> list[Lazy]:
    source, shape = self.operand(operation, 0), operation.results[0].shape
    return [Lazy(shape, source.type, self.broadcast(source, shape), source.cost)]


@view
def _permute(self: Translation, operation: Operation) -> list[Lazy]:
    source, name = self.operand(operation, 0), operation.name.partition(".")[0]
    order = list(range(len(source.shape)))
    if name == "permute":
        order = [axis % len(order) for axis in operation.args[1]]
    elif name == "transpose":
        a, b = (axis % len(order) for axis in operation.args[1:3])
        order[a], order[b] = order[b], order[a]
    else:  # t
        order.reverse()
    back = [order.index(axis) for axis in range(len(order))]
    return [_moved(source, operation.results[0].shape, lambda ix: tuple(ix[k] for k in back))]


@view
def _flip(self: Translation, operation: Operation) -> list[Lazy]:
    source = self.operand(operation, 0)
    axes = {axis % len(source.shape) for axis in operation.args[1]}
    last = [n - 1 for n in source.shape]
    return [
        _moved(source, source.shape, lambda ix: tuple((i * -1) + last[k] if k in axes else i for k, i in enumerate(ix)))
    ]


@view
def _diagonal(self: Translation, operation: Operation) -> list[Lazy]:
    source, offset = self.operand(operation, 0), _argument(operation, 1, "offset", 0)
    rank = len(source.shape)
    a, b = (_argument(operation, 2 + k, f"dim{1 + k}", k) % rank for k in range(2))

    def place(ix: Index) -> Index:
        at, others = {a: ix[-1] + max(-offset, 0), b: ix[-1] + max(offset, 0)}, iter(ix[:-1])
        return tuple(at[axis] if axis in at else next(others) for axis in range(rank))

    return [_moved(source, operation.results[0].shape, place)]


@view
def _unfold(self: Translation, operation: Operation) -> list[Lazy]:
    source, (_, axis, _, step) = self.operand(operation, 0), operation.args
    axis %= len(source.shape)

    def place(ix: Index) -> Index:
        return (*ix[:axis], ix[axis] * step + ix[-1], *ix[axis + 1 : -1])

    return [_moved(source, operation.results[0].shape, place)]


@view
def _unbind(self: Translation, operation: Operation) -> list[Lazy]:
    source = self.operand(operation, 0)
    axis = _argument(operation, 1, "dim", 0) % len(source.shape)

    def part(k: int, shape: tuple[int, ...]) -> Lazy:
        at = self.nests.constant(k)
        return _moved(source, shape, lambda ix: (*ix[:axis], at, *ix[axis:]))

    return [part(k, each.shape) for k, each in enumerate(operation.results)]


@view
def _split(self: Translation, operation: Operation) -> list[Lazy]:
    source = self.operand(operation, 0)
    axis = _argument(operation, 2, "dim", 0) % len(source.shape)
    parts, start = [], 0

    def part(start: int, shape: tuple[int, ...]) -> Lazy:
        return _moved(source, shape, lambda ix: (*ix[:axis], ix[axis] + start, *ix[axis + 1 :]))

    for each in operation.results:
        parts.append(part(start, each.shape))
        start += each.shape[axis]
    return parts


TOGETHER = 16  # parts that one loop writes


def joined(self: Translation, parts: Sequence[tuple[int, Lazy]], axis: int, shape: tuple[int, ...], type: Type) -> Lazy:
    """A new tensor, made of parts that begin at these places of an axis. Parts of one shape that follow each other are written by one loop."""
    buffer = self.nests.buffer(shape, type)
    body: list[Statement] = []
    for own, group in itertools.groupby(
        (each for each in parts if math.prod(each[1].shape)), lambda part: part[1].shape
    ):
        ix = self.nests.index(own)
        stores = [
            Store(buffer, (*ix[:axis], ix[axis] + start, *ix[axis + 1 :]), part.at(ix).to(type))
            for start, part in group
        ]
        for k in range(0, len(stores), TOGETHER):
            body += self.nests.over(own, [Block(tuple(stores[k : k + TOGETHER]))])
    self.nests.separate(body, [buffer])
    return self.nests.held(buffer)


def _part_backward(self: Translation, operation: Operation) -> list[Lazy]:
    """Zeros but for the part that ``slice`` or ``select`` took."""
    (result,), source, args = operation.results, self.lazy(operation.args[0]), operation.args
    axis, zero = args[2] % len(result.shape), self.pool.constant(type_of(result.dtype), 0)
    n, buffer, whole = result.shape[axis], self.nests.buffer(result.shape, source.type), self.nests.index(result.shape)
    if operation.name.startswith("select"):
        shape = (*source.shape[:axis], 1, *source.shape[axis:])
        source, start, step = reshaped(self, source, shape), args[3] % n, 1
    else:
        start, step = min(max(args[3] + n if args[3] < 0 else args[3], 0), n), args[5]
    ix = self.nests.index(source.shape)
    at = (*ix[:axis], ix[axis] * step + start, *ix[axis + 1 :])
    body = self.nests.over(result.shape, [Block((Store(buffer, whole, zero),))])
    if math.prod(source.shape):
        body += self.nests.over(source.shape, [Block((Store(buffer, at, source.at(ix)),))])
    self.nests.separate(body, [buffer])
    return [self.nests.held(buffer)]


FEW = 4
"""Tensors one after another of which a row is looked up without moving them."""


def _gathers(operation: Operation, axis: int) -> bool:
    """Whether an operation reads rows of an axis at places that are numbers."""
    if operation.name == "index.Tensor":
        return len(operation.args[1]) > axis and operation.args[1][axis] is not None
    return operation.name == "index_select.default" and bool(operation.args[1] == axis)


def _picked(
    self: Translation, parts: Sequence[tuple[int, Lazy]], axis: int, shape: tuple[int, ...], type: Type
) -> Lazy:
    """The result of ``joined`` without copies: each read of a row looks up the part of the row."""
    held = [(start, self.nests.realised(converted(part, type))) for start, part in parts]

    def number(ix: Index) -> Expr:
        place = ix[axis]

        def at(start: int, part: Lazy) -> Expr:
            return part.at((*ix[:axis], place - start, *ix[axis + 1 :]))

        (start, part), *before = held[::-1]
        found = at(start, part)
        for below, other in before:
            found, start = self.pool.pick(place < start, at(below, other), found), below
        return found

    lazy = Lazy(shape, type, number, 1)
    lazy.anywhere = True
    return lazy


def _cat(self: Translation, operation: Operation) -> list[Lazy]:
    (result,), parts, start = operation.results, [], 0
    axis = _argument(operation, 1, "dim", 0) % len(result.shape)
    for array in operation.args[0]:
        if array.shape == (0,) and len(result.shape) != 1:  # torch leaves such tensors out
            continue
        parts.append((start, self.lazy(array)))
        start += array.shape[axis]
    users = self.users(result)
    gathered = bool(users) and axis < len(result.shape) - 1 and all(_gathers(each, axis) for each in users)
    if gathered and 1 < len(parts) <= FEW:
        return [_picked(self, parts, axis, result.shape, type_of(result.dtype))]
    return [joined(self, parts, axis, result.shape, type_of(result.dtype))]


def _roll(self: Translation, operation: Operation) -> list[Lazy]:
    """Along one axis after the other, numbers beyond the end wrap around to the front."""
    source, shifts = self.lazy(operation.args[0]), operation.args[1]
    axes = _argument(operation, 2, "dims", ())
    if not axes:
        raise Unsupported("over all axes at once")
    for shift, axis in zip(shifts, axes, strict=True):
        source = _rolled(self, source, shift, axis % len(source.shape))
    return [source]


def _rolled(self: Translation, source: Lazy, shift: int, axis: int) -> Lazy:
    n = source.shape[axis]
    shift = shift % n if n else 0
    if not shift:
        return source
    source = self.nests.realised(source)

    def part(first: int, count: int) -> Lazy:
        shape = (*source.shape[:axis], count, *source.shape[axis + 1 :])
        return Lazy(shape, source.type, lambda ix: source.at((*ix[:axis], ix[axis] + first, *ix[axis + 1 :])))

    return joined(self, [(0, part(n - shift, shift)), (shift, part(0, n - shift))], axis, source.shape, source.type)


def _stack(self: Translation, operation: Operation) -> list[Lazy]:
    (result,) = operation.results
    axis = _argument(operation, 1, "dim", 0) % len(result.shape)

    def wide(part: Lazy) -> Lazy:
        shape = (*part.shape[:axis], 1, *part.shape[axis:])
        return Lazy(shape, part.type, lambda ix: part.at(ix[:axis] + ix[axis + 1 :]), part.cost)

    parts = [(k, wide(self.lazy(array))) for k, array in enumerate(operation.args[0])]
    return [joined(self, parts, axis, result.shape, type_of(result.dtype))]


def _pad(self: Translation, operation: Operation) -> list[Lazy]:
    """``constant_pad_nd``: axis by axis from the last, each padded as given."""
    source, widths = self.lazy(operation.args[0]), operation.args[1]
    value = _argument(operation, 2, "value", 0)
    for k in range(0, len(widths), 2):
        before, after, axis = widths[k], widths[k + 1], len(source.shape) - 1 - k // 2
        if min(before, after) < 0:
            raise Unsupported("padding that cuts")
        if not before and not after:
            continue
        n = source.shape[axis]

        def shaped(width: int, axis: int = axis, source: Lazy = source) -> tuple[int, ...]:
            return (*source.shape[:axis], width, *source.shape[axis + 1 :])

        parts = [(before, source)]
        parts += [
            (at, self.filled(shaped(width), source.type, value))
            for at, width in ((0, before), (before + n, after))
            if width
        ]
        source = joined(self, parts, axis, shaped(before + n + after), source.type)
    return [source]


def _repeat(self: Translation, operation: Operation) -> list[Lazy]:
    source, shape = self.lazy(operation.args[0]), operation.results[0].shape
    first = len(shape) - len(source.shape)
    return [_moved(source, shape, lambda ix: tuple(i % n for i, n in zip(ix[first:], source.shape, strict=True)))]


def _bits(self: Translation, operation: Operation) -> list[Lazy]:
    (result,), source = operation.results, self.lazy(operation.args[0])
    type = type_of(result.dtype)
    return [Lazy(result.shape, type, lambda ix: elementwise.reinterpreted(source.at(ix), type), source.cost)]


HANDLERS: dict[str, Handler] = {
    "view.dtype": _bits,
    "select": _select,
    "slice": _slice,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "view.default": _reshape,
    "_unsafe_view": _reshape,
    "reshape": _reshape,
    "expand": _expand,
    "transpose": _permute,
    "permute": _permute,
    "t": _permute,
    "flip": _flip,
    "diagonal": _diagonal,
    "unfold": _unfold,
    "unbind": _unbind,
    "split": _split,
    "split_with_sizes": _split,
    "slice_backward": _part_backward,
    "select_backward": _part_backward,
    "cat": _cat,
    "roll": _roll,
    "stack": _stack,
    "constant_pad_nd": _pad,
    "repeat": _repeat,
}
"""By name."""
