"""Whether Python objects are unchanged after a call: an object that counts calls could behave differently later."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from distopt.codegen.recording import Unsupported

DEEP, MANY = 6, 200
"""How far attributes of attributes are followed, and how many entries of a collection are."""

Held = dict[str, Any]

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType)


def held(**objects: Any) -> Held:
    """What the objects hold, by path: numbers and texts, how long collections are, and how often tensors were changed.

    >>> held(rule={"lr": 0.5, "seen": [1, 2]})
    {'rule': 2, 'rule.lr': 0.5, 'rule.seen': 2, 'rule.seen.0': 1, 'rule.seen.1': 2}
    """
    found: Held = {}
    for name, each in objects.items():
        _into(found, name, each, DEEP, set())
    return found


def changed(before: Held, after: Held) -> str | None:
    """The first path at which the two differ; None where they are the same."""
    return next((path for path in (*before, *after) if repr(before.get(path, ())) != repr(after.get(path, ()))), None)


class Calls:
    """Sees whether calls change objects. The first one may fill what they keep for later ones."""

    def __init__(self, **objects: Any) -> None:
        self._objects, self._count = objects, 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Around a call.

        Raises:
            Unsupported: an object has counted it.
        """
        self._count += 1
        before = held(**self._objects) if self._count > 1 else None
        yield
        if before is not None and (path := changed(before, held(**self._objects))) is not None:
            raise Unsupported(f"each round changes {path}, an attribute in Python; mix.t counts the rounds")


def _into(found: Held, path: str, x: Any, deep: int, seen: set[int]) -> None:
    if isinstance(x, _PLAIN):
        found[path] = x
        return
    if not deep or id(x) in seen or isinstance(x, _CODE):
        return
    seen.add(id(x))
    if isinstance(x, Tensor):
        found[path] = x._version
    elif isinstance(x, dict | list | tuple | set):
        found[path] = len(x)
        entries = x.items() if isinstance(x, dict) else enumerate(x) if not isinstance(x, set) else ()
        for name, each in list(entries)[:MANY]:
            _into(found, f"{path}.{name}", each, deep - 1, seen)
    else:
        for name, each in vars(x).items() if hasattr(x, "__dict__") else ():
            _into(found, f"{path}.{name}", each, deep - 1, seen)
