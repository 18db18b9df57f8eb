"""Rounds that send and receive tensors: one recorded round is cut at these points, and each piece is compiled.

The pieces before a point compute what leaves there, and nothing else that could wait. Everything that does not depend on messages is done
before the first wait. Between two pieces the caller sends or waits, as the point says.
"""

from __future__ import annotations

import ctypes
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distopt.codegen.function import Do, Function, addresses, check, recorded
from distopt.codegen.memory import planned
from distopt.codegen.operations import HANDLERS
from distopt.codegen.recording import ARRIVE, LEAVE, Array, Operation, Recording, arrays, needed
from distopt.codegen.translate import VIEWS

Place = tuple[str, int, int]
"""Where a tensor lies: the n-th leaf "before" or "after" the round, of the "data", or the n-th "row"; the i-th of what "left" or "arrived" at
the n-th point; the n-th that is "passed" from piece to piece."""

AGAIN = ("clone", "alias", "detach", "contiguous", "_to_copy")
SHAPED = ("zeros_like", "ones_like", "new_zeros", "new_ones", "_new_zeros_with_same_feature_meta")
"""Operations that are repeated where they are needed, besides views, and operations that need no number of their argument."""

LIGHT = ("add", "sub", "rsub", "mul", "neg")
"""Operations that are repeated instead of stored, up to ``CHAIN`` of them, if they mostly read what is in memory anyway."""

CHAIN, SOURCES = 4, 2


def _needs(operation: Operation) -> list[Array]:
    if operation.name.partition(".")[0] in SHAPED:
        return []
    return [each for each in arrays((operation.args, operation.options)) if each.constant is None]


def _again(operation: Operation) -> bool:
    base = operation.name.partition(".")[0]
    handler = HANDLERS.get(operation.name) or HANDLERS.get(base)
    return handler in VIEWS or base in AGAIN or not _needs(operation)


@dataclass
class Piece:
    """What is done between two points.

    Attributes:
        recording: of its operations alone.
        carried: how many leaves are read and written nowhere else; they are its first inputs and results.
        changing: how many inputs are no data; they come first.
        inputs, results: where they lie.
    """

    recording: Recording
    carried: int
    changing: int
    inputs: list[Place]
    results: list[Place]


class Cut:
    """A recording, whose first ``carries`` inputs become its first results, in pieces: one before each of ``points``, and one after the last.

    An operation is in the last piece before something arrives that it does not need, or in an earlier piece if its result leaves there.
    """

    def __init__(self, recording: Recording, carries: int) -> None:
        operations = recording.operations
        self.points = [each for each in operations if each.name in (LEAVE, ARRIVE)]
        self._made = {id(each): at for at, operation in enumerate(operations) for each in operation.results}
        self._operations = operations
        self._home: dict[int, Place] = {}
        for k, array in enumerate(recording.inputs):
            self._home[id(array)] = ("before", k, 0) if k < carries else ("data", k - carries, 0)
        for p, point in enumerate(self.points):
            self._home |= {id(array): ("arrived", p, i) for i, array in enumerate(point.results)}
        arriving = [p for p, point in enumerate(self.points) if point.name == ARRIVE] + [len(self.points)]

        known: dict[int, int] = {}  # the first piece in which an array may be made
        due: dict[int, int] = {}  # the last
        numbers = {id(point): p for p, point in enumerate(self.points)}
        first: list[int] = []
        for operation in operations:
            here = numbers.get(id(operation))
            first.append(max((known.get(id(each), 0) for each in _needs(operation)), default=0))
            known |= dict.fromkeys(map(id, operation.results), first[-1] if here is None else here + 1)
        self._piece = [0] * len(operations)
        for at, operation in reversed([*enumerate(operations)]):
            dues = [due.get(id(each), len(self.points)) for each in operation.results]
            last = numbers.get(id(operation), min(dues, default=0))
            self._piece[at] = min(last, arriving[bisect_left(arriving, first[at])])
            for each in _needs(operation):
                due[id(each)] = min(last, due.get(id(each), last))

        wanted: list[list[tuple[Place, Array]]] = [[] for _ in range(len(self.points) + 1)]

        def want(place: Place, array: Array) -> None:
            at, own = self._made.get(id(array)), self._computed(array)
            piece = (
                self._piece[at] if own and at is not None else arriving[bisect_left(arriving, known.get(id(array), 0))]
            )
            if place[0] == "after" and (not own or (at is not None and _again(operations[at]))):
                piece = len(self.points)  # a copy: it may be written over what earlier pieces have read
            wanted[piece].append((place, array))

        self._light = self._lights(recording)
        self.same = [recording.results[k] is recording.inputs[k] for k in range(carries)]
        for k, array in enumerate(recording.results):
            if k >= carries:
                want(("row", k - carries, 0), array)
            elif not self.same[k]:
                want(("after", k, 0), array)
                if self._computed(array):
                    self._home.setdefault(id(array), ("after", k, 0))
        for p, point in enumerate(self.points):
            if point.name == LEAVE:
                wanted[p] += [(("left", p, i), array) for i, array in enumerate(point.args[0])]
        self.passed: list[Array] = []
        found = [self._taken(j, wanted) for j in reversed(range(len(wanted)))][::-1]
        self.pieces = self._arranged(found, wanted)

    def _lights(self, recording: Recording) -> set[int]:
        """The operations that are done again rather than stored."""
        chains: dict[
            int, tuple[int, frozenset[int]]
        ] = {}  # the number of computed numbers, and the arrays that are at least as large
        for array in [*recording.inputs, *(each for point in self.points for each in point.results)]:
            chains[id(array)] = 0, frozenset([id(array)])
        sizes = {id(array): math.prod(array.shape) for array in recording.inputs}
        found = set()
        for at, operation in enumerate(self._operations):
            light, needs = operation.name.partition(".")[0] in LIGHT, _needs(operation)
            if (
                len(operation.results) != 1
                or not (light or _again(operation))
                or any(id(each) not in chains for each in needs)
            ):
                continue
            (result,) = operation.results
            large = math.prod(result.shape) // 2
            length = light + sum(chains[id(each)][0] for each in needs)
            sources = frozenset(x for each in needs for x in chains[id(each)][1] if sizes.get(x, large + 1) > large)
            if length <= CHAIN and len(sources) <= SOURCES:
                chains[id(result)] = length, sources
                found |= {at} if light else set()
        return found

    def _computed(self, array: Array) -> bool:
        at = self._made.get(id(array))
        return at is not None and self._operations[at].name != ARRIVE

    def _taken(self, j: int, wanted: list[list[tuple[Place, Array]]]) -> tuple[list[int], dict[int, Array]]:
        """The operations of a piece, and what it takes from elsewhere. Arrays that it needs from earlier pieces become results of those."""
        inside: set[int] = set()
        outside: dict[int, Array] = {}
        waiting = [array for _, array in wanted[j]]
        while waiting:
            array = waiting.pop()
            at = self._made.get(id(array), -1)
            if array.constant is not None or id(array) in outside or at in inside:
                continue
            again = at in self._light and id(array) not in self._home
            if self._computed(array) and (again or self._piece[at] == j or _again(self._operations[at])):
                inside.add(at)
                waiting += _needs(self._operations[at])
                continue
            outside[id(array)] = array
            if id(array) not in self._home:
                self._home[id(array)] = ("passed", len(self.passed), 0)
                self.passed.append(array)
                wanted[self._piece[at]].append((self._home[id(array)], array))
        return sorted(inside), outside

    def _arranged(
        self, found: list[tuple[list[int], dict[int, Array]]], wanted: list[list[tuple[Place, Array]]]
    ) -> list[Piece]:
        """The pieces, their inputs and results in the order in which ``planned`` has them."""
        readers: dict[int, list[int]] = {}
        for j, (_, outside) in enumerate(found):
            for array in outside.values():
                kind, k, _ = self._home[id(array)]
                if kind == "before":
                    readers.setdefault(k, []).append(j)
        pieces = []
        for j, (inside, outside) in enumerate(found):
            written = {place[1] for place, _ in wanted[j] if place[0] == "after"}
            carried = [k for k in sorted(written) if readers.get(k) == [j]]

            def order(place: Place, carried: list[int] = carried) -> tuple[Any, ...]:
                own = place[0] in ("before", "after") and place[1] in carried
                return (0, place[1]) if own else (2 if place[0] == "data" else 1, place)

            inputs = sorted(((self._home[id(array)], array) for array in outside.values()), key=lambda x: order(x[0]))
            # a leaf after the round that a later piece reads is an input there, and carried nowhere
            results = sorted(wanted[j], key=lambda x: order(x[0]))
            recording = Recording([array for _, array in inputs], [self._operations[at] for at in inside])
            recording.results = [array for _, array in results]
            changing = sum(place[0] != "data" for place, _ in inputs)
            pieces.append(
                Piece(
                    recording, len(carried), changing, [place for place, _ in inputs], [place for place, _ in results]
                )
            )
        writers = {place[1]: j for j, some in enumerate(wanted) for place, _ in some if place[0] == "after"}
        self.alone = [k for k in range(len(self.same)) if max(readers.get(k, [-1])) < writers.get(k, len(wanted))]
        return pieces


class Segments:
    """Compiled rounds with points in between. See ``segments``.

    Attributes:
        points: what is done between the pieces: ("leave" or "arrive", its name, and shapes and types of the tensors).
        rows: shape and type of each row that a round keeps.
    """

    def __init__(self, cut: Cut, carried: list[Any], data: list[Any], rows: list[Any]) -> None:
        self.cut, self.carried, self.data, self.rows = cut, carried, data, rows
        self.points: list[tuple[str, str, list[Any]]] = [
            (point.name, point.options["what"], [(each.shape, each.dtype) for each in point.results or point.args[0]])
            for point in cut.points
        ]
        self.functions: list[Function | None] = []
        self.fixed = {k for k, same in enumerate(cut.same) if same} | set(cut.alone)
        for number, piece in enumerate(cut.pieces):
            if not piece.results:
                self.functions.append(None)
                continue
            needed(piece.recording.operations, piece.recording.results)
            function = Function(planned(piece.recording, piece.carried, piece.changing), f"piece {number}")
            for place, each in zip(piece.inputs, function.routine.carried, strict=False):
                if each.in_place:
                    self.fixed.add(place[1])
            self.functions.append(function)

    def bound(
        self,
        carry: Sequence[Tensor],
        data: Sequence[Tensor],
        rows: Sequence[Tensor],
        start: int,
        exchanged: Sequence[Sequence[Sequence[Tensor]]],
    ) -> Bound:
        """The rounds with their memory. See ``Bound``."""
        return Bound(self, carry, data, rows, start, exchanged)


class Bound:
    """Rounds on memory that stays where it is. The caller runs them one by one, and each piece by piece.

    ``pieces[turn][j](k)`` does piece j of round k, a place in ``data``; ``turn`` is 0 in the first round, and changes from round to round.

    Args:
        segments: what to call.
        carry: the carried leaves; ``after`` has them later.
        data: leaves [K|1, ...].
        rows: [rounds, ...], of which round ``start`` writes the first.
        start: the first round.
        exchanged: by turn and point, the memory of what leaves or arrives there.

    Raises:
        ValueError: a tensor of another shape or type than the rounds were made for, or that is not contiguous.
        IndexError: data that are places in a tensor, and lie outside.
    """

    def __init__(
        self,
        segments: Segments,
        carry: Sequence[Tensor],
        data: Sequence[Tensor],
        rows: Sequence[Tensor],
        start: int,
        exchanged: Sequence[Sequence[Sequence[Tensor]]],
    ) -> None:
        check("carry", carry, segments.carried)
        check("data", data, segments.data, 1)
        check("rows", rows, segments.rows, 1)
        for turn in exchanged:
            for (_, what, forms), each in zip(segments.points, turn, strict=True):
                check(what, each, forms)
        self._carry = carry
        self._other = [each if k in segments.fixed else torch.empty_like(each) for k, each in enumerate(carry)]
        self._data, self._rows, self._exchanged, self._start = data, rows, exchanged, start
        self._passed = [torch.empty(each.shape, dtype=each.dtype) for each in segments.cut.passed]
        self.pieces: list[list[Callable[[int], None] | None]] = [
            [
                None if function is None else self._call(function, piece, turn)
                for function, piece in zip(segments.functions, segments.cut.pieces, strict=True)
            ]
            for turn in (0, 1)
        ]

    def after(self, rounds: int) -> list[Tensor]:
        """The carried leaves after so many rounds."""
        return list(self._other if rounds % 2 else self._carry)

    @property
    def beside(self) -> list[Tensor]:
        """Memory beside what it was given: second places of carried leaves, and what is passed from piece to piece."""
        second = [there for here, there in zip(self._carry, self._other, strict=True) if there is not here]
        return [*second, *self._passed]

    def _at(self, place: Place, turn: int) -> Tensor:
        kind, n, i = place
        if kind in ("before", "after"):
            return (self._other if (kind == "after") != (turn == 1) else self._carry)[n]
        if kind == "passed":
            return self._passed[n]
        if kind == "row":
            return self._rows[n]
        return self._exchanged[turn][n][i] if kind in ("left", "arrived") else self._data[n]

    def _call(self, function: Function, piece: Piece, turn: int) -> Callable[[int], None]:
        routine, run = function.routine, function.run
        before = [self._at(place, turn) for place in piece.inputs]
        after = [self._at(place, turn) for place in piece.results]
        n = piece.carried
        data = [
            each if place[0] == "data" else each.unsqueeze(0)
            for place, each in zip(piece.inputs[n:], before[n:], strict=True)
        ]
        pointers, strides, kept = addresses(routine, before[:n], after[:n], data, after[n:])
        at, by = ctypes.addressof(pointers), ctypes.addressof(strides)
        first = len(pointers) - 1 - len(after[n:])
        moving = []
        for k, (place, each) in enumerate(zip(piece.results[n:], after[n:], strict=True)):
            if place[0] == "row":
                size = each[0].numel() * each.element_size()
                moving.append((first + k, each.data_ptr() - self._start * size, size))

        def call(k: int, kept: Any = (pointers, strides, kept)) -> None:
            for slot, base, size in moving:
                pointers[slot] = base + k * size
            run(k, k + 1, at, by)

        return call


def segments(do: Do, carry: Sequence[Tensor], data: Sequence[Tensor]) -> Segments:
    """The rounds that ``do`` does (see ``distopt.codegen.function.compiled``), where ``distopt.codegen.record.leave`` and ``arrive`` may be called.

    Raises:
        Unsupported: ``do`` does something that cannot be written out; the message names it.

    >>> from distopt.codegen.record import arrive, leave
    >>> def do(carry, data):  # x is sent away, and what comes for it is added
    ...     (x,), (g,) = carry, data
    ...     leave("x", [x * 2])
    ...     y = g * g
    ...     (heard,) = arrive("x", [(x.shape, x.dtype)])
    ...     return [heard + y], [x]
    >>> x, g = torch.ones(2), torch.tensor([[3.0, 4.0]])
    >>> made = segments(do, [x], [g])
    >>> [(name, what) for name, what, _ in made.points]
    [('leave', 'x'), ('arrive', 'x')]
    >>> sent, heard, rows = torch.empty(2), torch.ones(2), torch.empty(1, 2)
    >>> bound = made.bound([x], [g], [rows], 0, [[[sent], [heard]]] * 2)
    >>> for piece in bound.pieces[0]:
    ...     piece(0)
    >>> sent.tolist(), rows.tolist(), bound.after(1)[0].tolist()
    ([2.0, 2.0], [[1.0, 1.0]], [10.0, 17.0])
    """
    recording = recorded(do, carry, data)
    forms = [[(tuple(each.shape), each.dtype) for each in leaves] for leaves in (carry, [each[0] for each in data])]
    rows = [(each.shape, each.dtype) for each in recording.results[len(carry) :]]
    return Segments(Cut(recording, len(carry)), forms[0], forms[1], rows)
