"""The results of a run without a folder: in memory, and large ones in a nameless file that is mapped into it."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from distopt.runs.results import Array, Part

LARGE = 2**24
"""Bytes of results from which on they lie in a file: the system then holds in memory what is in use of them."""

ALIGNMENT = 64


class Kept:
    """The results so far of a run without a folder, in arrays made once, for ``recorded`` of its ``rounds``."""

    def __init__(self, recorded: int, rounds: int) -> None:
        self._recorded, self._length = recorded, rounds + 1  # x has one more point
        self._rounds = np.empty(recorded, dtype=np.int64)
        self._metrics: dict[str, Array] = {}
        self._trajectories: dict[str, Array] = {}
        self._count = self._reached = self._fresh = 0
        self._mapped: mmap.mmap | None = None

    def add(self, part: Part) -> None:
        """Take some rounds."""
        if not self._metrics and not self._trajectories:
            self._begin(part)
        k, reached = len(part.rounds), self._reached
        self._rounds[self._count : self._count + k] = part.rounds
        for mine, theirs, at in (
            (self._metrics, part.metrics, self._count),
            (self._trajectories, part.trajectories, self._reached),
        ):
            for name, value in theirs.items():
                mine[name][:, at : at + value.shape[1]] = value
                reached = at + value.shape[1] if mine is self._trajectories else reached
                self._fresh += value.nbytes
        self._count, self._reached = self._count + k, reached
        if self._mapped is not None and self._fresh >= LARGE // 2:
            self._mapped.madvise(mmap.MADV_DONTNEED)  # what is written stays in the file
            self._fresh = 0

    def all(self, x_last: Array | None) -> tuple[NDArray[np.int64], dict[str, Array], dict[str, Array]]:
        """Rounds, metrics [R, k], trajectories [R, T, ...] (x with its last point, T + 1)."""
        trajectories = {}
        for name, value in self._trajectories.items():
            more = name == "x" and x_last is not None
            if more:
                value[:, self._reached] = x_last
            trajectories[name] = np.ascontiguousarray(value[:, : self._reached + more])
        metrics = {name: np.ascontiguousarray(value[:, : self._count]) for name, value in self._metrics.items()}
        return self._rounds[: self._count], metrics, trajectories

    def _begin(self, part: Part) -> None:
        """Make the arrays, for all rounds, of which ``part`` has the first."""
        both: list[tuple[dict[str, Array], Mapping[str, Array], int]] = [
            (self._metrics, part.metrics, self._recorded),
            (self._trajectories, part.trajectories, self._length),
        ]
        forms = [
            (mine, name, (value.shape[0], length, *value.shape[2:]), value.dtype)
            for mine, theirs, length in both
            for name, value in theirs.items()
        ]
        sizes = [math.prod(shape) * dtype.itemsize for _, _, shape, dtype in forms]
        self._mapped = _mapped(sum(size + ALIGNMENT for size in sizes)) if sum(sizes) >= LARGE else None
        at = 0
        for (mine, name, shape, dtype), size in zip(forms, sizes, strict=True):
            if self._mapped is None:
                mine[name] = np.empty(shape, dtype)
            else:
                mine[name] = np.ndarray(shape, dtype, self._mapped, at)
            at += -(-size // ALIGNMENT) * ALIGNMENT


def _mapped(size: int) -> mmap.mmap | None:
    """A nameless file of so many bytes, mapped; None where the temporary folder has no room, and memory, which has, takes them."""
    if not hasattr(os, "posix_fallocate") or not hasattr(mmap, "MADV_DONTNEED"):
        return None
    try:
        with tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, size)
            return mmap.mmap(file.fileno(), size)
    except OSError:
        return None
