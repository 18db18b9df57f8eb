"""A graph or a weight matrix from a file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from distopt.errors import InputError
from distopt.graphs import Graph, check_connected, graph_from_edges, graph_from_matrix, graph_from_networkx


def file(agents: int | None = None, path: str = "") -> Graph:
    """A connected graph read from ``path``, in the format that the suffix of its name says.

    - ``.txt``, ``.edges``, ``.edgelist``: one link per line, two agent numbers between blanks or a comma; further columns are
      ignored, ``#`` begins a comment. The numbers are sorted and become 0 .. N-1.
    - ``.csv``: the adjacency matrix, N rows of N zeros and ones with commas; symmetric, nothing on the diagonal.
    - ``.graphml``: undirected GraphML; nodes are sorted (as numbers if all are) and become 0 .. N-1, weights are ignored.
    - ``.npy``: a weight matrix W [N, N] whose rows sum to 1; no weight rule is then applied. Never unpickled.

    Text is UTF-8, with or without a byte order mark; ``~`` is the home folder. ``agents`` may be left out; if given it must
    be the file's. Raises InputError that names the file and the line.

    >>> import tempfile
    >>> from distopt.topologies.file import file
    >>> with tempfile.NamedTemporaryFile("w", suffix=".edges") as f:
    ...     print(f.write("10 20\\n20 30\\n"), f.flush(), file(path=f.name).agents)
    12 None 3
    """
    where = Path(os.path.expanduser(path))
    if not path:
        raise InputError("file: say which, as in file:path=graph.edges (.txt, .edges, .edgelist, .csv, .graphml, .npy)")
    readers = {".txt": _edges, ".edges": _edges, ".edgelist": _edges, ".csv": _adjacency, ".graphml": _graphml, ".npy": _matrix}
    reader = readers.get(where.suffix.lower())
    if reader is None:
        raise InputError(f"file: {path} has suffix {where.suffix!r}; known are {', '.join(readers)}")
    if not where.is_file():
        at = "" if where.is_absolute() else f" in {Path.cwd()}"
        raise InputError(f"file: {path} does not exist{at}, or is not a file")
    try:
        graph = reader(where)
        check_connected(graph)
    except (InputError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"file: {error}" if path in str(error) else f"file: {path}: {error}") from error
    if agents not in (None, graph.agents):
        raise InputError(f"file: {path} has {graph.agents} agents, not {agents}; leave the number out")
    return graph


def _edges(path: Path) -> Graph:
    pairs: list[tuple[int, int]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        words = line.split("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            a, b = int(words[0]), int(words[1])
        except (ValueError, IndexError):
            raise InputError(f"{path}, line {number}: expected two agent numbers, found {line.strip()!r}") from None
        if a == b:
            raise InputError(f"{path}, line {number}: agent {a} is linked to itself; delete the line")
        pairs.append((a, b))
    if not pairs:
        raise InputError(f"{path} lists no links")
    ids, place = np.unique(np.array(pairs), return_inverse=True)
    return graph_from_edges(len(ids), place.reshape(-1, 2))


def _adjacency(path: Path) -> Graph:
    rows: list[list[float]] = []
    numbers: list[int] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = [float(word) for word in line.split(",")]
        except ValueError:
            raise InputError(f"{path}, line {number}: expected numbers between commas, found {line.strip()[:60]!r}") from None
        if rows and len(row) != len(rows[0]):
            raise InputError(f"{path}, line {number}: {len(row)} numbers where the lines before have {len(rows[0])}")
        if set(row) - {0.0, 1.0}:
            raise InputError(f"{path}, line {number}: an adjacency matrix holds 0 and 1 only; save weights as a .npy matrix")
        if row[len(rows) : len(rows) + 1] == [1.0]:
            raise InputError(f"{path}, line {number}: agent {len(rows)} is linked to itself; put 0 on the diagonal")
        rows.append(row)
        numbers.append(number)
    matrix = np.array(rows)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"{path}: the adjacency matrix must be square, not of shape {list(matrix.shape)}")
    if (matrix != matrix.T).any():
        i, j = np.argwhere(matrix != matrix.T)[0]
        raise InputError(
            f"{path}, line {numbers[i]}: agents {i} and {j} are linked in one direction only; make the matrix symmetric"
        )
    return graph_from_edges(len(matrix), np.argwhere(np.triu(matrix)))


def _graphml(path: Path) -> Graph:
    from xml.etree.ElementTree import ParseError

    import networkx as nx

    try:
        read = nx.read_graphml(path)
    except ParseError as error:
        raise InputError(f"{path}, line {error.position[0]}: not GraphML ({error})") from error
    except (nx.NetworkXError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not GraphML ({error})") from error
    if all(str(node).isdecimal() for node in read):
        read = nx.relabel_nodes(read, {node: int(node) for node in read})
    return graph_from_networkx(read)


def _matrix(path: Path) -> Graph:
    try:
        weights = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: not a plain .npy array ({error})") from error
    return graph_from_matrix(weights)
