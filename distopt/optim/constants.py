"""The numbers of an algorithm that a training script may change: its step size, and the constants of its direction."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from distopt.errors import InputError
from distopt.fingerprint import plain

INNER = ("algorithm", "direction")
"""Parts of an algorithm whose constants count as its own."""


def constants(part: Any) -> dict[str, float]:
    """The numbers of an algorithm by name: its step size ``lr``, and all that were given as a float, those of its direction too.

    >>> from distopt.algorithms.gtadam import gtadam
    >>> constants(gtadam(0.1))
    {'lr': 0.1, 'b1': 0.9, 'b2': 0.999, 'eps': 1e-08, 'cap': 1000000.0}
    """
    found: dict[str, float] = {}
    inner: dict[str, float] = {}
    for name, value in _fields(part).items():
        if name == "lr" and not callable(value):
            found[name] = float(value)
        elif isinstance(value, float):
            found[name] = value
        elif name in INNER and value is not None:
            inner |= constants(value)
    return {**found, **{name: value for name, value in inner.items() if name not in found}}


def with_constants(part: Any, values: Mapping[str, float]) -> Any:
    """The same algorithm with other numbers, which its own checks have passed.

    Schedulers begin or end with a step size of 0, which algorithms refuse: it is made one so small that nothing moves by it.

    Raises:
        InputError: a number that it does not take.

    >>> from distopt.algorithms.gtadam import gtadam
    >>> changed = with_constants(gtadam(0.1), {"lr": 0.2, "b1": 0.5})
    >>> changed.lr, changed.direction.b1
    (0.2, 0.5)
    """
    fields = _fields(part)
    if values.get("lr") == 0:
        values = {**values, "lr": sys.float_info.min}
    own = {name: value for name, value in values.items() if name in fields}
    rest = {name: value for name, value in values.items() if name not in fields}
    for name in INNER:
        inner = fields.get(name)
        taken = {key: value for key, value in rest.items() if inner is not None and key in constants(inner)}
        if taken:
            own[name] = with_constants(inner, taken)
            rest = {key: value for key, value in rest.items() if key not in taken}
    if rest:
        raise InputError(f"{type(part).__name__.lower()} has no {next(iter(rest))}")
    if not own:
        return part
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return dataclasses.replace(part, **own)
    twin = copy.copy(part)
    for name, value in own.items():
        object.__setattr__(twin, name, value)
    return twin


def with_tensor(part: Any, name: str, value: Tensor) -> Any:
    """The same algorithm with a tensor in the place of one of its numbers. Its own checks do not see it."""
    twin = copy.copy(part)
    fields = _fields(part)
    if name not in fields:
        owner = next(each for each in INNER if fields.get(each) is not None and name in constants(fields[each]))
        name, value = owner, with_tensor(fields[owner], name, value)
    object.__setattr__(twin, name, value)
    return twin


class Versions:
    """An algorithm whose numbers ``names`` are read from the parameter groups at each use."""

    def __init__(self, algorithm: Any, names: Sequence[str]) -> None:
        self.algorithm, self.names = algorithm, names
        self._seen: dict[tuple[float, ...], Any] = {}

    def of(self, group: Mapping[str, Any]) -> Any:
        """The algorithm with the numbers of a group."""
        values = tuple(number(group[name], name) for name in self.names)
        if values not in self._seen:
            if len(self._seen) > 64:
                self._seen.clear()
            self._seen[values] = with_constants(self.algorithm, dict(zip(self.names, values, strict=True)))
        return self._seen[values]


def without_constants(part: Any) -> Any:
    """The algorithm as JSON, without those numbers: what states and ranks must share, even if a script changes the numbers.

    >>> from distopt.algorithms.dgd import DGD
    >>> without_constants(DGD(0.1)) == without_constants(DGD(0.2)) != without_constants(DGD(0.1, "atc"))
    True
    """
    return _stripped(plain(part), part)


def _stripped(described: Any, part: Any) -> Any:
    if not isinstance(described, dict):
        return described
    fields, own = _fields(part), constants(part)
    return {
        name: _stripped(value, fields[name]) if name in INNER and name in fields else value
        for name, value in described.items()
        if name not in own or not isinstance(fields.get(name), float | int | Tensor)
    }


def shown(groups: Iterable[Mapping[str, Any]], hidden: Iterable[str]) -> str:
    """Parameter groups as torch prints them, without hidden keys.

    >>> print(shown([{"lr": 0.1, "rank": 0}], ["rank"]), end="")
    Parameter Group 0
        lr: 0.1
    """
    return "".join(
        f"Parameter Group {k}\n" + "".join(f"    {name}: {group[name]}\n" for name in sorted({*group} - {*hidden}))
        for k, group in enumerate(groups)
    )


def number(value: Any, name: str) -> float:
    """A number of a parameter group; schedulers may have made it a tensor.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise InputError(f"{name}={value!r}: must be a number")
    return float(value)


def _fields(part: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(part):
        return {each.name: getattr(part, each.name) for each in dataclasses.fields(part) if each.init}
    return {name: value for name, value in getattr(part, "__dict__", {}).items() if name[0] != "_"}
