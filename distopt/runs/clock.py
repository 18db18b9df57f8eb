"""When rounds were done: a few (round, seconds) pairs of a run, however long it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PAIRS = 64
"""The most that a run keeps."""


def tick(clock: list[list[float]], round: int, seconds: float) -> None:
    """Add, in place, that a round was done so many seconds after the rounds began.

    Beyond ``PAIRS`` pairs, the pair closest to the line through its neighbours is dropped; the last one stays.

    >>> clock = []
    >>> for t in range(1000):
    ...     tick(clock, t, 0.5 * t if t < 600 else 300 + 2 * (t - 600))
    >>> len(clock), clock[-1]
    (64, [999, 1098])
    """
    clock.append([round, seconds])
    if len(clock) > PAIRS:
        t, s = np.array(clock).T
        share = (t[1:-1] - t[:-2]) / (t[2:] - t[:-2])
        off = np.abs(s[:-2] + share * (s[2:] - s[:-2]) - s[1:-1])
        del clock[1 + int(off.argmin())]


def at(clock: list[list[float]], rounds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Seconds at the end of each of ``rounds``, on lines from pair to pair.

    >>> at([[9, 2.0], [19, 3.0]], np.array([4, 9, 14])).tolist()
    [1.0, 2.0, 2.5]
    """
    t, s = np.array([[-1.0, 0.0], *clock]).T
    found: NDArray[np.float64] = np.interp(rounds, t, s)
    return found
