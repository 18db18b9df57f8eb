"""Sliding windows over rows that arrive in time order and belong to agents: shared by the scenarios made of real data."""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Window(NamedTuple):
    """What each agent holds in each round; the newest row comes last.

    Attributes:
        rows: int64 row numbers [K, n, window] (0 where the agent has no row yet).
        weights: 1 / (rows held) where there is a row, else 0 [K, n, window], so that a weighted sum is the mean.
        fresh: which rows arrived in this very round [K, n, window].
        last: the agent's newest row before this round, -1 if it had none [K, n, 1].
    """

    rows: Ints
    weights: NDArray[np.float64]
    fresh: NDArray[np.bool_]
    last: Ints


def agent_major(agent: Ints, rows: Ints, span: int) -> Ints:
    """One sorted array that holds every agent's rows in time order: agent * span + row, for row numbers below ``span``.

    >>> agent_major(np.array([1, 0, 1]), np.array([0, 4, 7]), 10).tolist()
    [4, 10, 17]
    """
    return np.sort(agent * span + rows)


def windows(keys: Ints, span: int, agents: Ints, start: Ints, stop: Ints, *, window: int) -> Window:
    """Each agent's ``window`` most recent rows below ``stop`` [K]; fresh are the ones from ``start`` [K] on.

    ``keys`` comes from ``agent_major`` with the same ``span``.

    >>> keys = agent_major(np.array([0, 1, 0, 0]), np.arange(4), 4)
    >>> seen = windows(keys, 4, np.array([0, 1]), np.array([2]), np.array([4]), window=2)
    >>> seen.rows.tolist(), seen.weights.tolist(), seen.fresh[0, 0].tolist()
    ([[[2, 3], [0, 1]]], [[[0.5, 0.5], [0.0, 1.0]]], [True, True])
    """
    base = agents * span
    first = np.searchsorted(keys, base)[None, :, None]
    end = np.searchsorted(keys, base + stop[:, None])[..., None]
    new = np.searchsorted(keys, base + start[:, None])[..., None]
    at = end + np.arange(-window, 0)
    held = at >= first
    # every index is in range: a place outside the agent's own rows is masked, so any valid number will do there
    rows = np.where(held, keys[np.maximum(at, 0)] - base[:, None], 0)
    last = np.where(new > first, keys[np.maximum(new - 1, 0)] - base[:, None], -1)
    weights = held / np.maximum(np.minimum(end - first, window), 1)
    return Window(rows, weights, held & (at >= new), last)


def grouped(sizes: dict[str, int], total: int) -> list[list[tuple[str, int, int]]]:
    """Deal named groups of rows out to ``total`` agents; each agent gets pieces (name, k, step): every step-th row from the k-th.

    While there are too few groups the largest is split, alternate rows to each half; while there are too many the two
    smallest become one. Ties go to the name that sorts first.

    >>> grouped({"a": 7, "b": 2, "c": 1}, 2)
    [[('a', 0, 1)], [('b', 0, 1), ('c', 0, 1)]]
    >>> grouped({"a": 7, "b": 2}, 3)
    [[('a', 0, 2)], [('a', 1, 2)], [('b', 0, 1)]]
    """
    names = sorted(sizes)
    held = [(sizes[name], [(name, 0, 1)]) for name in names]
    if len(held) < total:
        heap = [(-size, pieces) for size, pieces in held]
        heapq.heapify(heap)
        while len(heap) < total:
            size, [(name, k, step)] = heapq.heappop(heap)
            heapq.heappush(heap, (-((1 - size) // 2), [(name, k, 2 * step)]))
            heapq.heappush(heap, (-(-size // 2), [(name, k + step, 2 * step)]))
        return sorted(pieces for _, pieces in heap)
    heapq.heapify(held)
    while len(held) > total:
        small, one = heapq.heappop(held)
        large, two = heapq.heappop(held)
        heapq.heappush(held, (small + large, sorted(one + two)))
    return sorted(pieces for _, pieces in held)
