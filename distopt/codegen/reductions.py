"""Reductions of torch, softmax and products of matrices, each sum in one fixed order (see ``rows``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distopt.codegen import elementwise
from distopt.codegen.expressions import FLOATS, Expr, Index, Type
from distopt.codegen.loops import Block, Lazy, Loop, Store
from distopt.codegen.recording import Array, Operation, Unsupported
from distopt.codegen.rows import ADD, Combine, reduced
from distopt.codegen.translate import Handler, Translation, type_of


def _axes(operation: Operation, rank: int, k: int = 1) -> list[int]:
    """The axes that an operation reduces, the last first; all where it names none."""
    given = operation.args[k] if len(operation.args) > k else operation.options.get("dim")
    if given is None or given == ():
        return list(reversed(range(rank)))
    axes = [given] if isinstance(given, int) else given
    return sorted({axis % max(rank, 1) for axis in axes}, reverse=True)


def _kept(operation: Operation, k: int = 2) -> bool:
    return bool(operation.args[k] if len(operation.args) > k else operation.options.get("keepdim", False))


def _whole(self: Translation, source: Lazy) -> Lazy:
    """A tensor that has an axis."""
    return source if source.shape else Lazy((1,), source.type, lambda ix: source.at(()), source.cost)


def _mul(a: Expr, b: Expr) -> Expr:
    return a * b


def _dropped(self: Translation, lazy: Lazy, axes: Sequence[int], keep: bool, shape: tuple[int, ...]) -> Lazy:
    """Without the axes of length 1 that a reduction left."""
    if keep or len(lazy.shape) == len(shape):
        return (
            lazy
            if lazy.shape == shape
            else Lazy(shape, lazy.type, lambda ix: lazy.at((self.nests.constant(0),)), lazy.cost)
        )
    zero = self.nests.constant(0)

    def place(ix: Index) -> Index:
        rest = iter(ix)
        return tuple(zero if k in axes else next(rest) for k in range(len(lazy.shape)))

    return Lazy(shape, lazy.type, lambda ix: lazy.at(place(ix)), lazy.cost, lazy.held if lazy.shape == shape else None)


def converted(lazy: Lazy, type: Type) -> Lazy:
    """The tensor in another type."""
    return lazy if lazy.type == type else Lazy(lazy.shape, type, lambda ix: lazy.at(ix).to(type), lazy.cost)


def _reduction(combine: Combine, start: float | None, within: Type | None = None) -> Handler:
    def handler(self: Translation, operation: Operation) -> list[Lazy]:
        (result,) = operation.results
        source = _whole(self, self.lazy(operation.args[0]))
        type = within or type_of(result.dtype)
        axes = _axes(operation, len(source.shape))
        out = converted(source, type)
        for axis in axes:
            out = reduced(self, out, axis, combine, start)
        out = _dropped(self, out, axes, _kept(operation), result.shape)
        if operation.name.startswith("mean"):
            out = _divided(out, math.prod(source.shape[axis] for axis in axes))
        return [converted(out, type_of(result.dtype))]

    return handler


def _divided(lazy: Lazy, count: int) -> Lazy:
    return Lazy(lazy.shape, lazy.type, lambda ix: lazy.at(ix) / count, lazy.cost)


def _norm(self: Translation, operation: Operation) -> list[Lazy]:
    """``linalg_vector_norm`` of orders 1, 2 and infinity."""
    (result,), source = operation.results, _whole(self, self.lazy(operation.args[0]))
    order = operation.args[1] if len(operation.args) > 1 else 2
    axes, type = _axes(operation, len(source.shape), 2), type_of(result.dtype)
    if order not in (1, 2, math.inf):
        raise Unsupported(f"order {order}")

    def number(ix: Index) -> Expr:
        a = source.at(ix).to(type)
        return a * a if order == 2 else self.pool.unary("abs", a)

    out = Lazy(source.shape, type, number, source.cost)
    for axis in axes:
        out = reduced(self, out, axis, elementwise.maximum if order == math.inf else ADD, 0.0)
    inside = _dropped(self, out, axes, _kept(operation, 3), result.shape)
    if order != 2:
        return [inside]
    return [Lazy(result.shape, type, lambda ix: self.pool.unary("sqrt", inside.at(ix)), inside.cost)]


def _exponentials(self: Translation, source: Lazy, axis: int) -> tuple[Lazy, Lazy, Lazy]:
    """(the largest number of each row, e^(x - largest), their sums); an infinite largest counts as 0."""
    source = self.nests.realised(source)
    top = self.nests.realised(reduced(self, source, axis, elementwise.maximum))

    def beside(lazy: Lazy, ix: Index) -> Expr:
        return lazy.at((*ix[:axis], self.nests.constant(0), *ix[axis + 1 :]))

    def finite(ix: Index) -> Expr:
        a = beside(top, ix)
        return self.pool.unary("abs", a).same(math.inf).where(self.pool.constant(a.type, 0), a)

    each = Lazy(source.shape, source.type, lambda ix: elementwise.computed("exp", source.at(ix) - finite(ix)), 3)
    each = self.nests.realised(each)
    shape = (*source.shape[:axis], 1, *source.shape[axis + 1 :])
    return Lazy(shape, source.type, finite, 1), each, reduced(self, each, axis, ADD)


def _logsumexp(self: Translation, operation: Operation) -> list[Lazy]:
    (result,) = operation.results
    source = _whole(self, self.lazy(operation.args[0]))
    axes = _axes(operation, len(source.shape))
    if len(axes) != 1:
        raise Unsupported("several axes")
    top, _, sums = _exponentials(self, source, axes[0])
    out = Lazy(top.shape, source.type, lambda ix: elementwise.computed("log", sums.at(ix)) + top.at(ix), 2)
    return [self.nests.realised(_dropped(self, out, axes, _kept(operation), result.shape))]


def _softmax(self: Translation, operation: Operation) -> list[Lazy]:
    source, axis, name = self.lazy(operation.args[0]), operation.args[1], operation.name.partition(".")[0]
    axis %= len(source.shape)
    zero = self.nests.constant(0)
    if name == "_softmax":
        _, each, sums = _exponentials(self, source, axis)
        return [
            Lazy(source.shape, source.type, lambda ix: each.at(ix) / sums.at((*ix[:axis], zero, *ix[axis + 1 :])), 2)
        ]
    top, _, sums = _exponentials(self, source, axis)
    out = Lazy(top.shape, source.type, lambda ix: elementwise.computed("log", sums.at(ix)) + top.at(ix), 2)
    log = self.nests.realised(out)
    return [
        Lazy(
            source.shape,
            source.type,
            lambda ix: source.at(ix) - log.at((*ix[:axis], zero, *ix[axis + 1 :])),
            source.cost + 1,
        )
    ]


def _softmax_backward(self: Translation, operation: Operation) -> list[Lazy]:
    """The derivatives of softmax and of its logarithm, times g, from what they gave."""
    g, y = (self.nests.realised(self.lazy(each)) for each in operation.args[:2])
    axis, zero = operation.args[2] % len(g.shape), self.nests.constant(0)
    log = operation.name.startswith("_log")
    part = g if log else Lazy(g.shape, g.type, lambda ix: g.at(ix) * y.at(ix), 2)
    sums = reduced(self, part, axis, ADD)

    def number(ix: Index) -> Expr:
        total = sums.at((*ix[:axis], zero, *ix[axis + 1 :]))
        return g.at(ix) - elementwise.computed("exp", y.at(ix)) * total if log else y.at(ix) * (g.at(ix) - total)

    return [Lazy(g.shape, g.type, number, 3)]


def _extreme(larger: bool, both: bool) -> Handler:
    """The first place of the largest (or smallest) number of each row, and the number. A NaN counts as most extreme."""

    def handler(self: Translation, operation: Operation) -> list[Lazy]:
        result = operation.results[-1]
        source, nests, pool = _whole(self, self.lazy(operation.args[0])), self.nests, self.pool
        given = operation.args[1] if len(operation.args) > 1 else None
        if given is None:
            raise Unsupported("of all axes at once")
        axis, keep = given % len(source.shape), _kept(operation)
        source = nests.realised(source)
        n, shape = source.shape[axis], (*source.shape[:axis], 1, *source.shape[axis + 1 :])
        ix, zero, r = nests.index(shape), nests.constant(0), nests.variable()
        best, where = nests.buffer(shape, source.type), nests.buffer(shape, "i64")
        number, old = source.at((*ix[:axis], r, *ix[axis + 1 :])), pool.load(best, ix)
        better = number > old if larger else number < old
        if source.type in FLOATS:
            better = old.same(old) & (better | number.differs(number))
        first = Block((Store(best, ix, source.at((*ix[:axis], zero, *ix[axis + 1 :]))), Store(where, ix, zero)))
        turn = Block(
            (Store(best, ix, better.where(number, old)), Store(where, ix, better.where(r, pool.load(where, ix))))
        )
        nests.separate(nests.over(shape, [first, Loop(r, 1, n, (turn,), "order")]), [best, where])
        found = [nests.held(best), nests.held(where)] if both else [nests.held(where)]
        return [_dropped(self, each, [axis], keep, result.shape) for each in found]

    return handler


def _running(combine: Combine) -> Handler:
    """Sums or products of all numbers up to each along an axis, one after the other."""

    def handler(self: Translation, operation: Operation) -> list[Lazy]:
        (result,), nests = operation.results, self.nests
        source = converted(self.lazy(operation.args[0]), type_of(result.dtype))
        if not source.shape:
            return [source]
        axis = operation.args[1] % len(source.shape)
        shape = source.shape
        outer = (*shape[:axis], 1, *shape[axis + 1 :])
        buffer, ix, r = nests.buffer(shape, source.type), nests.index(outer), nests.variable()

        def at(k: Expr) -> Index:
            return (*ix[:axis], k, *ix[axis + 1 :])

        zero = nests.constant(0)
        first = Block((Store(buffer, at(zero), source.at(at(zero))),))
        turn = Block((Store(buffer, at(r), combine(self.pool.load(buffer, at(r - 1)), source.at(at(r)))),))
        nests.separate(nests.over(outer, [first, Loop(r, 1, shape[axis], (turn,), "order")]), [buffer])
        return [nests.held(buffer)]

    return handler


def _product(self: Translation, operation: Operation) -> list[Lazy]:
    """Products of matrices and vectors: sums over products, along the second factor's axis -2."""
    (result,), name = operation.results, operation.name.partition(".")[0]
    arrays: list[Any] = [each for each in operation.args if isinstance(each, Array)]
    added = arrays.pop(0) if name in ("addmm", "baddbmm", "addmv") else None
    a, b = (self.nests.realised(self.lazy(each)) for each in arrays)
    type = type_of(result.dtype)
    vector = len(b.shape) == 1
    lead, inner = a.shape[:-1], a.shape[-1]
    columns = 1 if vector else b.shape[-1]
    full = (*lead, columns, inner)

    def term(ix: Index) -> Expr:
        *rows, column, k = ix
        return a.at((*rows, k)) * (b.at((k,)) if vector else b.at((*rows[:-1], k, column)))

    if added is not None and (operation.options.get("beta", 1) != 1 or operation.options.get("alpha", 1) != 1):
        raise Unsupported("factors")
    sums = reduced(self, Lazy(full, type, term, 2), len(full) - 1, ADD, 0.0)
    zero = self.nests.constant(0)

    def number(ix: Index) -> Expr:
        return sums.at((*ix, zero, zero) if vector else (*ix, zero))

    out = Lazy(result.shape, type, number, sums.cost)
    if added is None:
        return [out]
    more = self.spread(added, result.shape, type)
    return [Lazy(result.shape, type, lambda ix: more(ix) + out.at(ix), out.cost + 1)]


HANDLERS: dict[str, Handler] = {
    "sum": _reduction(ADD, 0),
    "mean": _reduction(ADD, 0),
    "prod.dim_int": _reduction(_mul, 1),
    "prod.default": _reduction(_mul, 1),
    "amax": _reduction(elementwise.maximum, None),
    "amin": _reduction(elementwise.minimum, None),
    "max.default": _reduction(elementwise.maximum, None),
    "min.default": _reduction(elementwise.minimum, None),
    "all": _reduction(lambda a, b: a & b, 1, "b1"),
    "any": _reduction(lambda a, b: a | b, 0, "b1"),
    "linalg_vector_norm": _norm,
    "logsumexp": _logsumexp,
    "_softmax": _softmax,
    "_log_softmax": _softmax,
    "_softmax_backward_data": _softmax_backward,
    "_log_softmax_backward_data": _softmax_backward,
    "argmax": _extreme(True, False),
    "argmin": _extreme(False, False),
    "max.dim": _extreme(True, True),
    "min.dim": _extreme(False, True),
    "cumsum": _running(ADD),
    "cumprod": _running(_mul),
    "mm": _product,
    "bmm": _product,
    "mv": _product,
    "dot": _product,
    "addmm": _product,
    "baddbmm": _product,
}
"""By name."""
