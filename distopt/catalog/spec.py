"""The grammar of specs: ``name``, ``name:key=value,key=value`` or ``name(key=value)``, its numbers and its files.

A spec can stand inside another where a parameter is such an object, as in ``gt:direction=adam(b1=0.5)``. A list ``[a,b,c]`` in
place of a value is a grid: one spec for each (``points``). Instead of a name, the path of a Python file works too; it ends at the
first ``.py`` before ``:`` or ``(``, and may hold blanks and brackets. A value may stand in single or double quotes: commas,
brackets, colons and equals signs inside are then part of it, as in ``stream:path="data/a,b.csv",label=y``. Keys may be left
out, in the order of the parameters.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from distopt.catalog.places import place, rooted, whereabouts
from distopt.errors import InputError, printable

LARGEST = 2**63 - 1
"""The largest whole number that a spec, a TOML file, an option or an argument may hold; the smallest is its negative."""

LONGEST, DEEPEST, MOST_POINTS = 10**5, 20, 10**5
"""Characters of a spec, specs inside one another, and points of a grid."""

_KEY = re.compile(r"([A-Za-z_]\w*)\s*=")
_LONGEST_PATH = 4096


@dataclass(frozen=True)
class Spec:
    """A parsed spec: a name (or path of a .py file), positional values and keyword values, all as text without quotes."""

    name: str
    args: tuple[str, ...] = ()
    kwargs: tuple[tuple[str, str], ...] = ()


def parse(text: str) -> Spec:
    """Parse ``name:key=value,key=other(a=1)``.

    >>> parse("gt:lr=0.1,direction=adam(b1=0.5)").kwargs[1][1]
    'adam(b1=0.5)'
    >>> parse("stream:'a,b.csv',label=y").args
    ('a,b.csv',)

    Raises:
        InputError: unbalanced brackets or quotes, an empty name, or an empty value.
    """
    if len(text) > LONGEST:
        raise InputError(f"{text[:40]!r}...: a spec of {len(text):,} characters; at most {LONGEST:,} can be read")
    text = text.strip()
    head = _head(text)
    name, rest = head.strip(), text[len(head) :].lstrip()
    if rest.startswith("("):
        if not rest.endswith(")"):
            raise InputError(f"{text!r}: the brackets after the name must close at the end")
        rest = rest[1:-1]
    else:
        rest = rest[1:]
    if not name:
        raise InputError(f"{text!r}: no name before the parameters; write name:key=value,key=value")
    args: list[str] = []
    kwargs: dict[str, str] = {}
    for part in _split(rest, text):
        match = _KEY.match(part)
        value = _unquoted((part[match.end() :] if match else part).strip(), text, part)
        if match:
            if match.group(1) in kwargs:
                raise InputError(f"{text!r}: {match.group(1)} is given twice")
            kwargs[match.group(1)] = value
        else:
            args.append(value)
    return Spec(name, tuple(args), tuple(kwargs.items()))


def _head(text: str) -> str:
    """The part of a spec before its parameters: the path of a .py file, which may hold brackets, else up to ``:`` or ``(``."""
    paths = [text[: match.end()] for match in re.finditer(r"\.py(?=\s*(?:[:(]|$))", text[:_LONGEST_PATH])]
    for path in paths:
        if place(path):
            return path
    for path in paths:  # no such file: what looks like one, so that an error can name it
        if ":" not in path and path.count("(") == path.count(")"):
            return path
    match = re.match(r"[^:(]*", text)
    return match.group() if match else ""


def _split(text: str, whole: str) -> list[str]:
    """The parts of ``text`` between the commas outside brackets and quotes; a quote opens only where a value begins."""
    parts: list[str] = []
    depth, start, quote, begins = 0, 0, "", True
    for position, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
            continue
        if char in "'\"" and begins:
            quote, begins = char, False
            continue
        depth += (char in "([") - (char in ")]")
        if depth > DEEPEST:
            raise InputError(f"{whole[:40]!r}...: specs inside one another, more than {DEEPEST} deep")
        if depth < 0:
            raise InputError(f"{whole!r}: unexpected {char!r}; a value with brackets in it goes in quotes")
        if char == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
        begins = char in "=,([" or (begins and char.isspace())
    if quote:
        raise InputError(f"{whole!r}: the quote {quote} is not closed")
    if depth:
        raise InputError(f"{whole!r}: a bracket is not closed; a value with brackets in it goes in quotes")
    parts.append(text[start:])
    return [part.strip() for part in parts] if text.strip() else []


def points(spec: str) -> list[str]:
    """The specs of a grid, one for each choice from the lists ``[a,b,c]`` in place of values; the first list varies slowest.

    >>> points("gt:lr=[0.1,0.2],direction=momentum(b=[0.5,0.9])")[1]
    'gt:lr=0.1,direction=momentum(b=0.9)'
    >>> points("gt:lr=0.1")
    ['gt:lr=0.1']

    Raises:
        InputError: a list that is empty, has an empty entry, or is not closed; more points than can be run.
    """
    spec = spec.strip()
    if len(spec) > LONGEST:
        raise InputError(f"{spec[:40]!r}...: a spec of {len(spec):,} characters; at most {LONGEST:,} can be read")
    texts: list[str] = []  # around the lists
    lists: list[list[str]] = []
    start, quote, begins, position = 0, "", False, len(_head(spec))
    while position < len(spec):
        char = spec[position]
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"" and begins:
            quote = char
        elif char == "[" and begins:
            end = spec.find("]", position)
            values = [value.strip() for value in spec[position + 1 : end].split(",")]
            if end < 0 or not all(values) or "[" in spec[position + 1 : end]:
                raise InputError(
                    f"{spec!r}: a grid is a list of values such as lr=[0.01,0.02]; a value with brackets in it goes in quotes"
                )
            texts.append(spec[start:position])
            lists.append(values)
            position, start = end, end + 1
            begins = False
            position += 1
            continue
        begins = char in "=,(:" or (begins and char.isspace())
        position += 1
    if (count := math.prod(map(len, lists))) > MOST_POINTS:
        raise InputError(f"{spec[:60]!r}: a grid of {count:,} points; at most {MOST_POINTS:,} can be run, so split it")
    texts.append(spec[start:])
    return [
        "".join(part for pair in zip(texts, (*chosen, ""), strict=True) for part in pair) for chosen in product(*lists)
    ]


def values(listed: str) -> list[str]:
    """The values of a list ``a,b,c``. A value that contains commas stands in quotes or in brackets.

    >>> values("sea,'moving_target:dim=3,kappa=2',gt(lr=0.1,form=atc)")
    ['sea', 'moving_target:dim=3,kappa=2', 'gt(lr=0.1,form=atc)']
    """
    return [_unquoted(part, listed, listed) for part in _split(listed, listed)]


def with_value(spec: str, key: str, value: str, names: Sequence[str] = ()) -> str:
    """A spec with a parameter set, in the place where it was or after the others. ``names``: of values without a key, in order.

    >>> with_value("gt:lr=0.1,form=atc", "lr", "0.2"), with_value("gtadam(b1=0.5)", "direction", "adam(b1=0.5)")
    ('gt:lr=0.2,form=atc', 'gtadam:b1=0.5,direction=adam(b1=0.5)')
    >>> with_value("stream:a.csv,label=y", "path", "b=1.csv", ["path", "label"])
    "stream:'b=1.csv',label=y"

    Raises:
        InputError: a malformed spec.
    """
    spec = spec.strip()
    parse(spec)
    head = _head(spec)
    rest = spec[len(head) :].strip()
    parts = _split(rest[1:-1] if rest.startswith("(") else rest[1:], spec)
    unnamed = [k for k, part in enumerate(parts) if not _KEY.match(part)]
    named = dict(zip(unnamed, names, strict=False))
    there = False
    for k, part in enumerate(parts):
        if named.get(k) == key:
            parts[k], there = quoted(value), True
        elif (match := _KEY.match(part)) and match.group(1) == key:
            parts[k], there = f"{key}={quoted(value)}", True
    return f"{head.strip()}:{','.join(parts if there else [*parts, f'{key}={quoted(value)}'])}"


def quoted(value: str) -> str:
    """A value as it is spelled in a spec: in quotes if it needs them.

    >>> quoted("0.1"), quoted("adam(b1=0.5)"), quoted("a,b.csv")
    ('0.1', 'adam(b1=0.5)', "'a,b.csv'")

    Raises:
        InputError: both kinds of quotes are in it, so that it cannot be quoted.
    """
    try:
        if (
            value
            and value == value.strip()
            and not _KEY.match(value)
            and value[0] not in "'\"["
            and _split(value, value) == [value]
        ):
            return value
    except InputError:
        pass
    mark = '"' if "'" in value else "'"
    if mark in value:
        raise InputError(f"{value!r} holds both kinds of quotes, which no value of a spec can")
    return f"{mark}{value}{mark}"


def _unquoted(value: str, whole: str, part: str) -> str:
    if not value:
        raise InputError(f"{whole!r}: empty value in {part!r}; write key=value,key=value")
    if value[0] not in "'\"":
        return value
    if value.index(value[0], 1) != len(value) - 1:
        raise InputError(f"{whole!r}: something follows the closing quote in {part!r}; quote the whole value")
    return value[1:-1]


def brief(spec: str) -> str:
    """A spec for a title: the path of a Python file shrinks to its stem, and control characters are shown as such.

    >>> brief("experiments/mine.py:lr=0.1")
    'mine:lr=0.1'
    """
    head = _head(spec.strip())
    return printable((Path(head).stem if head.endswith(".py") else head) + spec.strip()[len(head) :])


# ------------------------------------------------------------------------------------------------------------------- files


def files(spec: str) -> list[tuple[str, Path]]:
    """The existing files that a spec names, as its maker or in a value, nested ones included: as they are written there, and the paths.

    What cannot be parsed names none.
    """
    try:
        parsed = parse(spec)
    except InputError:
        return []
    found: list[tuple[str, Path]] = []
    if parsed.name.endswith(".py") and (file := place(parsed.name)):
        found.append((parsed.name, file))
    for value in (*parsed.args, *(value for _, value in parsed.kwargs)):
        if file := place(value):
            found.append((value, file))
        elif "(" in value or ":" in value:
            found += files(value)
    return found


def paths(spec: str) -> list[Path]:
    """The existing files that a spec names (see ``files``); ``~`` is expanded.

    >>> paths("ring"), [path.name for path in paths(f"stream:path='{__file__}',label=y")]
    ([], ['spec.py'])
    """
    return [path for _, path in files(spec)]


def rebased(spec: str, folder: str) -> str:
    """A spec of files in the present folder, as one whose relative paths are of another ``folder``. What names no such file stays.

    >>> rebased("gt:lr=0.1", "elsewhere"), rebased("quadratic(dim=3)", "elsewhere")
    ('gt:lr=0.1', 'quadratic(dim=3)')
    """
    relative = {text for text, _ in files(spec) if not rooted(text)}
    if not relative:
        return spec
    base = whereabouts(".").resolve()

    def moved(text: str) -> str:
        return os.path.relpath(base / text, Path(folder).resolve()) if text in relative else text

    def inner(value: str) -> str:
        return moved(value) if value in relative else rebased(value, folder) if "(" in value or ":" in value else value

    parsed = parse(spec)
    parts = [
        *(quoted(inner(value)) for value in parsed.args),
        *(f"{key}={quoted(inner(value))}" for key, value in parsed.kwargs),
    ]
    return moved(parsed.name) + (f":{','.join(parts)}" if parts else "")


# ----------------------------------------------------------------------------------------------------------------- numbers


def whole(text: str) -> int:
    """The whole number that a text is: plain digits, of the size of ``LARGEST`` at most.

    >>> whole("12"), whole("-3")
    (12, -3)

    Raises:
        ValueError: what is wrong with it, to follow its name.
    """
    match = re.fullmatch(r"([+-]?)0*([0-9]+)", text.strip())
    if match is None:
        raise ValueError("is not a whole number")
    if len(match.group(2)) > len(str(LARGEST)) or int(match.group(2)) > LARGEST:
        raise ValueError(f"is too large a number; the largest is {LARGEST}")
    return int(match.group(1) + match.group(2))


def real(text: str) -> float:
    """The finite number that a text is, as CSV files have them: no underscores, no digits of other scripts.

    >>> real("1e-3"), real(".5")
    (0.001, 0.5)

    Raises:
        ValueError: what is wrong with it, to follow its name.
    """
    if re.fullmatch(r"[+-]?(nan|inf|infinity)", text.strip(), re.IGNORECASE):
        raise ValueError("is not a finite number")
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text.strip()):
        raise ValueError("is not a number")
    if not math.isfinite(value := float(text)):
        raise ValueError("is not a finite number")
    return value


def shown(value: object) -> str:
    """A value in a message: not longer than a line."""
    try:
        text = repr(value)
    except Exception:  # a number of too many digits, for one, or an object that has none
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 and "\n" not in text else f"{' '.join(text.split())[:77]}..."
