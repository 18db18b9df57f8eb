"""A CSV file becomes features, classes and groups of rows; what could be meant in two ways is refused, with its line and column.

A column is numbers or names. ``label``, ``agents_by`` and ``categories`` hold names, even if they look like numbers. Any other
column holds numbers if at least half of its first rows look like numbers, and then all of them must be numbers; else it holds
names, of which less than half may look like numbers.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distopt.errors import InputError
from distopt.numerics import room
from distopt.scenarios._csv import CsvFile, Version, composed, filled
from distopt.scenarios._ranges import LARGEST
from distopt.scenarios._texts import fault, in_print, looks_like_number, missing, number
from distopt.scenarios._windows import Ints

Floats = NDArray[np.float64]
MOST_TEXTS, MOST_CLASSES = 32, 100
_CHUNK = 500  # rows read at a time: short-lived lists spare the garbage collector (twice as fast as 50,000)
_BYTES = 24  # memory for each value in a file while it is read
_ONE_NUMBER = re.compile(
    r"[+-]?(0|[1-9][0-9]*)?(\.[0-9]*)?"
)  # spellings that may differ and still be one class: 1, +1, 1.0


@dataclass(frozen=True, eq=False)  # compared by identity, so that a cache can be keyed by it
class Table:
    """A file, read."""

    X: Floats  # [rows, p]: a constant, then the columns in the order of the file
    y: NDArray[Any]  # [rows]: classes 0 .. C - 1
    features: tuple[str, ...]
    classes: tuple[str, ...]
    groups: tuple[str, ...]  # values of agents_by in order of first appearance; empty without agents_by
    group: Ints  # [rows]


@dataclass(frozen=True)
class Roles:
    """What the columns of a file are for, by name; a column without a role is a feature."""

    label: str
    agents_by: str | None = None
    drop: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()


def running_standard(X: Floats) -> Floats:
    """Each column's (x_r - mean_r) / std_r with mean and deviation of the rows 0 .. r alone; 0 while all were equal.

    Row r never depends on a later row. Means are of x - x_0 and deviations sum the squares of Welford's updates
    [welford1962], which are all positive, so a large offset costs no digits.

    >>> running_standard(np.array([[1e9], [1e9 + 2], [1e9 + 4]])).round(4).ravel().tolist()
    [0.0, 1.0, 1.2247]
    """
    count = np.arange(1.0, len(X) + 1)[:, None]
    shifted = X - X[:1]
    mean = np.cumsum(shifted, axis=0) / count
    step = shifted.copy()
    step[1:] -= mean[:-1]
    deviation = np.sqrt(np.cumsum(step**2 * ((count - 1) / count), axis=0) / count)
    return np.divide(shifted - mean, deviation, out=np.zeros_like(X), where=deviation > 0)


def _in_spec(name: str) -> str:
    """A column's name as a value of ``drop`` and ``categories``."""
    value = name.replace("+", "++")
    return value if re.fullmatch(r"[^,()\[\]'\"]+", value) else f"'{value}'" if "'" not in value else f'"{value}"'


class _Column:
    """One column while the file is read: numbers, or texts by number of first appearance."""

    def __init__(self, file: CsvFile, name: str, place: int, *, feature: bool, names: bool) -> None:
        self.file, self.name, self.place, self.feature, self.names = file, name, place, feature, names
        self.numeric: bool | None = False if names else None  # None: the first rows will say
        self.parts: list[NDArray[Any]] = []
        self.codes: dict[str, int] = {}  # texts without the blanks around them
        self._known: dict[str, int] = {}  # texts as they are in the file

    def add(self, texts: Sequence[str], start: int) -> None:
        """Take in the values of the rows from ``start`` on."""
        if self.numeric is None:
            held = [text for text in texts if not missing(text)]
            self.numeric = 2 * sum(map(looks_like_number, held)) >= len(held) > 0
        if self.numeric:
            try:
                values = np.array(list(map(float, texts)))
                joined = "".join(texts)
                joined = (
                    joined if joined.isascii() else "".join(map(str.strip, texts))
                )  # blanks of other kinds do not count
                # Python reads 1_000 and other scripts' digits as numbers
                good = bool((np.abs(values) <= LARGEST).all()) and joined.isascii() and "_" not in joined
            except ValueError:
                good = False
            bad = () if good else texts
        else:
            bad = [text for text in dict.fromkeys(texts) if text not in self._known]
            good = not any(fault(text, False) for text in bad)
            if good:
                self._known.update((text, self.codes.setdefault(text.strip(), len(self.codes))) for text in bad)
                values = np.fromiter(map(self._known.__getitem__, texts), np.int64, len(texts))
        if not good:
            k, what = next((k, what) for k, text in enumerate(texts) if (what := fault(text, self.numeric)))
            raise self.refuse(start + k, what, odd=self.numeric and not missing(texts[k]))
        self.parts.append(values)

    def refuse(self, row: int, what: str, odd: bool = False) -> InputError:
        """The error for the value in a row; ``odd``: it would be right if the column held names."""
        cures = ["correct the value", "leave the row out"]
        if self.feature:
            cures.append(f"leave the column out with drop={_in_spec(self.name)}")
        if odd:
            cures.append(f"say that it holds names with categories={_in_spec(self.name)}")
        return self.at(row, f"{what}; {', '.join(cures[:-1])}, or {cures[-1]}")

    def at(self, row: int, what: str) -> InputError:
        """An error about the value in a row."""
        return self.file.fault(row, f", column {self.name!r} {what}", self.place)

    @property
    def values(self) -> NDArray[Any]:
        return np.concatenate(self.parts)

    def row_of(self, text: str) -> int:
        """The first row that holds a text."""
        return int((self.values == self.codes[text]).argmax())

    def check(self) -> None:
        """Refuse texts that look alike in print, and numbers that were taken for names since something else stood in many rows."""
        alike: dict[str, str] = {}
        for text in self.codes:
            other = alike.setdefault(in_print(text), text)
            if other != text:
                raise self.at(
                    self.row_of(text),
                    f"is {text[:100]!a}, which looks like the {other[:100]!a} of an earlier row; write both alike",
                )
        if self.numeric or self.names or not self.feature:
            return
        figures = np.array([looks_like_number(text) for text in self.codes])
        cells = np.bincount(self.values, minlength=len(figures))
        if 2 * figures.sum() >= len(figures) or 2 * cells[figures].sum() >= cells.sum():
            odd = next(text for text, figure in zip(self.codes, figures, strict=True) if not figure)
            many = f"{cells[~figures].sum()} of {cells.sum()} values are no numbers"
            raise self.refuse(
                self.row_of(odd), f"is {odd[:100]!r}, but the column seems to hold numbers ({many})", odd=True
            )

    def features(self) -> tuple[Floats, list[str]]:
        """The columns of X that this one makes, and their names."""
        if self.numeric:
            return self.values[:, None], [self.name]
        if len(self.codes) > MOST_TEXTS:
            some = ", ".join(repr(text[:100]) for text in list(self.codes)[:3])
            raise InputError(
                f"stream: {self.file.path}, column {self.name!r} has {len(self.codes)} different texts ({some}, ...) and at most "
                f"{MOST_TEXTS} can become features; leave the column out with drop={_in_spec(self.name)}"
            )
        return (self.values[:, None] == np.arange(len(self.codes))).astype(np.float64), [
            f"{self.name}={c}" for c in self.codes
        ]

    def classes(self) -> tuple[tuple[str, ...], NDArray[Any]]:
        """The texts in the order of the classes, and each row's class. Equal numbers are one class where all texts are numbers."""
        seen = list(self.codes)
        values: list[Any] = seen
        if not self.names and all((value := number(text)) is not None and abs(value) <= LARGEST for text in seen):
            with suppress(ArithmeticError):  # an exponent of more than 18 digits
                values = [Decimal(text) for text in seen]
        first: dict[Any, str] = {}
        for text, value in zip(seen, values, strict=True):
            other = first.setdefault(value, text)
            if other != text and not (_ONE_NUMBER.fullmatch(other) and _ONE_NUMBER.fullmatch(text)):
                raise self.at(
                    self.row_of(text),
                    f"is {text!r}, which is the number {other!r} of an earlier row but may be another name; write both in one way, or "
                    f"keep them apart with categories={_in_spec(self.name)}",
                )
        if not 2 <= len(first) <= MOST_CLASSES:
            raise InputError(
                f"stream: {self.file.path}, label {self.name!r} has {len(first)} different values; it must name 2 to {MOST_CLASSES} classes"
            )
        order = sorted(first)
        rank = {value: k for k, value in enumerate(order)}
        return tuple(first[value] for value in order), np.array([rank[value] for value in values])[self.values]


def _places(file: CsvFile, header: list[str], what: str, names: Sequence[str]) -> list[int]:
    """The positions in the header of the columns that the parameter ``what`` names."""
    found = []
    for name in map(composed, names):
        if name not in header:
            near = difflib.get_close_matches(name, header, 1, 0.5)
            hint = (
                f"did you mean {near[0]!r}?"
                if near
                else f"it has {', '.join(repr(each[:100]) for each in header[:12])}"
            )
            if near and "+" in near[0] and what in ("drop", "categories"):
                hint += f" Write {what}={_in_spec(near[0])}: a + in a name is doubled."
            raise InputError(f"stream: {what}={name!r} is not a column of {file.path}; {hint}")
        found.append(header.index(name))
    return found


def _header(file: CsvFile) -> list[str]:
    line, header = file.header()
    empty = [k for k, name in enumerate(header, 1) if not name]
    twice = [name for name, times in Counter(header).items() if times > 1]
    if not header:
        why = "it is empty"
    elif any("\0" in name for name in header):
        why = "it holds NUL bytes; if the file is in UTF-16, save it as UTF-8"
    elif empty:
        why = f"name {empty[0]} of {len(header)} is empty (a separator too many, or an index that was saved without a name)"
    elif twice:
        why = f"{twice[0][:100]!r} is there {header.count(twice[0])} times"
    else:
        return header
    raise InputError(f"stream: {file.path}, line {line} must name every column, each name once; {why}")


def table(
    path: str,
    label: str,
    agents_by: str | None,
    standardise: bool,
    drop: tuple[str, ...] = (),
    categories: tuple[str, ...] = (),
) -> Table:
    """Read the file, or remember it if it has not changed since.

    >>> weather = table("weather", "label", "airport", True)
    >>> weather.X.shape, weather.classes, weather.groups
    ((13005, 8), ('dry', 'rain'), ('EWR', 'JFK', 'LGA'))

    Raises:
        InputError: for a file that cannot be read or is too large, or content that ``Stream`` refuses.
    """
    return _read(path, Roles(label, agents_by, drop, categories), standardise, CsvFile(path).version())


@lru_cache(maxsize=4)
def _read(path: str, roles: Roles, standardise: bool, version: Version) -> Table:
    file = CsvFile(path).separated(roles.label)
    try:
        return _parse(file, roles, standardise, version.size)
    except UnicodeDecodeError:
        raise file.undecodable() from None
    except csv.Error:
        raise file.fault(version.size, "") from None  # the slow way finds the same error and its line
    except OSError as error:
        raise InputError(f"stream: cannot read {path}: {error.strerror}") from None
    except MemoryError:
        raise InputError(
            f"stream: {path} has {version.size:,} bytes, too many for the memory of this machine; make it smaller"
        ) from None


def _parse(file: CsvFile, roles: Roles, standardise: bool, size: int) -> Table:
    header = _header(file)
    [target] = _places(file, header, "label", [roles.label])
    owner = None if roles.agents_by is None else _places(file, header, "agents_by", [roles.agents_by])[0]
    if owner == target:
        raise InputError(f"stream: agents_by and label are both {roles.label!r}; use two columns")
    dropped, named = _places(file, header, "drop", roles.drop), _places(file, header, "categories", roles.categories)
    for place in dropped:
        if place in (target, owner) or place in named:
            other = "label" if place == target else "agents_by" if place == owner else "categories"
            raise InputError(f"stream: drop and {other} both name {header[place]!r}; leave it out of one")
    kept = [k for k in range(len(header)) if k not in dropped]
    columns = [
        _Column(file, header[k], k, feature=k not in (target, owner), names=k in named or k == owner) for k in kept
    ]
    if all(not column.feature for column in columns):
        raise InputError(
            f"stream: {file.path} has no column besides the label{'' if owner is None else ' and agents_by'}"
        )
    label = columns[kept.index(target)]
    label.numeric = False
    count = 0
    with file.open() as handle:
        rows: Iterator[list[str]] = (row for row in file.reader(handle) if filled(row))
        next(rows, None)
        while chunk := list(islice(rows, _CHUNK)):
            if set(map(len, chunk)) != {len(header)}:
                k = next(k for k, row in enumerate(chunk) if len(row) != len(header))
                raise _wrong_length(file, count + k, chunk[k], len(header))
            if not count:
                _check_memory(file, size, chunk, len(columns))
            texts = list(zip(*chunk, strict=True))
            for column in columns:
                column.add(texts[column.place], count)
            count += len(chunk)
    if count < 2:
        raise InputError(f"stream: {file.path} has {count} rows of data; it needs at least 2")
    blocks: list[Floats] = [np.ones((count, 1))]
    names = ["1"]
    for column in columns:
        column.check()
        if column.feature:
            block, more = column.features()
            blocks.append(running_standard(block) if standardise and column.numeric else block)
            names += more
    classes, y = label.classes()
    return Table(
        np.concatenate(blocks, 1),
        y,
        tuple(names),
        classes,
        () if owner is None else tuple(columns[kept.index(owner)].codes),
        np.arange(count) if owner is None else columns[kept.index(owner)].values,
    )


def _wrong_length(file: CsvFile, row: int, texts: list[str], width: int) -> InputError:
    extra = len(texts) > width and not any(text.strip() for text in texts[width:])
    cure = "take the separators at its end away" if extra else "correct the file, or leave the row out"
    return file.fault(row, f" has {len(texts)} values but the header names {width} columns; {cure}")


def _check_memory(file: CsvFile, size: int, chunk: list[list[str]], columns: int) -> None:
    """Refuse a file whose numbers would not fit, going by the length of its first rows."""
    length = sum(len(text) + 1 for row in chunk for text in row) / len(chunk)
    needed, there = _BYTES * columns * size / length, room.available()
    if needed > there:
        raise InputError(
            f"stream: {file.path} has {size:,} bytes; to hold its rows would need about {room.size(needed)} of memory, and "
            f"{room.size(there)} are free; split the file, or leave columns out with drop="
        )
