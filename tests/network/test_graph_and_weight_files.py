"""Topologies from files of all kinds: read as written, or refused in a line that names the file."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from helpers.networks import make

from distopt.errors import InputError
from distopt.network.network import mixing_of
from distopt.numerics.random import Key


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".edges", "# kite\n0 1\n1 2 7.5\n\n2,0\n3\t2 # tail\n"),
        (".txt", "10 20\n20 30\n30 10\n30 40\n"),
        (".csv", "0,1,1,0\n1,0,1,0\n1,1,0,1\n0,0,1,0\n"),
        (".graphml", "\n".join(nx.generate_graphml(nx.Graph([(0, 1), (1, 2), (2, 0), (2, 3)])))),
    ],
)
def test_files(tmp_path: Path, suffix: str, text: str) -> None:
    path = tmp_path / f"kite{suffix}"
    path.write_text(text)
    assert make("file", None, path=str(path)).edges.tolist() == [[0, 1], [0, 2], [1, 2], [2, 3]]
    assert make("file", 4, path=str(path)).agents == 4
    with pytest.raises(InputError, match="has 4 agents, not 5"):
        make("file", 5, path=str(path))


@pytest.mark.parametrize(
    ("suffix", "text"), [(".edges", "3,1\n1,7\n"), (".txt", "3 1\n1 7\n"), (".csv", "0,1,1\n1,0,0\n1,0,0\n")]
)
def test_files_with_a_byte_order_mark_and_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, text: str
) -> None:
    (tmp_path / f"g{suffix}").write_text(text, encoding="utf-8-sig")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sorted(make("file", None, path=f"~/g{suffix}").edges.tolist()) == [[0, 1], [0, 2]]
    with pytest.raises(InputError, match="~/h.edges does not exist"):
        make("file", None, path="~/h.edges")


def test_graphml_sorts_numbers_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "line.graphml"
    nx.write_graphml(nx.path_graph(12), path)
    assert np.array_equal(make("file", None, path=str(path)).edges, make("path", 12).edges)


def test_weight_file(tmp_path: Path) -> None:
    path = tmp_path / "W.npy"
    W = np.array([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25], [0.0, 0.5, 0.5]])
    np.save(path, W)
    mixing = mixing_of(make("file", 3, path=str(path)), "metropolis", Key(0, range(3), range(1), 3))
    assert np.array_equal(mixing.dense(torch.zeros(1, 1, 1, 1, dtype=torch.int64))[0, 0].numpy(), W)
    np.save(path, np.array([{}], dtype=object))
    with pytest.raises(InputError, match=r"W\.npy: not a plain \.npy array"):
        make("file", None, path=str(path))
    np.save(path, np.array([[0.5, np.nan], [0.5, 0.5]]))
    with pytest.raises(InputError, match=r"W\.npy: weight \(0, 1\) is nan"):
        make("file", None, path=str(path))
    np.save(path, np.array([[0.5, 0.6], [0.5, 0.5]]))
    with pytest.raises(InputError, match="row 0 of the weights sums to 1.1"):
        make("file", None, path=str(path))


@pytest.mark.parametrize(
    ("suffix", "text", "message"),
    [
        (".edges", "0 1\n1 x\n", "line 2: expected two numbers as in all other lines, found '1 x'"),
        (".edges", "0 1\n\n5\n", "line 3: expected the ids of two agents, found '5'"),
        (".edges", "0 1\n1 1\n", "line 2: node '1' is linked to itself"),
        (".edges", "# nothing\n", "lists no links"),
        (".edges", "0 1\n2 3\n", "falls into 2 parts"),
        (".edges", b"\xff\xfe\x00", "bad"),
        (".csv", "0,1\n1\n", "line 2: 1 numbers where the lines before have 2"),
        (".csv", "0,a\n1,0\n", "line 1: expected numbers"),
        (".csv", "0,0.5\n0.5,0\n", "line 1: an adjacency matrix holds 0 and 1 only"),
        (".csv", "0,1,1\n0,0,0\n1,0,0\n", "line 1: agents 0 and 1 are linked in one direction only"),
        (".csv", "0,1\n1,1\n", "line 2: agent 1 is linked to itself"),
        (".csv", "0,1,0\n1,0,0\n", "must be square"),
        (".csv", "", "must be square"),
        (".graphml", "<graphml>\n<oops>", "line 2: not GraphML"),
        (".graphml", "<html></html>", "not GraphML"),
        (".graphml", "\n".join(nx.generate_graphml(nx.Graph([(0, 0)]))), "line 4: node '0' is linked to itself"),
        (".npy", "hello", "not a plain .npy array"),
        (".npy", "", "not a plain .npy array"),
    ],
)
def test_files_refused(tmp_path: Path, suffix: str, text: str | bytes, message: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    wanted = "can't decode" if message == "bad" else message
    with pytest.raises(InputError, match=wanted) as caught:
        make("file", None, path=str(path))
    assert f"broken{suffix}" in str(caught.value)
    assert "\n" not in str(caught.value)
