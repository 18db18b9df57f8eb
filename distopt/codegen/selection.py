"""The first numbers of a row in order: a heap of those found so far, the last of them on top, which each better one replaces.

Numbers at two places are never equal in this order, so the result does not depend on the method of the search.
"""

from __future__ import annotations

import math

from distopt.codegen.expressions import BYTES, FLOATS, Buffer, Expr, Index, Pool, Type
from distopt.codegen.loops import Block, If, Lazy, Loop, Nests, Statement, Store


def _before(larger: bool, a: Expr, i: Expr, b: Expr, j: Expr) -> Expr:
    """Whether number a at place i comes before b at j: a NaN is the largest of all, and equal numbers come in the order of their places."""
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


class _Heap:
    """The numbers of a row that are kept, with their places: each comes after the two below it.

    Args:
        nests: the loops.
        values, places: memory for k numbers of each row, and where these stood.
        ix: of a row, without its own axis.
        axis: of the rows.
        larger: whether the largest are wanted.
    """

    def __init__(self, nests: Nests, values: Buffer, places: Buffer, ix: Index, axis: int, larger: bool) -> None:
        self.nests, self.pool, self.values, self.places = nests, nests.pool, values, places
        self.ix, self.axis, self.larger, self.k = ix, axis, larger, values.shape[axis]
        self.hole, self.child = nests.buffer((1,), "i64", "local"), nests.buffer((1,), "i64", "local")
        self.number, self.where = nests.buffer((1,), values.type, "local"), nests.buffer((1,), "i64", "local")
        self.zero = (nests.constant(0),)

    def at(self, i: Expr) -> Index:
        """Place i of the row."""
        return (*self.ix[: self.axis], i, *self.ix[self.axis + 1 :])

    def held(self, i: Expr) -> tuple[Expr, Expr]:
        """The number at place i of the heap, and where it stood."""
        return self.pool.load(self.values, self.at(i)), self.pool.load(self.places, self.at(i))

    def sunk(self, number: Expr, where: Expr, size: Expr | int) -> list[Statement]:
        """Replace the top by a number, and move it down among ``size`` numbers as long as one below comes after it."""
        nests, load = self.nests, self.pool.load
        begin = Block(
            (
                Store(self.number, self.zero, number),
                Store(self.where, self.zero, where),
                Store(self.hole, self.zero, nests.constant(0)),
            )
        )
        hole, child = load(self.hole, self.zero), load(self.child, self.zero)
        own = load(self.number, self.zero), load(self.where, self.zero)
        left = hole * 2 + 1
        last = self.nests.constant(self.k - 1)
        inside = (left < last).where(left, last)  # loads are done whether they are needed or not
        right = (left + 1 < last).where(left + 1, last)
        a, b = self.held(inside), self.held(right)
        further = (left + 1 < size) & _before(self.larger, *a, *b)
        choose = Block((Store(self.child, self.zero, further.where(right, inside)),))
        below = self.held(child)
        move = Block(
            (
                Store(self.values, self.at(hole), below[0]),
                Store(self.places, self.at(hole), below[1]),
                Store(self.hole, self.zero, child),
            )
        )
        step = If(left < size, (choose, If(_before(self.larger, *own, *below), (move,))))
        out: list[Statement] = [begin]
        depth = self.k.bit_length() - 1
        if depth:
            out.append(Loop(nests.variable(), 0, depth, (step,), "order"))
        out.append(Block((Store(self.values, self.at(hole), own[0]), Store(self.places, self.at(hole), own[1]))))
        return out


def first_numbers(nests: Nests, source: Lazy, axis: int, k: int, larger: bool) -> tuple[Lazy, Lazy]:
    """The first k numbers of each row in order, and their places."""
    source = nests.realised(source)
    shape, n = (*source.shape[:axis], k, *source.shape[axis + 1 :]), source.shape[axis]
    rows = (*shape[:axis], 1, *shape[axis + 1 :])
    values, places = nests.buffer(shape, source.type), nests.buffer(shape, "i64")
    heap = _Heap(nests, values, places, nests.index(rows), axis, larger)
    zero, p, q, r = nests.constant(0), *(nests.variable() for _ in range(3))

    # places from n on mark empty entries, the last on top: every number comes before them
    last = _last(nests.pool, source.type, larger)
    empty = Block((Store(values, heap.at(q), last), Store(places, heap.at(q), (n + k - 1) - q)))
    top, number = heap.held(zero), source.at(heap.at(p))
    enters = If(_before(larger, number, p, *top), tuple(heap.sunk(number, p, k)))
    # the top is the last of all: it goes to the end, and what stood there is put into the heap that is left
    end = (k - 1) - r
    turned = nests.buffer((1,), source.type, "local"), nests.buffer((1,), "i64", "local")
    kept = Block(tuple(Store(into, heap.zero, each) for into, each in zip(turned, top, strict=True)))
    sunk = heap.sunk(*heap.held(end), end)
    put = Block(
        tuple(
            Store(into, heap.at(end), nests.pool.load(each, heap.zero))
            for into, each in zip((values, places), turned, strict=True)
        )
    )
    row: list[Statement] = [Loop(q, 0, k, (empty,), "order"), Loop(p, 0, n, (enters,), "order")]
    if k > 1:
        row.append(Loop(r, 0, k - 1, (kept, *sunk, put), "order"))
    nests.separate(nests.over(rows, row, kind="order"), [values, places])
    return nests.held(values), nests.held(places)
