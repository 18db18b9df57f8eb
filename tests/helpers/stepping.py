"""A small problem in tensors and in plain numbers, and rounds whose step size changes."""

from __future__ import annotations

import math
import random
from dataclasses import fields, replace
from typing import Any, NamedTuple

import networkx as nx
import torch
from helpers.driving import at_rate
from torch import Tensor

from distopt.channels.exact import Exact
from distopt.compressors.topk import TopK
from distopt.network.net import Net, Rehearsal

N, D, ROUNDS = 6, 3, 90
_random = random.Random(11)
CURVATURE = [[_random.uniform(0.5, 1.5) for _ in range(D)] for _ in range(N)]
CENTRE = [[_random.gauss(0, 2) for _ in range(D)] for _ in range(N)]
START = [[_random.gauss(0, 1) for _ in range(D)] for _ in range(N)]

SCHEDULES = {
    "drops": [0.1] * 20 + [0.001] * 40 + [0.05] * 30,
    "rises": [0.01] * 30 + [0.2] * 60,
    "inverse": [0.3 / (1 + t / 10) for t in range(ROUNDS)],
    "doubles": [0.04] * 30 + [0.08] * 30 + [0.02] * 30,
    "zigzag": [(0.15, 0.02, 0.07)[t % 3] for t in range(ROUNDS)],
}


def gradient(t: int, i: int, x: list[float]) -> list[float]:
    return [CURVATURE[i][k] * (x[k] - CENTRE[i][k] - math.sin(0.1 * t + i)) for k in range(D)]


def torch_gradient(t: int, x: Tensor) -> Tensor:
    a, c = (torch.tensor(each, dtype=torch.float64) for each in (CURVATURE, CENTRE))
    return a * (x - c - torch.sin(0.1 * t + torch.arange(N, dtype=torch.float64))[:, None])


def network(kind: str) -> list[list[list[float]]]:
    """Metropolis weights of a ring with a chord, of it with links that come and go, or the average."""
    draw, out = random.Random(5), []
    links = [*((i, (i + 1) % N) for i in range(N)), (0, 3)]
    for _ in range(ROUNDS):
        graph = nx.Graph()
        graph.add_nodes_from(range(N))
        graph.add_edges_from(link for link in links if kind == "static" or draw.random() < 0.6)
        w = [[0.0] * N for _ in range(N)]
        for i, j in graph.edges:
            w[i][j] = w[j][i] = 1 / (1 + max(graph.degree[i], graph.degree[j]))
        for i in range(N):
            w[i][i] = 1 - sum(w[i])
        out.append([[1 / N] * N] * N if kind == "average" else w)
    return out


class Linked:
    """All agents on one machine."""

    own = slice(None)

    def __init__(self, w: list[list[float]]) -> None:
        self.w = torch.tensor(w, dtype=torch.float64)

    def send(self, payloads: dict[str, Any]) -> None: ...

    def heard(self, name: str, payload: Any) -> Any:
        return payload

    def weigh(self, name: str, rows: Tensor) -> Tensor:
        return torch.einsum("ij,rjd->rid", self.w, rows)


class Moment(NamedTuple):
    """A round: the points before and after it, what was carried after it, the channels' memories before and after it, lr and g."""

    x: Tensor
    after: Tensor
    state: Any
    before: dict[str, Any]
    memory: dict[str, Any]
    lr: Any
    g: Tensor


def walked(algorithm: Any, weights: list[list[list[float]]], lrs: list[Any], trials: int = 1) -> list[Moment]:
    """The rounds of an algorithm that is given another step size whenever it changes, and keeps its state."""
    x = torch.tensor(START, dtype=torch.float64).repeat(trials, 1, 1)
    state, memory, out = algorithm.init(x), {}, []
    for t, (w, lr) in enumerate(zip(weights, lrs, strict=True)):
        algorithm = at_rate(algorithm, lr)
        net, g = (
            Net(dict.fromkeys(algorithm.channels, algorithm.channel or Exact()), Linked(w), memory),
            torch_gradient(t, x),
        )
        after, state = algorithm.update(g, state, x, Rehearsal(net.mix, x, t))
        out.append(Moment(x, after, state, memory, net.memory, lr, g))
        x, memory = after, net.memory
    return out


def points(moments: list[Moment]) -> Tensor:
    return torch.cat([moments[0].x, *(moment.after for moment in moments)])


def undrawn(algorithm: Any) -> Any:
    """With a compressor that draws nothing in the place of one that does."""
    draws = any(f.name == "compressor" and algorithm.compressor.words(8) > 0 for f in fields(algorithm))
    return replace(algorithm, compressor=TopK(2)) if draws else algorithm
