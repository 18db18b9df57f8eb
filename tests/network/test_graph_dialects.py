"""Graph files as graph editors, collections and libraries write them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import scipy.io
from click.testing import CliRunner

from distopt.cli.main import cli
from distopt.errors import InputError
from distopt.network.graphs import Graph, graph_from_networkx
from distopt.topologies.file import file

KITE = [[0, 1], [0, 2], [1, 2], [2, 3]]

YED = """<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<!DOCTYPE graphml SYSTEM "http://graphml.graphdrawing.org/dtds/1.0rc/graphml.dtd">
<graphml xmlns="http://graphml.graphdrawing.org/xmlns" xmlns:y="http://www.yworks.com/xml/graphml">
  <key attr.name="Description" attr.type="string" for="graph" id="d0"/>
  <key for="node" id="d6" yfiles.type="nodegraphics"/>
  <key attr.name="speed" attr.type="int" for="edge" id="d9"><default/></key>
  <graph edgedefault="directed" id="G">
    <data key="d0"/>
    <node id="n0">
      <data key="d6"><y:ShapeNode><y:Geometry x="1"/><y:NodeLabel>A<y:LabelModel/></y:NodeLabel></y:ShapeNode></data><port name="p"/>
    </node>
    <node id="n1"/><node id="n2"/><node id="n3"/>
    <edge id="e0" source="n0" target="n1" sourceport="p"/><edge id="e1" source="n1" target="n2"><data key="d9"></data></edge>
    <edge id="e2" source="n2" target="n0"/><edge id="e3" source="n3" target="n2"/>
  </graph>
</graphml>
"""
GEPHI = YED.replace('edgedefault="directed"', 'edgedefault="undirected"').replace(
    "DOCTYPE graphml SYSTEM", "DOCTYPE graphml PUBLIC 'x'"
)
PREFIXED = re.sub(r"<(/?)(?=[a-z])(?!y:)", r"<\1g:", YED).replace("xmlns=", "xmlns:g=")

ZOO = """graph [
  directed 1
  GeoLocation "Europe" # a comment
  node [ id 0 label "Same" Longitude -1.5e+1 graphics [ x 1.0 y 2.0 ] ]
  node [ id 1 label "Same" ]
  node [ id 2 label "Z&#252;rich" ]
  node [ id 3 ]
  edge [ source 0 target 1 LinkLabel "two
lines [ and brackets ]" ]
  edge [ source 1 target 2 ]
  edge [ source 1 target 2 ]
  edge [ source 2 target 0 ]
  edge [ source 2 target 3 ]
]
"""


@pytest.mark.parametrize(
    ("name", "text", "directed"),
    [
        ("yed.graphml", YED, True),
        ("gephi.graphml", GEPHI, False),
        ("prefixed.graphml", PREFIXED, True),
        ("mark.graphml", "\ufeff" + YED, True),
        ("zoo.gml", 'Creator "x"\nVersion 1\n' + ZOO, True),
        ("undirected.gml", ZOO.replace("directed 1", "directed 0").replace("\n", "\r\n"), False),
        ("bare.gml", ZOO.replace("directed 1", "").replace('label "Same"', ""), False),
        ("repository.edges", "% sym unweighted\n% 4 4\n1 2\n1 3\n2 3\n3 4\n", False),
        ("konect.txt", "% asym positive\n1\t2 1 1184\n1\t3 1\n2\t3\n3\t4\n", False),
        ("snap.txt", "# Directed graph\r\n# FromNodeId\tToNodeId\r\n1\t2\r\n2\t1\r\n1\t3\r\n2\t3\r\n3\t4\r\n", False),
        ("commas.edges", "\ufeff1,2,0.5\n1, 3,1\n2,3,2\n3,4,9\n", False),
        ("semicolons.edges", "a;b\na; c\nb ;c\nc;d\n", False),
        ("networkx.edgelist", "a b {}\na c {'weight': 1, 'x': 2}\nb c {}\nc d {}\n", False),
        ("comments.edges", "1 2 % one\n1 3 # two\n2 3 #three\n3 4\n", False),
        ("market.txt", "%%MatrixMarket matrix coordinate pattern symmetric\n%\n4 4 4\n2 1\n3 1\n3 2\n4 3\n", False),
        ("pattern.mtx", "%%MatrixMarket matrix coordinate pattern symmetric\n%\n4 4 4\n2 1\n3 1\n3 2\n4 3\n", False),
        ("general.mtx", "%%MatrixMarket matrix coordinate integer general\n4 4 4\n2 1 5\n3 1 5\n3 2 5\n4 3 5\n", True),
        (
            "both.mtx",
            "%%matrixmarket matrix coordinate real general\n4 4 9\n".replace("matrixmarket", "MatrixMarket")
            + "2 1 5\n1 2 5\n3 1 1e1\n1 3 10\n3 2 5\n2 3 5\n4 3 5\n3 4 5\n4 1 0\n",
            False,
        ),
        ("array.mtx", "%%MatrixMarket matrix array integer symmetric\n4 4\n0\n1\n1\n0\n0\n1\n0\n0\n1\n0\n", False),
        ("tabs.csv", "0\t1\t1\t0\n1\t0\t1\t0\n1\t1\t0\t1\n0\t0\t1\t0\n", False),
        ("excel.csv", "\ufeff0;1;1;0\r\n1;0;1;0\r\n1;1;0;1\r\n0;0;1;0\r\n", False),
        ("real.csv", "0.0, 1.0,1,0\n1.,0,1e0,0\n+1,1,0,1\n0,0,1,-0\n", False),
    ],
)
def test_dialects(tmp_path: Path, name: str, text: str, directed: bool) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    graph = file(path=path)
    assert graph.edges.tolist() == KITE
    assert [f"{path} is directed" in note for note in graph.notes] == [True] * directed
    for encoding in ("utf-16", "utf-32"):
        path.write_bytes(text.removeprefix("\ufeff").encode(encoding))
        assert file(path=path).edges.tolist() == KITE


GRAPHS = [
    nx.petersen_graph(),
    nx.les_miserables_graph(),
    nx.karate_club_graph(),
    nx.grid_2d_graph(3, 4),
    nx.davis_southern_women_graph(),
]


@pytest.mark.parametrize("G", GRAPHS, ids=["petersen", "les miserables", "karate", "grid", "women"])
def test_what_networkx_and_scipy_write(tmp_path: Path, G: Any) -> None:
    named = nx.relabel_nodes(G, {node: str(node).replace(" ", "") for node in G})
    named.graph.clear()
    nx.write_graphml(named, tmp_path / "g.graphml")
    nx.write_gml(named, tmp_path / "g.gml")
    nx.write_edgelist(
        nx.relabel_nodes(named, {node: node.replace(",", "_") for node in named}), tmp_path / "g.edgelist"
    )
    scipy.io.mmwrite(tmp_path / "g.mtx", nx.to_scipy_sparse_array(named))
    np.savetxt(tmp_path / "g.csv", nx.to_numpy_array(named, weight=None), delimiter=",")
    for suffix in ("graphml", "gml", "edgelist", "mtx", "csv"):
        graph = file(path=tmp_path / f"g.{suffix}")
        assert graph.notes == ()
        assert nx.faster_could_be_isomorphic(nx.Graph(graph.edges.tolist()), G)
        assert (graph.agents, len(graph.edges)) == (len(G), G.number_of_edges())
    assert np.array_equal(file(path=tmp_path / "g.graphml").edges, _sorted_as_before(named).edges)


def _sorted_as_before(G: Any) -> Graph:
    return graph_from_networkx(nx.relabel_nodes(G, {n: int(n) for n in G}) if all(n.isdecimal() for n in G) else G)


def weighted(first: str, second: str) -> dict[str, str]:
    return {
        "g.graphml": '<graphml><key id="w" for="edge" attr.name="weight"/><graph edgedefault="directed"><node id="7"/><node id="x"/>\n'
        f'<edge source="7" target="x"><data key="w">{first}</data></edge>\n'
        f'<edge source="x" target="7"><data key="w">{second}</data></edge></graph></graphml>',
        "g.gml": "graph [ directed 1 node [ id 7 ] node [ id 8 ]\n"
        f"edge [ source 7 target 8 weight {first} ]\nedge [ source 8 target 7 weight {second} ] ]",
        "g.mtx": f"%%MatrixMarket matrix coordinate real general\n2 2 2\n1 2 {first}\n2 1 {second}\n",
    }


@pytest.mark.parametrize("name", ["g.graphml", "g.gml", "g.mtx"])
def test_opposite_arcs_of_one_weight_only(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(weighted("2", "2.0")[name])
    assert (file(path=path).edges.tolist(), file(path=path).notes) == ([[0, 1]], ())
    path.write_text(weighted("2", "2.5")[name])
    with pytest.raises(InputError, match=r"line [34]: the arc from .* has another weight than that from"):
        file(path=path)


def test_a_list_of_links_with_other_values_back_is_noted(tmp_path: Path) -> None:
    (tmp_path / "g.edges").write_text("a b 1\nb a 2\n")
    (note,) = file(path=tmp_path / "g.edges").notes
    assert "linked in both directions with different values; what follows the ids is ignored" in note


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("g.mtx", "1 2\n", "line 1: a Matrix Market file begins with"),
        ("g.mtx", "%%MatrixMarket matrix coordinate complex hermitian\n", "line 1: of a Matrix Market file"),
        (
            "g.mtx",
            "%%MatrixMarket matrix coordinate pattern general\n3 4 2\n1 2\n2 3\n",
            "line 2: the matrix must be square, not 3 x 4",
        ),
        (
            "g.mtx",
            "%%MatrixMarket matrix coordinate pattern general\n3 3 2\n1 2\n2 4\n",
            "line 4: entry ('2', '4') lies outside",
        ),
        (
            "g.mtx",
            "%%MatrixMarket matrix coordinate pattern general\n3 3 2\n1 2\n0 1\n",
            "line 4: entry ('0', '1') lies outside",
        ),
        (
            "g.mtx",
            "%%MatrixMarket matrix coordinate pattern general\n3 3 2\n1 2\n",
            "line 2: is said to hold 2 entries, but holds 1",
        ),
        (
            "g.mtx",
            "%%MatrixMarket matrix coordinate pattern general\n9000000000 9000000000 2\n1 2\n2 1\n",
            "is not connected",
        ),
        ("g.mtx", "%%MatrixMarket matrix coordinate pattern general\n9 9 9000000000\n1 2\n", "more than the file can"),
        (
            "g.mtx",
            "%%MatrixMarket matrix coordinate real general\n2 2 2\n1 2 nan\n2 1 1\n",
            "line 3: 'nan' is not a finite number",
        ),
        (
            "g.mtx",
            "%%MatrixMarket matrix coordinate real general\n2 2 1\n1 2 1_0\n",
            "line 3: '1_0' is not a finite number",
        ),
        (
            "g.mtx",
            "%%MatrixMarket matrix coordinate pattern general\n2 2 1\n1 1\n",
            "line 3: agent 1 is linked to itself",
        ),
        ("g.mtx", "%%MatrixMarket matrix coordinate real symmetric\n3 3 3\n1 2 .5\n1 3 .5\n2 3 .5\n", "rows sum to 1"),
        ("g.gml", 'graph [ node [ id 0 label "a ]\n', "a quote is not closed"),
        ("g.gml", "graph [\nnode [ id 0 ]\n", "line 1: not GML: graph [ is not closed"),
        ("g.gml", "graph [ node [ label 0 ] ]", "line 1: node without id"),
        ("g.gml", "graph [ ]\ngraph [ ]", "line 2: a second graph"),
        ("g.gml", "hello world", "holds no graph"),
        ("g.gml", "graph [ " + "a [ " * 50_000, "is not closed"),
        ("g.csv", "0,1\n1,2\n2,0\n", "line 2: an adjacency matrix holds 0 and 1 only"),
    ],
)
def test_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        file(path=tmp_path / name)
    assert message in str(caught.value)


def test_the_note_is_printed_once(tmp_path: Path) -> None:
    path = tmp_path / "yed.graphml"
    path.write_text(YED)
    shown = CliRunner().invoke(cli, ["show", f"file:{path}", "--out", str(tmp_path / "g.png")])
    ran = CliRunner().invoke(
        cli,
        [
            "simulate",
            f"file:{path}",
            "--scenario",
            "quadratic",
            "--algorithm",
            "gt:lr=[0.1,0.2]",
            "--rounds",
            "3",
            "--out",
            str(tmp_path / "r"),
        ],
    )
    for result in (shown, ran):
        assert result.exit_code == 0, result.output
        assert result.output.count("is directed; each of its 4 arcs is read as a link in both directions") == 1
