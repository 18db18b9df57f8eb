"""What is recorded of a function: its operations, and what becomes of them before they are written out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distopt.errors import first_line


class Unsupported(Exception):
    """Rounds cannot be compiled as one function; the message says why. They can still run one by one in Python."""


class ViewChanged(Unsupported):
    """A tensor was changed in place, and then a view of it was used, or what it is a view of."""

    def __init__(self) -> None:
        super().__init__("the rounds change a tensor in place and go on using a view of it, or what it is a view of")


@dataclass(eq=False)
class Array:
    """A tensor of the recording. ``constant`` holds the numbers of one that the function found rather than made.

    ``scalar`` says whether it has no axes, since in mixed operations torch takes the type of the other tensors.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    constant: Tensor | None = None
    users: int = 0

    @property
    def scalar(self) -> bool:
        """Whether it has no axes."""
        return not self.shape


@dataclass
class Operation:
    """One operation of torch. Arguments are arrays, numbers, and sequences of them; ``name`` is such as "add.Tensor"."""

    name: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    results: tuple[Array, ...]


@dataclass
class Recording:
    """``operations`` that make ``results`` from ``inputs``, without those that no result needs."""

    inputs: list[Array]
    operations: list[Operation] = field(default_factory=list)
    results: list[Array] = field(default_factory=list)


LEAVE, ARRIVE = "leave", "arrive"
"""Operations that are none of torch's: see ``distopt.codegen.record``."""


def arrays(x: Any) -> list[Array]:
    """The arrays among arguments."""
    if isinstance(x, Array):
        return [x]
    if isinstance(x, dict):
        x = tuple(x.values())
    return [each for item in x for each in arrays(item)] if isinstance(x, tuple) else []


def merged(operations: list[Operation], results: list[Array]) -> tuple[list[Operation], list[Array]]:
    """Without operations that repeat an earlier one on the same arrays."""
    first: dict[Any, Operation] = {}
    stand_in: dict[int, Array] = {}

    def replaced(x: Any) -> Any:
        if isinstance(x, Array):
            return stand_in.get(id(x), x)
        return tuple(map(replaced, x)) if isinstance(x, tuple) else x

    def named(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(named, x))
        return id(x) if isinstance(x, Array) else (type(x).__name__, repr(x))  # 1, 1.0 and True are not the same

    kept = []
    for each in operations:
        operation = Operation(
            each.name, replaced(each.args), {key: replaced(x) for key, x in each.options.items()}, each.results
        )
        key = each.name, named(operation.args), named(tuple(sorted(operation.options.items(), key=str)))
        before = first.setdefault(key, operation)
        if before is operation:
            kept.append(operation)
        else:
            stand_in.update({id(old): new for old, new in zip(operation.results, before.results, strict=True)})
    return kept, [replaced(each) for each in results]


def needed(operations: Sequence[Operation], results: Sequence[Array]) -> list[Operation]:
    """The operations that results and what leaves depend on; counts how often each array is used."""
    for operation in operations:
        for each in (*operation.results, *arrays((operation.args, operation.options))):
            each.users = 0
    for each in results:
        each.users = 0
    live = {id(each) for each in results}
    kept: list[Operation] = []
    for operation in reversed(operations):
        if operation.name == LEAVE or any(id(each) in live for each in operation.results):
            kept.append(operation)
            for each in arrays((operation.args, operation.options)):
                live.add(id(each))
                each.users += 1
    for each in results:
        each.users += 1
    return kept[::-1]


def refused(operation: Operation, why: object = "") -> Unsupported:
    """The error for an operation that cannot be written out."""
    reason = first_line(why) if isinstance(why, BaseException) and str(why) else str(why)
    return Unsupported(f"the rounds use {operation.name}{f' ({reason})' if reason else ''}, which is not written out")
