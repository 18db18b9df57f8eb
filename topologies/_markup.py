"""Graph files with markup: GraphML and GML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from distopt.network.graphs import Graph
from distopt.network.lengths import NAMES
from distopt.topologies._links import Links, decoded, error, real, whole

_DECLARED = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._:-]+)["']""")


def graphml(path: Path, data: bytes, arcs: bool = False) -> Graph:
    """The one graph of a GraphML file. Only nodes, edges, weights and lengths are read; ``arcs`` keeps directions."""
    declared = _DECLARED.match(data[:400])
    reading = _GraphML(path, arcs)
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = (
        reading.start,
        reading.end,
        reading.text,
    )
    parser.EntityDeclHandler = reading.entity
    parser.buffer_text, reading.parser = True, parser
    try:
        parser.Parse(decoded(path, data, declared.group(1).decode() if declared else "utf-8"), True)
    except expat.ExpatError as problem:
        raise error(path, problem.lineno, f"not GraphML ({expat.ErrorString(problem.code)})") from None
    except UnicodeEncodeError:
        raise error(path, 0, "not GraphML (it holds halves of characters)") from None
    return reading.links.graph()


class _GraphML:
    def __init__(self, path: Path, arcs: bool) -> None:
        self.path, self.links = path, Links(path, declares=True, signed=False, arcs=arcs)
        self.parser: Any = None
        self.above: list[str] = []
        self.namespace = ""
        self.graphs, self.default = 0, ""
        self.kept: dict[str, str] = {}  # the keys of weights and lengths, with what they are of these two
        self.edge: tuple[str, str, int, bool] | None = None
        self.value: list[str] | None = None
        self.key, self.said = "", {"weight": "", "length": ""}

    @property
    def line(self) -> int:
        return int(self.parser.CurrentLineNumber)

    def start(self, tag: str, given: dict[str, str]) -> None:
        namespace, _, name = tag.rpartition(" ")
        if not self.above:
            if name != "graphml":
                raise error(self.path, self.line, f"not GraphML (it begins with <{name[:60]}>)")
            self.namespace = namespace
        elif namespace != self.namespace or self.above[-1] in ("data", ""):
            name = ""  # editors add such entries
        above = self.above[-1] if self.above else ""
        self.above.append(name)
        if name == "graph":
            self._graph(above, given)
        elif name == "node" and above == "graph":
            self.links.node(self._of(given, "id"), self.line)
        elif name == "edge" and above == "graph":
            says = given.get("directed", self.default)
            ends = self._of(given, "source"), self._of(given, "target")
            self.edge, self.said = (*ends, self.line, says in ("false", "0")), dict.fromkeys(self.said, "")
            self.links.directed |= says in ("true", "1")
        elif name == "hyperedge":
            raise error(self.path, self.line, "a hyperedge links more than two nodes; write links between two")
        elif name == "key" and given.get("for") != "node":
            what = {"weight": "weight", **dict.fromkeys(NAMES, "length")}.get(given.get("attr.name", "").lower())
            self.kept |= {} if what is None else {given.get("id", ""): what}
        elif name == "data" and above == "edge" and given.get("key") in self.kept:
            self.key, self.value = self.kept[given["key"]], []

    def _graph(self, above: str, given: dict[str, str]) -> None:
        if above != "graphml":
            raise error(
                self.path,
                self.line,
                "a node holds a graph of its own (a group); ungroup it in the editor that saved the file",
            )
        self.graphs += 1
        if self.graphs > 1:
            raise error(self.path, self.line, "a second graph begins; save each in a file of its own")
        self.default = {"directed": "true", "undirected": "false"}.get(given.get("edgedefault", ""), "")

    def _of(self, given: dict[str, str], what: str) -> str:
        if what not in given:
            raise error(self.path, self.line, f"{self.above[-1]} without {what}")
        return given[what]

    def text(self, text: str) -> None:
        if self.value is not None:
            self.value.append(text)

    def end(self, tag: str) -> None:
        name = self.above.pop()
        if name == "data" and self.value is not None:
            self.said[self.key], self.value = "".join(self.value).strip(), None
        elif name == "edge" and self.edge is not None:
            source, target, line, both = self.edge
            value, length = _number(self.said["weight"]), _number(self.said["length"])
            self.links.link(source, target, line, value, both, length)
            self.edge = None

    def entity(self, name: str, *_: Any) -> None:
        raise error(
            self.path,
            self.line,
            f"declares an entity ({name[:60]!r}), which a graph has no need of; delete the declaration",
        )


def _number(text: str) -> float:
    value = real(text)
    return np.nan if value is None else value


_TOKEN = re.compile(r"""(?P<blank>\s+|\#[^\n]*)|(?P<text>"[^"]*")|(?P<word>[^\s\[\]"\#]+)|(?P<bracket>[\[\]])""")


def gml(path: Path, text: str, arcs: bool = False) -> Graph:
    """The one graph of a GML file. Nodes are identified by ``id``; labels are ignored. ``arcs`` keeps directions."""
    links = Links(path, declares=True, arcs=arcs)
    fields: list[dict[str, str]] = [{}]  # the open lists, outermost first ...
    names: list[tuple[str, int]] = []  # ... with key and line, except the outermost
    key, graphs, position, line = "", 0, 0, 1
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise error(path, line, "not GML: a quote is not closed")
        said, position = token.group(), token.end()
        if token["bracket"] == "[" and key:
            if not names and key in ("node", "edge"):
                raise error(path, line, f"a {key} outside of graph [ ... ]; move it inside")
            graphs += key == "graph" and not names
            if graphs > 1:
                raise error(path, line, "a second graph begins; save each in a file of its own")
            if key == "graph" and names:
                raise error(path, line, "a graph inside of another; ungroup it in the editor that saved the file")
            names.append((key, line))
            fields.append({})
            key = ""
        elif token["bracket"] == "]" and names and not key:
            if len(names) <= 2 and names[0][0] == "graph":
                _close(links, names[1][0] if names[1:] else "graph", names[-1][1], fields[-1])
            del names[-1], fields[-1]
        elif token["bracket"]:
            raise error(path, line, f"not GML: unexpected {said}")
        elif token["blank"] is None and not key:
            if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", said) is None:
                raise error(path, line, f"not GML: expected a key, found {said[:60]!r}")
            key = said
        elif token["blank"] is None:
            if key in ("id", "source", "target") and key in fields[-1] and len(names) == 2:
                raise error(path, line, f"{names[-1][0]} has two values for {key}")
            fields[-1].setdefault(key, _identity(said) if key in ("id", "source", "target") else said.strip('"'))
            key = ""
        line += said.count("\n")
    if names or key:
        where = names[-1][1] if names else line
        raise error(path, where, f"not GML: {names[-1][0] + ' [' if names else key} is not closed")
    if not graphs:
        raise error(path, 1, "not GML: it holds no graph [ ... ]")
    return links.graph()


def _identity(said: str) -> str:
    """An id of GML: a number by the format, so that 007 is 7; an id in quotes is a text."""
    return str(int(said)) if whole(said) and len(said) < 1000 else said.strip('"')


def _close(links: Links, what: str, line: int, fields: dict[str, str]) -> None:
    """Take up a node or an edge, or at its end the graph."""
    for each in {"node": ("id",), "edge": ("source", "target")}.get(what, ()):
        if each not in fields:
            raise error(links.path, line, f"{what} without {each}")
    if what == "node":
        links.node(fields["id"], line)
    elif what == "edge":
        value = _number(fields.get("weight", fields.get("value", "")))
        length = _number(next((fields[name] for name in NAMES if name in fields), ""))
        links.link(fields["source"], fields["target"], line, value, length=length)
    elif what == "graph":
        links.directed = fields.get("directed", "0") == "1"
        if fields.get("directed") == "0":
            links.undirect()
