"""The grammar of specs: ``name``, ``name:key=value,key=value`` or ``name(key=value)`` and its numbers.

A spec can stand inside another where a parameter is such an object, as in ``gt:direction=adam(b1=0.5)``. A list ``[a,b,c]`` in
place of a value is a grid: one spec for each (``Spec.points``). Instead of a name, the path of a Python file works too; it ends at
the first ``.py`` before ``:`` or ``(``, and may hold blanks and brackets. A value may stand in single or double quotes: commas,
brackets, colons and equals signs inside are then part of it, as in ``stream:path="data/a,b.csv",label=y``. Keys may be left
out, in the order of the parameters.

Only the type of a parameter tells whether its value is a spec: ``data(1)`` may be the name of a file. So a ``Spec``
holds its values as text, and code that expects a spec among them parses it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from pathlib import Path

from distopt.catalog.places import place
from distopt.errors import InputError, printable

LARGEST = 2**63 - 1
"""The largest whole number that a spec, a TOML file, an option or an argument may hold; the smallest is its negative."""

LONGEST, DEEPEST, MOST_POINTS = 10**5, 20, 10**5
"""Characters of a spec, specs inside one another, and points of a grid."""

_KEY = re.compile(r"([A-Za-z_]\w*)\s*=")
_LONGEST_PATH = 4096


@dataclass(frozen=True)
class Value:
    """A value of a spec. ``str`` is how it is typed.

    Attributes:
        text: the value, without quotes.
        key: its parameter; empty for a value that is given by position.
        listed: whether it begins with the list of a grid.
        typed: how it was typed, with its key and quotes; empty if it was not typed.

    >>> str(Value("0.1", "lr")), str(Value("a,b.csv"))
    ('lr=0.1', "'a,b.csv'")
    """

    text: str
    key: str = ""
    listed: bool = False
    typed: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.typed or (f"{self.key}=" if self.key else "") + (self.text if self.listed else quoted(self.text))


@dataclass(frozen=True)
class Grid:
    """A list in place of a value: where it stands in the text of its spec, and its entries."""

    start: int
    stop: int
    entries: tuple[str, ...]


@dataclass(frozen=True)
class Spec:
    """A parsed spec. ``str`` is how it was typed, and the plainest spelling of one that was made.

    Specs are equal if their names and values are, in whichever way they are spelled.

    Attributes:
        name: an entry of the catalogue, or the path of a .py file.
        values: its values, in order.
        typed: how it was typed, without blanks around it; empty if it was not typed.
        grids: its lists, including those in inner specs.

    >>> spec = Spec.parse("gt( lr = 0.1, direction=adam(b1=0.5) )")
    >>> spec.name, spec.kwargs
    ('gt', (('lr', '0.1'), ('direction', 'adam(b1=0.5)')))
    >>> str(Spec(spec.name, (Value("0.1", "lr"), Value("adam(b1=0.5)", "direction"))))
    'gt:lr=0.1,direction=adam(b1=0.5)'
    """

    name: str
    values: tuple[Value, ...] = ()
    typed: str = field(default="", compare=False)
    grids: tuple[Grid, ...] = field(default=(), compare=False)

    @classmethod
    def parse(cls, text: str) -> Spec:
        """The spec that a text is.

        >>> Spec.parse("stream:'a,b.csv',label=y").args
        ('a,b.csv',)

        Raises:
            InputError: unbalanced brackets or quotes, an empty name, or an empty value.
        """
        if len(text) > LONGEST:
            raise InputError(f"{text[:40]!r}...: a spec of {len(text):,} characters; at most {LONGEST:,} can be read")
        text = text.strip()
        head = _head(text)
        rest = text[len(head) :].lstrip()
        start, stop = len(text) - len(rest) + 1, len(text)
        if rest.startswith("("):
            if not rest.endswith(")"):
                raise InputError(f"{text!r}: the brackets after the name must close at the end")
            stop -= 1
        if not head.strip():
            raise InputError(f"{text!r}: no name before the parameters; write name:key=value,key=value")
        parts, grids = _scan(text, start, stop)
        values: list[Value] = []
        for part in parts:
            match = _KEY.match(part)
            key, typed = (match.group(1), part[match.end() :].strip()) if match else ("", part)
            values.append(Value(_unquoted(typed, text, part), key, typed.startswith("["), part))
            if key and any(key == each.key for each in values[:-1]):
                raise InputError(f"{text!r}: {key} is given twice")
        return cls(head.strip(), tuple(values), text, tuple(grids))

    def __str__(self) -> str:
        return self.typed or self.name + (f":{','.join(map(str, self.values))}" if self.values else "")

    @property
    def args(self) -> tuple[str, ...]:
        """The values that are given by position."""
        return tuple(value.text for value in self.values if not value.key)

    @property
    def kwargs(self) -> tuple[tuple[str, str], ...]:
        """The values that are given by name, with their names."""
        return tuple((value.key, value.text) for value in self.values if value.key)

    def points(self) -> list[Spec]:
        """The specs of a grid, one for each choice from the lists ``[a,b,c]`` in it (see ``spelled``).

        >>> [str(point) for point in Spec.parse("gt:lr=[0.1,0.2],direction=momentum(b=[0.5,0.9])").points()][1]
        'gt:lr=0.1,direction=momentum(b=0.9)'

        Raises:
            InputError: a list that is empty, has an empty entry, or holds a list; more points than can be run.
        """
        return [Spec.parse(text) for text in self.spelled()] if self.grids else [self]

    def spelled(self) -> list[str]:
        """The texts of the points of a grid; the first list varies slowest.

        They are spelled as the grid is. A spec without lists is its only point.

        Raises:
            InputError: as ``points``.
        """
        if not self.grids:
            return [str(self)]
        if not all(grid.entries and all(grid.entries) for grid in self.grids):
            raise _no_list(self.typed)
        if (count := math.prod(len(grid.entries) for grid in self.grids)) > MOST_POINTS:
            raise InputError(
                f"{self.typed[:60]!r}: a grid of {count:,} points; at most {MOST_POINTS:,} can be run, so split it"
            )
        ends = [0, *(grid.stop for grid in self.grids)]
        around = [
            self.typed[a:b] for a, b in zip(ends, [*(grid.start for grid in self.grids), len(self.typed)], strict=True)
        ]

        def text(chosen: Sequence[str]) -> str:
            return "".join(part for pair in zip(around, (*chosen, ""), strict=True) for part in pair).strip()

        first = [grid.entries[0] for grid in self.grids]
        for k, grid in enumerate(self.grids):
            for entry in grid.entries:  # each is looked at once, not in all combinations
                Spec.parse(text([*first[:k], entry, *first[k + 1 :]]))
        return [text(chosen) for chosen in product(*(grid.entries for grid in self.grids))]

    def replace(self, key: str, value: str, names: Sequence[str] = ()) -> Spec:
        """The spec with a parameter set, in the place where it was or after the others.

        Args:
            key: the parameter, or ``direction.b`` for one of a spec inside this one.
            value: its value, without quotes.
            names: the parameters of values without a key, in order.

        >>> str(Spec.parse("gt:lr=0.1,form=atc").replace("lr", "0.2"))
        'gt:lr=0.2,form=atc'
        >>> str(Spec.parse("stream:a.csv,label=y").replace("path", "b=1.csv", ["path", "label"]))
        "stream:'b=1.csv',label=y"
        >>> str(Spec.parse("gt:direction=adam(b1=0.5)").replace("direction.b2", "0.99"))
        'gt:direction=adam(b1=0.5,b2=0.99)'

        Raises:
            InputError: the spec inside is not there, or the value cannot be spelled.
        """
        key, dot, inner = key.partition(".")
        unnamed, there = iter(names), False
        values: list[Value] = []
        for each in self.values:
            if (each.key or next(unnamed, "")) == key:
                inside = Spec.parse(each.text).replace(inner, value) if dot else None
                each, there = Value(inside.inside if inside else value, each.key), True
            values.append(each)
        if not there and dot:
            raise InputError(f"{str(self)!r}: {inner} belongs to {key}, which is not given; add {key}=NAME")
        return Spec.parse(str(Spec(self.name, tuple(values if there else [*values, Value(value, key)]))))

    @property
    def inside(self) -> str:
        """The spec as it is typed inside another one.

        >>> Spec.parse("adam:b1=0.5,b2=0.9").inside
        'adam(b1=0.5,b2=0.9)'
        """
        return self.name + (f"({','.join(map(str, self.values))})" if self.values else "")


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


def _scan(text: str, start: int, stop: int) -> tuple[list[str], list[Grid]]:
    """The parts of ``text[start:stop]`` between the commas outside brackets and quotes, and the lists in it, however deep.

    A quote opens only where a value begins, and so does a list. One that holds a list, or that a round bracket closes, has
    no entries.
    """
    parts: list[str] = []
    grids: list[Grid] = []
    depth, begin, quote, before = 0, start, "", ","  # before: the last character outside quotes that is no blank
    opened, plain, cuts = (
        0,
        True,
        [0],
    )  # of the list that is open: the depth inside it, whether none is in it, where its entries begin
    for position in range(start, stop):
        char = text[position]
        if quote:
            quote = "" if char == quote else quote
            continue
        if char in "'\"" and before in "=,([":
            quote = before = char
            continue
        depth += (char in "([") - (char in ")]")
        if depth > DEEPEST:
            raise InputError(f"{text[:40]!r}...: specs inside one another, more than {DEEPEST} deep")
        if depth < 0:
            raise InputError(f"{text!r}: unexpected {char!r}; a value with brackets in it goes in quotes")
        if char == "[" and opened:
            plain = False
        elif char == "[" and before in "=,(:":
            opened, plain, cuts = depth, True, [position]
        elif char == "," and depth == 0:
            parts.append(text[begin:position])
            begin = position + 1
        elif char == "," and depth == opened:
            cuts.append(position)
        elif opened and depth < opened:
            entries = (text[a + 1 : b].strip() for a, b in pairwise([*cuts, position]))
            grids.append(Grid(cuts[0], position + 1, tuple(entries) if plain and char == "]" else ()))
            opened = 0
        before = before if char.isspace() else char
    if quote:
        raise InputError(f"{text!r}: the quote {quote} is not closed")
    if opened:
        raise _no_list(text)
    if depth:
        raise InputError(f"{text!r}: a bracket is not closed; a value with brackets in it goes in quotes")
    parts.append(text[begin:stop])
    return ([part.strip() for part in parts] if text[start:stop].strip() else []), grids


def _no_list(text: str) -> InputError:
    return InputError(
        f"{text!r}: a grid is a list of values such as lr=[0.01,0.02]; a value with brackets in it goes in quotes"
    )


def values(listed: str) -> list[str]:
    """The values of a list ``a,b,c``. A value that contains commas stands in quotes or in brackets.

    >>> values("sea,'moving_target:dim=3,kappa=2',gt(lr=0.1,form=atc)")
    ['sea', 'moving_target:dim=3,kappa=2', 'gt(lr=0.1,form=atc)']
    """
    return [_unquoted(part, listed, listed) for part in _scan(listed, 0, len(listed))[0]]


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
            and _scan(value, 0, len(value))[0] == [value]
        ):
            return value
    except InputError:
        pass
    mark = '"' if "'" in value else "'"
    if mark in value:
        raise InputError(f"{value!r} holds both kinds of quotes; a value of a spec can hold one kind only")
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
