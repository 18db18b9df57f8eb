"""The content of a graph file, with ids as texts and line numbers, and its conversion to a graph."""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from array import array
from dataclasses import replace
from pathlib import Path

import numpy as np

from distopt.errors import InputError
from distopt.network.digraphs import digraph_from_arcs
from distopt.network.graphs import Floats, Graph, Ints, graph_from_edges
from distopt.network.lengths import measured

LARGEST = 256 * 2**20
"""Bytes of the largest text file that is read."""

LONGEST = 1000
"""Characters of the longest id."""

MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_WHOLE = re.compile(r"[+-]?[0-9]+")
_REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eEdD][+-]?[0-9]+)?")


def error(path: Path, line: int, message: str) -> InputError:
    """An InputError that names the file and, unless it is 0, the line."""
    return InputError(f"{path}, line {line}: {message}" if line else f"{path}: {message}")


def whole(text: str) -> bool:
    """Whether a text is a whole number in plain digits: Python's ``int`` also accepts ``1_0`` and the digits of other scripts."""
    return _WHOLE.fullmatch(text) is not None


def real(text: str) -> float | None:
    """The number that a text in plain digits is; None where it is none, or not finite."""
    if _REAL.fullmatch(text) is None:
        return None
    number = float(text.lower().replace("d", "e"))
    return number if np.isfinite(number) else None


def content(path: Path, most: int = LARGEST) -> bytes:
    """The bytes of a file that is not larger than ``most``."""
    with path.open("rb") as handle:
        large = os.fstat(handle.fileno()).st_size > most
        data = b"" if large else handle.read(most + 1)  # some files hold more than they say
        if large or len(data) > most:
            raise error(path, 0, f"is larger than {most // 2**20} MiB; give a smaller network, or make it in Python")
    return data


def decoded(path: Path, data: bytes, encoding: str = "utf-8") -> str:
    """A file's text: by its byte order mark, or else in ``encoding``."""
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), encoding)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as problem:
        line = len(re.findall(rb"\r\n?|\n", data[: problem.start])) + 1
        byte = f"{problem.object[problem.start]:#04x}"
        raise error(
            path, line, f"can't decode byte {byte} as {encoding} ({problem.reason}); save the file as UTF-8"
        ) from None
    except (LookupError, UnicodeError):
        raise error(path, 0, f"its encoding {encoding!r} is not known; save the file as UTF-8") from None
    if "\0" in text:
        raise error(
            path,
            text.count("\n", 0, text.index("\0")) + 1,
            "holds a character of code 0; it is not a text file, or not in UTF-8",
        )
    return text


class Links:
    """Nodes and links of one file, as a reader finds them; ``graph`` makes agents of them.

    Ids are texts, and two of them are one node only if they are the same text. Agents are numbered in the order of the ids: as
    numbers where all are whole numbers, else as texts.

    Args:
        path: the file, for messages.
        declares: whether the format lists its nodes, so that a link to any other is a mistake.
        signed: whether ids such as ``-1`` are numbers in this format.
        arcs: whether directions are kept, so that ``graph`` is a ``Digraph``; else each arc is a link.
    """

    def __init__(self, path: Path, declares: bool = False, signed: bool = True, arcs: bool = False) -> None:
        self.path, self.declares, self.number = path, declares, _WHOLE if signed else re.compile("[0-9]+")
        self.directed, self.arcs = False, arcs
        self.place: dict[str, int] = {}
        self._seen = array("q")  # the line on which a node was first named ...
        self._declared = array("q")  # ... and declared, or 0
        self._source, self._target, self._line, self._value = array("q"), array("q"), array("q"), array("d")
        self._length = array("d")
        self._both = array("b")  # whether a link is said to go both ways

    def __len__(self) -> int:
        return len(self._line)

    def node(self, name: str, line: int) -> None:
        """Declare a node. Raises InputError if it was listed before, or has no id."""
        place = self._named(name, line)
        if self._declared[place]:
            first = self._declared[place]
            raise error(
                self.path,
                line,
                f"node {name!r} is there twice (first in line {first}); give each node an id of its own",
            )
        self._declared[place] = line

    def link(
        self, source: str, target: str, line: int, value: float = np.nan, both: bool = False, length: float = np.nan
    ) -> None:
        """A link, or an arc if ``directed``.
        ``value`` is its weight in the file, if any. ``both`` marks an undirected link. ``length`` is its
        kilometres, if the file has them.

        Raises InputError where it leads to its own start.
        """
        if source == target:
            own = "every agent keeps a weight for itself anyway"
            raise error(self.path, line, f"node {source!r} is linked to itself; delete this link: {own}")
        self._source.append(self._named(source, line))
        self._target.append(self._named(target, line))
        self._line.append(line)
        self._value.append(value)
        self._length.append(length)
        self._both.append(both)

    def undirect(self) -> None:
        """Make every link undirected: the file states this after its links."""
        self._both = array("b", [1]) * len(self)

    def _named(self, name: str, line: int) -> int:
        place = self.place.setdefault(name, len(self._seen))
        if place == len(self._seen):
            if not name or len(name) > LONGEST:
                raise error(
                    self.path,
                    line,
                    f"an id has {len(name):,} characters; 1 to {LONGEST:,} are possible" if name else "an id is empty",
                )
            self._seen.append(line)
            self._declared.append(0)
        return place

    def graph(self) -> Graph:
        """The graph, with the ids as its names, and a note where the file's directions are not those of the graph.

        Raises:
            InputError: no nodes; ids that only look different in bytes; a link to a node that is not declared; opposite arcs of different
                weight that are to be one link.
        """
        if not self.place:
            raise error(self.path, 0, "lists no links")
        self._check_names()
        source, target, line = (np.array(each, dtype=np.int64) for each in (self._source, self._target, self._line))
        numbers = all(self.number.fullmatch(name) for name in self.place)
        try:
            names = sorted(self.place, key=(lambda name: (int(name), name)) if numbers else None)
        except ValueError:  # a number of more digits than Python converts
            names = sorted(self.place)
        order = np.empty(len(names), np.int64)
        order[[self.place[name] for name in names]] = np.arange(len(names))
        source, target = order[source], order[target]
        pairs, lengths = np.stack([source, target], 1), np.array(self._length, dtype=np.float64)
        if self.arcs:
            return measured(self._digraph(source, target, names), pairs, lengths)
        graph = graph_from_edges(len(names), pairs)
        note = self._note(source, target, line, names)
        if note is None and self.directed and len(self) != 2 * len(graph.edges):
            note = f"{self.path} is directed; each of its {len(self):,} arcs is read as a link in both directions "
            note += "(directed=true keeps their directions)"
        graph = replace(graph, names=tuple(names), notes=() if note is None else (note,))
        return measured(graph, pairs, lengths)

    def _digraph(self, source: Ints, target: Ints, names: list[str]) -> Graph:
        """With the links as arcs; one that goes both ways is two."""
        both = np.array(self._both, dtype=bool)
        pairs = np.concatenate([np.stack([source, target], 1), np.stack([target, source], 1)[both]])
        note = f"{self.path} says that its links have no direction; each is read as two arcs"
        notes = (note,) if len(both) and both.all() else ()
        return replace(digraph_from_arcs(len(names), pairs), names=tuple(names), notes=notes)

    def _check_names(self) -> None:
        """Refuse nodes that are not declared, and two ids that look the same."""
        shown: dict[str, str] = {}
        for name, place in self.place.items():
            if self.declares and not self._declared[place]:
                raise error(self.path, self._seen[place], f"a link names node {name!r}, which the file does not list")
            look = appearance(name)
            if look in shown:
                first = self._seen[self.place[shown[look]]]
                both = f"{shown[look]!a} (line {first}) and {name!a}"
                raise error(
                    self.path,
                    self._seen[place],
                    f"the ids {both} look the same but are not; write the node in one way, or rename one",
                )
            shown[look] = name

    def _note(self, source: Ints, target: Ints, line: Ints, names: list[str]) -> str | None:
        """A note if a link has different values in its two directions; an error if the file is directed."""
        found = _unequal(source, target, np.array(self._value, dtype=np.float64), len(names))
        if found is None:
            return None
        a, b = names[source[found]], names[target[found]]
        if not self.directed:
            return f"{self.path}: {a!r} and {b!r} are linked in both directions with different values; what follows the ids is ignored"
        raise error(
            self.path,
            int(line[found]),
            f"the arc from {a!r} to {b!r} has another weight than that from {b!r} to {a!r}, but links are undirected; give both the same "
            "weight or none, keep the arcs apart with directed=true, or save a weight matrix as .npy",
        )


def appearance(name: str) -> str:
    """An id as it looks: normal form C, digits of other scripts as plain ones, no blanks, nothing invisible.

    >>> appearance("e\\u0301 \\uff11\\u200b") == appearance("\\u00e9" + "1")
    True
    """
    if name.isascii() and name.isprintable() and " " not in name:
        return name
    text = unicodedata.normalize("NFC", name)
    return "".join(str(unicodedata.decimal(char, char)) for char in text if char != " " and char.isprintable())


def _unequal(source: Ints, target: Ints, value: Floats, agents: int) -> int | None:
    """A link from a larger to a smaller agent whose opposite has another value; None where there is none."""
    if not len(value) or np.isnan(value).all():
        return None
    code = np.minimum(source, target) * agents + np.maximum(source, target)
    up = source < target
    for sign in (1.0, -1.0):  # parallel arcs: the smallest and the largest value of each direction are compared
        order = np.lexsort((sign * value, code))
        forth, back = order[up[order]], order[~up[order]]
        _, i, j = np.intersect1d(code[forth], code[back], return_indices=True)
        a, b = value[forth[i]], value[back[j]]
        differ = (a != b) & ~(np.isnan(a) & np.isnan(b))
        if differ.any():
            return int(back[j[differ]][0])
    return None
