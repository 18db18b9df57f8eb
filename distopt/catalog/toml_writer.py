"""Settings as TOML text. Python's ``tomllib`` reads TOML and does not write it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_SHORT = {"\b": "\\b", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def toml_text(values: Mapping[str, Any]) -> str:
    """TOML that ``tomllib`` reads back: texts, numbers, truth values, lists and mappings of these.

    Mappings become tables after the other values. A mapping within a list stands in one line.

    Raises:
        TypeError: a value of another type, or a key that is no text.

    >>> print(toml_text({"rounds": 300, "algorithm": ["gt"], "sweep": {"lr": 0.1}}), end="")
    rounds = 300
    algorithm = [
        "gt",
    ]
    <BLANKLINE>
    [sweep]
    lr = 0.1
    """
    return "\n".join(_tables(values, ""))


def _tables(values: Mapping[str, Any], name: str) -> Iterator[str]:
    """The lines of a table, and then those of each table in it."""
    inner = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value, 0)}\n" for key, value in values.items() if key not in inner]
    if name and (lines or not inner):
        lines = [f"[{name}]\n", *lines]
    if lines:
        yield "".join(lines)
    for key, value in inner.items():
        yield from _tables(value, f"{name}.{_key(key)}" if name else _key(key))


def _value(value: Any, depth: int) -> str:
    """A value in a list that is ``depth`` lists deep."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(key)} = {_value(each, 0)}" for key, each in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        lines = "".join(f"{'    ' * (depth + 1)}{_value(each, depth + 1)},\n" for each in value)
        return f"[\n{lines}{'    ' * depth}]" if lines else "[]"
    raise TypeError(f"TOML has no values of type {type(value).__qualname__}")


def _key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else _text(key)


def _text(text: str) -> str:
    """A text in quotation marks. Control characters but the tab have to be escaped."""
    return '"' + re.sub(r'["\\\x00-\x08\n-\x1f\x7f]', lambda found: _escape(found[0]), text) + '"'


def _escape(char: str) -> str:
    return _SHORT.get(char, f"\\u{ord(char):04x}")
