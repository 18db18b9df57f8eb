"""Graph files by the thousand, in every format: ids that look alike, dialects, and damaged bytes.

What is accepted is held against a reader that knows nothing of numbers: two ids are one only where their texts are.
"""

from __future__ import annotations

import codecs
import random
import re
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.fuzzing import Kinds, Outcome, asked, hunt, hunts, retry, typed
from helpers.mutation import damage

from distopt.network.topology import build_topology

ALIKE = (
    ("1_0", "0_10", "10", "010", "1_0_", "1__0"),
    ("0601", "601", "00601", "6_01", "0x601", "601."),
    ("1", "01", "1.0", "+1", "1e0", "１"),
    (
        str(2**53),
        str(2**53 + 1),
        str(2**63),
        str(2**63 + 1),
        str(2**64 - 1),
        str(2**64 - 2),
        str(2**64),
        str(10**30),
        str(10**30 + 1),
    ),
    ("a", "A", "ａ", "а", "á", "a\u0301"),
    ("é", "e\u0301", "e", "E\u0301"),
    ("ﬁ", "fi", "Fi"),
    ("nan", "NaN", "inf", "None", "null"),
    ("-1", "1", "−1", "--1"),
    ("n0", "n1", "n2", "n00"),
    ("1e5", "100000", "1E5", "1e05"),
    ("٣", "3", "³", "३"),
    ("x.y", "x-y", "x_y", "x/y"),
    ("0", "-0", "+0", "00"),
    ("µ", "μ"),
    ("ß", "ss", "SS"),
    tuple("abcdefgh"),
    tuple(map(str, range(8))),
    tuple(map(str, range(1, 9))),
    tuple(f"{r}_{c}" for r in range(2) for c in range(4)),
    tuple(f"10.0.0.{k}" for k in range(6)),
)


class Net:
    """A connected graph whose nodes have texts for ids."""

    def __init__(self, rng: random.Random, plain: bool = False) -> None:
        family = tuple(map(str, range(1, 9))) if plain else rng.choice(ALIKE)
        ids = list(family)
        if not plain and rng.random() < 0.3:
            ids += [name for name in rng.choice(ALIKE) if name not in ids]
        rng.shuffle(ids)
        self.ids = ids[: rng.randint(2, 8)]
        pairs = [(self.ids[rng.randrange(k)], self.ids[k]) for k in range(1, len(self.ids))]
        pairs += [(a, b) for a, b in (rng.sample(self.ids, 2) for _ in range(rng.randrange(4)))]
        self.pairs = [pair if rng.random() < 0.5 else pair[::-1] for pair in pairs]
        if rng.random() < 0.15:
            self.pairs += [pair[::-1] for pair in self.pairs]


def size(ids: Any, pairs: Any) -> tuple[int, int]:
    """(agents, links) of nodes and of pairs of them."""
    pairs = list(pairs)
    return len({*ids, *(each for pair in pairs for each in pair)}), len(
        {frozenset(pair) for pair in pairs if pair[0] != pair[1]}
    )


# ------------------------------------------------------------------------------------------------------------- formats


def edges(rng: random.Random, net: Net) -> str:
    gap = rng.choice((" ", "\t", ",", ", ", "  ", " \t"))
    more = rng.choice(("", "", f"{gap}1.5", f"{gap}1{gap}2"))
    lines = [f"{a}{gap}{b}{more}" for a, b in net.pairs]
    if rng.random() < 0.4:
        lines.insert(
            rng.choice((0, 0, len(lines))),
            rng.choice(
                (
                    "# comment",
                    "% sym unweighted",
                    f"% {len(net.ids)} {len(net.ids)} {len(lines)}",
                    "",
                    "   ",
                    "#",
                    "%%MatrixMarket",
                    "// x",
                    "source target",
                )
            ),
        )
    if rng.random() < 0.1:
        lines[-1] += rng.choice((" # trailing", " % trailing", "  "))
    end = rng.choice(("\n", "\n", "\r\n", "\r"))
    return rng.choice(("", "", "", "\ufeff")) + end.join(lines) + rng.choice((end, ""))


def read_edges(text: str) -> tuple[int, int] | None:
    pairs = []
    for line in re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff")):
        words = re.sub(r"(^|\s)%.*|#.*", "", re.sub("[,;]", " ", line)).split()
        if len(words) == 1:
            return None
        pairs += [(words[0], words[1])] if words else []
    return size((), pairs)


def graphml(rng: random.Random, net: Net) -> str:
    one, both = rng.choice((("undirected", False), ("undirected", False), ("directed", False), ("directed", True)))
    nodes = net.ids if rng.random() < 0.9 else net.ids[1:]
    pairs = [*net.pairs, *(pair[::-1] for pair in net.pairs)] if both else net.pairs
    extra = rng.choice(
        (
            "",
            '<key id="d0" for="edge" attr.name="w" attr.type="double"/>',
            '<key id="d0" for="edge" attr.name="w" attr.type="double"><default/></key>',
            '<key id="d0" for="node" attr.name="l" attr.type="string"><default></default></key>',
        )
    )
    data = rng.choice(("", '<data key="d0">1.0</data>', '<data key="d0"/>', '<data key="dx">1</data>')) if extra else ""
    place = rng.choice(
        (' xmlns="http://graphml.graphdrawing.org/xmlns"', ' xmlns="http://graphml.graphdrawing.org/xmlns"', "")
    )
    inside = "".join(f'<node id="{name}"/>' for name in nodes) + "".join(
        f'<edge source="{a}" target="{b}">{data}</edge>' for a, b in pairs
    )
    head = rng.choice(
        (
            '<?xml version="1.0" encoding="UTF-8"?>\n',
            '<?xml version="1.0"?>',
            "",
            '<?xml version="1.0" encoding="klingon"?>',
            '<?xml version="1.0" encoding="latin-1"?>',
        )
    )
    return f'{head}<graphml{place}>{extra}<graph edgedefault="{one}">{inside}</graph></graphml>'


def read_graphml(text: str) -> tuple[int, int] | None:
    try:
        root = ET.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text.lstrip("\ufeff")))
    except (ET.ParseError, ValueError):
        return None
    found = [each for each in root.iter() if isinstance(each.tag, str)]
    nodes = [each.get("id") for each in found if each.tag.rpartition("}")[2] == "node"]
    return size(
        nodes, [(each.get("source"), each.get("target")) for each in found if each.tag.rpartition("}")[2] == "edge"]
    )


def gml(rng: random.Random, net: Net) -> str:
    place = {name: k for k, name in enumerate(net.ids)}
    label = rng.random() < 0.7
    lines = ["graph [", f"  directed {rng.choice('001')}"]
    lines += [f'  node [ id {k} label "{name}" ]' if label else f"  node [ id {k} ]" for name, k in place.items()]
    lines += [
        f"  edge [ source {place[a]} target {place[b]} {rng.choice(('', 'value 1.5', 'weight 2'))} ]"
        for a, b in dict.fromkeys(net.pairs)
    ]
    return rng.choice(("", 'Creator "x"\n', "# c\n")) + rng.choice(("\n", "\r\n")).join([*lines, "]"])


def read_gml(text: str) -> tuple[int, int] | None:
    nodes = re.findall(r"\bnode\s*\[[^\]]*?\bid\s+(\S+)", text)
    pairs = re.findall(r"\bedge\s*\[[^\]]*?\bsource\s+(\S+)\s+target\s+(\S+)", text)
    return size(nodes, pairs)


def mtx(rng: random.Random, net: Net) -> str:
    place = {name: k + 1 for k, name in enumerate(net.ids)}
    n, what, symmetry = (
        len(net.ids),
        rng.choice(("pattern", "pattern", "integer", "real")),
        rng.choice(("symmetric", "symmetric", "general")),
    )
    links = {frozenset((place[a], place[b])) for a, b in net.pairs}
    entries = [(max(link), min(link)) for link in links]
    entries += [pair[::-1] for pair in entries] if symmetry == "general" and rng.random() < 0.7 else []
    value = {"pattern": "", "integer": " 1", "real": rng.choice((" 1.0", " 0.5", " 1e0"))}[what]
    header, size_line = f"%%MatrixMarket matrix coordinate {what} {symmetry}", f"{n} {n} {len(entries)}"
    lines = [f"{i} {j}{value}" for i, j in entries]
    if rng.random() < 0.3:  # what the format knows, and no undirected graph is
        way = rng.randrange(8)
        odd = ("1 1", f"{n + 1} 1", "0 1", "1 2", "1.0 2", "1_0 2", "２ 1", "")[way]
        lines, size_line = [*lines, odd + value], f"{n} {n} {len(entries) + 1}"
    elif rng.random() < 0.15:
        other = {
            "coordinate": "array",
            what: "complex",
            symmetry: "skew-symmetric",
            "matrix": "vector",
            "%%Matrix": "%Matrix",
        }
        old, new = rng.choice((*other.items(), (what, what.upper())))
        header = header.replace(old, new)
    elif rng.random() < 0.1:
        huge = 10**13
        size_line = rng.choice(
            (f"{n} {n + 1} {len(entries)}", f"{n} {n}", f"{n} {n} {huge}", f"{huge} {huge} {len(entries)}", "x")
        )
    return "\n".join([header, *(["% comment"] * rng.randrange(2)), size_line, *lines]) + "\n"


def read_mtx(text: str) -> tuple[int, int] | None:
    lines = [line.split() for line in text.lstrip("\ufeff").splitlines() if line.strip() and not line.startswith("%")]
    if not lines or len(lines[0]) != 3 or not lines[0][0].isascii() or not lines[0][0].isdigit():
        return None
    return int(lines[0][0]), size((), [(each[0], each[1]) for each in lines[1:] if len(each) > 1])[1]


def table(rng: random.Random, net: Net) -> str:
    place = {name: k for k, name in enumerate(net.ids)}
    n = len(net.ids)
    cells = [["0"] * n for _ in range(n)]
    for a, b in net.pairs:
        cells[place[a]][place[b]] = cells[place[b]][place[a]] = "1"
    if rng.random() < 0.5:
        i, j = rng.randrange(n), rng.randrange(n)
        cells[i][j] = rng.choice(
            (
                "0_1",
                "1_0",
                "１",
                "1.0",
                "1e0",
                " 1",
                "+1",
                "-0",
                "0.5",
                "nan",
                "",
                "True",
                "x",
                "2",
                "1e-400",
                "0x1",
                "٠",
            )
        )
        if rng.random() < 0.7:
            cells[j][i] = cells[i][j]
    gap = rng.choice((",", ",", ",", ", ", ";", "\t", " "))
    lines = [gap.join(row) for row in cells]
    if rng.random() < 0.15:
        lines.insert(0, rng.choice((gap.join(net.ids), "# comment", "", gap.join(map(str, range(n))))))
    return rng.choice(("", "", "\ufeff")) + rng.choice(("\n", "\r\n")).join(lines) + rng.choice(("\n", ""))


def read_table(text: str) -> tuple[int, int] | None:
    rows = [
        [cell.strip() for cell in re.split(r"[,;\t]", line)]
        for line in re.split(r"\r\n|\r|\n", text.lstrip("\ufeff"))
        if line.strip() and not line.startswith("#")
    ]
    n = len(rows)
    if any(len(row) != n for row in rows) or any(
        not re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", cell, re.A) for row in rows for cell in row
    ):
        return None
    links = {frozenset((i, j)) for i in range(n) for j in range(n) if float(rows[i][j]) == 1}
    return n, len(links)


FORMATS: dict[
    str, tuple[tuple[str, ...], Callable[[random.Random, Net], str], Callable[[str], tuple[int, int] | None]]
] = {
    "edge lists": ((".txt", ".edges", ".edgelist"), edges, read_edges),
    "GraphML": ((".graphml",), graphml, read_graphml),
    "GML": ((".gml",), gml, read_gml),
    "Matrix Market": ((".mtx",), mtx, read_mtx),
    "adjacency matrices": ((".csv",), table, read_table),
}


def encoding(data: bytes) -> str:
    """The encoding that a file shows, or an XML declaration names."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    named = re.match(rb"<\?xml[^>]*encoding=\"([\w-]+)\"", data)
    try:
        return codecs.lookup(named[1].decode()).name if named else "utf-8"
    except LookupError:
        return "utf-8"


def one(kind: str, rng: random.Random) -> tuple[Any, Outcome]:
    """A file of a format, whole or damaged: taken with as many agents and links as it names, or refused."""
    whole = not kind.startswith("damaged ")
    ends, write, read = FORMATS[kind.removeprefix("damaged ")]
    data = write(rng, Net(rng)).encode(rng.choice(("utf-8",) * 12 + ("utf-16", "latin-1", "utf-8-sig")), "replace")
    if not whole:
        data = damage(rng, data)
    name = rng.choice(("g", "g", "a b", "ü", "1_0")) + rng.choice(ends)
    path = Path(f"{rng.getrandbits(40):x}") / name
    path.parent.mkdir()
    path.write_bytes(data)
    spec = f"file:'{path}'"
    if rng.random() < 0.1:
        outcome = typed("show", spec, "--out", str(path.with_suffix(".png")), names=(name,))
        found = re.search(r"agents +([\d,]+)\n +links +([\d,]+)", str(outcome.value))
        held = (int(found[1]), int(found[2])) if found else None
    else:
        outcome = asked(lambda: build_topology(spec, None, 0), names=(name,))
        held = (outcome.value.agents, len(outcome.value.edges)) if outcome.value is not None else None
    if outcome.line is None and not outcome.faults:
        meant = read(data.decode(encoding(data), "replace"))
        if meant is None:
            outcome.faults.append("accepts what an independent reader cannot read")
        elif held != meant:
            what = "merges ids:" if held is not None and held[0] < meant[0] else "takes"
            outcome.faults.append(f"{what} {held} agents and links for {meant}")
    return (name, data), outcome


def regular(kind: str, rng: random.Random) -> tuple[Any, Outcome]:
    """A file as its format has it, with plain ids: it must be taken."""
    net = Net(rng, plain=True)
    where = rng.choice(("edges", "graphml", "csv"))
    if where == "edges":
        text = rng.choice(("", "# c\n", "\ufeff")) + "".join(f"{a} {b}\n" for a, b in net.pairs)
    elif where == "graphml":
        inside = "".join(f'<node id="{name}"/>' for name in net.ids) + "".join(
            f'<edge source="{a}" target="{b}"/>' for a, b in net.pairs
        )
        text = f'<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><graph edgedefault="undirected">{inside}</graph></graphml>'
    else:
        n = len(net.ids)
        near = {frozenset((net.ids.index(a), net.ids.index(b))) for a, b in net.pairs}
        text = "".join(",".join(str(int(frozenset((i, j)) in near)) for j in range(n)) + "\n" for i in range(n))
    way = rng.random()
    if (
        way < 0.2 and where == "edges"
    ):  # a graph in two pieces, or a link from an agent to itself, is not what anybody can use
        text += rng.choice(("90 91\n", "1 1\n", "1\n"))
    path = Path(f"{rng.getrandbits(40):x}.{where}")
    path.write_text(text, encoding="utf-8")
    outcome = asked(lambda: build_topology(f"file:{path}", None, 0), names=(path.name,))
    if outcome.line is not None and not (way < 0.2 and where == "edges"):
        outcome.faults.append("refuses a regular file")
    elif (
        outcome.line is None
        and not outcome.faults
        and (outcome.value.agents, len(outcome.value.edges)) != size(net.ids, net.pairs)
    ):
        outcome.faults.append("takes other agents and links out of it")
    return (path.name, text), outcome


KINDS: Kinds = {
    **{name: (count, one) for name, count in zip(FORMATS, (600, 400, 300, 300, 400), strict=True)},
    **{f"damaged {name}": (count, one) for name, count in zip(FORMATS, (400, 400, 300, 300, 300), strict=True)},
    "regular graph files": (200, regular),
}


def again(kind: str, number: int, seed: int) -> None:
    """Try one input again, as it was tried."""
    retry(KINDS, kind, number, seed)


@pytest.mark.parametrize("kind", hunts(KINDS))
@pytest.mark.usefixtures("own_folder", "no_figures")
def test_a_graph_file_keeps_its_agents_apart_or_is_refused_in_a_line(
    kind: str, record_property: Callable[[str, object], None]
) -> None:
    hunt(KINDS, kind, "test_fuzz_graphs", record_property)


def test_ids_that_look_alike_are_different_texts() -> None:
    for family in ALIKE:
        assert len(set(family)) == len(family), family
    assert len({unicodedata.normalize("NFC", name) for name in ("é", "e\u0301")}) == 1
