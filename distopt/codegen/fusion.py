"""Loops over the same rows as one loop, so that a row is still in the processor's cache when the next computation reads it.

A later loop joins an earlier one if it runs over as many rows and, of all that the loops in between and the earlier loop itself write,
reads at most the row that has just been written. What only one turn needs is then kept in a row of its own. No number changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from distopt.codegen.expressions import BYTES, Buffer, Expr
from distopt.codegen.loops import Block, Loop, Nest, Nests, Statement, Store, shared, work

ENOUGH = 2**10
"""Numbers of a loop: what fewer of them read stays in the cache anyway."""

TOGETHER = 6
"""Sums that are made in one loop: more need more registers than there are."""

ROW, ROWS = 2**14, 2**16
"""Bytes of a row that is kept by itself, and of all that a loop keeps: they lie on the stack."""


@dataclass
class Group:
    """Nests that are done one after the other, row by row where there are several.

    ``variable`` counts their rows, ``count`` of them; None where nothing may join. ``axes`` says which axis of a buffer that they write
    is that of the rows.
    """

    nests: list[Nest]
    variable: Expr | None = None
    count: int = 0
    axes: dict[int, int] = field(default_factory=dict)

    def follows(self, read: Expr) -> bool:
        """Whether a turn reads only what the same turn has written."""
        axis = self.axes.get(id(read.value))
        return axis is not None and read.args[axis] is self.variable

    def statements(self, nests: Nests, kept: set[int]) -> tuple[Statement, ...]:
        """The loops; ``kept`` are the buffers that are stored."""
        if len(self.nests) == 1:
            return _statements(nests, self.nests[0], kept)
        assert self.variable is not None
        inner = [statement for body, _ in self._bodies(nests, kept) for statement in body]
        own = any(buffer.kind == "local" for nest in self.nests for buffer in nest.writes)
        return (Loop(self.variable, 0, self.count, tuple(inner), "rows" if own else "each"),)

    def _bodies(self, nests: Nests, kept: set[int]) -> list[tuple[tuple[Statement, ...], list[Nest]]]:
        """What a turn does, and for which nests: sums of like loops share these, if none needs what another or one in between writes."""
        found: list[tuple[tuple[Statement, ...], list[Nest]]] = []
        for nest in self.nests:
            (loop,) = _statements(nests, nest, kept)
            assert isinstance(loop, Loop)
            for k in _partners(found, nest, _sums(loop.body)):
                body, own = found[k]
                if (both := shared(body, loop.body)) is not None:
                    found[k] = both, [*own, nest]
                    break
            else:
                found.append((loop.body, [nest]))
        return found


def _sums(body: Sequence[Statement]) -> int:
    """How many sums a computation makes at the same time."""
    lanes = (block for each in body if isinstance(each, Loop) and each.kind == "lanes" for block in each.body)
    here = max((len(block.stores) for block in lanes if isinstance(block, Block)), default=1)
    return max([here, *(_sums(each.body) for each in body if not isinstance(each, Block))])


def _partners(found: Sequence[tuple[tuple[Statement, ...], list[Nest]]], nest: Nest, sums: int) -> Iterator[int]:
    """The places of earlier computations that could be done together with that of a nest, the last first."""
    needs = {id(each.value) for each in nest.reads}
    if not nest.body or any(buffer.kind == "output" for buffer in nest.writes):
        return
    for k in reversed(range(len(found))):
        body, own = found[k]
        if any(id(buffer) in needs for other in own for buffer in other.writes):
            return
        if own[0].body and len(own) < TOGETHER and _sums(body) + sums <= TOGETHER:
            yield k


def grouped(nests: Nests, in_place: Mapping[int, Buffer]) -> list[Group]:
    """All nests in groups, in order. ``in_place`` are the buffers whose memory is written over, by those that are written there."""
    groups: list[Group] = []
    written, read = dict[int, int](), dict[int, list[tuple[int, Expr]]]()
    for nest in nests.nests:
        new = _alone(nests, nest)
        first, variable = 0, new.variable
        for each in nest.reads:
            at = written.get(id(each.value))
            if at is not None:
                first = max(first, at if variable is not None and groups[at].follows(each) else at + 1)
        for buffer in nest.writes:
            old = in_place.get(id(buffer))
            for at, each in read.get(id(old), []) if old is not None else ():
                axis = new.axes.get(id(buffer))
                beside = axis is not None and variable is not None and each.args[axis] is variable
                first = max(first, at if beside else at + 1)
        place = next((k for k in range(first, len(groups)) if _alike(groups[k], new)), None)
        if place is None:
            place = len(groups)
            groups.append(Group([], new.variable, new.count))
        groups[place].nests.append(nest)
        groups[place].axes |= new.axes
        for buffer in nest.writes:
            written[id(buffer)] = place
        for each in nest.reads:
            read.setdefault(id(each.value), []).append((place, each))
    return groups


def shortened(groups: Sequence[Group], kept: set[int]) -> None:
    """Keep only one row of each temporary that no other loop reads."""
    readers: dict[int, list[tuple[Group, Expr]]] = {}
    for group in groups:
        for nest in group.nests:
            for each in nest.reads:
                readers.setdefault(id(each.value), []).append((group, each))
    for group in groups:
        room = ROWS
        for buffer in (buffer for nest in group.nests for buffer in nest.writes) if len(group.nests) > 1 else ():
            axis, own = group.axes.get(id(buffer)), readers.get(id(buffer), [])
            if buffer.kind != "temporary" or id(buffer) not in kept or axis is None:
                continue
            size = buffer.size // max(group.count, 1) * BYTES[buffer.type]
            if size <= min(ROW, room) and all(at is group and group.follows(each) for at, each in own):
                room -= size
                buffer.kind = "local"
                buffer.shape = (*buffer.shape[:axis], 1, *buffer.shape[axis + 1 :])


def _alike(group: Group, new: Group) -> bool:
    return new.variable is not None and group.variable is new.variable and group.count == new.count


def _alone(nests: Nests, nest: Nest) -> Group:
    """A group of one nest; others may join it if it is a large loop around other loops."""
    body = _statements(nests, nest, set())
    loop = body[0] if len(body) == 1 else None
    if not isinstance(loop, Loop) or loop.kind != "each" or work(loop) < ENOUGH:
        return Group([nest])
    if not any(isinstance(each, Loop) for each in loop.body):
        return Group([nest])
    axes: dict[int, int] = {}
    stores = list(_stores(body))
    for buffer in nest.writes:
        places = [store.ix for store in stores if store.buffer is buffer]
        found = (k for k in range(len(buffer.shape)) if all(ix[k] is loop.variable for ix in places))
        if (axis := next(found, None)) is not None:
            axes[id(buffer)] = axis
    return Group([nest], loop.variable, loop.stop, axes)


def _statements(nests: Nests, nest: Nest, kept: set[int]) -> tuple[Statement, ...]:
    if nest.body:
        return nest.body
    stores = tuple(Store(each.buffer, each.ix, each.value, id(each.buffer) in kept) for each in nest.stores)
    return nests.over(nest.shape, [Block(stores, chained=True)])


def _stores(body: Sequence[Statement]) -> Iterator[Store]:
    for each in body:
        if isinstance(each, Block):
            yield from each.stores
        else:
            yield from _stores(each.body)
