"""Random choices that several families make."""

from __future__ import annotations

import numpy as np

from distopt.network.graphs import Ints


def thinned(rng: np.random.Generator, p: float, count: int) -> Ints:
    """The numbers among 0 .. count - 1 that are kept with probability p each. The gaps between them are geometric and are drawn directly.

    >>> thinned(np.random.default_rng(0), 1.0, 3).tolist()
    [0, 1, 2]
    """
    parts, last = [], -1
    while last < count - 1:
        gaps = rng.geometric(p, int(p * (count - last)) + 16)
        chunk = last + np.cumsum(np.where((gaps < 1) | (gaps > count), count + 1, gaps))  # a tiny p makes them overflow
        last = int(chunk[-1])
        parts.append(chunk[chunk < count])
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
