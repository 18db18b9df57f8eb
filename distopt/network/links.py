"""The links of a constant network, agent by agent, for channels that send a different message over each link."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distopt.network.graphs import Floats, Ints


def slots(agents: int, i: Ints, j: Ints, weight: Floats) -> tuple[Tensor, Tensor, Tensor]:
    """(index, weight, side) of E slots an agent, each [1, 1, N, E] (see ``distopt.network.rows.Table``), of undirected links i[e] < j[e].

    E is the largest degree, at least 1. The slots of an agent are its neighbours in ascending id, then empty ones. The
    slot of neighbour k that leads back has number ``index`` among all N E slots; an empty slot has its own number.
    ``side`` is 1 where the own id is the lower one, else -1. Weight and side of empty slots are 0.

    >>> index, weight, side = slots(3, np.array([0, 0]), np.array([1, 2]), np.array([0.25, 0.5]))
    >>> index.squeeze().tolist(), weight.squeeze().tolist(), side.squeeze().tolist()
    ([[2, 4], [0, 3], [1, 5]], [[0.25, 0.5], [0.25, 0.0], [0.5, 0.0]], [[1.0, 1.0], [-1.0, 0.0], [-1.0, 0.0]])
    """
    row, column = np.concatenate([i, j]), np.concatenate([j, i])
    order = np.argsort(row * agents + column)
    row, column = row[order], column[order]
    degree = np.bincount(row, minlength=agents)
    width = max(1, int(degree.max()))
    at = row * width + np.arange(len(row)) - (np.cumsum(degree) - degree)[row]
    back = np.searchsorted(row * agents + column, column * agents + row)
    index, weights, side = np.arange(agents * width), np.zeros(agents * width), np.zeros(agents * width)
    index[at], weights[at], side[at] = (
        at[back],
        np.concatenate([weight, weight])[order],
        np.where(row < column, 1.0, -1.0),
    )

    def table(leaf: Ints | Floats) -> Tensor:
        return torch.from_numpy(leaf).reshape(1, 1, agents, width)

    return table(index), table(weights), table(side)


def places(agents: int, receiver: Ints, sender: Ints, weight: Floats) -> tuple[Tensor, Tensor]:
    """(index, weight) of D places an agent, each [1, 1, N, D] (see ``distopt.network.rows.Table``): those whom it hears, in ascending id.

    D is the largest number of them, at least 1. An empty place is the agent's own, with weight 0.

    >>> index, weight = places(3, np.array([2, 0, 2]), np.array([1, 2, 0]), np.array([0.25, 0.5, 0.125]))
    >>> index.squeeze().tolist(), weight.squeeze().tolist()
    ([[2, 0], [1, 1], [0, 1]], [[0.5, 0.0], [0.0, 0.0], [0.125, 0.25]])
    """
    order = np.argsort(receiver * agents + sender)
    receiver, sender, weight = receiver[order], sender[order], weight[order]
    heard = np.bincount(receiver, minlength=agents)
    width = max(1, int(heard.max()))
    at = receiver * width + np.arange(len(receiver)) - (np.cumsum(heard) - heard)[receiver]
    index, weights = np.repeat(np.arange(agents), width), np.zeros(agents * width)
    index[at], weights[at] = sender, weight
    shape = (1, 1, agents, width)
    return torch.from_numpy(index).reshape(shape), torch.from_numpy(weights).reshape(shape)
