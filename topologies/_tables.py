"""Graph files of lines: lists of links, adjacency matrices, Matrix Market."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distopt.network.digraphs import digraph_from_arcs
from distopt.network.graphs import Graph, graph_from_edges
from distopt.topologies._links import Links, error, real, whole

BANNER = "%%MatrixMarket"

_BETWEEN = re.compile(r"[ \t]*[,;][ \t]*|[ \t]+")

MISSING = frozenset({"na", "n/a", "<na>", "nan", "none", "null", "-", "?", "#n/a"})
"""Marks of missing values in tables, in small letters."""


def lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a text that are not blank, without the blanks around them, with their numbers from 1; only line ends end a line."""
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        line = line.strip(" \t\n")
        if line:
            yield number, line


def edges(path: Path, text: str, arcs: bool = False) -> Graph:
    """One link in a line: two ids, and ignored further text; ``#`` or ``%`` begins a comment. With ``arcs`` the first sends to the second."""
    if text.startswith(BANNER):
        return matrix_market(path, text, arcs)
    _check_no_matrix(path, text)
    links = Links(path, arcs=arcs)
    named, odd, shown = 0, 0, ""
    for number, line in _data(text):
        words = _BETWEEN.split(line)
        if len(words) < 2 or not words[0] or not words[1] or (words[1][0] in "#%" and words[1].lower() not in MISSING):
            raise error(path, number, f"expected the ids of two agents, found {_short(line)}")
        if not (whole(words[0]) and whole(words[1])):
            _check_texts(path, number, line, words)
            named, odd, shown = named + 1, number, line
        value = real(words[2]) if len(words) > 2 else None
        links.link(words[0], words[1], number, np.nan if value is None else value)
    if named == 1 < len(links):
        raise error(
            path, odd, f"expected two numbers as in all other lines, found {_short(shown)}; begin a header with #"
        )
    return links.graph()


def _data(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are no comment."""
    return ((number, line) for number, line in lines(text) if line[0] not in "#%" or line[:4].lower() == "#n/a")


def _check_texts(path: Path, number: int, line: str, words: list[str]) -> None:
    """Refuse a line in which it is not certain where an id ends."""
    for word in words[:2]:
        if word.lower() in MISSING:
            raise error(path, number, f"an id has no value ({word!r}); delete the line or fill it in")
        if word[0] in "\"'":
            raise error(path, number, f"quotes are not read, found {_short(line)}; write ids without quotes and blanks")
        if "#" in word:
            raise error(path, number, f"{word!r} holds a #; leave a blank before a comment, or rename the node")
    head = re.split(r"\{|[ \t][#%]", line)[0].strip(" \t")
    between = [match.group().strip(" ") for match in _BETWEEN.finditer(head)]
    further = words[2] if len(words) > 2 else ""
    if len(set(between)) > 1 or (further and further[0] not in "{#%" and real(further) is None):
        advice = "use one kind of separator, and blanks in no id"
        raise error(
            path,
            number,
            f"expected the ids of two agents without blanks in them, then numbers, found {_short(line)}; {advice}",
        )


def _check_no_matrix(path: Path, text: str) -> None:
    """Refuse a square matrix of numbers: its first two columns look like links, but it is not a list of links."""
    width = next((len(_BETWEEN.split(line)) for _, line in _data(text)), 0)
    rows = [_BETWEEN.split(line) for _, line in islice(_data(text), width + 1)]
    if width < 3 or len(rows) != width or any(len(row) != width for row in rows):
        return
    cells = {real(word) for row in rows for word in row}
    if None not in cells and (cells <= {0.0, 1.0} or any("." in word for row in rows for word in row[:2])):
        raise error(
            path,
            0,
            f"holds a {width} x {width} matrix, no list of links; save an adjacency matrix as .csv, weights as .npy",
        )


def adjacency(path: Path, text: str, arcs: bool = False) -> Graph:
    """The adjacency matrix: a row in a line, zeros and ones between commas (or semicolons, or tabs). With ``arcs`` row i sends to column j."""
    if text.startswith(BANNER):
        return matrix_market(path, text, arcs)
    rows: list[NDArray[np.uint8]] = []
    numbers: list[int] = []
    for number, line in lines(text):
        separator = next((each for each in ";\t" if each in line), ",")
        cells = [real(word.strip(" \t")) for word in line.split(separator)]
        if None in cells:
            bad = line.split(separator)[cells.index(None)].strip()
            which = f"{_short(bad)} is none; leave out names of rows and columns, or save a list of links as .edges"
            raise error(path, number, f"expected numbers between commas, found {_short(line)}: {which}")
        if rows and len(cells) != len(rows[0]):
            raise error(path, number, f"{len(cells)} numbers where the lines before have {len(rows[0])}")
        if set(cells) - {0.0, 1.0}:
            raise error(
                path,
                number,
                "an adjacency matrix holds 0 and 1 only; save weights as a .npy matrix, and a list of links as .edges",
            )
        if cells[len(rows) : len(rows) + 1] == [1.0]:
            raise error(path, number, f"agent {len(rows)} is linked to itself; put 0 on the diagonal")
        rows.append(np.array(cells, dtype=np.uint8))
        numbers.append(number)
    matrix = np.array(rows)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise error(path, 0, f"the adjacency matrix must be square, not of shape {list(matrix.shape)}")
    if arcs:
        return digraph_from_arcs(len(matrix), np.argwhere(matrix))
    if (matrix != matrix.T).any():
        i, j = np.argwhere(matrix != matrix.T)[0]
        advice = "make the matrix symmetric, or say directed=true"
        raise error(path, numbers[i], f"agents {i} and {j} are linked in one direction only; {advice}")
    return graph_from_edges(len(matrix), np.argwhere(np.triu(matrix)))


def matrix_market(path: Path, text: str, arcs: bool = False) -> Graph:
    """The graph of a square Matrix Market file: an entry that is not 0 is a link between the agents of its row and column, numbered from 1.

    With ``arcs`` the row sends to the column; a matrix declared as symmetric has arcs in both directions.
    """
    form, kind, symmetry = _banner(path, text)
    entries = ((number, line.split()) for number, line in lines(text) if not line.startswith("%"))
    at, size = next(entries, (0, []))
    expected = 2 if form == "array" else 3
    if (
        len(size) != expected
        or not all(map(str.isdecimal, size))
        or not all(map(str.isascii, size))
        or max(map(len, size)) > 18
    ):
        raise error(path, at, f"expected the size of the matrix, {expected} whole numbers")
    agents, columns = int(size[0]), int(size[1])
    if agents != columns or agents < 1:
        raise error(
            path,
            at,
            f"the matrix must be square, not {agents} x {columns}; of a graph of two kinds of nodes, list the links as .edges",
        )
    count = (
        int(size[2])
        if form == "coordinate"
        else agents * agents
        if symmetry == "general"
        else agents * (agents + 1) // 2
    )
    if count > len(text):
        raise error(path, at, f"is said to hold {count:,} entries, more than the file can; it is damaged")
    if count < agents - 1:
        raise error(path, at, f"the graph is not connected: {agents:,} agents, but {count:,} entries; add links")
    links = Links(path, declares=True, arcs=arcs)
    for agent in range(1, agents + 1):
        links.node(str(agent), at)
    links.directed = symmetry == "general"
    found, rows = 0, dict.fromkeys(range(1, agents + 1), 0.0)
    places = _array(agents, symmetry) if form == "array" else None
    for number, words in entries:
        i, j, value = _entry(path, number, words, kind, agents, next(places, (0, 0)) if places else None)
        found += 1
        if value == 0:
            continue
        if i == j:
            raise error(
                path, number, f"agent {i} is linked to itself; leave the diagonal out, or save a weight matrix as .npy"
            )
        links.link(str(i), str(j), number, value, both=not links.directed)
        rows[i] += value
        rows[j] += value if symmetry == "symmetric" else 0.0
    if found != count:
        raise error(path, at, f"is said to hold {count:,} entries, but holds {found:,}; it is damaged")
    if kind != "pattern" and agents > 2 and all(abs(total - 1) < 1e-6 for total in rows.values()):
        raise error(
            path,
            0,
            "its rows sum to 1, as those of a weight matrix do; save it as .npy: of a .mtx only the links are read",
        )
    return links.graph()


def _banner(path: Path, text: str) -> tuple[str, str, str]:
    words = text.split("\n", 1)[0].lower().split()
    if not text.startswith(BANNER) or len(words) != 5 or words[1] != "matrix":
        raise error(
            path,
            1,
            f"a Matrix Market file begins with {BANNER} matrix and three words more; name a list of links .edges",
        )
    known = (("coordinate", "array"), ("real", "double", "integer", "pattern"), ("general", "symmetric"))
    if any(word not in choices for word, choices in zip(words[2:], known, strict=True)):
        read = "coordinate or array, real, integer or pattern, general or symmetric"
        raise error(path, 1, f"of a Matrix Market file {read} is read, not {' '.join(words[2:])}")
    if words[2] == "array" and words[3] == "pattern":
        raise error(path, 1, "an array cannot be a pattern")
    return words[2], words[3], words[4]


def _array(agents: int, symmetry: str) -> Iterator[tuple[int, int]]:
    """Row and column of each value of an array, column by column."""
    for j in range(1, agents + 1):
        for i in range(j if symmetry == "symmetric" else 1, agents + 1):
            yield i, j


def _entry(
    path: Path, number: int, words: list[str], kind: str, agents: int, place: tuple[int, int] | None
) -> tuple[int, int, float]:
    ids = words[:2] if place is None else []
    values = words[len(ids) :]
    if len(values) != (kind != "pattern") or not all(map(whole, ids)) or (place is None and len(ids) < 2):
        wanted = "a number" if place else "a row and a column" if kind == "pattern" else "a row, a column and a number"
        raise error(path, number, f"expected {wanted}, found {_short(' '.join(words))}")
    i, j = place or (int(ids[0][:20]), int(ids[1][:20]))
    if not (1 <= i <= agents and 1 <= j <= agents):
        raise error(
            path,
            number,
            f"entry ({_short(ids[0])}, {_short(ids[1])}) lies outside the matrix"
            if ids
            else "more values than the matrix has",
        )
    value = real(values[0]) if values else 1.0
    if value is None:
        raise error(path, number, f"{_short(values[0])} is not a finite number in plain digits")
    return i, j, value


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")
