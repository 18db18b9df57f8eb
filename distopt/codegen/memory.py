"""The layout of memory: what is written in place, what is not stored at all, and which temporaries share memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distopt.codegen.expressions import BYTES, Buffer, Expr
from distopt.codegen.fusion import Group, grouped, shortened
from distopt.codegen.loops import Statement
from distopt.codegen.operations import translated
from distopt.codegen.recording import Recording

ALIGNMENT = 64


@dataclass(frozen=True)
class Carried:
    """A leaf that goes from round to round: read from ``before``, written to ``after``; None where it does not change.

    ``in_place`` says whether both are the same memory; if not, two buffers take turns.
    """

    before: Buffer
    after: Buffer | None
    in_place: bool


@dataclass(frozen=True)
class Routine:
    """A round, ready to be printed.

    Attributes:
        body: what is done, in order.
        carried: the leaves that go from round to round.
        data: what a round reads, those that the caller gives and then ``constants``.
        rows: what a round leaves behind.
        slots: bytes of each piece of memory for temporaries, and which temporary lies in which.
        locals: small memory of loop bodies.
        places: of buffers whose numbers are places, in how many places they must be.
    """

    body: tuple[Statement, ...]
    carried: tuple[Carried, ...]
    data: tuple[Buffer, ...]
    constants: tuple[torch.Tensor, ...]
    rows: tuple[Buffer, ...]
    slots: tuple[int, ...]
    placed: tuple[tuple[Buffer, int], ...]
    locals: tuple[Buffer, ...]
    places: dict[str, int]

    @property
    def scratch(self) -> int:
        """Bytes of all temporaries."""
        return sum(self.slots)


def planned(recording: Recording, carries: int, changing: int | None = None) -> Routine:
    """The routine of a recording, whose first ``carries`` inputs become its first results.

    The first ``changing`` inputs, by default only these, are made by rounds; all others are data.

    >>> from distopt.codegen.record import record
    >>> routine = planned(record(lambda x, g: [x - g, x * 1], [torch.zeros(2), torch.zeros(2)]), 1)
    >>> routine.carried[0].in_place, len(routine.rows), routine.scratch
    (True, 1, 0)
    """
    made = translated(recording, carries if changing is None else changing)
    nests, taken = made.nests, set[int]()
    outputs: list[Buffer | None] = []
    for k, lazy in enumerate(made.results):
        if k < carries and lazy.held is made.inputs[k]:
            outputs.append(None)
            continue
        held = lazy.held
        if held is None or held.kind == "input" or id(held) in taken:
            held = nests.realised(lazy, again=True).held
        assert held is not None
        held.kind = "output"
        taken.add(id(held))
        outputs.append(held)

    written: dict[int, int] = {}
    reads: dict[int, list[tuple[int, Expr]]] = {}
    for at, nest in enumerate(nests.nests):
        for buffer in nest.writes:
            written[id(buffer)] = at
        for read in nest.reads:
            reads.setdefault(id(read.value), []).append((at, read))

    def beside(at: int, read: Expr) -> bool:
        nest = nests.nests[at]
        return not nest.body and nest.shape == read.value.shape and read.args == nests.index(nest.shape)

    def carried(before: Buffer, after: Buffer | None) -> Carried:
        if after is None:
            return Carried(before, None, True)
        end = written[id(after)]
        fits = all(at < end or (at == end and beside(at, read)) for at, read in reads.get(id(before), []))
        return Carried(before, after, fits)

    kept = {
        id(buffer)
        for buffer in nests.buffers
        if buffer.kind == "output"
        or (buffer.kind == "temporary" and any(at != written[id(buffer)] for at, _ in reads.get(id(buffer), [])))
    }
    pairs = [carried(before, after) for before, after in zip(made.inputs[:carries], outputs[:carries], strict=True)]
    groups = grouped(nests, {id(each.after): each.before for each in pairs if each.after is not None and each.in_place})
    shortened(groups, kept | {id(each) for nest in nests.nests if nest.body for each in nest.writes})
    slots, placed = _slots(groups, kept)
    return Routine(
        tuple(statement for group in groups for statement in group.statements(nests, kept)),
        tuple(pairs),
        tuple(made.inputs[carries:]),
        tuple(made.constants),
        tuple(each for each in outputs[carries:] if each is not None),
        tuple(slots),
        tuple(placed),
        tuple(each for each in nests.buffers if each.kind == "local"),
        made.places,
    )


def _slots(groups: list[Group], kept: set[int]) -> tuple[list[int], list[tuple[Buffer, int]]]:
    """Memory for temporaries: a temporary without further readers gives its place to the next one of at most about its size."""
    sizes: list[int] = []
    free_from: list[int] = []
    placed: list[tuple[Buffer, int]] = []
    last = {id(read.value): at for at, group in enumerate(groups) for nest in group.nests for read in nest.reads}
    for at, group in enumerate(groups):
        for nest, buffer in [(each, buffer) for each in group.nests for buffer in each.writes]:
            if buffer.kind != "temporary" or (id(buffer) not in kept and not nest.body):
                continue
            need = -(-max(buffer.size * BYTES[buffer.type], 1) // ALIGNMENT) * ALIGNMENT
            free = [k for k, end in enumerate(free_from) if end < at]
            large = [k for k in free if sizes[k] >= need]
            if large:
                slot = min(large, key=lambda k: sizes[k])
            elif free:  # the largest that is free grows
                slot = max(free, key=lambda k: sizes[k])
                sizes[slot] = need
            else:
                slot = len(sizes)
                sizes.append(need)
                free_from.append(at)
            free_from[slot] = last.get(id(buffer), at)
            placed.append((buffer, slot))
    return sizes, placed
