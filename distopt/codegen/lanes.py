"""Rows in eight lanes: long sums, whose rounding grows with the logarithm of their length, and the largest or smallest numbers."""

from __future__ import annotations

from collections.abc import Callable

from distopt.codegen.expressions import Buffer, Expr, Type
from distopt.codegen.loops import Block, Loop, Nests, Statement, Store

LANES = 8
CHUNK = 128
"""Numbers that are added to a lane one after the other. Further numbers make another lane, up to this many lanes."""


def lanes(
    nests: Nests, type: Type, start: Expr, turns: int, number: Callable[[Expr], Expr], depth: int = 0
) -> tuple[list[Statement], Buffer]:
    """The loops that add ``number(start)``, ``number(start + 1)``, ... in this many turns of eight, and the lanes with the sums.

    Their counters depend on ``depth``, the number of loops around them, alone: so like sums can share their loops (see ``fusion``).
    """
    pool, lane, j, r = nests.pool, nests.buffer((LANES,), type, "local"), *_counters(nests, depth)
    into = pool.load(lane, (j,))
    out: list[Statement] = [
        Block(tuple(Store(lane, (nests.constant(k),), pool.constant(type, 0)) for k in range(LANES)))
    ]
    if turns <= CHUNK:
        add = Block((Store(lane, (j,), into + number(start + r + j)),))
        out.append(Loop(r, 0, turns * LANES, (Loop(j, 0, LANES, (add,), "lanes"),), "order", LANES))
        return out, lane
    size = CHUNK
    while size * CHUNK < turns:
        size *= CHUNK
    whole = turns - turns % size

    def added(first: Expr, count: int) -> list[Statement]:
        made, inner = lanes(nests, type, first, count, number, depth + 1)
        more = Block((Store(lane, (j,), into + pool.load(inner, (j,))),))
        return [*made, Loop(j, 0, LANES, (more,), "lanes")]

    out.append(Loop(r, 0, whole * LANES, tuple(added(start + r, size)), "order", size * LANES))
    if turns > whole:
        out += added(start + whole * LANES, turns - whole)
    return out, lane


def extremes(
    nests: Nests, type: Type, turns: int, number: Callable[[Expr], Expr], combine: Callable[[Expr, Expr], Expr]
) -> tuple[list[Statement], Buffer]:
    """The loops that ``combine`` number k, in this many turns of eight, with lane k mod 8, and the lanes."""
    pool, lane, j, r = nests.pool, nests.buffer((LANES,), type, "local"), *_counters(nests, 0)
    places = [nests.constant(k) for k in range(LANES)]
    first = Block(tuple(Store(lane, (k,), number(k)) for k in places))
    turn = Block((Store(lane, (j,), combine(pool.load(lane, (j,)), number(r + j))),))
    return [first, Loop(r, LANES, turns * LANES, (Loop(j, 0, LANES, (turn,), "lanes"),), "order", LANES)], lane


def _counters(nests: Nests, depth: int) -> tuple[Expr, Expr]:
    return nests.pool.variable("lane"), nests.pool.variable(f"turn{depth}")
