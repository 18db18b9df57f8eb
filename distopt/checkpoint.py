"""Checkpoints: the carry of one run in a file, from which the run goes on with the same bits on any engine and any number of workers.

The file is a line that names it, the length of a header, the header (JSON), the leaves of the carry one after the other, and the
SHA-256 of all that. It is written beside and renamed, and nothing in it is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt import __version__
from distopt.errors import InputError
from distopt.experiment import Problem
from distopt.files import written
from distopt.results import CHECKPOINT
from distopt.runner import Carry
from distopt.step import Held, form, here, standing

FORMAT = 1
MAGIC = b"distopt checkpoint\n"
LENGTH = struct.Struct("<Q")  # of the header


@dataclass(frozen=True)
class About:
    """Whose carry it is, and what else decides the bits of the rounds to come.

    ``run`` is the ``id`` of the results beside the checkpoint; ``compiled`` and ``device`` say how the rounds ran; ``seconds``
    what they have taken.
    """

    fingerprint: str
    run: str
    compiled: bool
    device: str
    seconds: float
    versions: dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """A carry read from a file, and what it is about."""

    carry: Carry
    about: About


def versions() -> dict[str, str]:
    """Of what computes the numbers."""
    return {"distopt": __version__, "torch": str(torch.__version__)}


def save(folder: Path, problem: Problem, carry: Carry, about: About) -> None:
    """Write the checkpoint of the run in ``folder``; an earlier one stays until this one is whole.

    Raises:
        InputError: the state or a channel's memory holds more than tensors and numbers, or is not nested as at the beginning.
        RunError: it cannot be written.
    """
    held = here(carry.held)
    memory = list(held.memory)
    if pytree.tree_structure(held) != form(problem, memory):
        raise InputError(f"{_of(problem)}: the algorithm's state is nested otherwise than init() gave it, which no checkpoint can hold")
    leaves = [*pytree.tree_leaves(held), *carry.totals.values()]
    forms: list[Any] = []
    for leaf in leaves:
        if not isinstance(leaf, Tensor | bool | int | float | str | None):
            raise InputError(f"{_of(problem)}: the algorithm's state holds a {type(leaf).__name__}; a checkpoint can hold tensors and numbers")
        forms.append([list(leaf.shape), str(leaf.dtype).removeprefix("torch.")] if isinstance(leaf, Tensor) else {"value": leaf})
    header = {"format": FORMAT, "t": carry.t, "memory": memory, "totals": list(carry.totals), "leaves": forms, **asdict(about)}
    text, digest = json.dumps(header).encode(), hashlib.sha256()
    with written(folder / CHECKPOINT) as file:
        pieces: list[bytes | Tensor] = [MAGIC, LENGTH.pack(len(text)), text, *(leaf for leaf in leaves if isinstance(leaf, Tensor))]
        for piece in pieces:
            raw = piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data if isinstance(piece, Tensor) else piece
            digest.update(raw)
            file.write(raw)
        file.write(digest.digest())


def load(folder: Path, problem: Problem, run: str, force: bool = False) -> Checkpoint | None:
    """The checkpoint of the run in ``folder``; None where there is none that belongs to the results beside it.

    Args:
        folder: of one run.
        problem: the run's.
        run: the ``id`` of the results.
        force: take it even if another experiment or version of the program wrote it.

    Raises:
        InputError: it is damaged or foreign, or another experiment's or version's and not forced.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    header, data, start = _read(path)
    about = About(**{name: header[name] for name in About.__dataclass_fields__})
    if about.run != run:  # left from results that have been replaced since
        return None
    if not force:
        if about.fingerprint != problem.experiment.fingerprint():
            raise InputError(f"{path}: another experiment's (fingerprint {about.fingerprint}); --force goes on all the same, with other bits")
        if about.versions != versions():
            theirs = ", ".join(f"{name} {version}" for name, version in about.versions.items())
            raise InputError(f"{path}: written by {theirs}, whose bits may differ; use these, or --force")
    leaves: list[Any] = []
    for each in header["leaves"]:
        if isinstance(each, dict):
            leaves.append(each["value"])
            continue
        shape, dtype = tuple(each[0]), getattr(torch, each[1])
        stop = start + torch.Size(shape).numel() * dtype.itemsize
        leaves.append(data[start:stop].clone().view(dtype).reshape(shape))
        start = stop
    count = len(leaves) - len(header["totals"])
    try:
        held: Held = standing(problem, header["memory"], leaves[:count])
    except (ValueError, KeyError):
        held = Held(torch.empty(0), (), {})
    if held.x.shape != problem.x0.shape or held.x.dtype != problem.x0.dtype or not 0 < header["t"] < problem.rounds:
        raise InputError(f"{path}: does not fit {_of(problem)}")
    return Checkpoint(Carry(header["t"], held, dict(zip(header["totals"], leaves[count:], strict=True))), about)


def _read(path: Path) -> tuple[dict[str, Any], Tensor, int]:
    """The header, all bytes, and where the leaves begin."""
    try:
        data = bytearray(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    again = "to begin anew, remove it"
    if not data.startswith(MAGIC):
        raise InputError(f"{path}: not a checkpoint of distopt; {again}")
    if hashlib.sha256(memoryview(data)[:-32]).digest() != data[-32:]:
        raise InputError(f"{path}: damaged or cut short (the check sum is another); {again}")
    begin = len(MAGIC) + LENGTH.size
    stop = begin + LENGTH.unpack_from(data, len(MAGIC))[0]
    header = json.loads(data[begin:stop])
    if header["format"] != FORMAT:
        raise InputError(f"{path}: of another version of distopt (format {header['format']}, not {FORMAT}); {again}")
    return header, torch.frombuffer(data, dtype=torch.uint8), stop


def _of(problem: Problem) -> str:
    what = problem.experiment.algorithm
    return what if isinstance(what, str) else type(what).__name__
