"""Graph files whose directions are kept: every format, what a file says of its links, and files that are no such graphs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import scipy.io
from helpers.asking import call, one
from helpers.mutation import damage

import distopt
from distopt.errors import InputError
from distopt.network.digraphs import Digraph
from distopt.network.topology import build_topology
from distopt.topologies.file import file

ARCS = [[0, 1], [0, 2], [1, 2], [2, 0], [2, 3], [3, 2]]
LINES = "a b\na c\nb c\nc a\nc d\nd c\n"


def markup(default: str, *edges: str) -> str:
    nodes = "".join(f'<node id="{name}"/>' for name in "abcd")
    return f"<graphml><graph{default}>{nodes}{''.join(edges)}</graph></graphml>"


def edge(a: str, b: str, more: str = "") -> str:
    return f'<edge source="{a}" target="{b}"{more}/>'


EDGES = [edge(*line.split()) for line in LINES.splitlines()]
GML = "graph [ {} node [ id 0 ] node [ id 1 ] node [ id 2 ] node [ id 3 ] {} {} ]"
LINKS = " ".join(f"edge [ source {a} target {b} ]" for a, b in ARCS)
MARKET = "%%MatrixMarket matrix coordinate {}\n4 4 {}\n{}"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("g.edges", LINES),
        ("g.txt", "# from to\r\n" + LINES.replace("\n", "\r\n")),
        ("weights.edgelist", LINES.replace("\n", " 0.5\n")),
        ("opposite.edges", LINES.replace("c d", "c d 1").replace("d c", "d c 2")),
        ("twice.edges", LINES + LINES),
        ("numbers.edges", "1,2\n1,3\n2,3\n3,1\n3,4\n4,3\n"),
        ("g.csv", "0,1,1,0\n0,0,1,0\n1,0,0,1\n0,0,1,0\n"),
        ("g.graphml", markup(' edgedefault="directed"', *EDGES)),
        ("silent.graphml", markup("", *EDGES)),
        ("each.graphml", markup(' edgedefault="undirected"', *(e.replace("/>", ' directed="true"/>') for e in EDGES))),
        (
            "mixed.graphml",  # c - d goes both ways
            markup(' edgedefault="directed"', *EDGES[:4], edge("c", "d", ' directed="false"')),
        ),
        ("g.gml", GML.format("directed 1", LINKS, "")),
        ("behind.gml", GML.format("", LINKS, "directed 1")),
        ("silent.gml", GML.format("", LINKS, "")),
        ("g.mtx", MARKET.format("pattern general", 6, "1 2\n1 3\n2 3\n3 1\n3 4\n4 3\n")),
        ("values.mtx", MARKET.format("real general", 7, "1 2 .1\n1 3 9\n2 3 1\n3 1 2\n3 4 3\n4 3 4\n2 1 0\n")),
    ],
)
def test_directions_are_kept(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    graph: Any = file(path=path, directed=True)
    assert isinstance(graph, Digraph) and graph.arcs.tolist() == ARCS and graph.notes == ()
    spelled: Any = build_topology(f"file:path={path},directed=true", 4, 0)
    assert np.array_equal(spelled.arcs, graph.arcs)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("g.graphml", markup(' edgedefault="undirected"', *EDGES[:3], EDGES[4])),
        ("g.gml", GML.format("directed 0", LINKS, "")),
        ("behind.gml", GML.format("", LINKS, "directed 0")),
        ("g.mtx", MARKET.format("pattern symmetric", 4, "2 1\n3 1\n3 2\n4 3\n")),
    ],
)
def test_a_file_that_calls_its_links_undirected_is_taken_at_its_word(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    graph: Any = file(path=path, directed=True)
    links = [[0, 1], [0, 2], [1, 2], [2, 3]]
    assert graph.arcs.tolist() == sorted([*links, *([b, a] for a, b in links)])
    assert graph.notes == (f"{path} says that its links have no direction; each is read as two arcs",)


def test_what_networkx_and_scipy_write(tmp_path: Path) -> None:
    G = nx.gnp_random_graph(9, 0.4, seed=2, directed=True)
    assert nx.is_strongly_connected(G)
    nx.write_graphml(G, tmp_path / "g.graphml")
    nx.write_gml(G, tmp_path / "g.gml")
    nx.write_edgelist(G, tmp_path / "g.edgelist")
    scipy.io.mmwrite(tmp_path / "g.mtx", nx.to_scipy_sparse_array(G), symmetry="general")
    np.savetxt(tmp_path / "g.csv", nx.to_numpy_array(G), delimiter=",")
    for suffix in ("graphml", "gml", "edgelist", "mtx", "csv"):
        graph: Any = file(path=tmp_path / f"g.{suffix}", directed=True)
        assert {(a, b) for a, b in graph.arcs.tolist()} == set(G.edges()), suffix


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "g.edges",
            "a b\nb c\n",
            "is not strongly connected: it falls into 3 parts ('a' and 'b' have no paths both there",
        ),
        ("g.edges", "a b\nb a\nb c\n", "it falls into 2 parts ('a' and 'c' have no paths both there and back)"),
        ("g.edges", "a b\nb a\nc d\nd c\n", "is not strongly connected: it falls into 2 parts"),
        ("g.edges", "a b\nb b\nb a\n", "line 2: node 'b' is linked to itself"),
        ("g.edges", "", "lists no links"),
        ("g.edges", "a\n", "line 1: expected the ids of two agents"),
        ("g.edges", "a b\nb a\0\n", "holds a character of code 0"),
        ("g.edges", "e\u0301 b\nb \u00e9\n", "look the same but are not"),
        ("g.edges", "0,1,0\n0,0,1\n1,0,0\n", "holds a 3 x 3 matrix, no list of links"),
        ("g.csv", "0,1\n0,0\n", "is not strongly connected"),
        ("g.csv", "0,1\n1,1\n", "line 2: agent 1 is linked to itself"),
        ("g.csv", "0,1\n2,0\n", "line 2: an adjacency matrix holds 0 and 1 only"),
        ("g.csv", "0,1,1\n1,0,1\n", "must be square"),
        ("g.mtx", MARKET.format("pattern general", 3, "1 2\n2 3\n3 4\n"), "is not strongly connected: it falls into 4"),
        ("g.mtx", MARKET.format("pattern general", 9, "1 2\n"), "is said to hold 9 entries"),
        ("g.graphml", markup(' edgedefault="directed"', *EDGES[:3]), "is not strongly connected"),
        (
            "g.graphml",
            markup(' edgedefault="directed"', edge("a", "e")),
            "a link names node 'e', which the file does not",
        ),
        ("g.gml", "graph [ directed 1 node [ id 0 ] edge [ source 0 target 0 ] ]", "node '0' is linked to itself"),
    ],
)
def test_what_is_no_directed_graph_is_refused_in_a_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    with pytest.raises(InputError) as caught:
        file(path=path, directed=True)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_weights_have_directions_of_their_own(tmp_path: Path) -> None:
    np.save(tmp_path / "W.npy", np.array([[0.5, 0.5], [0.5, 0.5]]))
    with pytest.raises(InputError, match=r"W\.npy holds weights, which already have directions; leave directed out"):
        file(path=tmp_path / "W.npy", directed=True)
    wrong: Any = "true"
    with pytest.raises(InputError, match="file: directed must be true or false, got 'true'"):
        file(path=tmp_path / "W.npy", directed=wrong)
    with pytest.raises(InputError, match="directed=maybe is not true or false"):
        build_topology(f"file:path={tmp_path / 'W.npy'},directed=maybe", None, 0)


def test_who_reads_arcs_as_links_is_told_how_to_keep_them(tmp_path: Path) -> None:
    (tmp_path / "g.graphml").write_text(markup(' edgedefault="directed"', *EDGES[:4], EDGES[4]))
    (note,) = file(path=tmp_path / "g.graphml").notes
    assert note.endswith(
        "each of its 5 arcs is read as a link in both directions (directed=true keeps their directions)"
    )
    (tmp_path / "g.csv").write_text("0,1,1\n0,0,0\n1,0,0\n")
    with pytest.raises(InputError, match="make the matrix symmetric, or say directed=true"):
        file(path=tmp_path / "g.csv")


def test_a_directed_file_is_simulated_and_resumed(own_folder: None) -> None:
    Path("g.edges").write_text(LINES)
    words = "file:path=g.edges,directed=true --scenario moving_target --algorithm ab:lr=0.02 --rounds 30 --eager --record x --out run"
    result = call("simulate", *words.split())
    assert result.exit_code == 0, result.output
    right = distopt.simulate(
        nx.DiGraph([tuple(line.split()) for line in LINES.splitlines()]),
        algorithm="ab:lr=0.02",
        scenario="moving_target",
        rounds=30,
        mode="eager",
        record="x",
    )
    assert np.array_equal(one("run")["x"], right["x"])
    before = one("run").info["fingerprint"]
    Path("g.edges").write_text(LINES + "a d\n")
    assert call("resume", "run").exit_code == 2
    assert call("simulate", *words.replace("--out run", "--out other").split()).exit_code == 0
    assert one("other").info["fingerprint"] != before


def test_damaged_files_are_read_or_refused_in_a_line(tmp_path: Path) -> None:
    whole = {"g.edges": LINES, "g.csv": "0,1,1,0\n0,0,1,0\n1,0,0,1\n0,0,1,0\n"}
    whole |= {"g.graphml": markup(' edgedefault="directed"', *EDGES), "g.gml": GML.format("directed 1", LINKS, "")}
    whole |= {"g.mtx": MARKET.format("pattern general", 6, "1 2\n1 3\n2 3\n3 1\n3 4\n4 3\n")}
    rng, refused, read = random.Random(7), 0, 0
    for _ in range(400):
        name = rng.choice(list(whole))
        (tmp_path / name).write_bytes(damage(rng, whole[name].encode()))
        try:
            graph: Any = file(path=tmp_path / name, directed=True)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error) and name in str(error)
        else:
            read += 1
            assert len(graph.arcs) >= graph.agents or graph.agents == 1  # as of any strongly connected graph
    assert refused > 100 and read > 5
