"""A network's figures (degrees, diameter, spectral gap) and its picture."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from distopt.errors import InputError, either, printable
from distopt.network.digraphs import Digraph
from distopt.network.faults import Faults
from distopt.network.graphs import Graph, Switching
from distopt.network.network import NO_FAULTS, mixing_of
from distopt.network.weights import DEGREES
from distopt.numerics.random import Key

ROUNDS = 64
"""How many rounds of a network that changes are looked at."""

INK, SOFT, LINK, NODE = "#222222", "#767676", "#8FA3B5", "#0072B2"
_SPECTRUM = 1500  # agents up to which the mean of changing weights is made and its spectrum computed
_EXACT = 4_000_000  # agents x links up to which the exact diameter is searched
_DRAWN = 40_000  # links at most in a picture
_NAMED, _NAME, _INSIDE = (
    40,
    16,
    2,
)  # agents that can have names in a picture, the characters of a name, and those that fit into a disc


@dataclass(frozen=True)
class Portrait:
    """Measurements of a network.

    Attributes:
        agents: N.
        links: undirected links, int64 [E, 2]; those of all looked-at rounds where the network changes.
        presence: how often each link is there, float64 [E], 1 where the network is fixed.
        degrees: (smallest, mean, largest) degree, over the rounds too where the network changes.
        diameter: of the graph of all links, as text: a number, "at least k", or why there is none.
        second: the second largest |eigenvalue| of W, of the mean W where the network changes; None where it is too large.
        own_weights: whether the topology brings its weights, so that no rule is applied.
        rounds: 1 for a fixed network, else how many rounds were looked at.
        positions: [N, 2] given by the topology, or None.
        notes: what the user should know of how the network was read, a line each.
        arcs: (sender, receiver) of each arc of a directed graph, int64 [A, 2]; None where links go both ways. ``degrees`` are then in-degrees.
        names: of the agents, from the file of the graph; None where they have numbers only.
    """

    agents: int
    links: NDArray[np.int64]
    presence: NDArray[np.float64]
    degrees: tuple[int, float, int]
    diameter: str
    second: float | None
    rounds: int
    own_weights: bool
    positions: NDArray[np.float64] | None
    notes: tuple[str, ...] = ()
    arcs: NDArray[np.int64] | None = None
    names: tuple[str, ...] | None = None

    def marks(self) -> list[str]:
        """What is written on each agent: its name, shortened, if the network has names and few agents; else its number."""
        if self.names is None or self.agents > _NAMED:
            return [str(agent) for agent in range(self.agents)]
        plain = [printable(name) for name in self.names]
        return [name if len(name) <= _NAME else f"{name[: _NAME - 1]}…" for name in plain]

    @property
    def gap(self) -> float | None:
        """Spectral gap 1 - |lambda_2|: what disagreement loses per round of mixing."""
        return None if self.second is None else 1.0 - self.second

    def rows(self, weights: str) -> dict[str, str]:
        """The lines of ``distopt show``; ``weights`` is the chosen rule."""
        seen = f"over {self.rounds} rounds"
        fading = bool((self.presence < 1).any())
        many = "not computed: too many agents"
        links = f"{len(self.links):,}{f' different ones {seen}' if fading else ''}"
        links = links if self.arcs is None else f"{len(self.arcs):,}, each in one direction"
        return {
            "agents": f"{self.agents:,}",
            "links" if self.arcs is None else "arcs": links,
            "degree": self.degree,
            "diameter": f"{self.diameter}{f' (of all links {seen})' if fading else ''}",
            "weights": self._rule(weights),
            "time-varying": "no"
            if self.rounds == 1
            else "yes"
            if self.gap is None
            else f"yes; W below is the mean {seen}",
            "second largest |eigenvalue| of W": many if self.second is None else f"{self.second:.6g}",
            "spectral gap": many if self.gap is None else f"{self.gap:.6g}",
        }

    @property
    def degree(self) -> str:
        """The degrees in words."""
        low, mean, high = self.degrees
        if self.arcs is None:
            return f"{low}" if low == high else f"{low} to {high}, mean {mean:.3g}"
        out = np.bincount(self.arcs[:, 0], minlength=self.agents)  # of the same mean
        first, last = int(out.min()), int(out.max())
        each = (
            f"in {low}"
            + (f" to {high}" if high > low else "")
            + f", out {first}"
            + (f" to {last}" if last > first else "")
        )
        return each if (low, first) == (high, last) else f"{each}, mean {mean:.3g}"

    def _rule(self, weights: str) -> str:
        if self.own_weights:
            return "given by the topology"
        if self.arcs is None or weights in DEGREES:
            return weights
        return f"{DEGREES[0]} where rows must sum to 1, {DEGREES[1]} where columns must; W below is of {DEGREES[0]}"


def portrait(
    topology: Graph | Switching,
    weights: str = "metropolis",
    seed: int = 0,
    drop_links: float = 0.0,
    faults: Faults = NO_FAULTS,
) -> Portrait:
    """Measure a network. One that changes, or loses messages, is looked at for ``ROUNDS`` rounds of trial 0.

    >>> from distopt.network.graphs import graph_from_edges
    >>> p = portrait(graph_from_edges(4, [[0, 1], [1, 2], [2, 3], [0, 3]]))
    >>> p.degrees, p.diameter, round(p.gap, 3)
    ((2, 2.0, 2), '2', 0.667)
    """
    n = topology.agents
    key = Key(seed, range(n), range(1), n)
    mixing = mixing_of(topology, weights, key, drop_links, faults)
    arcs = topology.arcs if isinstance(topology, Digraph) else None
    names = topology.names if isinstance(topology, Graph) else None
    if isinstance(topology, Graph):
        links, rounds, own = topology.edges, 1, topology.matrix is not None
        presence = np.ones(len(links))
        degree = np.bincount(links.reshape(-1) if arcs is None else arcs[:, 1], minlength=n)
    else:
        rounds = ROUNDS
        heard = topology.arcs(torch.arange(rounds).reshape(-1, 1, 1, 1), key)
        own = heard.weight is not None
        low, high = np.minimum(heard.receiver, heard.sender), np.maximum(heard.receiver, heard.sender)
        each = np.unique(np.stack([heard.round, low, high], 1), axis=0)
        links, count = np.unique(each[:, 1:], axis=0, return_counts=True)
        presence = count / rounds
        degree = np.bincount((each[:, :1] * n + each[:, 1:]).reshape(-1), minlength=rounds * n)
    second = None
    if mixing.constant:
        second = 1.0 - mixing.spectral_gap()
    elif n <= _SPECTRUM:
        rounds = ROUNDS
        mean = np.zeros((n, n))
        for t in range(rounds):
            mean += mixing.dense(torch.full((1, 1, 1, 1), t))[0, 0].numpy() / rounds
        second = float(np.abs(np.linalg.eigvals(mean - 1.0 / n)).max())
    degrees = (int(degree.min()), float(degree.mean()), int(degree.max()))
    diameter = _diameter(n, links) if arcs is None else _diameter(n, arcs, directed=True)
    return Portrait(
        n, links, presence, degrees, diameter, second, rounds, own, mixing.positions, mixing.notes, arcs, names
    )


def _diameter(n: int, links: NDArray[np.int64], directed: bool = False) -> str:
    """The longest of the shortest paths; beyond a size a lower bound from two sweeps, which is exact on trees."""
    import networkx as nx

    graph = nx.DiGraph() if directed else nx.Graph()
    graph.add_nodes_from(range(n))
    if len(links) == n * (n - 1) // (1 if directed else 2):
        return "0" if n == 1 else "1"
    graph.add_edges_from(links.tolist())
    if not (nx.is_strongly_connected(graph) if directed else nx.is_connected(graph)):
        return "none: not connected"
    if n * len(links) <= _EXACT:
        return str(nx.diameter(graph))
    return f"at least {nx.approximation.diameter(graph, seed=0)}"


def figure(portrait: Portrait, title: str) -> Figure:
    """The picture of a network; rare links are pale.

    The topology's positions are kept. Agents whose ids follow a cycle are drawn on a circle. Others are laid out so that
    links are short.

    >>> from distopt.network.graphs import graph_from_edges
    >>> fig = figure(portrait(graph_from_edges(3, [[0, 1], [1, 2]])), "path")
    >>> len(fig.axes[0].collections[0].get_segments())
    2
    """
    fig = Figure(figsize=(5, 5), dpi=150, facecolor="white")
    FigureCanvasAgg(fig)
    axes = fig.add_axes((0.03, 0.03, 0.94, 0.84))
    axes.set_axis_off()
    axes.set_aspect("equal", adjustable="box")
    where, n = layout(portrait), portrait.agents
    links, presence = portrait.links, portrait.presence
    if len(links) > _DRAWN:
        keep = np.random.default_rng(0).choice(len(links), _DRAWN, replace=False)
        links, presence = links[keep], presence[keep]
    ink = float(np.clip(14.0 / math.sqrt(max(len(links), 1)), 0.08, 0.9))
    shade = [(0.42, 0.5, 0.58, ink * max(0.12, float(p))) for p in presence]
    axes.add_collection(
        LineCollection(list(where[links]), colors=shade, linewidths=1.2 if len(links) < 400 else 0.6, zorder=1)
    )
    if portrait.arcs is not None and len(portrait.links) <= _DRAWN:
        tips = arrowheads(where, portrait.arcs)
        axes.add_collection(PolyCollection(list(tips), facecolors=(0.42, 0.5, 0.58, ink), edgecolors="none", zorder=1))
    size = float(np.clip(9000 / n, 6, 330)) if n > 1 else 330
    size = min(size, (0.62 * 4.7 * 72 * _nearest(where)) ** 2) if n > 1 else size
    axes.scatter(
        where[:, 0],
        where[:, 1],
        s=max(size, 4),
        color=NODE,
        edgecolors="white",
        linewidths=0.9 if n < 200 else 0.3,
        zorder=2,
    )
    marks = portrait.marks()
    inside = all(len(mark) <= _INSIDE for mark in marks)
    for mark, (x, y) in zip(marks, where, strict=True) if size > 110 or not inside else ():
        font: dict[str, Any] = {"ha": "center", "fontsize": 7, "zorder": 3, "parse_math": False}
        if inside:
            axes.text(x, y, mark, color="white", va="center", fontweight="bold", **font)
        else:  # below the disc
            drop = (0, -math.sqrt(size) / 2 - 1)
            halo = [withStroke(linewidth=2, foreground="white")]
            axes.annotate(
                mark, (x, y), drop, textcoords="offset points", color=INK, va="top", path_effects=halo, **font
            )
    (left, bottom), (right, top) = where.min(0), where.max(0)
    pad = 0.06 * max(right - left, top - bottom, 1e-9)
    axes.set_xlim(left - pad, right + pad)
    axes.set_ylim(bottom - pad, top + pad)
    fig.text(0.03, 0.945, title, fontsize=11, fontweight="bold", color=INK, parse_math=False)
    fig.text(0.03, 0.908, _caption(portrait, len(links)), fontsize=7.5, color=SOFT, parse_math=False)
    return fig


def arrowheads(where: NDArray[np.float64], arcs: NDArray[np.int64]) -> NDArray[np.float64]:
    """A small triangle for each arc between agents at ``where`` [N, 2], at three fifths of its length: [A, 3, 2].

    >>> arrowheads(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[0, 1]])).round(3).tolist()
    [[[0.62, 0.0], [0.58, 0.012], [0.58, -0.012]]]
    """
    start, end = where[arcs[:, 0]], where[arcs[:, 1]]
    along = end - start
    size = 0.02 * max(float(np.ptp(where, axis=0).max()), 1e-9)
    along = along * size / np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-300)[:, None]
    side = 0.6 * np.stack([-along[:, 1], along[:, 0]], 1)
    middle = start + 0.6 * (end - start)
    return np.stack([middle + along, middle - along + side, middle - along - side], 1)


def _caption(portrait: Portrait, drawn: int) -> str:
    low, _, high = portrait.degrees
    many = f"{len(portrait.links):,} links" if portrait.arcs is None else f"{len(portrait.arcs):,} arcs"
    parts = [
        many + (f" ({drawn:,} drawn)" if drawn < len(portrait.links) else ""),
        f"degree{'' if low == high and portrait.arcs is None else 's'} {portrait.degree}",
        f"diameter {portrait.diameter}",
    ]
    if portrait.gap is not None:
        parts.append(f"spectral gap {portrait.gap:.3g}" + (" (mean W)" if portrait.rounds > 1 else ""))
    return "  ·  ".join(parts)


def _nearest(where: NDArray[np.float64]) -> float:
    """The distance of the closest pair of agents as a fraction of the picture."""
    from scipy.spatial import cKDTree

    distance = cKDTree(where).query(where, k=2)[0][:, 1]
    extent = float(max(np.ptp(where, axis=0).max(), 1e-9)) * 1.12
    positive = distance[distance > 0]
    return float(np.quantile(positive, 0.05)) / extent if len(positive) else 1.0


def layout(portrait: Portrait) -> NDArray[np.float64]:
    """The positions of the agents, [N, 2]."""
    n, links = portrait.agents, portrait.links
    if portrait.positions is not None:
        return np.asarray(portrait.positions, dtype=np.float64)
    angle = np.pi / 2 - 2 * np.pi * np.arange(n) / n
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    around = Counter((b - a) % n in (1, n - 1) for a, b in links.tolist())[True]
    if n < 3 or around >= n:
        return circle
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from(links.tolist())
    hub = int(np.bincount(links.reshape(-1), minlength=n).argmax()) if len(links) else 0
    if len(links) == n - 1 == graph.degree[hub]:  # a star: its centre in the middle
        angle = np.pi / 2 - 2 * np.pi * np.arange(n - 1) / (n - 1)
        return np.insert(np.stack([np.cos(angle), np.sin(angle)], 1), hub, 0.0, axis=0)
    if n <= 150 and nx.is_connected(graph):
        found = nx.kamada_kawai_layout(graph)
    elif n <= 1500:
        found = nx.spring_layout(graph, seed=0, iterations=60)
    else:
        found = nx.spectral_layout(graph)
    return np.array([found[i] for i in range(n)])


def save(fig: Any, path: Any) -> None:
    """Write a figure in the format its suffix names.

    Raises:
        InputError: an unknown suffix, or a place that cannot be written.
    """
    try:
        fig.savefig(path)
    except ValueError as error:
        raise InputError(f"{path}: {error}; name a .png, .svg or .pdf file") from error
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; choose another file{either(' with --out', '')}"
        ) from error
