"""Long curves in few numbers: each column of rounds keeps its first, last, smallest and largest value, and the spread of trials."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

ENOUGH = 20
"""From so many trials on a band goes from the 5 % to the 95 % quantile; with fewer it goes from the smallest trial to the largest."""

TAIL = 0.05


class Pool:
    """Numbers of a page: float32, joined, their bytes sorted by significance, compressed, and written as base64.

    A reference to an array is its place and its length. Sorted bytes compress better, since neighbours of a curve share their high bytes.
    """

    def __init__(self) -> None:
        self._parts: list[NDArray[np.float32]] = []
        self._length = 0
        self._known: dict[bytes, list[int]] = {}

    def add(self, values: NDArray[np.floating] | NDArray[np.integer]) -> list[int]:
        """Take an array of any shape; returns its reference [place, length]. What float32 cannot hold becomes infinite.

        An array that is stored already is not stored again: runs on one problem share the drift of its costs.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        mark = hashlib.sha256(flat.tobytes()).digest()
        if mark not in self._known:
            self._known[mark] = [self._length, len(flat)]
            self._parts.append(flat)
            self._length += len(flat)
        return list(self._known[mark])

    def add_rising(self, values: NDArray[np.floating] | NDArray[np.integer]) -> list[int]:
        """Take rising whole numbers as their differences, the first from 0."""
        return self.add(np.diff(values, prepend=0))

    def text(self) -> str:
        """Everything as base64 of a gzip file."""
        whole = np.concatenate([np.empty(0, np.float32), *self._parts])
        planes = whole.view(np.uint8).reshape(-1, 4).T
        return base64.b64encode(gzip.compress(planes.tobytes(), 9, mtime=0)).decode()


def coarse(values: Floats, bits: int = 11) -> NDArray[np.float32]:
    """Values with this many binary digits after the first, for lines whose values are not shown: they compress to a half.

    >>> float(coarse(np.array([0.1]))[0])
    0.100006103515625
    """
    with np.errstate(over="ignore", invalid="ignore"):
        flat = np.array(values, dtype=np.float32)
    finite = np.isfinite(flat)
    drop = 23 - bits
    whole = (flat.view(np.uint32) + np.uint32(1 << (drop - 1))) & np.uint32((0xFFFFFFFF << drop) & 0xFFFFFFFF)
    return np.where(finite, whole.view(np.float32), flat)


def edges(x: Floats, count: int) -> Places:
    """Where the columns of a curve begin, and where the last one ends: places in ``x``, about ``count`` + 1 of them.

    Half of the columns are evenly spread over x and half over its logarithm, so that both axes show the curve well.

    >>> edges(np.arange(1.0, 7.0), 10).tolist()
    [0, 1, 2, 3, 4, 5, 6]
    """
    if len(x) <= count:
        return np.arange(len(x) + 1)
    marks = np.concatenate([np.linspace(x[0], x[-1], count // 2), np.geomspace(x[0], x[-1], count // 2)])
    return np.unique(np.concatenate([[0], np.searchsorted(x, marks[marks < x[-1]]), [len(x)]]))


def kept(values: Floats, columns: Places, what: Sequence[str] = ("first", "last", "smallest", "largest")) -> Places:
    """The places of a curve's values that are kept: ``what`` of each column, and the curve's last value.

    >>> kept(np.array([1.0, 5.0, 2.0, 3.0, 0.0, 1.0]), np.array([0, 6])).tolist()
    [0, 1, 4, 5]
    """
    starts, ends = columns[:-1], columns[1:]
    found = [ends[-1:] - 1]
    if "first" in what:
        found.append(starts)
    if "last" in what:
        found.append(ends - 1)
    for name, sign in (("smallest", 1.0), ("largest", -1.0)):
        if name in what:
            found.append(lowest(sign * values, columns))
    return np.unique(np.concatenate(found))


def lowest(values: Floats, columns: Places) -> Places:
    """The place of the smallest value of each column [..., columns]; a value that is no number counts as large."""
    known = np.where(np.isnan(values), np.inf, values)
    each = [known[..., a:b].argmin(-1) + a for a, b in pairwise(columns.tolist())]
    return np.stack(each, -1)


def extremes(values: Floats, columns: Places) -> Floats:
    """The smallest and the largest value of each column, in the order in which they come: [..., 2 columns].

    >>> extremes(np.array([1.0, 5.0, 0.0, 3.0]), np.array([0, 2, 4])).tolist()
    [1.0, 5.0, 0.0, 3.0]
    """
    low, high = lowest(values, columns), lowest(-values, columns)
    both = np.stack([np.minimum(low, high), np.maximum(low, high)], -1).reshape(*values.shape[:-1], -1)
    return np.take_along_axis(values, both, -1)


def spread(values: Floats) -> tuple[Floats, Floats, Floats]:
    """The low end of the band, the median and the high end over the trials of [R, k]; each end is the value of some trial.

    From ``ENOUGH`` trials on the ends are the 5 % and 95 % quantiles, below that the smallest and the largest trial. A trial that is no
    number in a round is left out there; one that is infinite counts.

    >>> [end.tolist() for end in spread(np.array([[1.0], [np.inf], [2.0]]))]
    [[1.0], [2.0], [inf]]
    """
    ordered = np.sort(values, axis=0)
    count = len(values) - np.isnan(ordered).sum(0)
    tail = TAIL if len(values) >= ENOUGH else 0.0

    def ranked(place: Floats) -> Floats:
        rows = place.astype(np.intp).clip(0, len(values) - 1)
        return np.asarray(np.take_along_axis(ordered, rows[None], 0)[0])

    with np.errstate(invalid="ignore"):
        middle = (ranked(np.floor((count - 1) / 2)) + ranked(np.ceil((count - 1) / 2))) / 2
    none = count == 0
    low, high = ranked(np.floor(tail * (count - 1))), ranked(np.ceil((1 - tail) * (count - 1)))
    return np.where(none, np.nan, low), np.where(none, np.nan, middle), np.where(none, np.nan, high)
