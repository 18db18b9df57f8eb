"""Directed networks in pictures and in figures."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import numpy as np
from helpers.asking import call

from distopt.network.graphs import graph_from_edges
from distopt.network.topology import build_topology
from distopt.report import network
from distopt.report.page.drawing import drawing

N = 9


def test_figures_agree_with_networkx() -> None:
    for name in ("directed_ring", "directed_exponential", "random_digraph:p=0.3"):
        graph = build_topology(name, N, 0)
        what, G = network.portrait(graph), nx.DiGraph(graph.arcs.tolist())
        assert what.diameter == str(nx.diameter(G))
        heard, sent = ([d for _, d in degrees] for degrees in (G.in_degree(), G.out_degree()))
        assert what.degrees == (min(heard), np.mean(heard), max(heard))
        rows = what.rows("metropolis")
        assert rows["arcs"] == f"{G.number_of_edges()}, each in one direction" and "links" not in rows
        assert rows["weights"].startswith("in_degree where rows must sum to 1, out_degree where columns must")
        assert what.rows("out_degree")["weights"] == "out_degree"
        assert rows["degree"] == what.degree
        if name == "directed_ring":
            assert what.degree == "in 1, out 1" and what.diameter == str(N - 1)
        elif name.startswith("random"):
            spread = f"in {min(heard)} to {max(heard)}, out {min(sent)} to {max(sent)}, mean {np.mean(sent):.3g}"
            assert what.degree == spread
    assert network.portrait(build_topology("random_digraph:p=1", N, 0)).diameter == "1"


def test_an_arrow_lies_on_its_arc_and_points_at_the_receiver() -> None:
    where = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0]])
    arcs = np.array([[0, 1], [1, 0], [2, 0], [1, 2]])
    for (a, b), (tip, left, right) in zip(arcs, network.arrowheads(where, arcs), strict=True):
        along, back = where[b] - where[a], (left + right) / 2
        length = np.hypot(*along)
        for point in (tip, back):
            assert abs(along[0] * (point - where[a])[1] - along[1] * (point - where[a])[0]) < 1e-12 * length
        assert 0 < (back - where[a]) @ along < (tip - where[a]) @ along < length**2


def test_pictures_have_an_arrow_for_each_arc(tmp_path: Path) -> None:
    graph = build_topology("random_digraph:p=0.3", N, 0)
    what = network.portrait(graph)
    figure = network.figure(what, "arrows")
    assert len(figure.axes[0].collections[1].get_paths()) == len(graph.arcs)
    assert f"{len(graph.arcs)} arcs" in figure.texts[1].get_text()
    page = drawing(what, "arrows", "metropolis")
    assert page.svg.count("Z") == len(graph.arcs) and 'class="heads"' in page.svg
    assert (
        'class="heads"'
        not in drawing(network.portrait(graph_from_edges(3, [[0, 1], [1, 2]])), "path", "metropolis").svg
    )
    shown = call("show", "directed_exponential", "--agents", "8", "--out", str(tmp_path / "g.png"))
    assert shown.exit_code == 0 and (tmp_path / "g.png").stat().st_size > 5000
    assert "arcs                              24, each in one direction" in shown.output
