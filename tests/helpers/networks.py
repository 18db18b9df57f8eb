"""Networks and their weights, as tests make them."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import numpy as np
import torch

from distopt.network.faults import Faults
from distopt.network.graphs import graph_from_edges
from distopt.network.mixing import Mixing
from distopt.network.network import NO_FAULTS, mixing_of
from distopt.numerics.random import Key


def rounds(start: int, stop: int) -> torch.Tensor:
    return torch.arange(start, stop).reshape(-1, 1, 1, 1)


def key(n: int, trials: int = 1, seed: int = 3) -> Key:
    return Key(seed, range(n), range(trials), n)


def mixing(
    graph: Any, rule: str = "metropolis", trials: int = 1, drop: float = 0.0, faults: Faults = NO_FAULTS
) -> Mixing:
    return mixing_of(graph, rule, key(graph.agents, trials), drop, faults)


def dense(graph: Any, rule: str = "metropolis") -> np.ndarray:
    return mixing(graph, rule).dense(rounds(0, 1))[0, 0].numpy()


SMALL = graph_from_edges(7, [[0, 1], [1, 2], [2, 3], [3, 0], [0, 2], [3, 4], [4, 5], [5, 6]])


def make(name: str, agents: int | None, seed: int = 0, /, **parameters: Any) -> Any:
    """Build by the rule that the catalogue follows: the maker is named like the file."""
    module = importlib.import_module(f"distopt.topologies.{name}")
    (maker,) = [v for k, v in vars(module).items() if k.lower() == name.replace("_", "") or k == name]
    if "key" in inspect.signature(maker).parameters:
        parameters["key"] = Key(seed, range(agents or 1), [0], agents or 1)
    return maker(agents=agents, **parameters)
