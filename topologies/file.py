"""A graph or a weight matrix from a file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from distopt.errors import InputError
from distopt.network.graphs import Graph, check_connected, graph_from_matrix
from distopt.topologies._links import content, decoded, error
from distopt.topologies._markup import gml, graphml
from distopt.topologies._tables import adjacency, edges, matrix_market

_LARGEST = 2**31  # bytes of a weight matrix: 16,384 agents in float64


def file(agents: int | None = None, path: str | os.PathLike[str] = "", directed: bool = False) -> Graph:
    """A connected graph read from ``path``; the suffix of the name decides the format.

    - ``.txt``, ``.edges``, ``.edgelist``: one link per line, two ids between blanks, tabs, commas or semicolons; further columns
      are ignored, ``#`` or ``%`` begins a comment.
    - ``.csv``: the adjacency matrix, N rows of N zeros and ones with commas, semicolons or tabs; symmetric, nothing on the diagonal.
    - ``.graphml``, ``.gml``: the links of a graph editor's file; weights are ignored, and ``length`` or ``dist`` of its links are kilometres.
    - ``.mtx``: a square Matrix Market file; an entry that is not 0 is a link, and its value is ignored.
    - ``.npy``: a weight matrix W [N, N] whose rows sum to 1; no weight rule is then applied. Never unpickled.

    Ids are texts, and one node only where they are the same text. They are sorted, as numbers if all are whole numbers, and
    become 0 .. N-1. The arcs of a directed file are read as links, with a note; opposite arcs of different weight are refused.

    With ``directed=true`` they are kept as arcs, of a graph that must be strongly connected. The first id of a line sends to the second,
    the row of a matrix of links to the column, and a link that its file calls undirected goes both ways.

    Text is UTF-8 or begins with a byte order mark; GraphML declares its encoding. ``~`` is the home folder. ``agents`` may be
    left out; if given it must be the file's. Raises InputError that names the file and the line.

    >>> import tempfile
    >>> from distopt.topologies.file import file
    >>> with tempfile.NamedTemporaryFile("w", suffix=".edges") as f:
    ...     print(f.write("10 20\\n20 30\\n"), f.flush(), file(path=f.name).agents)
    12 None 3
    """
    path = os.fspath(path)
    readers: dict[str, Callable[[Path], Graph]] = {
        ".txt": lambda where: edges(where, decoded(where, content(where)), directed),
        ".csv": lambda where: adjacency(where, decoded(where, content(where)), directed),
        ".graphml": lambda where: graphml(where, content(where), directed),
        ".gml": lambda where: gml(where, decoded(where, content(where)), directed),
        ".mtx": lambda where: matrix_market(where, decoded(where, content(where)), directed),
        ".npy": _matrix,
    }
    readers |= dict.fromkeys((".edges", ".edgelist"), readers[".txt"])
    where = Path(os.path.expanduser(path))
    if not path:
        raise InputError(f"file: path is missing; write it as in file:path=graph.edges ({', '.join(sorted(readers))})")
    if not isinstance(directed, bool):
        raise InputError(f"file: directed must be true or false, got {directed!r}")
    if directed and where.suffix.lower() == ".npy":
        raise InputError(f"file: {path} holds weights, which already have directions; leave directed out")
    reader = readers.get(where.suffix.lower())
    if reader is None:
        raise InputError(f"file: {path} has suffix {where.suffix!r}; known are {', '.join(sorted(readers))}")
    try:
        if not where.is_file():
            what = (
                "is not a regular file"
                if where.exists()
                else f"does not exist{'' if where.is_absolute() else f' in {Path.cwd()}'}"
            )
            raise InputError(f"file: {path} {what}")
        graph = reader(where)
        check_connected(graph)
    except (InputError, OSError) as problem:
        said = str(problem)
        raise InputError(
            said if said.startswith("file: ") else f"file: {said}" if path in said else f"file: {path}: {said}"
        ) from problem
    if agents not in (None, graph.agents):
        raise InputError(f"file: {path} has {graph.agents} agents, not {agents}; leave the number out")
    return graph


def _matrix(path: Path) -> Graph:
    """The matrix of a .npy file, whose header is looked at before anything is read by its word."""
    with path.open("rb") as handle:
        try:
            version = npy.read_magic(handle)
            shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(handle)
        except Exception:  # a crafted header can make numpy's parser raise any of these errors
            raise error(path, 0, "not a plain .npy array: its header cannot be read; save it again") from None
        if dtype.hasobject or dtype.kind not in "biuf":
            raise error(path, 0, f"not a plain .npy array of real numbers, but of {dtype}")
        if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 1:
            raise error(path, 0, f"a weight matrix must be square with at least 1 row, not of shape {list(shape)}")
        size = math.prod(shape) * dtype.itemsize
        if size > _LARGEST:
            gigabytes = f"{size / 2**30:,.1f} GiB, more than {_LARGEST // 2**30}"
            raise error(path, 0, f"a matrix of {shape[0]:,} rows has {gigabytes}; give a sparse matrix in Python")
        found = os.fstat(handle.fileno()).st_size - handle.tell()
        if found != size:
            raise error(
                path, 0, f"not a plain .npy array: its header says {size:,} bytes, but {found:,} follow; it is damaged"
            )
    return graph_from_matrix(np.load(path, allow_pickle=False))
