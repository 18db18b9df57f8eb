"""How a round is cut into functions."""

from __future__ import annotations

from distopt.codegen.expressions import loads
from distopt.codegen.loops import Block, If, Loop, Statement, work

PART = 32
"""Loops of a function: the compiler's time grows faster than a function's length."""

FEW = 2**12  # numbers that one thread computes in the time of a barrier
OUTER = 64  # turns that are enough for all threads


def parts(body: tuple[Statement, ...], loops: int | None = None) -> list[tuple[Statement, ...]]:
    """Statements in order, as many in a part as have ``loops`` loops (``PART``). A part ends only where no later statement uses its small memory."""
    own = [_locals(each) for each in body]
    last = {name: at for at, names in enumerate(own) for name in names}
    found, count, until, enough = list[list[Statement]](), 0, -1, PART if loops is None else loops
    for at, each in enumerate(body):
        if not found or (count >= enough and until < at):
            found.append([])
            count = 0
        found[-1].append(each)
        count += _loops(each)
        until = max([until, *(last[name] for name in own[at])])
    return [tuple(each) for each in found]


def divided(body: tuple[Statement, ...]) -> list[tuple[tuple[Statement, ...], Loop | None]]:
    """Statements in order, in parts that several threads do one after the other, and of each the loop whose turns they share.

    If there is none, one thread does all.
    """
    found: list[tuple[tuple[Statement, ...], Loop | None]] = []
    for part in parts(body, 0):
        loop = _independent(part[0]) if len(part) == 1 else None
        if loop is None and found and found[-1][1] is None and sum(map(_loops, found[-1][0])) < PART:
            found[-1] = (*found[-1][0], *part), None
        else:
            found.append((part, loop))
    return found


def _independent(statement: Statement) -> Loop | None:
    """The outermost loop of many turns that are independent of each other, if they are worth a meeting."""
    loop: Statement = statement
    found = list[Loop]()
    while isinstance(loop, Loop) and loop.kind in ("each", "rows") and loop.step == 1:
        found.append(loop)
        loop = loop.body[0] if len(loop.body) == 1 else Block(())
    if not found or work(statement) < FEW:
        return None
    return next((each for each in found if each.stop >= OUTER), found[0])


def _loops(statement: Statement) -> int:
    """How many loops a statement has."""
    if isinstance(statement, Block):
        return 0
    return isinstance(statement, Loop) + sum(_loops(each) for each in statement.body)


def _locals(statement: Statement) -> set[str]:
    """The small pieces of memory that a statement uses: each function has its own."""
    if isinstance(statement, Block):
        buffers = [
            each.value for each in loads([each for store in statement.stores for each in (store.value, *store.ix)])
        ]
        buffers += [store.buffer for store in statement.stores]
    else:
        buffers = [each.value for each in loads([statement.condition])] if isinstance(statement, If) else []
    own = {each.name for each in buffers if each.kind == "local"}
    return own if isinstance(statement, Block) else own.union(*map(_locals, statement.body))
