"""Samples are dealt to agents once, and each agent goes through its own in epochs. Both are functions of seed, trial and agent."""

from __future__ import annotations

import heapq

import numpy as np
import torch
from numpy.typing import NDArray

from distopt.numerics.random import Key, words
from distopt.scenarios.digits import dirichlet

Ints = NDArray[np.int64]


def deal(labels: Ints, agents: int, alpha: float, least: int, seed: int, trial: int) -> list[Ints]:
    """The samples of each agent, ascending; every sample has one agent.

    The shares of the agents in each class are drawn from Dirichlet(alpha), and the class's samples, in a random order, are cut accordingly. Agents
    with fewer than ``least`` samples then get some, one by one, from the agent with the most. With alpha = inf all samples, in a random order, are
    cut in equal parts.

    >>> [part.tolist() for part in deal(np.array([0, 0, 0, 1, 1, 1]), 2, 0.1, 1, seed=0, trial=0)]
    [[1, 3, 4, 5], [0, 2]]
    """
    key = Key(seed, range(1), [trial], 1)  # one draw for the whole network
    order = np.argsort(key.uniform("network/order", len(labels)).numpy().ravel(), kind="stable")
    if np.isinf(alpha):
        return [np.sort(part) for part in np.split(order, np.arange(1, agents) * len(order) // agents)]
    classes = int(labels.max()) + 1
    u = key.uniform("network/shares", 2 * classes * agents).reshape(classes, 2, agents)
    parts: list[list[int]] = [[] for _ in range(agents)]
    for label, shares in enumerate(dirichlet(u, alpha).numpy()):
        mine = order[labels[order] == label]
        ends = np.rint(shares.cumsum() * len(mine)).astype(np.int64)[:-1]
        for part, own in zip(parts, np.split(mine, ends), strict=True):
            part.extend(own.tolist())
    most = [(-len(part), i) for i, part in enumerate(parts)]
    heapq.heapify(most)
    for part in parts:
        while len(part) < least:
            size, i = most[0]
            if -size != len(parts[i]):  # it has got some since
                heapq.heapreplace(most, (-len(parts[i]), i))
                continue
            part.append(parts[i].pop())
            heapq.heapreplace(most, (-len(parts[i]), i))
    return [np.sort(np.array(part, dtype=np.int64)) for part in parts]


def batches(t: Ints, shard: Ints, size: int, agent: int, seed: int, trial: int) -> Ints:
    """The samples [K, size] that an agent takes in the rounds t [K], from its shard.

    They follow one another in epochs, each goes once through the shard in a new random order. A batch may cross the end of an epoch.

    >>> batches(np.arange(3), np.array([5, 6, 7]), 2, agent=0, seed=0, trial=0).tolist()
    [[7, 5], [6, 5], [6, 7]]
    """
    m = len(shard)
    epoch, place = np.divmod(t[:, None] * size + np.arange(size), m)
    needed, which = np.unique(epoch, return_inverse=True)
    runs = np.split(
        needed, np.flatnonzero(np.diff(needed) > 1) + 1
    )  # epochs that follow one another are one piece of the stream
    drawn = [words(seed, f"network/epoch/{agent}", trial, int(run[0]) * m, len(run) * m) for run in runs]
    orders = np.argsort(np.concatenate(drawn).reshape(-1, m), axis=-1, kind="stable")
    found: Ints = shard[orders[which.reshape(epoch.shape), place]]
    return found


def tenths(y: torch.Tensor) -> Ints:
    """Numbers by their rank, as ten classes of equal size."""
    ranks = np.argsort(np.argsort(y.numpy(), kind="stable"), kind="stable")
    return (10 * ranks // len(ranks)).astype(np.int64)
