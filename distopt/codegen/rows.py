"""Rows that are reduced to a number each, in one fixed order.

A sum of at least 8 numbers along the last axis is made in 8 lanes: number k is added to lane k mod 8, the lanes are added in pairs at
distance 4, 2 and 1, and what does not fill the lanes follows in order. Longer ones are made in chunks (see ``lanes``). All other sums go
from the first number to the last. The order depends on the axis and its length alone. Long rows are searched for the largest or smallest
number in lanes, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from distopt.codegen import elementwise
from distopt.codegen.expressions import FLOATS, Expr, Index
from distopt.codegen.lanes import LANES, extremes
from distopt.codegen.lanes import lanes as in_lanes
from distopt.codegen.loops import Block, Lazy, Loop, Nests, Statement, Store, shared
from distopt.codegen.recording import Unsupported
from distopt.codegen.translate import Translation

FEW = 8  # numbers that are combined without a loop
MANY = 8 * LANES  # numbers among which the largest is sought in lanes
ROWS, LONG = 4, 4 * LANES
"""Rows of at least ``LONG`` numbers that one turn reduces, or adds to a sum. They share what they all read, and the processor need not wait
for one row's sum before the next. The numbers are made quickly; those that are not keep it busy anyway."""

Combine = Callable[[Expr, Expr], Expr]


def _add(a: Expr, b: Expr) -> Expr:
    return a + b


ADD: Combine = _add


def reduced(self: Translation, source: Lazy, axis: int, combine: Combine, start: float | None = None) -> Lazy:
    """One number for each row along an axis, which stays with length 1. ``start`` is the number of an empty row."""
    n, shape = source.shape[axis], (*source.shape[:axis], 1, *source.shape[axis + 1 :])

    def number(ix: Index, k: Expr) -> Expr:
        return source.at((*ix[:axis], k, *ix[axis + 1 :]))

    if n == 0:
        if start is None:
            raise Unsupported("the largest of no numbers")
        return self.filled(shape, source.type, start)
    if n <= FEW and not (n == FEW and _laned(self, source, axis, combine)):

        def all_of(ix: Index) -> Expr:
            out = number(ix, self.nests.constant(0))
            for k in range(1, n):
                out = combine(out, number(ix, self.nests.constant(k)))
            return out

        lazy = Lazy(shape, source.type, all_of, n * source.cost)
        return self.nests.realised(lazy) if n > 2 and source.cost else lazy
    lanes = _laned(self, source, axis, combine)
    if axis == len(source.shape) - 1 or all(each == 1 for each in source.shape[axis + 1 :]):
        return _along(self, source, axis, combine, shape, number, lanes)
    return _across(self, source, axis, combine, shape, number)


def _laned(self: Translation, source: Lazy, axis: int, combine: Combine) -> bool:
    extreme = combine in (elementwise.maximum, elementwise.minimum) and source.shape[axis] >= MANY
    return (combine is ADD or extreme) and axis == len(source.shape) - 1 and source.type in FLOATS


def _along(
    self: Translation,
    source: Lazy,
    axis: int,
    combine: Combine,
    shape: tuple[int, ...],
    number: Callable[[Index, Expr], Expr],
    lanes: bool,
) -> Lazy:
    """A row is read from end to end, into a few numbers."""
    nests, pool, n = self.nests, self.pool, source.shape[axis]
    buffer, zero = nests.buffer(shape, source.type), nests.constant(0)

    def in_order(ix: Index) -> list[Statement]:
        own, r = nests.buffer((1,), source.type, "local"), nests.variable()
        more = Block((Store(own, (zero,), combine(pool.load(own, (zero,)), number(ix, r))),))
        first, result = Block((Store(own, (zero,), number(ix, zero)),)), pool.load(own, (zero,))
        return [first, Loop(r, 1, n, (more,), "order"), Block((Store(buffer, ix, result),))]

    def laned(ix: Index) -> list[Statement]:
        whole = n - n % LANES
        turns, each = whole // LANES, partial(number, ix)
        if combine is ADD:
            row, lane = in_lanes(nests, source.type, zero, turns, each)
        else:
            row, lane = extremes(nests, source.type, turns, each, combine)
        found = [pool.load(lane, (nests.constant(k),)) for k in range(LANES)]
        while len(found) > 1:
            half = len(found) // 2
            found = [combine(a, b) for a, b in zip(found[:half], found[half:], strict=True)]
        out = found[0]
        for k in range(whole, n):
            out = combine(out, each(nests.constant(k)))
        return [*row, Block((Store(buffer, ix, out),))]

    several = lanes and n >= LONG and self.quick(source)
    nests.separate(_by_rows(nests, shape, laned if lanes else in_order, ROWS if several else 1), [buffer])
    return nests.held(buffer)


def _by_rows(
    nests: Nests, shape: tuple[int, ...], row: Callable[[Index], list[Statement]], several: int
) -> tuple[Statement, ...]:
    """Loops over rows, the innermost with ``several`` of them in a turn. The outermost has one: others may join it (see ``fusion``)."""
    ix, longer = nests.index(shape), [axis for axis, n in enumerate(shape) if n != 1]
    if len(longer) < 2 or shape[longer[-1]] < several:
        return nests.over(shape, row(ix))
    axis = longer[-1]
    n, together = shape[axis], row(ix)
    for k in range(1, several):
        both = shared(together, row((*ix[:axis], ix[axis] + k, *ix[axis + 1 :])))
        assert both is not None  # they differ in their places alone
        together = list(both)
    body = [Loop(ix[axis], 0, n - n % several, tuple(together), "each", several)]
    if n % several:
        body.append(Loop(ix[axis], n - n % several, n, tuple(row(ix))))
    return nests.over(shape[:axis], body)


def _across(
    self: Translation,
    source: Lazy,
    axis: int,
    combine: Combine,
    shape: tuple[int, ...],
    number: Callable[[Index, Expr], Expr],
) -> Lazy:
    """Many rows at once: the axes behind are innermost, and the results are in memory meanwhile."""
    nests, n = self.nests, source.shape[axis]
    buffer, ix, r = nests.buffer(shape, source.type), nests.index(shape), nests.variable()
    step = ROWS if math.prod(shape[axis:]) >= LONG and self.quick(source) else 1
    begun = 1 + (n - 1) % step

    def pass_over(out: Expr, numbers: Sequence[Expr]) -> tuple[Statement, ...]:
        for each in numbers:
            out = combine(out, each)
        return nests.over(shape, [Block((Store(buffer, ix, out),))], axis)

    first = pass_over(number(ix, nests.constant(0)), [number(ix, nests.constant(k)) for k in range(1, begun)])
    further = pass_over(self.pool.load(buffer, ix), [number(ix, r + k) for k in range(step)])
    rows = (*first, Loop(r, begun, n, further, "order", step))
    nests.separate(nests.over(shape[:axis], rows), [buffer])
    return nests.held(buffer)
