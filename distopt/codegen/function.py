"""Rounds as one function: recorded once, written out, compiled, and called for many rounds at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from distopt.codegen import objects
from distopt.codegen.expressions import TYPES
from distopt.codegen.keeping import keep, wanted
from distopt.codegen.memory import Routine, planned
from distopt.codegen.module import assembly
from distopt.codegen.readable import source
from distopt.codegen.record import record
from distopt.codegen.recording import Recording, Unsupported
from distopt.codegen.threads import LARGE, count, together

Do = Callable[[list[Tensor], list[Tensor]], tuple[Sequence[Tensor], Sequence[Tensor]]]
"""A round: (leaves that are carried, the round's data) -> (the leaves after it, rows to keep)."""


class Function:
    """Compiled rounds. See ``compiled``.

    Attributes:
        shared: whether several threads may do them (see ``threads``).
        numbers: of the largest leaf that is carried.
        carried: shape and type of each carried leaf.
        data: of each leaf of data, without its first axis.
        rows: of each row that a round keeps.
    """

    def __init__(self, routine: Routine, name: str = "function", shared: bool = False) -> None:
        self.routine = routine
        if wanted():
            keep(name, self.source())
        self.numbers = max((each.before.size for each in routine.carried), default=0)
        self.shared = shared and self.numbers >= LARGE
        self.text = assembly(routine, self.shared)
        self.run = objects.function(self.text)
        dtypes = {type: dtype for dtype, type in TYPES.items()}
        own = len(routine.data) - len(routine.constants)
        self.carried = [(each.before.shape, dtypes[each.before.type]) for each in routine.carried]
        self.data = [(each.shape, dtypes[each.type]) for each in routine.data[:own]]
        self.rows = [(each.shape, dtypes[each.type]) for each in routine.rows]

    def source(self) -> str:
        """The same loops as C, for people to read."""
        return source(self.routine)

    def bound(
        self,
        carry: Sequence[Tensor],
        data: Sequence[Tensor],
        rows: Sequence[Tensor],
        memory: Sequence[Tensor] = (),
    ) -> Bound:
        """The function with its memory. See ``Bound``."""
        return Bound(self, carry, data, rows, memory)


class Bound:
    """Rounds on memory that stays where it is: call it with (k0, k1) for rounds k0 .. k1 - 1, places in ``data``.

    Round k reads ``data[k]``, or ``data[0]`` of a leaf of length 1, and writes ``rows[k - k0]``. The carried leaves are written over.
    One function may have several, each with its own temporaries, which can run in different threads.

    Args:
        function: what to call.
        carry: the carried leaves; ``carry`` of this object has them at any time.
        data: leaves [K|1, ...].
        rows: [at least as many rounds as a call has, ...].
        memory: that of an earlier one of the function, which is no longer called: fresh pages of large networks take as long as their rounds.

    Raises:
        ValueError: a tensor has another shape or type than the function was made for, is not contiguous, or is written
            and shares memory with another.
        IndexError: data that are places in a tensor, and lie outside.
    """

    def __init__(
        self,
        function: Function,
        carry: Sequence[Tensor],
        data: Sequence[Tensor],
        rows: Sequence[Tensor],
        memory: Sequence[Tensor] = (),
    ) -> None:
        self._function, routine = function, function.routine
        check("carry", carry, function.carried)
        check("data", data, function.data, 1)
        check("rows", rows, function.rows, 1)
        written = [each.data_ptr() for each in (*carry, *rows) if each.numel()]
        if len({*written}) < len(written) or {*written} & {each.data_ptr() for each in data}:
            raise ValueError("an output shares memory with another tensor")
        turning = [not each.in_place for each in routine.carried]
        before = {each.data_ptr() for each in carry}
        *spare, scratch = (
            memory if memory and not before & {each.data_ptr() for each in memory} else [None] * (len(carry) + 1)
        )
        self._spare = [
            (torch.empty_like(each) if old is None or not old.numel() else old) if turns else each
            for each, turns, old in zip(carry, turning, spare, strict=True)
        ]
        self._carry, self._turning = list(carry), any(turning)
        self._rounds = min((len(each) for each in data if len(each) > 1), default=None)
        self._room = min((len(each) for each in rows), default=None)
        self._pointers, strides, kept = addresses(routine, self._carry, self._spare, data, rows, scratch)
        self._strides = strides
        self._kept = (rows, kept)  # as long as the addresses are in use

    @property
    def memory(self) -> list[Tensor]:
        """Memory that another call object can use after this one is no longer called: the second buffer of each carried leaf, and the temporaries."""
        carried = self._function.routine.carried
        none = torch.empty(0)
        spare = [none if each.in_place else own for own, each in zip(self._spare, carried, strict=True)]
        return [*spare, self._kept[1][-1]]

    @property
    def carry(self) -> list[Tensor]:
        """The present values of the carried leaves."""
        return self._carry

    def __call__(self, k0: int, k1: int) -> None:
        """Rounds k0 .. k1 - 1."""
        if (
            k0 < 0
            or (self._rounds is not None and k1 > self._rounds)
            or (self._room is not None and k1 - k0 > self._room)
        ):
            raise ValueError(f"rounds {k0} .. {k1}: there are data of {self._rounds} and room for {self._room}")
        run, pointers = self._function.run, ctypes.addressof(self._pointers)
        if self._function.shared:
            together(run, k0, k1, pointers, self._strides, count(self._function.numbers))
        else:
            run(k0, k1, pointers, ctypes.addressof(self._strides))
        if self._turning and (k1 - k0) % 2 == 1 and k1 > k0:
            for k, each in enumerate(self._function.routine.carried):
                if not each.in_place:
                    self._carry[k], self._spare[k] = self._spare[k], self._carry[k]
                    pointers = self._pointers
                    pointers[2 * k], pointers[2 * k + 1] = pointers[2 * k + 1], pointers[2 * k]


def check(
    what: str, given: Sequence[Tensor], expected: Sequence[tuple[tuple[int, ...], torch.dtype]], axis: int = 0
) -> None:
    """Refuse tensors that are not contiguous, or whose axes from ``axis`` on, or types, are not the expected ones.

    Raises:
        ValueError: a tensor does not fit; the message says which.
    """
    forms = [(tuple(each.shape[axis:]), each.dtype) for each in given]
    if forms != expected:
        raise ValueError(f"{what}: {forms} does not fit {expected}")
    if not all(each.is_contiguous() for each in given):
        raise ValueError(f"{what}: a tensor is not contiguous")


def addresses(
    routine: Routine,
    before: Sequence[Tensor],
    after: Sequence[Tensor],
    data: Sequence[Tensor],
    rows: Sequence[Tensor],
    scratch: Tensor | None = None,
) -> tuple[Any, Any, list[Tensor]]:
    """The arguments of a routine: its pointers, its strides, and the objects that must live as long as these, the temporaries' memory last.

    Raises:
        IndexError: data that are places in a tensor, and lie outside.
    """
    leaves = [*data, *(each.unsqueeze(0) for each in routine.constants)]
    for leaf, buffer in zip(leaves, routine.data, strict=True):
        n = routine.places.get(buffer.name)
        if n is not None and leaf.numel() and not 0 <= int(leaf.min()) <= int(leaf.max()) < n:
            raise IndexError(f"places {int(leaf.min())} .. {int(leaf.max())} in a tensor that has {n}")
    scratch = torch.empty(routine.scratch + 64, dtype=torch.uint8) if scratch is None else scratch
    base = scratch.data_ptr() + -scratch.data_ptr() % 64
    both = [each.data_ptr() for pair in zip(before, after, strict=True) for each in pair]
    pointers = [*both, *(each.data_ptr() for each in (*leaves, *rows)), base]
    strides = [0 if len(each) == 1 else each[0].numel() * each.element_size() for each in leaves]
    return (
        (ctypes.c_void_p * len(pointers))(*pointers),
        (ctypes.c_int64 * max(len(strides), 1))(*strides),
        [*leaves, scratch],
    )


def written_out(do: Do, carry: Sequence[Tensor], data: Sequence[Tensor]) -> Routine:
    """The rounds that ``do`` does as loops, not yet compiled. See ``compiled``."""
    return planned(recorded(do, carry, data), len(carry))


def compiled(do: Do, carry: Sequence[Tensor], data: Sequence[Tensor], name: str = "function") -> Function:
    """The rounds that ``do`` does, as one compiled function.

    ``do`` is called twice, on copies of ``carry`` and of the first round of ``data`` (leaves [K|1, ...]) and on other numbers. The recorded
    operations are those of every round: Python code in it must not depend on numbers in tensors or on the number of calls. It may take
    derivatives, by ``torch.func.grad`` and ``torch.func.jvp``. ``name`` is that of its file (see ``keeping``).

    Raises:
        Unsupported: ``do`` does something that cannot be written out; the message names it.

    >>> def do(carry, data):  # x becomes x - 0.5 (x - target); what is kept is the square error
    ...     (x,), (target,) = carry, data
    ...     return [x - 0.5 * (x - target)], [((x - target) ** 2).sum()]
    >>> x, targets = torch.zeros(2, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)
    >>> errors = torch.empty(3, dtype=torch.float64)
    >>> rounds = compiled(do, [x], [targets]).bound([x], [targets], [errors])
    >>> rounds(0, 3)
    >>> rounds.carry[0].tolist(), errors.tolist()
    ([0.875, 0.875], [2.0, 0.5, 0.125])
    """
    return Function(written_out(do, carry, data), name, shared=True)


def recorded(do: Do, carry: Sequence[Tensor], data: Sequence[Tensor]) -> Recording:
    """A round of ``do`` as ``compiled`` calls it: the first results are the leaves after the round."""
    count = len(carry)

    def flat(*leaves: Tensor) -> list[Tensor]:
        after, rows = do(list(leaves[:count]), list(leaves[count:]))
        if [(each.shape, each.dtype) for each in after] != [(each.shape, each.dtype) for each in carry]:
            raise Unsupported("a round changes the shape or precision of what goes from round to round")
        return [*after, *rows]

    return record(flat, [*carry, *(each[0] for each in data)])
