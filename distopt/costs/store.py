"""The store of the comparator's results for all rounds: in memory while they are small, then in a file."""

from __future__ import annotations

import os
import tempfile
from typing import IO, Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from distopt.errors import RunError
from distopt.numerics.trees import tensors

MEMORY_BYTES = 2**20
"""The most that a comparator holds in memory of its results for all rounds, since a run may have any length."""


class _Away(NamedTuple):
    """The place of a block's tensors in the file, and their structure."""

    place: int
    shapes: tuple[torch.Size | None, ...]
    form: Any


class Store(dict[int, Any]):
    """Float64 tensors by block of rounds. Beyond ``MEMORY_BYTES`` they lie in a nameless file that ends with the process.

    Raises:
        RunError: the file cannot be written.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bytes = self._end = 0
        self._file: IO[bytes] | None = None
        self._like = _Away(0, (), None)

    def __setitem__(self, b: int, tree: Any) -> None:
        size = sum(leaf.numel() * 8 for leaf in tensors(tree))
        self._bytes += size
        super().__setitem__(b, tree if self._bytes <= MEMORY_BYTES else self._away(tree, size))

    def __getitem__(self, b: int) -> Any:
        found = super().__getitem__(b)
        return self._back(found) if isinstance(found, _Away) else found

    def _away(self, tree: Any, size: int) -> _Away:
        leaves, form = pytree.tree_flatten(tree)
        shapes = tuple(None if leaf is None else leaf.shape for leaf in leaves)
        if (shapes, form) == self._like[1:]:  # blocks are alike, and of a long run there are many
            shapes, form = self._like[1:]
        place, at, self._end = self._end, self._end, self._end + size
        try:
            self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115  # as long as the comparator lives
            for leaf in tensors(tree):
                data = leaf.contiguous().numpy().tobytes()
                while data:
                    written = os.pwrite(self._file.fileno(), data, at)
                    data, at = data[written:], at + written
        except OSError as error:
            raise RunError(
                f"cannot write temporary files: {error.strerror or error}; free space in the temporary folder, or name another one with TMPDIR"
            ) from error
        self._like = _Away(place, shapes, form)
        return self._like

    def _back(self, away: _Away) -> Any:
        assert self._file is not None
        leaves, place = [], away.place
        for shape in away.shapes:
            leaf = None if shape is None else torch.empty(shape, dtype=torch.float64)
            if leaf is not None and leaf.numel():
                into = leaf.reshape(-1).view(torch.uint8).numpy().data
                while len(into):
                    got = os.preadv(self._file.fileno(), [into], place)
                    if not got:
                        raise RunError("a temporary file was truncated by another program; run again")
                    into, place = into[got:], place + got
            leaves.append(leaf)
        return pytree.tree_unflatten(leaves, away.form)
