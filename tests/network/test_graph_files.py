"""Graph files: ids that stay apart, lines that are named, and damaged or crafted files that end in one line."""

from __future__ import annotations

import os
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distopt
from distopt.catalog import hints
from distopt.errors import InputError
from distopt.network.graphs import Graph
from distopt.network.topology import build_topology
from distopt.report.network import figure, portrait
from distopt.report.page.drawing import drawing
from distopt.topologies import _links, _tables
from distopt.topologies.file import file

KITE = [[0, 1], [0, 2], [1, 2], [2, 3]]


def read(folder: Path, name: str, text: str | bytes) -> Graph:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file(path=path)


def refused(folder: Path, name: str, text: str | bytes) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, name, text)
    message = str(caught.value)
    assert name in message and "\n" not in message
    return message


def linked(graph: Graph) -> set[frozenset[str]]:
    assert graph.names is not None
    return {frozenset((graph.names[a], graph.names[b])) for a, b in graph.edges.tolist()}


def test_a_lattice_of_row_and_column_keeps_its_nodes(tmp_path: Path) -> None:
    across = [(f"{r}_{c}", f"{r}_{c + 1}") for r in range(2) for c in range(11)]
    down = [(f"0_{c}", f"1_{c}") for c in range(12)]
    graph = read(tmp_path, "grid.edges", "".join(f"{a} {b}\n" for a, b in across + down))
    assert (graph.agents, len(graph.edges), portrait(graph).diameter) == (24, 34, "12")


def test_ids_of_64_bits_stay_exact(tmp_path: Path) -> None:
    ids = [2**63 + 2**40 + k for k in range(4)]
    graph = read(tmp_path, "hashes.edges", "".join(f"{ids[k]} {ids[(k + 1) % 4]}\n" for k in range(4)))
    assert (graph.names, len(graph.edges)) == (tuple(map(str, ids)), 4)


IDS = st.one_of(
    st.sampled_from(
        [
            "1",
            "01",
            "+1",
            "1_0",
            "10",
            "1.0",
            "1e1",
            "A",
            "a",
            "-1",
            "0x1",
            "true",
            "inf",
            "10.0.0.1",
            "9007199254740993",
        ]
    ),
    st.integers(0, 2**70).map(str),
    st.text("0123456789abcdefABCDEF_.+-", min_size=1, max_size=6),
)


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(IDS, min_size=3, max_size=9, unique=True), suffix=st.sampled_from([".edges", ".graphml", ".gml"]))
def test_no_two_ids_ever_become_one(tmp_path_factory: pytest.TempPathFactory, ids: list[str], suffix: str) -> None:
    links = list(pairwise(ids))
    if suffix == ".edges":
        text = "".join(f"{a},{b}\n" for a, b in links)
    elif suffix == ".gml":
        text = (
            "graph ["
            + "".join(f'node [ id "{a}" ]\n' for a in ids)
            + "".join(f'edge [ source "{a}" target "{b}" ]\n' for a, b in links)
            + "]"
        )
    else:
        nodes, edges = (f'<node id="{a}"/>' for a in ids), (f'<edge source="{a}" target="{b}"/>' for a, b in links)
        text = f"<graphml><graph>{''.join(nodes)}{''.join(edges)}</graph></graphml>"
    try:
        graph = read(tmp_path_factory.mktemp("ids"), f"path{suffix}", text)
    except InputError as error:
        assert suffix == ".edges" and (
            "all other lines" in str(error) or "no value" in str(error)
        )  # a header, or a missing value
        return
    assert linked(graph) == {frozenset(link) for link in links}
    assert graph.agents == len(ids)


@pytest.mark.parametrize(
    ("ids", "order"),
    [
        (["10", "9", "-3", "+5"], ["-3", "+5", "9", "10"]),
        (["601", "0601", "7"], ["7", "0601", "601"]),
        (["b", "a10", "a9"], ["a10", "a9", "b"]),
        (["1e5", "7a", "10"], ["10", "1e5", "7a"]),
    ],
)
def test_agents_are_numbered_as_documented(tmp_path: Path, ids: list[str], order: list[str]) -> None:
    graph = read(tmp_path, "g.edges", "".join(f"{a} {b}\n" for a in ids for b in ids if a < b))
    assert graph.names == tuple(order)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("g.edges", "é 1x\ne\u0301 1x\n", r"line 2: the ids '\xe9' (line 1) and 'e\u0301' look the same"),
        ("g.edges", "a b\na\u00a0 b\n", "line 2: the ids 'a' (line 1) and 'a\\xa0' look the same"),
        ("g.edges", "1 2\n１ 3\n2 x\n", "line 2: the ids '1' (line 1) and '\\uff11' look the same"),
        (
            "g.graphml",
            '<graphml><graph><node id="a"/>\n<node id="a "/></graph></graphml>',
            "line 2: the ids 'a' (line 1) and 'a ' look the same",
        ),
        (
            "g.graphml",
            '<graphml><graph><node id="a"/>\n<node id="a"/></graph></graphml>',
            "line 2: node 'a' is there twice (first in line 1)",
        ),
        ("g.gml", "graph [ node [ id 7 ]\nnode [ id 007 ] ]", "line 2: node '7' is there twice"),
        (
            "g.graphml",
            '<graphml><graph><node id="a"/>\n<edge source="a" target="b"/></graph></graphml>',
            "line 2: a link names node 'b'",
        ),
        ("g.gml", "graph [ node [ id 7 ]\nedge [ source 7 target 8 ] ]", "line 2: a link names node '8'"),
        ("g.edges", "source target\n0 1\n1 2\n", "line 1: expected two numbers as in all other lines"),
        ("g.edges", '"New York","Rome"\n', "line 1: quotes are not read"),
        ("g.edges", "New York,Los Angeles\n", "line 1: expected the ids of two agents without blanks"),
        ("g.edges", "New York,5\n", "line 1: expected the ids of two agents without blanks"),
        ("g.edges", "a b\nb c#d\n", "line 2: 'c#d' holds a #"),
        ("g.edges", ",1,2\n", "line 1: expected the ids of two agents"),
        ("g.edges", "1,,2\n", "line 1: expected the ids of two agents"),
        ("g.edges", "a1 n2\nn2 n2\n", "line 2: node 'n2' is linked to itself"),
        ("g.edges", "a1 n2\nn3 n4\n", "'a1' and 'n3' cannot reach each other"),
        ("g.edges", "a\x85b x\nx\n", "line 2: expected"),
        ("g.edges", "0 1 1\n1 0 1\n1 1 0\n", "holds a 3 x 3 matrix"),
        ("g.txt", "0.5 0.25 0.25\n0.25 0.5 0.25\n0.25 0.25 0.5\n", "holds a 3 x 3 matrix"),
        ("g.edges", "\xe9 1\n".encode("latin-1"), "line 1: can't decode byte 0xe9"),
        ("g.edges", "ab 1\n1 2\n".encode("utf-16")[2:], "code 0"),
        ("g.csv", "0,0_1\n1,0\n", "line 1: expected numbers between commas"),
        ("g.csv", "0,１\n1,0\n", "line 1: expected numbers between commas"),
        ("g.csv", "0,1_0\n1,0\n", "'1_0' is none"),
        ("g.csv", "a,b\n0,1\n1,0\n", "leave out names of rows and columns"),
        ("g.csv", "0,inf\n1,0\n", "line 1: expected numbers"),
    ],
)
def test_what_is_refused_says_where(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    assert message in refused(tmp_path, name, text)


@pytest.mark.parametrize("marker", ["None", "NA", "<NA>", "null", "nan", "NaN", "-", "?", "#N/A", "N/A", "NULL"])
def test_a_missing_id_is_refused(tmp_path: Path, marker: str) -> None:
    for line in (f"5,{marker}", f"{marker},5"):
        assert "line 2: an id has no value" in refused(tmp_path, "g.edges", f"1,5\n{line}\n1,2\n")


def test_graphml_that_is_crafted_or_not_one_graph(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE g [<!ENTITY a "ha">\n<!ENTITY b "&a;&a;&a;">]><graphml><graph><node id="&b;"/></graph></graphml>'
    cases = {
        bomb: "line 1: declares an entity ('a')",
        '<graphml><graph><node id="a"><graph/></node></graph></graphml>': "a group",
        "<graphml><graph/>\n<graph/></graphml>": "line 2: a second graph",
        "<graphml><graph><node/></graph></graphml>": "node without id",
        "<graphml><graph>\n<hyperedge/></graph></graphml>": "line 2: a hyperedge",
        '<?xml version="1.0" encoding="klingon"?><graphml/>': "'klingon' is not known",
        '<?xml version="1.0" encoding="zlib"?><graphml/>': "'zlib' is not known",
        "<graphml>" + "<data>" * 50_000: "not GraphML",
        "<graphml/>": "lists no links",
    }
    for text, message in cases.items():
        assert message in refused(tmp_path, "g.graphml", text)


def test_other_encodings_of_graphml(tmp_path: Path) -> None:
    text = '<?xml version="1.0" encoding="{}"?><graphml><graph><node id="Zürich"/><node id="b"/><edge source="b" target="Zürich"/></graph></graphml>'
    for encoding in ("utf-8", "utf-8-sig", "latin-1", "windows-1252", "utf-16"):
        assert read(tmp_path, "g.graphml", text.format(encoding.removesuffix("-sig")).encode(encoding)).names == (
            "Zürich",
            "b",
        )


def header(shape: str, kind: str = "<f8", more: bytes = b"") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + more


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header("(1000000, 1000000)"), "more than 2"),
        (header("(10000, 10000)"), "is damaged"),
        (header("(2, 2)", more=b"\0" * 31), "is damaged"),
        (header("(2, 2)", more=b"\0" * 33), "is damaged"),
        (header("(-2, -2)"), "must be square"),
        (header("(4,)", more=b"\0" * 32), "must be square"),
        (header("(2, 2)", "|O", b"\0" * 32), "not a plain .npy array"),
        (header("(2, 2)", "<c16", b"\0" * 64), "of real numbers"),
        (header("(2, 2)", "<M8[s]", b"\0" * 32), "of real numbers"),
        (header("((((((", "<f8"), "not a plain .npy array"),
        (header("(2, 2)", "zz"), "not a plain .npy array"),
        (b"\x93NUMPY\x09\x00", "not a plain .npy array"),
        (b"PK\x03\x04" + b"\0" * 50, "not a plain .npy array"),
        (b"\x80\x04]\x94.", "not a plain .npy array"),
    ],
)
def test_damaged_and_crafted_arrays(tmp_path: Path, data: bytes, message: str) -> None:
    assert message in refused(tmp_path, "W.npy", data)


def test_only_regular_files_of_bounded_size(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.edges")
    (tmp_path / "zero.npy").symlink_to("/dev/zero")
    (tmp_path / "folder.gml").mkdir()
    for name in ("pipe.edges", "zero.npy", "folder.gml"):
        with pytest.raises(InputError, match="is not a regular file"):
            file(path=tmp_path / name)
    with (tmp_path / "sparse.edges").open("wb") as handle:
        handle.truncate(2**40)
    with pytest.raises(InputError, match="larger than 256 MiB"):
        file(path=tmp_path / "sparse.edges")


@pytest.mark.parametrize("suffix", [".edges", ".csv", ".graphml", ".gml", ".mtx", ".npy"])
def test_damage_never_ends_in_another_error(tmp_path: Path, suffix: str) -> None:
    good = {
        ".edges": b"0 1\n1 2 3.5\n# end\n2 0\n",
        ".csv": b"0,1,1\n1,0,1\n1,1,0\n",
        ".graphml": b'<?xml version="1.0"?>\n<graphml><key id="w" attr.name="weight" for="edge"/><graph><node id="a"/><node id="b"/>\n'
        b'<edge source="a" target="b"><data key="w">1</data></edge></graph></graphml>',
        ".gml": b'graph [\n  directed 1 node [ id 1 label "a" ]\n  node [ id 2 ]\n edge [ source 1 target 2 value 2.5 ] ]\n',
        ".mtx": b"%%MatrixMarket matrix coordinate real symmetric\n% hello\n3 3 3\n2 1 1.5\n3 1 2\n3 2 1e0\n",
        ".npy": header("(2, 2)", more=np.full((2, 2), 0.5).tobytes()),
    }[suffix]
    assert read(tmp_path, f"good{suffix}", good).agents in (2, 3)
    draw, outcomes = random.Random(1), {"read": 0, "refused": 0}
    for _ in range(300):
        data = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(data)) if data else 0
            choice = draw.randrange(4)
            if choice == 0:
                del data[place : place + draw.randint(1, 8)]
            elif choice == 1:
                data[place:place] = draw.choice(
                    [b"\0", b"\xff", b"_", b"[", b"]", b'"', b"<", b"&x;", b"9" * 30, b"nan", b"\n", b",", b"%", b"#"]
                )
            elif choice == 2 and data:
                data[place] = draw.randrange(256)
            else:
                data = data[:place]
        try:
            read(tmp_path, f"g{suffix}", bytes(data))
            outcomes["read"] += 1
        except InputError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
    assert outcomes["refused"] > 20


def test_a_path_may_be_a_path(tmp_path: Path) -> None:
    path = tmp_path / "a kite,1.edges"
    path.write_text("0 1\n1 2\n2 0\n2 3\n")
    assert build_topology(path, None, 0).edges.tolist() == KITE
    run = distopt.simulate(path, scenario="quadratic", algorithm="gt:lr=0.1", rounds=2)
    again = distopt.simulate(f"file:path='{path}'", scenario="quadratic", algorithm="gt:lr=0.1", rounds=2)
    assert np.array_equal(run["dynamic_regret"], again["dynamic_regret"])


def test_numbers_are_in_plain_digits() -> None:
    assert [
        _links.real(text) for text in ("1", "-1.5e3", ".5", "1_0", "１", "inf", "nan", "1e999", "0x1", "", "1 ")
    ] == [1, -1500, 0.5] + [None] * 8
    assert [number for number, _ in _tables.lines("a\r\nb\rc\x85d\n\ne")] == [1, 2, 3, 5]


def test_the_suffixes_of_hints_are_those_of_the_readers() -> None:
    with pytest.raises(InputError) as caught:
        file()
    assert f"({', '.join(hints.GRAPHS)})" in str(caught.value)


def test_pictures_have_the_names_of_the_nodes(tmp_path: Path) -> None:
    """On the network's picture and in the page; few agents have names on them, and long names are cut."""
    graph = read(tmp_path, "g.edges", "Anna Ben\nBen C<b>&$x^2$\nC<b>&$x^2$ Maximiliane-Charlotte\n")
    seen = portrait(graph)
    assert seen.marks() == ["Anna", "Ben", "C<b>&$x^2$", "Maximiliane-Cha…"]
    said = {text.get_text() for text in figure(seen, "names").axes[0].texts}
    assert said == set(seen.marks())
    svg = drawing(seen, "names", "metropolis").svg
    assert ">Anna</text>" in svg and "<title>Maximiliane-Charlotte</title>" in svg
    assert "<b>" not in svg and "C&lt;b&gt;&amp;$x^2$" in svg
    many = portrait(read(tmp_path, "h.edges", "".join(f"node{k} node{k + 1}\n" for k in range(60))))
    assert many.marks()[:3] == ["0", "1", "2"]
    assert portrait(build_topology("ring", 4, 0)).marks() == ["0", "1", "2", "3"]
